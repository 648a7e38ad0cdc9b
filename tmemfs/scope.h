/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scope.h - which file system a directory lies in, beyond its number
 *
 * A shared pool outlives a mount of tmemfs, and so may outlive its backing: the device number can
 * be another file system's by then, with inodes and times of the same numbers where it was made by
 * a program that knows no clock. The scope is part of the name of all that is shared.
 */
#ifndef TMEMFS_SCOPE_H
#define TMEMFS_SCOPE_H

#include <stdint.h>
#include <sys/types.h>

struct tm_scope {
	dev_t dev;      /* the directory's own file system */
	uint64_t own;   /* what names it: the same for every mount of tmemfs on it, and for nothing
			   else */
	uint64_t other; /* random, for file systems mounted below: nobody shares those */
};

/* 0; -EOPNOTSUPP the file system has no UUID, and this kernel no mount ids that are unique; -errno.
 */
int tm_scope_of(int dir_fd, struct tm_scope *ret_scope);

/* In place of the device number of a file, in the name of what is shared of it. */
uint64_t tm_scope_dev(const struct tm_scope *scope, dev_t dev);

#endif
