/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs.c - the table of operations, and what several of them need
 */
#include "tmemfs/fs.h"

#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#define ABSENCE_MAX (sizeof("-") + NAME_MAX)

const struct fuse_lowlevel_ops tm_fs_ops = {
	.init = tm_op_init,
	.lookup = tm_op_lookup,
	.forget = tm_op_forget,
	.forget_multi = tm_op_forget_multi,
	.getattr = tm_op_getattr,
	.setattr = tm_op_setattr,
	.readlink = tm_op_readlink,
	.statfs = tm_op_statfs,
	.mknod = tm_op_mknod,
	.mkdir = tm_op_mkdir,
	.symlink = tm_op_symlink,
	.link = tm_op_link,
	.unlink = tm_op_unlink,
	.rmdir = tm_op_rmdir,
	.rename = tm_op_rename,
	.create = tm_op_create,
	.open = tm_op_open,
	.release = tm_op_release,
	.flush = tm_op_flush,
	.fsync = tm_op_fsync,
	.flock = tm_op_flock,
	.getlk = tm_op_getlk,
	.setlk = tm_op_setlk,
	.read = tm_op_read,
	.write = tm_op_write,
	.fallocate = tm_op_fallocate,
	.lseek = tm_op_lseek,
	.copy_file_range = tm_op_copy_file_range,
	.ioctl = tm_op_ioctl,
	.opendir = tm_op_opendir,
	.readdir = tm_op_readdir,
	.readdirplus = tm_op_readdirplus,
	.releasedir = tm_op_releasedir,
	.fsyncdir = tm_op_fsyncdir,
	.setxattr = tm_op_setxattr,
	.getxattr = tm_op_getxattr,
	.listxattr = tm_op_listxattr,
	.removexattr = tm_op_removexattr,
};

void tm_reply_rc(fuse_req_t req, int rc)
{
	fuse_reply_err(req, rc < 0 ? -rc : 0);
}

/* Files of another file system below the root could share a number with one of the root's. */
void tm_fs_present(struct tm_mount *mount, struct tm_inode *inode, struct stat *st)
{
	const struct tm_inode *root = tm_inodes_root(mount->inodes);

	if (st->st_mode & (S_ISUID | S_ISGID) && !atomic_load(&inode->sxid))
		atomic_store(&inode->sxid, true);
	if (st->st_dev != root->dev)
		st->st_ino ^= (st->st_dev * 0x9e3779b97f4a7c15ull) | 1ull << 63;
}

struct tm_killpriv tm_fs_killpriv(fuse_req_t req, struct tm_inode *inode, bool kills)
{
	return tm_killpriv_begin(atomic_load(&inode->sxid) ? req : NULL, kills);
}

void tm_fs_killed(struct tm_mount *mount, struct tm_inode *inode)
{
	if (atomic_load(&inode->sxid))
		tm_notify_attributes_now(mount->notifier, tm_node_id(inode));
}

int tm_fs_stat(struct tm_mount *mount, struct tm_inode *inode, int fd, struct stat *ret_st)
{
	struct tm_asked asked = tm_meta_ask(mount->meta);
	struct tm_moment moment = tm_cache_moment(mount->cache, inode);

	if (fstat(fd, ret_st) < 0)
		return -errno;
	tm_cache_observe(mount->cache, inode, ret_st, &moment);
	tm_meta_learn(mount->meta, inode, &asked, ret_st);
	return 0;
}

static struct timespec timespec_of(const struct statx_timestamp *t)
{
	return (struct timespec){t->tv_sec, t->tv_nsec};
}

