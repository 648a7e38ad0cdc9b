/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_meta.c - look-up and attributes
 */
#include "tmemfs/fs.h"
#include "tmemfs/call.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "tmemfs/creds.h"

#define FACT_TARGET "target"
#define STATFS_NS   1000000000ull /* how long the numbers of statfs are good, at most */

void tm_op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct tm_mount *mount = userdata;

	/* The kernel may ask for listings with attributes, and for several parts of a file at once.
	 */
	conn->want |= conn->capable &
		(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_READ |
			FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS);
	/* Reads that wait for one slow file must not be all that the kernel sends. */
	conn->max_background = mount->background;
	conn->congestion_threshold = mount->background / 4 * 3;
	/* Its second version is what session.c agrees on. */
	conn->want &= ~(unsigned int)FUSE_CAP_HANDLE_KILLPRIV;
	if (!mount->locks)
		conn->want &= ~(unsigned int)(FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS);
	/* A delayed write would land at an old end of the file. */
	conn->want &= ~FUSE_CAP_WRITEBACK_CACHE;
	/* Default ACLs replace the umask, so whoever creates must know both: the backing. */
	if (mount->acl)
		conn->want |= conn->capable & (FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK);
	mount->on_ready(mount->opaque);
}

void tm_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *dir = tm_inode_ref(tm_inode_of(req, parent)); /* past an interrupt */
	struct fuse_entry_param entry;
	pid_t pid = fuse_req_ctx(req)->pid;
	struct tm_call call;
	bool answer;
	int rc;

	tm_call_begin(req, &call);
	rc = tm_fs_lookup(mount, dir, name, tm_stale_told(mount, pid), &entry);
	answer = tm_call_end(req, &call);
	if (rc < 0)
		tm_stale_over(mount, pid);
	/* Node 0: the kernel may remember that there is no such name. */
	if (rc == -ENOENT && mount->negative_timeout > 0) {
		memset(&entry, 0, sizeof(entry));
		entry.entry_timeout = mount->negative_timeout;
		if (answer)
			fuse_reply_entry(req, &entry);
	} else if (rc < 0) {
		if (answer)
			tm_reply_rc(req, rc);
	} else if (!answer || fuse_reply_entry(req, &entry) < 0) {
		tm_inode_forget((struct tm_inode *)(uintptr_t)entry.ino, 1);
	}
	tm_inode_unref(dir);
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

static void reply_attr(
	fuse_req_t req, struct tm_inode *inode, int rc, struct stat *st, double timeout)
{
	if (rc < 0) {
		tm_reply_rc(req, rc);
		return;
	}
	tm_fs_present(tm_mount_of(req), inode, st);
	fuse_reply_attr(req, st, timeout);
}

/* Ask the backing. 0 or -errno. */
static int get_attr(
	struct tm_mount *mount, struct tm_inode *inode, struct tm_file *file, struct stat *ret_st)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	int fd = file ? atomic_load(&file->fd) : -1, rc = 0;
	uint64_t left;

	if (fd < 0) {
		rc = tm_fd_get(inode, &place);
		fd = place.fd;
	}
	if (rc == 0)
		rc = tm_fs_stat(mount, inode, fd, ret_st);
	if (tm_fs_unreachable(mount, rc) && tm_meta_stat(mount->meta, inode, ret_st, &left))
		rc = 0;
	if (rc == -ESTALE)
		tm_fs_doubt(mount, inode);
	return rc;
}

void tm_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_of(req, ino);
	struct tm_file *file = tm_file_of(fi);
	struct stat st = {0};
	struct tm_call call;
	uint64_t left;
	int rc;

	if (tm_meta_stat(mount->meta, inode, &st, &left)) {
		reply_attr(req, inode, 0, &st, tm_fs_seconds(left));
		return;
	}
	if (file)
		tm_file_ref(file); /* the kernel may close it once it is interrupted */
	inode = tm_inode_ref(inode);
	tm_call_begin(req, &call);
	rc = get_attr(mount, inode, file, &st);
	if (tm_call_end(req, &call))
		reply_attr(req, inode, rc, &st, tm_fs_attr_timeout(mount, inode));
	tm_inode_unref(inode);
	if (file)
		tm_file_unref(file);
}

/* --- setattr ------------------------------------------------------------------------------ */

