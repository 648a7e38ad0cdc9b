/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * launch.c - the launcher: the process that starts the servers of shared pools
 *
 *      tmemd --fork--> launcher, with CAP_SETUID and CAP_SETGID only
 *        |                |--spawn--> pool server, which becomes nobody
 *        +--{uuid}, fd--->|--spawn--> pool server
 *
 * tmemd gives up the right to become somebody else; the servers of root's pools need it for a
 * moment. So it stays with a process that no peer can reach, and that does one thing: it executes
 * this program as a pool's server.
 *
 * Invariants
 *   1. It reads from tmemd only: one struct request with one listening socket, or it ends.
 *   2. What it executes is /proc/self/exe, with arguments that are fixed but for a UUID that it has
 *      written itself.
 *   3. It has no descriptor but standard error and tmemd's socket, and ends with tmemd.
 *
 * Locking: none; it has one thread.
 */
#include "tools/tmemd/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/tmemd/daemon.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/pool_main.h"

#define NAME    "tmemd-launcher"
#define HOST_FD 3 /* tmemd's socket */

extern char **environ;

struct request {
	struct tm_uuid uuid;
};

/* --- in the launcher -------------------------------------------------------------------------- */

/* Run ourselves as a pool's server: a session and default signals of its own, no descriptor but
 * standard error and the socket. */
static int spawn(int listen_fd, const char *uuid)
{
	char *argv[] = {"tmemd", TM_POOL_OPTION, (char *)uuid, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t set;
	pid_t pid;
	int rc;

	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	rc = posix_spawn_file_actions_adddup2(&files, listen_fd, TM_POOL_FD);
	for (int fd = 0; fd <= 1 && !rc; fd++)
		rc = posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(&files, TM_POOL_FD + 1);
	sigemptyset(&set);
	posix_spawnattr_setsigmask(&attr, &set);
	sigfillset(&set);
	posix_spawnattr_setsigdefault(&attr, &set);
	posix_spawnattr_setflags(
		&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (!rc)
		rc = posix_spawn(&pid, "/proc/self/exe", &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -rc;
}

static bool is_listening(int fd)
{
	int listening = 0, domain = 0;
	socklen_t size = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening &&
		getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

/* The next request. 0 and *ret_fd; -ECANCELED tmemd has ended; -EBADMSG that was none; -errno. */
static int receive(struct request *ret_request, int *ret_fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec part = {ret_request, sizeof(*ret_request)};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	const struct cmsghdr *c;
	ssize_t n;

	do
		n = recvmsg(HOST_FD, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : -ECANCELED;
	c = CMSG_FIRSTHDR(&message);
	if (n != (ssize_t)sizeof(*ret_request) || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
		!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
		c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EBADMSG;
	memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	return is_listening(*ret_fd) ? 0 : -EBADMSG;
}

/* Only tmemd's socket and, in the foreground, standard error. */
static int let_go(int fd, bool foreground)
{
	TM_AUTO_CLOSE int null = -1;

	if (dup2(fd, HOST_FD) < 0 || fcntl(HOST_FD, F_SETFD, FD_CLOEXEC) < 0 ||
		close_range(HOST_FD + 1, ~0u, 0) < 0)
		return -errno;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return -errno;
	for (int i = 0; i <= (foreground ? 1 : 2); i++)
		if (dup2(null, i) < 0)
			return -errno;
	return chdir("/") < 0 ? -errno : 0;
}

static int launcher(int fd, bool foreground)
{
	static const cap_value_t kept[] = {CAP_SETUID, CAP_SETGID};
	char text[TM_UUID_TEXT_MAX];
	struct request request = {0};
	sigset_t none;
	int listen_fd = -1, rc = let_go(fd, foreground);

	if (!foreground)
		tm_log_to_syslog();
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	(void)prctl(PR_SET_NAME, NAME);
	if (rc == 0)
		rc = tm_daemon_keep_only(kept, TM_ARRAY_SIZE(kept), true);
	while (rc == 0 && (rc = receive(&request, &listen_fd)) == 0) {
		int failed = spawn(listen_fd, tm_uuid_format(&request.uuid, text));

		if (failed < 0)
			tm_log("shared pool %s: %s", text, strerror(-failed));
		close(listen_fd);
	}
	if (rc != -ECANCELED)
		tm_log(NAME ": %s", strerror(-rc));
	return rc != -ECANCELED;
}

/* --- in tmemd --------------------------------------------------------------------------------- */

int tm_launch_start(bool foreground, int *ret_fd)
{
	int ends[2], rc;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		_exit(launcher(ends[1], foreground));
	rc = pid < 0 ? -errno : 0;
	close(ends[1]);
	if (rc < 0)
		close(ends[0]);
	else
		*ret_fd = ends[0];
	return rc;
}

int tm_launch_pool(int launch_fd, const struct tm_uuid *uuid, int listen_fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct request request = {*uuid};
	struct iovec part = {&request, sizeof(request)};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &listen_fd, sizeof(listen_fd));
	return sendmsg(launch_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}
