/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_meta.c - look-up and attributes
 */
#include "tmemfs/fs.h"

#include <errno.h>
#include <limits.h>
#include <sys/statvfs.h>

void tm_op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct tm_mount *mount = userdata;

	/* The kernel may ask for listings with attributes, and for several parts of a file at once.
	 */
	conn->want |= conn->capable &
		(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_READ |
			FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS);
	/* A delayed write would land at an old end of the file. */
	conn->want &= ~FUSE_CAP_WRITEBACK_CACHE;
	/* Default ACLs replace the umask, so whoever creates must know both: the backing. */
	if (mount->acl)
		conn->want |= conn->capable & (FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK);
	mount->on_ready(mount->opaque);
}

void tm_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;
	int rc = tm_fs_lookup(tm_mount_of(req), tm_inode_of(req, parent), name, &entry);

	if (rc < 0) {
		tm_stale_over(req);
		tm_reply_rc(req, rc);
	} else if (fuse_reply_entry(req, &entry) < 0) {
		tm_inode_forget((struct tm_inode *)(uintptr_t)entry.ino, 1);
	}
}

void tm_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	tm_inode_forget(tm_inode_of(req, ino), nlookup);
	fuse_reply_none(req);
}

void tm_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		tm_inode_forget(tm_inode_of(req, forgets[i].ino), forgets[i].nlookup);
	fuse_reply_none(req);
}

static void reply_attr(fuse_req_t req, int rc, struct stat *st)
{
	struct tm_mount *mount = tm_mount_of(req);

	if (rc < 0) {
		tm_reply_rc(req, rc);
		return;
	}
	tm_fs_present(mount, st);
	fuse_reply_attr(req, st, mount->attr_timeout);
}

void tm_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct tm_inode *inode = tm_inode_of(req, ino);
	struct tm_file *file = tm_file_of(fi);
	struct stat st = {0};
	int rc = 0;

	if (!file)
		rc = tm_fd_get(inode, &place);
	if (rc == 0)
		rc = tm_fs_stat(tm_mount_of(req), inode, file ? file->fd : place.fd, &st);
	reply_attr(req, rc, &st);
}

/* --- setattr ------------------------------------------------------------------------------ */

static int set_size(
	struct tm_mount *mount, struct tm_inode *inode, struct tm_file *file, off_t size)
{
	TM_AUTO_CLOSE int own_fd = -1;
	int fd = file ? file->fd : -1, rc;
	struct stat st;

	if (fd < 0) {
		fd = own_fd = tm_inode_reopen(inode, O_WRONLY);
		if (fd < 0)
			return fd;
	}
	tm_cache_change_begin(mount->cache, inode, 0, TM_WHOLE_FILE);
	rc = ftruncate(fd, size) == 0 && fstat(fd, &st) == 0 ? 0 : -errno;
	tm_cache_change_end(mount->cache, inode, rc < 0 ? 0 : st.st_size, rc < 0);
	return rc;
}

static int set_times(int fd, const struct stat *attr, int to_set)
{
	struct timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		times[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		times[0] = attr->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		times[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		times[1] = attr->st_mtim;
	return utimensat(fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -errno;
}

static int set_attr(struct tm_mount *mount, struct tm_inode *inode, struct tm_file *file, int fd,
	const struct stat *attr, int to_set)
{
	char path[TM_PROC_PATH_MAX];
	int rc = 0;

	if (to_set & FUSE_SET_ATTR_MODE)
		rc = chmod(tm_proc_path(fd, path), attr->st_mode) == 0 ? 0 : -errno;
	if (rc == 0 && to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
		gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;

		rc = fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ? 0
											  : -errno;
	}
	if (rc == 0 && to_set & FUSE_SET_ATTR_SIZE)
		rc = set_size(mount, inode, file, attr->st_size);
	if (rc == 0 &&
		to_set &
			(FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW |
				FUSE_SET_ATTR_MTIME_NOW))
		rc = set_times(fd, attr, to_set);
	return rc;
}

void tm_op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_of(req, ino);
	struct stat st = {0};
	int rc = tm_fd_get(inode, &place);

	if (rc == 0)
		rc = set_attr(mount, inode, tm_file_of(fi), place.fd, attr, to_set);
	if (rc == 0)
		rc = tm_fs_stat(mount, inode, place.fd, &st);
	reply_attr(req, rc, &st);
}

void tm_op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	char target[PATH_MAX + 1];
	ssize_t len;
	int rc = tm_fd_get(tm_inode_of(req, ino), &place);

	if (rc < 0) {
		tm_reply_rc(req, rc);
		return;
	}
	len = readlinkat(place.fd, "", target, sizeof(target) - 1);
	if (len < 0) {
		tm_reply_rc(req, -errno);
		return;
	}
	target[len] = '\0';
	fuse_reply_readlink(req, target);
}

void tm_op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct statvfs fs;
	int rc = tm_fd_get(tm_inode_of(req, ino), &place);

	if (rc == 0 && fstatvfs(place.fd, &fs) < 0)
		rc = -errno;
	if (rc < 0)
		tm_reply_rc(req, rc);
	else
		fuse_reply_statfs(req, &fs);
}
