/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * listen.c - the control socket, its directory and its lock
 *
 *      DIR/control.sock        0600, ours; 0660 with a group of readers
 *      DIR/control.sock.lock   0600, ours; flocked as long as a tmemd serves; holds its pid
 *
 * Invariants
 *   1. The socket is touched only with the lock held, so no live one is ever removed.
 *   2. Nothing is opened, locked or removed that belongs to another user (root excepted for the
 *      directory): in a directory others can write, they could have put it there.
 */
#include "tools/tmemd/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/util.h"
#include "tools/tmemd/log.h"

#define BACKLOG 128

struct tm_listen {
	int fd, lock_fd, dir_fd;
	char *name; /* of the socket in dir_fd; the path itself may be relative to an older cwd */
};

static int fail(int error, const char *what, const char *why)
{
	tm_log("%s: %s", what, why);
	return error;
}

static int open_directory(struct tm_listen *l, const char *path)
{
	TM_AUTO_FREE char *copy = strdup(path);
	const char *dir;
	struct stat st;

	if (!copy)
		return -ENOMEM;
	dir = dirname(copy);
	if (mkdir(dir, geteuid() == 0 ? 0755 : 0700) < 0 && errno != EEXIST)
		return fail(-errno, dir, strerror(errno));
	l->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (l->dir_fd < 0 || fstat(l->dir_fd, &st) < 0)
		return fail(-errno, dir, strerror(errno));
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return fail(-EPERM, dir, "the directory of the socket belongs to somebody else");
	if (st.st_mode & S_IWOTH && !(st.st_mode & S_ISVTX))
		return fail(-EPERM, dir, "everybody can write the directory of the socket");
	return 0;
}

static int take_lock(struct tm_listen *l, const char *path)
{
	TM_AUTO_FREE char *name = NULL;
	char pid[16] = "";
	struct stat st;

	if (asprintf(&name, "%s.lock", l->name) < 0)
		return -ENOMEM;
	l->lock_fd = openat(l->dir_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (l->lock_fd < 0 || fstat(l->lock_fd, &st) < 0)
		return fail(-errno, path, "its lock cannot be opened");
	if (st.st_uid != geteuid() || !S_ISREG(st.st_mode))
		return fail(-EPERM, path, "its lock belongs to somebody else");
	if (flock(l->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return fail(-errno, path, strerror(errno));
		if (pread(l->lock_fd, pid, sizeof(pid) - 1, 0) <= 0)
			strcpy(pid, "starting");
		tm_log("another tmemd (pid %.*s) serves %s", (int)strcspn(pid, "\n"), pid, path);
		return -EBUSY;
	}
	if (ftruncate(l->lock_fd, 0) < 0 || dprintf(l->lock_fd, "%d\n", (int)getpid()) < 0)
		return fail(-errno, path, "its lock cannot be written");
	return 0;
}

/* Remove a socket that nobody serves; refuse anything else under that name. */
static int remove_stale(struct tm_listen *l, const char *path)
{
	struct stat st;

	if (fstatat(l->dir_fd, l->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : fail(-errno, path, strerror(errno));
	if (st.st_uid != geteuid())
		return fail(-EPERM, path, "belongs to somebody else");
	if (!S_ISSOCK(st.st_mode))
		return fail(-EEXIST, path, "exists and is no socket");
	if (unlinkat(l->dir_fd, l->name, 0) < 0)
		return fail(-errno, path, strerror(errno));
	return 0;
}

static int open_socket(struct tm_listen *l, const char *path, gid_t readers)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t mask;
	int rc;

	strcpy(address.sun_path, path);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return fail(-errno, path, strerror(errno));
	mask = umask(0177);
	rc = bind(l->fd, (struct sockaddr *)&address, sizeof(address));
	umask(mask);
	if (rc == 0 && readers != (gid_t)-1 &&
		(fchownat(l->dir_fd, l->name, (uid_t)-1, readers, AT_SYMLINK_NOFOLLOW) < 0 ||
			fchmodat(l->dir_fd, l->name, 0660, 0) < 0))
		rc = -1;
	if (rc < 0 || listen(l->fd, BACKLOG) < 0)
		return fail(-errno, path, strerror(errno));
	return 0;
}

int tm_listen_open(const char *path, gid_t readers, struct tm_listen **ret_listen)
{
	struct tm_listen *l;
	const char *slash = strrchr(path, '/');
	int rc = 0;

	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return fail(-ENAMETOOLONG, path, "too long for a socket");
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->fd = l->lock_fd = l->dir_fd = -1;
	l->name = strdup(slash ? slash + 1 : path);
	if (!l->name)
		rc = -ENOMEM;
	else if (!*l->name)
		rc = fail(-EISDIR, path, "is a directory");
	if (rc == 0)
		rc = open_directory(l, path);
	if (rc == 0)
		rc = take_lock(l, path);
	if (rc == 0)
		rc = remove_stale(l, path);
	if (rc == 0)
		rc = open_socket(l, path, readers);
	if (rc == 0) {
		*ret_listen = l;
		return 0;
	}
	if (l->fd >= 0) {
		close(l->fd);
		l->fd = -1;
	}
	tm_listen_close(l);
	return rc;
}

int tm_listen_fd(const struct tm_listen *listen)
{
	return listen->fd;
}

void tm_listen_close(struct tm_listen *l)
{
	if (!l)
		return;
	if (l->fd >= 0) {
		unlinkat(l->dir_fd, l->name, 0);
		close(l->fd);
	}
	if (l->lock_fd >= 0)
		close(l->lock_fd);
	if (l->dir_fd >= 0)
		close(l->dir_fd);
	free(l->name);
	free(l);
}