static struct stat stat_of(const struct statx *sx)
{
	return (struct stat){
		.st_dev = makedev(sx->stx_dev_major, sx->stx_dev_minor),
		.st_ino = sx->stx_ino,
		.st_mode = sx->stx_mode,
		.st_nlink = sx->stx_nlink,
		.st_uid = sx->stx_uid,
		.st_gid = sx->stx_gid,
		.st_rdev = makedev(sx->stx_rdev_major, sx->stx_rdev_minor),
		.st_size = (off_t)sx->stx_size,
		.st_blksize = (blksize_t)sx->stx_blksize,
		.st_blocks = (blkcnt_t)sx->stx_blocks,
		.st_atim = timespec_of(&sx->stx_atime),
		.st_mtim = timespec_of(&sx->stx_mtime),
		.st_ctim = timespec_of(&sx->stx_ctime),
	};
}

int tm_fs_ask(struct tm_mount *mount, struct tm_inode *inode, int fd, struct stat *ret_st)
{
	struct tm_asked asked = tm_meta_ask(mount->meta);
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &sx) < 0)
		return -errno;
	*ret_st = stat_of(&sx);
	tm_meta_learn(mount->meta, inode, &asked, ret_st);
	return 0;
}

bool tm_fs_unreachable(struct tm_mount *mount, int rc)
{
	switch (mount->stale_ok ? -rc : 0) {
	case EIO:
	case ENOTCONN:
	case ECONNABORTED:
	case ECONNREFUSED:
	case ECONNRESET:
	case ETIMEDOUT:
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case EREMOTEIO:
		tm_meta_unreachable(mount->meta);
		return true;
	default:
		return false;
	}
}

void tm_fs_doubt(struct tm_mount *mount, struct tm_inode *inode)
{
	tm_inode_doubt(inode);
	tm_meta_forget(mount->meta, inode);
}

double tm_fs_attr_timeout(struct tm_mount *mount, struct tm_inode *inode)
{
	if (tm_past_us(mount, inode))
		return 0;
	return tm_meta_young(mount->meta, inode)
		? TM_MIN(mount->attr_timeout, tm_fs_seconds(TM_YOUNG_NS))
		: mount->attr_timeout;
}

static void entry_set(struct tm_mount *mount, struct tm_inode *inode, double attr_timeout,
	double entry_timeout, struct fuse_entry_param *entry)
{
	tm_fs_present(mount, inode, &entry->attr);
	entry->ino = tm_node_id(inode);
	entry->generation = inode->generation;
	entry->attr_timeout = attr_timeout;
	entry->entry_timeout = entry_timeout;
}

/* Not cached are files of such a name, and what lies below directories of such a name. */
static bool excluded(struct tm_mount *mount, const struct tm_inode *parent, const char *name)
{
	for (const char *const *glob = mount->exclude; *glob; glob++)
		if (fnmatch(*glob, name, 0) == 0)
			return true;
	return atomic_load(&parent->excluded);
}

/* Complete an entry whose look-up has been counted; undoes that on failure. */
static int entry_finish(struct tm_mount *mount, struct tm_inode *inode,
	const struct tm_asked *asked, bool certain, struct fuse_entry_param *entry)
{
	struct tm_moment moment = {.epoch = 0, .wall_ns = asked->wall_ns};
	bool current = true;
	int rc = 0;

	/* The stat was made before the inode was known, so it counts only if nothing ever happened
	 * to it since, or if it says nothing new. */
	if (!tm_cache_observe(mount->cache, inode, &entry->attr, &moment)) {
		TM_AUTO_FD struct tm_fd place = TM_FD_NONE;

		rc = tm_fd_get(inode, &place);
		if (rc == 0)
			rc = tm_fs_stat(mount, inode, place.fd, &entry->attr);
	} else {
		current = tm_meta_learn(mount->meta, inode, asked, &entry->attr);
	}
	if (rc < 0) {
		tm_inode_forget(inode, 1);
		return rc;
	}
	entry_set(mount, inode, current ? tm_fs_attr_timeout(mount, inode) : 0,
		certain ? mount->entry_timeout : 0, entry);
	return 0;
}

