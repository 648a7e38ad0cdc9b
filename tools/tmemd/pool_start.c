/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool_start.c - finding and starting the servers of shared pools
 *
 * The listening socket is made here and inherited by the server, so a connection can be made before
 * the server runs, and it is this user's whoever the server becomes. Sockets are reached by way of
 * /proc/self/fd: a sockaddr_un has no room for long paths.
 *
 * Locking: none; tmemd has one thread.
 */
#include "tools/tmemd/pool_start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/util.h"
#include "tools/tmemd/pool_main.h"

extern char **environ;

static int address_of(int dir_fd, const char *name, struct sockaddr_un *ret_address)
{
	int n;

	*ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
	n = snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "/proc/self/fd/%d/%s",
		dir_fd, name);
	return n >= (int)sizeof(ret_address->sun_path) ? -ENAMETOOLONG : 0;
}

/* 0: it is a socket of ours; -ENOENT; -EEXIST. */
static int check_ours(int dir_fd, const char *name)
{
	struct stat st;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return st.st_uid == geteuid() && S_ISSOCK(st.st_mode) ? 0 : -EEXIST;
}

int tm_pool_listen(int dir_fd, const char *name, int backlog, mode_t mode, int *ret_fd)
{
	TM_AUTO_CLOSE int fd = -1;
	struct sockaddr_un address;
	int rc = address_of(dir_fd, name, &address);
	mode_t mask;

	if (rc == 0)
		rc = check_ours(dir_fd, name);
	if (rc == 0 && unlinkat(dir_fd, name, 0) < 0)
		rc = -errno;
	if (rc < 0 && rc != -ENOENT)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	mask = umask(0777 & ~mode);
	rc = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(mask);
	if (rc == 0 && listen(fd, backlog) < 0)
		rc = -errno;
	if (rc < 0)
		return rc;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

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

static int dial(int dir_fd, const char *name, int *ret_fd)
{
	TM_AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address;
	int rc = address_of(dir_fd, name, &address);

	if (rc < 0)
		return rc;
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

int tm_pool_call(
	int dir_fd, const char *prefix, const struct tm_uuid *uuid, bool start, int *ret_fd)
{
	TM_AUTO_FREE char *name = NULL;
	TM_AUTO_CLOSE int listen_fd = -1;
	char text[TM_UUID_TEXT_MAX];
	int rc;

	if (asprintf(&name, "%s.%s", prefix, tm_uuid_format(uuid, text)) < 0)
		return -ENOMEM;
	rc = check_ours(dir_fd, name);
	if (rc == 0)
		rc = dial(dir_fd, name, ret_fd);
	if (rc == -ECONNREFUSED)
		rc = unlinkat(dir_fd, name, 0) < 0 ? -errno : -ENOENT;
	if (rc != -ENOENT || !start)
		return rc;
	rc = tm_pool_listen(dir_fd, name, 1, 0600, &listen_fd);
	if (rc == 0)
		rc = spawn(listen_fd, text);
	if (rc == 0)
		rc = dial(dir_fd, name, ret_fd);
	return rc;
}
