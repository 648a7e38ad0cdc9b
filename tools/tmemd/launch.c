/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * launch.c - the launchers: the processes that start the servers of shared pools
 *
 *      tmemd --fork--> launcher, with CAP_SETUID and CAP_SETGID only
 *        |                |--spawn--> pool server, which becomes nobody
 *        +--{uuid}, fd--->|--spawn--> pool server
 *        +--{}, fd------->|--fork---> launcher, when the other one has ended
 *
 * tmemd gives up the right to become somebody else; the servers of root's pools need it for a
 * moment. So it stays with processes that no peer can reach, and that do one thing: they execute
 * this program as a pool's server. The second one is there to be the first one's heir.
 *
 * Invariants, of each launcher
 *   1. It reads from tmemd only: one struct request with one socket, or it ends. A listening one is
 *      for a pool's server, any other is tmemd's end for another launcher.
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
#include <sys/epoll.h>
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

enum what {
	START_POOL,
	FORK, /* another launcher, to whom the socket belongs */
};

struct request {
	uint32_t what;
	uint32_t zero;
	struct tm_uuid uuid;
};

#define LAUNCHERS 2

struct tm_launch {
	int epoll_fd;
	int fd[LAUNCHERS]; /* -1: it has ended */
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

/* A socket that goes with a request of this kind. */
static bool is_fit(uint32_t what, int fd)
{
	int listening = 0, domain = 0, type = 0;
	socklen_t size = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 ||
		getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || domain != AF_UNIX)
		return false;
	return (what == START_POOL && listening) ||
		(what == FORK && !listening && type == SOCK_SEQPACKET);
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
	return is_fit(ret_request->what, *ret_fd) ? 0 : -EBADMSG;
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

static void start_pool(const struct tm_uuid *uuid, int listen_fd)
{
	char text[TM_UUID_TEXT_MAX];
	int rc = spawn(listen_fd, tm_uuid_format(uuid, text));

	if (rc < 0)
		tm_log("shared pool %s: %s", text, strerror(-rc));
}

/* From here on there are two; the new one reads from `fd`. */
static void fork_another(int fd)
{
	pid_t pid = fork();

	if (pid < 0)
		tm_log(NAME ": cannot fork: %s", strerror(errno));
	if (pid == 0 && dup3(fd, HOST_FD, O_CLOEXEC) < 0)
		_exit(1);
}

static int launcher(int fd, bool foreground)
{
	static const cap_value_t kept[] = {CAP_SETUID, CAP_SETGID};
	struct request request = {0};
	sigset_t none;
	int with_fd = -1, rc = let_go(fd, foreground);

	if (!foreground)
		tm_log_to_syslog();
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	(void)prctl(PR_SET_NAME, NAME);
	if (rc == 0)
		rc = tm_daemon_keep_only(kept, TM_ARRAY_SIZE(kept), true);
	while (rc == 0 && (rc = receive(&request, &with_fd)) == 0) {
		if (request.what == FORK)
			fork_another(with_fd);
		else
			start_pool(&request.uuid, with_fd);
		close(with_fd);
	}
	if (rc != -ECANCELED)
		tm_log(NAME ": %s", strerror(-rc));
	return rc != -ECANCELED;
}

/* --- in tmemd --------------------------------------------------------------------------------- */

/* Whether it has ended is all there is to hear. */
static int listen_to(struct tm_launch *l, unsigned int n, int fd)
{
	struct epoll_event event = {.events = 0, .data.u32 = n};

	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	l->fd[n] = fd;
	return 0;
}

static int start_one(struct tm_launch *l, unsigned int n, bool foreground)
{
	int ends[2], rc;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		_exit(launcher(ends[1], foreground));
	rc = pid < 0 ? -errno : listen_to(l, n, ends[0]);
	close(ends[1]);
	if (rc < 0)
		close(ends[0]);
	return rc;
}

int tm_launch_start(bool foreground, struct tm_launch **ret_launch)
{
	struct tm_launch *l = malloc(sizeof(*l));
	int rc = 0;

	if (!l)
		return -ENOMEM;
	*l = (struct tm_launch){.epoll_fd = epoll_create1(EPOLL_CLOEXEC), .fd = {-1, -1}};
	if (l->epoll_fd < 0)
		rc = -errno;
	for (unsigned int n = 0; n < LAUNCHERS && rc == 0; n++)
		rc = start_one(l, n, foreground);
	if (rc < 0)
		tm_launch_close(l);
	else
		*ret_launch = l;
	return rc;
}

void tm_launch_close(struct tm_launch *l)
{
	if (!l)
		return;
	for (unsigned int n = 0; n < LAUNCHERS; n++)
		if (l->fd[n] >= 0)
			close(l->fd[n]);
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	free(l);
}

static int send_to(int launch_fd, const struct request *request, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec part = {(struct request *)request, sizeof(*request)};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(launch_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* To whichever is there. */
static int send_to_any(const struct tm_launch *l, const struct request *request, int fd)
{
	int rc = -EPIPE;

	for (unsigned int n = 0; n < LAUNCHERS && rc != 0; n++)
		if (l->fd[n] >= 0)
			rc = send_to(l->fd[n], request, fd);
	return rc == -ECONNRESET || rc == -ENOTCONN ? -EPIPE : rc;
}

int tm_launch_pool(struct tm_launch *l, const struct tm_uuid *uuid, int listen_fd)
{
	struct request request = {.what = START_POOL, .uuid = *uuid};

	return send_to_any(l, &request, listen_fd);
}

int tm_launch_fd(const struct tm_launch *l)
{
	return l->epoll_fd;
}

/* Launcher `n` has ended. */
static int replace(struct tm_launch *l, unsigned int n)
{
	struct request request = {.what = FORK};
	int ends[2], rc;

	close(l->fd[n]);
	l->fd[n] = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	rc = send_to_any(l, &request, ends[1]);
	if (rc == 0)
		rc = listen_to(l, n, ends[0]);
	close(ends[1]);
	if (rc < 0)
		close(ends[0]);
	return rc;
}

unsigned int tm_launch_mend(struct tm_launch *l)
{
	struct epoll_event events[LAUNCHERS];
	int count = epoll_wait(l->epoll_fd, events, LAUNCHERS, 0);
	unsigned int replaced = 0;

	for (int i = 0; i < count; i++) {
		int rc = replace(l, events[i].data.u32);

		replaced += rc == 0;
		if (rc == -EPIPE)
			tm_log(NAME ": none is left: shared pools cannot be begun until tmemd is "
				    "started again");
		else if (rc < 0)
			tm_log(NAME " has ended: %s", strerror(-rc));
		else
			tm_log(NAME " has ended: another one takes its place");
	}
	return replaced;
}
