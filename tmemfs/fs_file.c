/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_file.c - opening and closing files
 *
 * Opening is where the mount agrees with the backing again (close-to-open): stat decides whether
 * the kernel may keep its pages. Where it shows a size the kernel was not told of, the answer to
 * the open goes through the notifier, which first makes the kernel ask for the attributes again.
 */
#include "tmemfs/fs.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "tmemfs/creds.h"

/*
 * What the backing's descriptor is opened with. Not O_DIRECT: our buffers are not aligned as it
 * asks; the kernel does the part of it that users see. O_APPEND stays, so that two writers, one of
 * them below, do not write over each other.
 */
#define FLAGS_PASSED                                                                               \
	(O_ACCMODE | O_APPEND | O_TRUNC | O_EXCL | O_NOATIME | O_SYNC | O_DSYNC | O_LARGEFILE)

static struct tm_file *file_new(struct tm_inode *inode, int fd, int flags)
{
	struct tm_file *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->inode = tm_inode_ref(inode);
	file->fd = fd;
	file->flags = flags;
	atomic_init(&file->plain_fd, -1);
	atomic_init(&file->refs, 1);
	return file;
}

void tm_file_ref(struct tm_file *file)
{
	atomic_fetch_add(&file->refs, 1);
}

void tm_file_unref(struct tm_file *file)
{
	int plain;

	if (atomic_fetch_sub(&file->refs, 1) > 1)
		return;
	plain = atomic_load(&file->plain_fd);
	if (plain >= 0)
		close(plain);
	close(file->fd);
	tm_inode_unref(file->inode);
	free(file);
}

/* The kernel has been told of the open; or, if the opener was interrupted, will never close it. */
static void file_opened(void *arg, int rc)
{
	if (rc < 0)
		tm_file_unref(arg);
}

static _Atomic pid_t *stale_slot(fuse_req_t req)
{
	return &tm_mount_of(req)->stale_told[(unsigned int)fuse_req_ctx(req)->pid % TM_STALE_SLOTS];
}

bool tm_stale_over(fuse_req_t req)
{
	pid_t pid = fuse_req_ctx(req)->pid;

	/* 0: not a process of this pid namespace, and no way to know it again. */
	return pid && atomic_load(stale_slot(req)) == pid &&
		atomic_compare_exchange_strong(stale_slot(req), &pid, 0);
}

/*
 * Compare what is open with what is cached. -ESTALE: the name leads to a file that others removed,
 * which makes the kernel look the name up again, once. What it then opens was found while the
 * user's open was under way already: that it is gone again is no reason to refuse.
 */
static int file_verify(fuse_req_t req, struct tm_file *file, enum tm_verdict *ret_verdict)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_moment moment = tm_cache_moment(mount->cache, file->inode);
	bool again = tm_stale_over(req);
	struct stat st;
	uint64_t epoch;

	if (fstat(file->fd, &st) < 0)
		return -errno;
	if (st.st_nlink == 0 && !tm_inode_unlinked(file->inode) && !again) {
		atomic_store(stale_slot(req), fuse_req_ctx(req)->pid);
		return -ESTALE;
	}
	*ret_verdict = tm_cache_verify(mount->cache, file->inode, &st, &moment, &epoch);
	if (*ret_verdict != TM_VERDICT_SAME)
		atomic_store(&file->drop_epoch, epoch);
	return 0;
}

static void fill_info(struct fuse_file_info *fi, struct tm_file *file, enum tm_verdict verdict)
{
	fi->fh = (uintptr_t)file;
	fi->keep_cache = verdict == TM_VERDICT_SAME;
	fi->noflush = (file->flags & O_ACCMODE) == O_RDONLY;
}

/* A descriptor of the file, emptied if the flags say so; or -errno. Who empties it, and may not
 * keep its set-user-id bit, is the caller. */
static int open_as_asked(fuse_req_t req, struct tm_inode *inode, int flags)
{
	TM_AUTO_CREDS struct tm_creds creds = {false};
	int rc = flags & O_TRUNC ? tm_creds_enter(req, &creds) : 0;

	return rc < 0 ? rc : tm_inode_reopen(inode, flags);
}

void tm_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_of(req, ino);
	bool truncates = fi->flags & O_TRUNC;
	enum tm_verdict verdict;
	struct tm_file *file;
	int fd, rc;

	if (truncates)
		tm_cache_change_begin(mount->cache, inode, 0, TM_WHOLE_FILE);
	fd = open_as_asked(req, inode, fi->flags & FLAGS_PASSED & ~O_EXCL);
	if (truncates)
		tm_cache_change_end(mount->cache, inode, 0, fd < 0);
	if (fd < 0) {
		tm_reply_rc(req, fd);
		return;
	}
	file = file_new(inode, fd, fi->flags);
	if (!file) {
		close(fd);
		tm_reply_rc(req, -ENOMEM);
		return;
	}
	rc = file_verify(req, file, &verdict);
	if (rc < 0) {
		tm_file_unref(file);
		tm_reply_rc(req, rc);
		return;
	}
	fill_info(fi, file, verdict);
	if (verdict == TM_VERDICT_CHANGED)
		tm_notify_open(mount->notifier, req, ino, fi, file_opened, file);
	else
		file_opened(file, fuse_reply_open(req, fi));
}

/* A descriptor of the new file, made as the caller; or -errno. */
static int create_as_caller(
	fuse_req_t req, struct tm_inode *parent, const char *name, mode_t mode, int flags)
{
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE;
	TM_AUTO_CREDS struct tm_creds creds = {false};
	int rc = tm_fd_get(parent, &dir), fd;

	if (rc == 0)
		rc = tm_creds_enter(req, &creds);
	if (rc < 0)
		return rc;
	do {
		fd = openat(dir.fd, name, (flags & FLAGS_PASSED) | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
			mode);
		if (fd >= 0)
			return fd;
		rc = -errno;
	} while ((rc == -EMFILE || rc == -ENFILE) && tm_inodes_shrink(parent->table));
	return rc;
}

void tm_op_create(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *dir = tm_inode_of(req, parent);
	struct fuse_entry_param entry;
	enum tm_verdict verdict;
	struct tm_file *file = NULL;
	struct tm_inode *inode;
	int fd = create_as_caller(req, dir, name, mode, fi->flags);
	int rc = fd < 0 ? fd : tm_fs_adopt(mount, dir, name, fd, &entry);

	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		tm_reply_rc(req, rc);
		return;
	}
	inode = tm_inode_of(req, entry.ino);
	file = file_new(inode, fd, fi->flags);
	rc = file ? file_verify(req, file, &verdict) : -ENOMEM;
	if (rc < 0) {
		if (file)
			tm_file_unref(file);
		else
			close(fd);
		tm_inode_forget(inode, 1);
		tm_reply_rc(req, rc);
		return;
	}
	fill_info(fi, file, verdict);
	if (fuse_reply_create(req, &entry, fi) < 0) {
		tm_file_unref(file);
		tm_inode_forget(inode, 1);
	}
}

void tm_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	tm_file_unref(tm_file_of(fi));
	fuse_reply_err(req, 0);
}

/* A network file system reports a failed write when a descriptor is closed: close one. */
void tm_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int fd = dup(tm_file_of(fi)->fd);

	(void)ino;
	tm_reply_rc(req, fd < 0 ? 0 : close(fd) == 0 ? 0 : -errno);
}

void tm_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	int fd = tm_file_of(fi)->fd;

	(void)ino;
	tm_reply_rc(req, (datasync ? fdatasync(fd) : fsync(fd)) == 0 ? 0 : -errno);
}
