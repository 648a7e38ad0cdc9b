/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tree.c - the regular files of a tree, opened
 *
 * One descriptor is open for each directory on the way down.
 */
#include "tools/tmemctl/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"

/* A fifo must not make us wait. */
#define OPEN_FLAGS (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

struct walk {
	const struct tree_ops *ops;
	void *opaque;
	dev_t dev; /* of where it began */
};

static bool walk_dir(const struct walk *walk, int fd, const char *path);

/* What `fd` is open for, which is the callee's from now on. */
static bool visit(const struct walk *walk, int fd, const char *path)
{
	struct stat st;

	if (fstat(fd, &st) < 0) {
		walk->ops->failed(walk->opaque, path, errno);
	} else if (st.st_dev == walk->dev && S_ISDIR(st.st_mode)) {
		return walk_dir(walk, fd, path);
	} else if (st.st_dev == walk->dev && S_ISREG(st.st_mode)) {
		return walk->ops->file(walk->opaque, fd, path, &st);
	}
	close(fd);
	return true;
}

static bool visit_entry(const struct walk *walk, int dir_fd, const char *dir, const char *name)
{
	TM_AUTO_FREE char *path = NULL;
	struct stat st;
	int fd;

	if (asprintf(&path, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name) < 0) {
		path = NULL;
		walk->ops->failed(walk->opaque, dir, ENOMEM);
		return true;
	}
	/* Opening a device can do something. */
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			walk->ops->failed(walk->opaque, path, errno);
		return true;
	}
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return true;
	fd = openat(dir_fd, name, OPEN_FLAGS | O_NOFOLLOW);
	if (fd < 0) {
		if (errno != ENOENT && errno != ELOOP)
			walk->ops->failed(walk->opaque, path, errno);
		return true;
	}
	return visit(walk, fd, path);
}

static bool walk_dir(const struct walk *walk, int fd, const char *path)
{
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	bool goes_on = true;

	if (!dir) {
		walk->ops->failed(walk->opaque, path, errno);
		close(fd);
		return true;
	}
	while (goes_on) {
		errno = 0;
		entry = readdir(dir);
		if (!entry) {
			if (errno)
				walk->ops->failed(walk->opaque, path, errno);
			break;
		}
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			goes_on = visit_entry(walk, dirfd(dir), path, entry->d_name);
	}
	closedir(dir);
	return goes_on;
}

bool tree_walk(const char *path, const struct tree_ops *ops, void *opaque)
{
	struct walk walk = {.ops = ops, .opaque = opaque};
	struct stat st;
	int fd = open(path, OPEN_FLAGS);

	if (fd < 0 || fstat(fd, &st) < 0) {
		ops->failed(opaque, path, errno);
		if (fd >= 0)
			close(fd);
		return true;
	}
	walk.dev = st.st_dev;
	return visit(&walk, fd, path);
}
