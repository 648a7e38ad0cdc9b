/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tree.h - the regular files of a tree, opened
 *
 * Each is opened below the directory that was opened before it, and no link is followed but in what
 * the user named: nobody can put another file in the place of one that was looked at. What lies in
 * other file systems is left out.
 */
#ifndef TM_TREE_H
#define TM_TREE_H

#include <stdbool.h>
#include <sys/stat.h>

struct tree_ops {
	/* A regular file, open for reading: `fd` is the callee's. False ends the walk. */
	bool (*file)(void *opaque, int fd, const char *path, const struct stat *st);

	/* Something could not be opened or listed: `error` is an errno. */
	void (*failed)(void *opaque, const char *path, int error);
};

/* Walk the tree at `path`, a file or a directory. False when a callback ended it. */
bool tree_walk(const char *path, const struct tree_ops *ops, void *opaque);

#endif
