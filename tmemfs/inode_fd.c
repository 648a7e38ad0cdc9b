/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inode_fd.c - a bounded set of descriptors for an unbounded number of inodes
 *
 *   newest <-> ... <-> oldest     descriptors that nobody uses now; the oldest are closed first
 *
 * A million inodes may be known and only some thousand descriptors exist, so an inode's descriptor
 * may be closed whenever nobody uses it, and is made again: from the file handle where the backing
 * has handles that can be opened, else by (parent, name), verified to be the same file.
 *
 * Invariants
 *   1. On the list are exactly the inodes with a descriptor, no pins, and not `keep_fd`.
 *   2. A pinned descriptor is never closed.
 *   3. fd_count counts all descriptors but kept ones; it passes fd_max only by those in use.
 *
 * Locking: the table's mutex; opening and closing happen outside it.
 */
#include "tmemfs/inode_table.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define MAKING_TRIES 100 /* while an inode of that number is being made */
#define TRIM_BATCH   16  /* descriptors closed at one go */
#define DEPTH_MAX    512 /* directories opened from the root down to find one file again */

static void list_remove_locked(struct tm_inode *inode)
{
	struct tm_inodes *table = inode->table;

	*(inode->newer ? &inode->newer->older : &table->newest) = inode->older;
	*(inode->older ? &inode->older->newer : &table->oldest) = inode->newer;
	inode->newer = inode->older = NULL;
}

static void list_add_locked(struct tm_inode *inode)
{
	struct tm_inodes *table = inode->table;

	inode->newer = NULL;
	inode->older = table->newest;
	*(table->newest ? &table->newest->newer : &table->oldest) = inode;
	table->newest = inode;
}

bool tm_inode_offer_fd_locked(struct tm_inode *inode, int fd)
{
	if (inode->fd >= 0)
		return false;
	inode->fd = fd;
	inode->table->fd_count++;
	list_add_locked(inode);
	return true;
}

int tm_inode_take_fd_locked(struct tm_inode *inode)
{
	int fd = inode->fd;

	if (fd < 0)
		return -1;
	if (inode->keep_fd) {
		inode->keep_fd = false;
		inode->table->kept_count--;
	} else {
		if (inode->fd_pins == 0)
			list_remove_locked(inode);
		inode->table->fd_count--;
	}
	inode->fd = -1;
	return fd;
}

void tm_inode_unkeep(struct tm_inode *inode)
{
	struct tm_inodes *table = inode->table;

	pthread_mutex_lock(&table->lock);
	if (inode->keep_fd && !inode->unlinked && inode != table->root) {
		inode->keep_fd = false;
		table->kept_count--;
		table->fd_count++;
		if (inode->fd_pins == 0)
			list_add_locked(inode);
	}
	pthread_mutex_unlock(&table->lock);
}

bool tm_inodes_trim(struct tm_inodes *table, unsigned int max)
{
	int fds[TRIM_BATCH], n = 0;

	pthread_mutex_lock(&table->lock);
	while (table->fd_count > max && table->oldest && n < TRIM_BATCH)
		fds[n++] = tm_inode_take_fd_locked(table->oldest);
	pthread_mutex_unlock(&table->lock);
	for (int i = 0; i < n; i++)
		close(fds[i]);
	return n > 0;
}

bool tm_inodes_shrink(struct tm_inodes *table)
{
	return tm_inodes_trim(table, 0);
}

static int fd_get(struct tm_inode *inode, unsigned int depth, struct tm_fd *ret_fd);

