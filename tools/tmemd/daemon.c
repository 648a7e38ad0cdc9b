/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon.c - into the background, but not before all is well
 *
 *      parent: fork --- read pipe ------------------------- exit 0
 *      child:    \----- lock, listen, say why not ... ready --- serve
 *
 * Whoever starts tmemd and waits for it can connect afterwards, and sees every complaint.
 */
#include "tools/tmemd/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/tmemd/log.h"

#define NICE (-10)

/* The status for the parent to end with. */
static int parent_wait(int fd, pid_t child)
{
	int status;
	char byte;
	ssize_t n;

	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	close(fd);
	if (n == 1)
		return 0;
	/* The child is ending without having become ready. */
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1;
}

int tm_daemon_fork(int *ret_ready_fd)
{
	int fds[2];
	pid_t child;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child < 0) {
		int rc = -errno;

		close(fds[0]);
		close(fds[1]);
		return rc;
	}
	if (child > 0) {
		close(fds[1]);
		return parent_wait(fds[0], child) + 1;
	}
	close(fds[0]);
	setsid();
	*ret_ready_fd = fds[1];
	return 0;
}

void tm_daemon_ready(int ready_fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	tm_log_to_syslog();
	if (chdir("/") < 0)
		tm_log("cannot leave the working directory");
	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	/* The parent may be gone already: that is no reason to stop. */
	while (write(ready_fd, "", 1) < 0 && errno == EINTR)
		;
	close(ready_fd);
}

static bool may_lock(void)
{
	cap_t caps = cap_get_proc();
	cap_flag_value_t on = CAP_CLEAR;

	if (caps)
		cap_get_flag(caps, CAP_IPC_LOCK, CAP_EFFECTIVE, &on);
	cap_free(caps);
	return on == CAP_SET;
}

void tm_daemon_stay(void)
{
	TM_AUTO_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)!write(fd, "-1000", 5);
	/* Who sees memory going late gives it back late; it is 0.1% of a core. */
	(void)setpriority(PRIO_PROCESS, 0, TM_MIN(getpriority(PRIO_PROCESS, 0), NICE));
	/* Under a limit it would be our next mapping that fails. */
	if (may_lock())
		(void)mlockall(MCL_CURRENT | MCL_FUTURE);
}

int tm_daemon_keep_only(const cap_value_t *kept, size_t count, bool may_execute)
{
	cap_t caps = cap_get_proc(), left = cap_init();
	int rc = caps && left ? 0 : -errno;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = -errno;
	/* The bounding set, as far as we may: without new privileges it says no more than that. */
	for (int cap = 0; cap <= cap_max_bits() - 1; cap++) {
		bool keep = false;

		for (size_t i = 0; may_execute && i < count; i++)
			keep |= kept[i] == cap;
		if (!keep)
			(void)cap_drop_bound(cap);
	}
	for (size_t i = 0; rc == 0 && i < count; i++) {
		cap_flag_value_t on = CAP_CLEAR;

		if (cap_get_flag(caps, kept[i], CAP_PERMITTED, &on) < 0 || on == CAP_CLEAR)
			continue;
		if (cap_set_flag(left, CAP_PERMITTED, 1, &kept[i], CAP_SET) < 0 ||
			cap_set_flag(left, CAP_EFFECTIVE, 1, &kept[i], CAP_SET) < 0)
			rc = -errno;
	}
	if (rc == 0 && cap_set_proc(left) < 0)
		rc = -errno;
	cap_free(caps);
	cap_free(left);
	return rc;
}

int tm_daemon_confine(void)
{
	/* Each mapping of a ledger is locked (MCL_FUTURE), beyond RLIMIT_MEMLOCK. */
	static const cap_value_t kept[] = {CAP_IPC_LOCK};

	return tm_daemon_keep_only(kept, TM_ARRAY_SIZE(kept), false);
}
