/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scope.h - which file system a file lies in, beyond its number
 *
 * What is cached can outlive the mount that cached it: in a shared pool, or in a file that `tmemctl
 * save` wrote. A device number can be another file system's by then, and the same file system can
 * have another one: btrfs, NFS and all that lies on no device get theirs as they are mounted. So
 * pages are named by the scope instead. In doubt two scopes differ, and a page is not found.
 */
#ifndef TMEMFS_SCOPE_H
#define TMEMFS_SCOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TM_NFS_MAGIC 0x6969 /* of all its versions, for fstatfs(2) */

struct tm_scope {
	dev_t dev;        /* the directory's own file system */
	bool shareable;   /* `own` is meaningful */
	uint64_t own;     /* what names it in a shared pool: the same for every mount of tmemfs on
			   * it, and for nothing else */
	uint64_t other;   /* random, for file systems mounted below: nobody shares those */
	uint64_t lasting; /* what names it in a pool of one's own: the same after a reboot, too */
	uint64_t mounted; /* the same until it is unmounted */
	uint64_t booted;  /* the same until the machine is shut down; not of one file system */
};

/* The scope of what is below `dir_fd`. 0 or -errno. */
int tm_scope_of(int dir_fd, struct tm_scope *ret_scope);

/* In place of the device number of a file, in the name of what is shared of it. */
uint64_t tm_scope_shared(const struct tm_scope *scope, dev_t dev);

/*
 * The same in a pool of one's own. `certain`: inode number, size and times tell this version of the
 * file from all others that ever had its number; what is not so certain is not found again once the
 * file system is mounted anew.
 */
uint64_t tm_scope_own(const struct tm_scope *scope, dev_t dev, bool certain);

/* Where a mount comes from, as a table of mounts (proc_pid_mountinfo(5)) has it: the length of
 * *ret_source, which points into the table; 0 if the mount is not in it. */
size_t tm_scope_source(const char *mountinfo, int mount_id, const char **ret_source);

#endif
