/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * past.h - files that are being written, past us (FUSE passthrough)
 *
 * With `-o passthrough`, who opens a file for writing that nobody has open gets the backing's file
 * from the kernel: reads, writes and mappings go there at the backing's own speed, and we hear of
 * none of them. Until the last one has closed it, each open of the file is such a one, and nothing
 * is cached or known of it: for the cache it is one long change of our own. Then it is a new
 * version.
 *
 * Linux 6.9, CAP_SYS_ADMIN, a backing that is no stacked file system itself. Where the kernel does
 * not want to, the file is served as ever.
 */
#ifndef TMEMFS_PAST_H
#define TMEMFS_PAST_H

#include <stdbool.h>

struct tm_mount;
struct tm_inode;

/* How a file is open, as the kernel sees it. Both fields: the mount's past_lock. */
struct tm_past {
	unsigned int opens; /* at least as many as the kernel has */
	int id;             /* the kernel's name of the backing's file; 0: bytes come through us */
};

/* The inode is opened with `flags`, below as `fd`: after all else, before the answer. Decides: the
 * kernel's name of the file, for tm_session_past(); 0: bytes come through us. */
int tm_past_open(struct tm_mount *mount, struct tm_inode *inode, int fd, int flags);

/* The kernel has closed it, or was not told. `fd` as before. */
void tm_past_close(struct tm_mount *mount, struct tm_inode *inode, int fd);

/* Its bytes go past us now. */
bool tm_past_us(struct tm_mount *mount, struct tm_inode *inode);

#endif