/* A descriptor by the file handle, or -errno; -EOPNOTSUPP: try the name. */
static int open_handle(struct tm_inode *inode)
{
	struct tm_inodes *table = inode->table;
	int fd, rc, tries = 0;

	if (!inode->by_handle || table->handles_refused)
		return -EOPNOTSUPP;
	do {
		fd = open_by_handle_at(
			table->root_fd, inode->handle, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		rc = -errno;
		/* ext4's word for an inode that is just being made: the number is another file's
		 * now, and the next answer is ESTALE. */
		if (rc == -ENOMEM)
			sched_yield();
	} while ((rc == -ENOMEM && tries++ < MAKING_TRIES) ||
		((rc == -EMFILE || rc == -ENFILE) && tm_inodes_shrink(table)));
	if (rc == -EPERM) {
		pthread_mutex_lock(&table->lock);
		table->handles_refused = true;
		pthread_mutex_unlock(&table->lock);
	}
	return rc == -EPERM || rc == -EOPNOTSUPP ? -EOPNOTSUPP : rc;
}

/* A descriptor by the last known name, if that still is this inode. Returns it or -errno. */
static int open_place(struct tm_inode *inode, unsigned int depth)
{
	struct tm_inodes *table = inode->table;
	TM_AUTO_IDENTITY struct tm_identity id = {.handle = NULL};
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE;
	TM_AUTO_CLOSE int fd = -1;
	TM_AUTO_FREE char *name = NULL;
	struct tm_inode *parent;
	int rc;

	pthread_mutex_lock(&table->lock);
	parent = inode->parent;
	if (parent) {
		parent->refs++;
		name = strdup(inode->name);
	}
	pthread_mutex_unlock(&table->lock);
	if (!parent)
		return -ESTALE;
	rc = !name ? -ENOMEM : depth >= DEPTH_MAX ? -ESTALE : fd_get(parent, depth + 1, &dir);
	tm_inode_unref(parent); /* `dir` has its own hold on it */
	if (rc < 0)
		return rc;
	do {
		fd = openat(dir.fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		rc = fd < 0 ? -errno : 0;
	} while ((rc == -EMFILE || rc == -ENFILE) && tm_inodes_shrink(table));
	if (rc == 0)
		rc = tm_identify(table, fd, &id);
	if (rc == 0 && !tm_identity_is(&id, inode))
		rc = -ESTALE;
	if (rc < 0)
		return rc == -ENOENT || rc == -ENOTDIR ? -ESTALE : rc;
	rc = fd;
	fd = -1;
	return rc;
}

static int fd_get(struct tm_inode *inode, unsigned int depth, struct tm_fd *ret_fd)
{
	struct tm_inodes *table = inode->table;
	TM_AUTO_CLOSE int fd = -1;

	pthread_mutex_lock(&table->lock);
	if (inode->fd < 0) {
		pthread_mutex_unlock(&table->lock);
		fd = open_handle(inode);
		if (fd == -EOPNOTSUPP)
			fd = open_place(inode, depth);
		if (fd < 0)
			return fd;
		pthread_mutex_lock(&table->lock);
		if (tm_inode_offer_fd_locked(inode, fd))
			fd = -1;
	}
	if (inode->fd_pins++ == 0 && !inode->keep_fd)
		list_remove_locked(inode);
	inode->refs++;
	*ret_fd = (struct tm_fd){inode, inode->fd};
	pthread_mutex_unlock(&table->lock);
	tm_inodes_trim(table, table->fd_max);
	return 0;
}

int tm_fd_get(struct tm_inode *inode, struct tm_fd *ret_fd)
{
	return fd_get(inode, 0, ret_fd);
}

void tm_fd_put(struct tm_fd *fd)
{
	struct tm_inode *inode = fd->inode, *dead;

	if (!inode)
		return;
	pthread_mutex_lock(&inode->table->lock);
	if (--inode->fd_pins == 0 && !inode->keep_fd)
		list_add_locked(inode);
	dead = tm_inode_unref_locked(inode);
	pthread_mutex_unlock(&inode->table->lock);
	tm_inode_free(dead);
	*fd = TM_FD_NONE;
}

const char *tm_proc_path(int fd, char buf[static TM_PROC_PATH_MAX])
{
	snprintf(buf, TM_PROC_PATH_MAX, "/proc/self/fd/%d", fd);
	return buf;
}

int tm_inode_reopen(struct tm_inode *inode, int flags)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	char path[TM_PROC_PATH_MAX];
	int rc = tm_fd_get(inode, &place), fd;

	if (rc < 0)
		return rc;
	/* The magic link is the one symlink to follow; the file behind it is none. */
	flags = (flags & ~O_NOFOLLOW) | O_CLOEXEC;
	do {
		fd = open(tm_proc_path(place.fd, path), flags);
		if (fd >= 0)
			return fd;
		rc = -errno;
	} while ((rc == -EMFILE || rc == -ENFILE) && tm_inodes_shrink(inode->table));
	return rc;
}
