/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_name.c - making, moving and removing names
 *
 * What is made is made as the caller. A name that goes away may have been the only way to a file
 * that somebody still has open or stands in: its descriptor is kept first.
 */
#include "tmemfs/fs.h"

#include <errno.h>
#include <stdio.h>

#include "tmemfs/creds.h"

/* Answer something that made `name`. */
static void reply_made(fuse_req_t req, int rc, struct tm_inode *parent, const char *name)
{
	struct fuse_entry_param entry;

	if (rc == 0)
		rc = tm_fs_lookup(tm_mount_of(req), parent, name, &entry);
	if (rc < 0)
		tm_reply_rc(req, rc);
	else if (fuse_reply_entry(req, &entry) < 0)
		tm_inode_forget(tm_inode_of(req, entry.ino), 1);
}

static int make_node(
	fuse_req_t req, struct tm_inode *parent, const char *name, mode_t mode, dev_t rdev)
{
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE;
	TM_AUTO_CREDS struct tm_creds creds = {false};
	int rc = tm_fd_get(parent, &dir);

	if (rc == 0)
		rc = tm_creds_enter(req, &creds);
	if (rc == 0 && S_ISDIR(mode))
		rc = mkdirat(dir.fd, name, mode & ~(mode_t)S_IFMT) == 0 ? 0 : -errno;
	else if (rc == 0)
		rc = mknodat(dir.fd, name, mode, rdev) == 0 ? 0 : -errno;
	return rc;
}

void tm_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct tm_inode *dir = tm_inode_of(req, parent);

	reply_made(req, make_node(req, dir, name, mode, rdev), dir, name);
}

void tm_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct tm_inode *dir = tm_inode_of(req, parent);

	reply_made(req, make_node(req, dir, name, mode | S_IFDIR, 0), dir, name);
}

static int make_symlink(
	fuse_req_t req, const char *target, struct tm_inode *parent, const char *name)
{
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE;
	TM_AUTO_CREDS struct tm_creds creds = {false};
	int rc = tm_fd_get(parent, &dir);

	if (rc == 0)
		rc = tm_creds_enter(req, &creds);
	if (rc == 0 && symlinkat(target, dir.fd, name) < 0)
		rc = -errno;
	return rc;
}

void tm_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct tm_inode *dir = tm_inode_of(req, parent);

	reply_made(req, make_symlink(req, target, dir, name), dir, name);
}

static int make_link(struct tm_inode *inode, struct tm_inode *parent, const char *name)
{
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE, place = TM_FD_NONE;
	char path[TM_PROC_PATH_MAX];
	int rc = tm_fd_get(parent, &dir);

	if (rc == 0)
		rc = tm_fd_get(inode, &place);
	if (rc < 0 || linkat(place.fd, "", dir.fd, name, AT_EMPTY_PATH) == 0)
		return rc;
	if (errno != ENOENT) /* not allowed without privilege */
		return -errno;
	return linkat(AT_FDCWD, tm_proc_path(place.fd, path), dir.fd, name, AT_SYMLINK_FOLLOW) == 0
		? 0
		: -errno;
}

void tm_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct tm_inode *dir = tm_inode_of(req, parent);

	reply_made(req, make_link(tm_inode_of(req, ino), dir, name), dir, name);
}

/* --- removing ----------------------------------------------------------------------------- */

/* The last name of `inode` (referenced here until now, NULL: not known) was removed, or not. */
static void name_removed(struct tm_mount *mount, struct tm_inode *inode, bool gone)
{
	if (!inode)
		return;
	if (gone) {
		tm_inode_set_unlinked(inode);
		tm_cache_invalidate(mount->cache, inode);
	} else {
		tm_inode_unkeep(inode);
	}
	tm_inode_unref(inode);
}

static int remove_name(struct tm_mount *mount, struct tm_inode *parent, const char *name, int flags)
{
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE;
	struct tm_inode *inode;
	bool last = false;
	int rc = tm_fd_get(parent, &dir);

	if (rc < 0)
		return rc;
	inode = tm_inode_find(parent, name, true, &last);
	if (unlinkat(dir.fd, name, flags) < 0)
		rc = -errno;
	name_removed(mount, inode, rc == 0 && last);
	return rc;
}

void tm_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	tm_reply_rc(req, remove_name(tm_mount_of(req), tm_inode_of(req, parent), name, 0));
}

void tm_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	tm_reply_rc(
		req, remove_name(tm_mount_of(req), tm_inode_of(req, parent), name, AT_REMOVEDIR));
}

static int rename_name(struct tm_mount *mount, struct tm_inode *from, const char *name,
	struct tm_inode *to, const char *newname, unsigned int flags)
{
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE, newdir = TM_FD_NONE;
	struct tm_inode *moved, *over;
	bool exchange = flags & RENAME_EXCHANGE, last = false;
	int rc = tm_fd_get(from, &dir);

	if (rc == 0)
		rc = tm_fd_get(to, &newdir);
	if (rc < 0)
		return rc;
	moved = tm_inode_find(from, name, false, &last);
	last = false;
	over = flags & RENAME_NOREPLACE ? NULL : tm_inode_find(to, newname, !exchange, &last);
	if (renameat2(dir.fd, name, newdir.fd, newname, flags) < 0)
		rc = -errno;
	if (rc == 0 && moved)
		tm_inode_moved(moved, to, newname);
	if (rc == 0 && over && exchange)
		tm_inode_moved(over, from, name);
	tm_inode_unref(moved);
	name_removed(mount, over, rc == 0 && last && !exchange);
	return rc;
}

void tm_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	const char *newname, unsigned int flags)
{
	tm_reply_rc(req,
		rename_name(tm_mount_of(req), tm_inode_of(req, parent), name,
			tm_inode_of(req, newparent), newname, flags));
}