/* An entry from memory, if both its name and its attributes are still good. */
static bool entry_recall(struct tm_mount *mount, struct tm_inode *parent, const char *name,
	struct fuse_entry_param *entry)
{
	bool stale = mount->stale_ok && tm_meta_stale(mount->meta);
	uint64_t ttl = stale ? UINT64_MAX : tm_fs_ns(mount->entry_timeout);
	uint64_t entry_left, attr_left;
	struct tm_inode *inode;

	if (!tm_inode_recall(parent, name, ttl, &inode, &entry_left))
		return false;
	if (stale)
		entry_left = TM_MIN(entry_left, (uint64_t)TM_STALE_NS);
	if (!tm_meta_stat(mount->meta, inode, &entry->attr, &attr_left)) {
		tm_inode_forget(inode, 1);
		return false;
	}
	entry_set(mount, inode, tm_fs_seconds(attr_left), tm_fs_seconds(entry_left), entry);
	return true;
}

/* That a name does not exist is a fact of its directory, if that may be remembered as long. */
static const char *absence(struct tm_mount *mount, const char *name, char key[static ABSENCE_MAX])
{
	if (mount->negative_timeout < mount->attr_timeout || mount->negative_timeout == 0)
		return NULL;
	snprintf(key, ABSENCE_MAX, "-%s", name);
	return key;
}

/* If it cannot be asked, the look-up that follows says so. */
static void ask_directory(struct tm_mount *mount, struct tm_inode *dir)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct stat st;

	if (tm_fd_get(dir, &place) == 0)
		tm_fs_ask(mount, dir, place.fd, &st);
}

int tm_fs_lookup(struct tm_mount *mount, struct tm_inode *parent, const char *name, bool ask,
	struct fuse_entry_param *ret_entry)
{
	char buf[ABSENCE_MAX];
	const char *key = absence(mount, name, buf);
	struct tm_asked asked;
	struct tm_inode *inode;
	void *value = NULL;
	bool certain;
	int rc;

	memset(ret_entry, 0, sizeof(*ret_entry));
	if (!ask && entry_recall(mount, parent, name, ret_entry))
		return 0;
	if (key && tm_meta_recall(mount->meta, parent, key, &rc, &value))
		return rc;
	/* NFS answers out of its own memory, until it hears that the directory has changed. */
	if (ask)
		ask_directory(mount, parent);
	asked = tm_meta_ask(mount->meta);
	rc = tm_inode_lookup(parent, name, &ret_entry->attr, &certain, &inode);
	if (rc == 0)
		atomic_store(&inode->excluded, excluded(mount, parent, name));
	if (key && rc == -ENOENT)
		tm_meta_remember(mount->meta, parent, &asked, key, rc, NULL);
	if (tm_fs_unreachable(mount, rc) && entry_recall(mount, parent, name, ret_entry))
		return 0;
	return rc < 0 ? rc : entry_finish(mount, inode, &asked, certain, ret_entry);
}

int tm_fs_adopt(struct tm_mount *mount, struct tm_inode *parent, const char *name, int fd,
	struct fuse_entry_param *ret_entry)
{
	struct tm_asked asked = tm_meta_ask(mount->meta);
	char path[TM_PROC_PATH_MAX];
	struct tm_inode *inode;
	int place, rc;

	memset(ret_entry, 0, sizeof(*ret_entry));
	place = open(tm_proc_path(fd, path), O_PATH | O_CLOEXEC);
	if (place < 0)
		return -errno;
	rc = name ? tm_inode_adopt(parent, name, place, &ret_entry->attr, &inode)
		  : tm_inode_adopt_nameless(mount->inodes, place, &ret_entry->attr, &inode);
	if (rc == 0)
		atomic_store(&inode->excluded,
			name ? excluded(mount, parent, name) : atomic_load(&parent->excluded));
	return rc < 0 ? rc : entry_finish(mount, inode, &asked, true, ret_entry);
}
