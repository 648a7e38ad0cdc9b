/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool_start.c - finding and starting the servers of shared pools
 *
 * The listening socket is made here and goes by way of the launcher to the server, so a connection
 * can be made before the server runs, and it is this user's whoever the server becomes. Sockets are
 * reached by way of /proc/self/fd: a sockaddr_un has no room for long paths.
 *
 * Locking: none; tmemd has one thread.
 */
#include "tools/tmemd/pool_start.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/util.h"
#include "tools/tmemd/launch.h"

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

int tm_pool_call(int dir_fd, const char *prefix, const struct tm_uuid *uuid,
	struct tm_launch *launch, int *ret_fd)
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
	if (rc != -ENOENT || !launch)
		return rc;
	rc = tm_pool_listen(dir_fd, name, 1, 0600, &listen_fd);
	if (rc == 0)
		rc = tm_launch_pool(launch, uuid, listen_fd);
	if (rc == 0)
		rc = dial(dir_fd, name, ret_fd);
	return rc;
}