static int set_size(fuse_req_t req, struct tm_inode *inode, struct tm_file *file, off_t size)
{
	struct tm_mount *mount = tm_mount_of(req);
	TM_AUTO_KILLPRIV struct tm_killpriv killpriv = {false, {false}};
	TM_AUTO_CLOSE int own_fd = -1;
	int fd = file ? atomic_load(&file->fd) : -1, rc;
	struct stat st;

	if (fd < 0) {
		fd = own_fd = tm_inode_reopen(inode, O_WRONLY);
		if (fd < 0)
			return fd;
	}
	tm_cache_change_begin(mount->cache, inode, 0, TM_WHOLE_FILE);
	killpriv = tm_fs_killpriv(req, inode, tm_killpriv_asked());
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

/* Whoever gives a file away that he is not in the group of takes the set-group-id bit, too, where
 * it is not for executing. The rest is the backing's. */
static int set_owner(fuse_req_t req, int fd, const struct stat *attr, int to_set)
{
	uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
	gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;
	char path[TM_PROC_PATH_MAX];
	struct stat st = {0};
	bool kills;

	if (tm_killpriv_caller(req) && fstat(fd, &st) < 0)
		return -errno;
	kills = S_ISREG(st.st_mode) && (st.st_mode & (S_ISGID | S_IXGRP)) == S_ISGID &&
		!tm_creds_in_group(req, st.st_gid);
	if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (kills && chmod(tm_proc_path(fd, path), st.st_mode & 01777) < 0)
		return -errno;
	return 0;
}

static int set_attr(fuse_req_t req, struct tm_inode *inode, struct tm_file *file, int fd,
	const struct stat *attr, int to_set)
{
	char path[TM_PROC_PATH_MAX];
	int rc = 0;

	if (to_set & FUSE_SET_ATTR_MODE)
		rc = chmod(tm_proc_path(fd, path), attr->st_mode) == 0 ? 0 : -errno;
	/* Nothing to set is chown(-1, -1), or another change that takes the bits away. */
	if (rc == 0 && (to_set == 0 || to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
		rc = set_owner(req, fd, attr, to_set);
	if (rc == 0 && to_set & FUSE_SET_ATTR_SIZE)
		rc = set_size(req, inode, file, attr->st_size);
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

	tm_meta_change_begin(mount->meta, inode);
	if (rc == 0)
		rc = set_attr(req, inode, tm_file_of(fi), place.fd, attr, to_set);
	tm_meta_change_end(mount->meta, inode);
	if (rc == 0)
		rc = tm_fs_stat(mount, inode, place.fd, &st);
	reply_attr(req, inode, rc, &st, tm_fs_attr_timeout(mount, inode));
}

/* Length of the target, in `target` and remembered; or -errno. */
static int read_link(struct tm_mount *mount, struct tm_inode *inode, char *target, size_t room)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct tm_asked asked = tm_meta_ask(mount->meta);
	int rc = tm_fd_get(inode, &place);

	if (rc < 0)
		return rc;
	rc = (int)readlinkat(place.fd, "", target, room);
	if (rc < 0)
		return -errno;
	tm_meta_remember(mount->meta, inode, &asked, FACT_TARGET, rc, target);
	return rc;
}

void tm_op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_of(req, ino);
	TM_AUTO_FREE void *known = NULL;
	char target[PATH_MAX + 1];
	struct tm_call call;
	bool answer;
	int len;

	inode = tm_inode_ref(inode);
	tm_call_begin(req, &call);
	if (tm_meta_recall(mount->meta, inode, FACT_TARGET, &len, &known) && len > 0)
		memcpy(target, known, (size_t)len);
	else
		len = read_link(mount, inode, target, sizeof(target) - 1);
	if (tm_fs_unreachable(mount, len) &&
		tm_meta_recall(mount->meta, inode, FACT_TARGET, &len, &known) && len > 0)
		memcpy(target, known, (size_t)len);
	answer = tm_call_end(req, &call);
	tm_inode_unref(inode);
	if (len >= 0)
		target[len] = '\0';
	if (answer && len < 0)
		tm_reply_rc(req, len);
	else if (answer)
		fuse_reply_readlink(req, target);
}

/* A walk asks for this in every directory (find does): where opens are answered from memory, so is
 * this, for a short while. */
static bool statfs_recall(
	struct tm_mount *mount, const struct tm_inode *inode, struct statvfs *ret_fs)
{
	struct tm_volume *volume = &mount->volume;
	bool known;

	pthread_mutex_lock(&volume->lock);
	known = !mount->ask_on_open && volume->checked_ns > 0 && volume->dev == inode->dev &&
		tm_now_ns() - volume->checked_ns < TM_MIN(STATFS_NS, tm_fs_ns(mount->attr_timeout));
	if (known)
		*ret_fs = volume->fs;
	pthread_mutex_unlock(&volume->lock);
	return known;
}

static void statfs_remember(
	struct tm_mount *mount, const struct tm_inode *inode, const struct statvfs *fs)
{
	struct tm_volume *volume = &mount->volume;

	pthread_mutex_lock(&volume->lock);
	volume->dev = inode->dev;
	volume->fs = *fs;
	volume->checked_ns = tm_now_ns();
	pthread_mutex_unlock(&volume->lock);
}

static int get_statfs(struct tm_mount *mount, struct tm_inode *inode, struct statvfs *ret_fs)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	int rc;

	if (statfs_recall(mount, inode, ret_fs))
		return 0;
	rc = tm_fd_get(inode, &place);
	if (rc == 0)
		rc = fstatvfs(place.fd, ret_fs) == 0 ? 0 : -errno;
	if (rc == 0)
		statfs_remember(mount, inode, ret_fs);
	return rc;
}

void tm_op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_ref(tm_inode_of(req, ino)); /* past an interrupt */
	struct tm_call call;
	struct statvfs fs;
	bool answer;
	int rc;

	tm_call_begin(req, &call);
	rc = get_statfs(mount, inode, &fs);
	answer = tm_call_end(req, &call);
	tm_inode_unref(inode);
	if (answer && rc < 0)
		tm_reply_rc(req, rc);
	else if (answer)
		fuse_reply_statfs(req, &fs);
}
