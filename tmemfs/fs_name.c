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

/* Around whatever makes or removes `name`: the names and the attributes of `dir` change. */
static void change_begin(struct tm_mount *mount, struct tm_inode *dir, const char *name)
{
	tm_meta_change_begin(mount->meta, dir);
	tm_names_change_begin(dir, name);
}

static void change_end(struct tm_mount *mount, struct tm_inode *dir, const char *name)
{
	tm_names_change_end(dir, name);
	tm_meta_change_end(mount->meta, dir);
}

/* Answer something that made `name`. */
static void reply_made(fuse_req_t req, int rc, struct tm_inode *parent, const char *name)
{
	struct fuse_entry_param entry;

	if (rc == 0)
		rc = tm_fs_lookup(tm_mount_of(req), parent, name, false, &entry);
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
	if (rc < 0)
		return rc;
	change_begin(tm_mount_of(req), parent, name);
	if (S_ISDIR(mode))
		rc = mkdirat(dir.fd, name, mode & ~(mode_t)S_IFMT) == 0 ? 0 : -errno;
	else
		rc = mknodat(dir.fd, name, mode, rdev) == 0 ? 0 : -errno;
	change_end(tm_mount_of(req), parent, name);
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
	if (rc < 0)
		return rc;
	change_begin(tm_mount_of(req), parent, name);
	rc = symlinkat(target, dir.fd, name) == 0 ? 0 : -errno;
	change_end(tm_mount_of(req), parent, name);
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
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *dir = tm_inode_of(req, parent), *inode = tm_inode_of(req, ino);
	int rc;

	change_begin(mount, dir, name);
	tm_meta_change_begin(mount->meta, inode);
	rc = make_link(inode, dir, name);
	tm_meta_change_end(mount->meta, inode);
	change_end(mount, dir, name);
	reply_made(req, rc, dir, name);
}

/* --- removing ----------------------------------------------------------------------------- */

/* `inode` (NULL: not known) loses a name, its last one if `last`. */
static void name_goes(struct tm_mount *mount, struct tm_inode *inode, bool last)
{
	if (!inode)
		return;
	if (last)
		tm_file_hold(inode);
	tm_meta_change_begin(mount->meta, inode);
}

/* It has lost it, its last one if `gone`, or nothing happened. Drops the reference. */
static void name_gone(struct tm_mount *mount, struct tm_inode *inode, bool gone)
{
	if (!inode)
		return;
	tm_meta_change_end(mount->meta, inode);
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
	change_begin(mount, parent, name);
	name_goes(mount, inode, last);
	if (unlinkat(dir.fd, name, flags) < 0)
		rc = -errno;
	name_gone(mount, inode, rc == 0 && last);
	change_end(mount, parent, name);
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
	change_begin(mount, from, name);
	change_begin(mount, to, newname);
	if (moved)
		tm_meta_change_begin(mount->meta, moved);
	name_goes(mount, over, last && !exchange);
	if (renameat2(dir.fd, name, newdir.fd, newname, flags) < 0)
		rc = -errno;
	if (rc == 0 && moved)
		tm_inode_moved(moved, to, newname);
	if (rc == 0 && over && exchange)
		tm_inode_moved(over, from, name);
	if (moved)
		tm_meta_change_end(mount->meta, moved);
	tm_inode_unref(moved);
	name_gone(mount, over, rc == 0 && last && !exchange);
	change_end(mount, to, newname);
	change_end(mount, from, name);
	return rc;
}

void tm_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	const char *newname, unsigned int flags)
{
	tm_reply_rc(req,
		rename_name(tm_mount_of(req), tm_inode_of(req, parent), name,
			tm_inode_of(req, newparent), newname, flags));
}
