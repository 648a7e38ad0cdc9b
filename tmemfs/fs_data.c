/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_data.c - the bytes of open files
 *
 * Every change goes to the backing inside tm_cache_change_begin() and _end(), which keep old pages
 * from being seen after it returned, and is a change of the attributes too.
 */
#include "tmemfs/fs.h"
#include "tmemfs/call.h"
#include "tmemfs/ring.h"

#include <errno.h>
#include <stdatomic.h>

/* Longest copy inside the backing that one request makes: the caller asks again for the rest. */
#define COPY_MAX (64u << 20)

static void change_begin(struct tm_mount *mount, struct tm_inode *inode, off_t off, uint64_t len)
{
	tm_meta_change_begin(mount->meta, inode);
	tm_cache_change_begin(mount->cache, inode, (uint64_t)off, len);
}

static void change_end(struct tm_mount *mount, struct tm_inode *inode, off_t size, bool extend)
{
	tm_cache_change_end(mount->cache, inode, size, extend);
	tm_meta_change_end(mount->meta, inode);
}

/*
 * Linux copies what is written into its page before it asks us to write. If that page is dropped
 * meanwhile (by an open, or a read that finds new times) and read again before the write is done,
 * it has the old bytes, and would keep them. So who reads while somebody writes says so, and the
 * written pages are dropped once more.
 */
static void note_race(struct tm_inode *inode)
{
	if (atomic_load(&inode->writing) > 0)
		atomic_store(&inode->raced, true);
}

/* After a write: did anybody read meanwhile? The last writer forgets it. */
static bool end_writing(struct tm_inode *inode)
{
	bool raced = atomic_load(&inode->raced);

	if (atomic_fetch_sub(&inode->writing, 1) == 1)
		raced |= atomic_exchange(&inode->raced, false);
	return raced;
}

void tm_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_file *file = tm_file_of(fi);
	struct tm_reply reply = {.fills = false};
	uint64_t epoch = atomic_load(&file->drop_epoch);
	struct tm_call call;
	int rc;

	(void)ino;
	if (epoch && atomic_compare_exchange_strong(&file->drop_epoch, &epoch, 0))
		tm_cache_dropped(mount->cache, file->inode, epoch);
	tm_file_ref(file); /* past the answer */
	tm_call_begin(req, &call);
	note_race(file->inode);
	rc = tm_cache_read(mount->cache, file->inode, &file->source, off, size, &reply);
	note_race(file->inode);
	if (tm_call_end(req, &call)) {
		if (rc == 0 && reply.fills && !tm_cache_slow(mount->cache))
			tm_ring_hurry();
		if (rc < 0)
			tm_reply_rc(req, rc);
		else
			fuse_reply_buf(req, reply.data, reply.len);
	}
	if (rc == 0 && reply.fills)
		tm_cache_fill(mount->cache, file->inode, tm_file_fd(file));
	tm_file_unref(file);
}

/*
 * Pages written through mmap come with whichever descriptor the kernel finds, also one that
 * appends: they need one that does not. Returns it or -errno.
 */
static int plain_fd(struct tm_file *file)
{
	int none = -1, fd;

	fd = atomic_load(&file->plain_fd);
	if (fd >= 0)
		return fd;
	fd = tm_inode_reopen(file->inode, O_WRONLY);
	if (fd < 0)
		return fd;
	if (!atomic_compare_exchange_strong(&file->plain_fd, &none, fd)) {
		close(fd);
		fd = none;
	}
	return fd;
}

/* Number of bytes written, fewer only after an error past the first, or -errno. */
static ssize_t write_all(
	fuse_req_t req, struct tm_inode *inode, int fd, const char *buf, size_t size, off_t off)
{
	TM_AUTO_KILLPRIV struct tm_killpriv killpriv =
		tm_fs_killpriv(req, inode, tm_killpriv_asked());
	size_t done = 0;

	while (done < size) {
		ssize_t n = pwrite(fd, buf + done, size - done, off + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && done == 0)
			return -errno;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* After an appending write: true if it landed where the kernel thinks. */
static bool landed_at(int fd, off_t end, off_t *ret_size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return false;
	*ret_size = st.st_size;
	return st.st_size == end;
}

void tm_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_file *file = tm_file_of(fi);
	bool appends = file->flags & O_APPEND && !fi->writepage;
	int fd = file->flags & O_APPEND && fi->writepage ? plain_fd(file) : tm_file_fd(file);
	off_t end = 0;
	ssize_t n;

	if (fd < 0) {
		tm_reply_rc(req, fd);
		return;
	}
	tm_file_used(file);
	atomic_fetch_add(&file->inode->writing, 1);
	change_begin(mount, file->inode, off, size);
	n = write_all(req, file->inode, fd, buf, size, off);
	if (n > 0)
		end = off + n;
	if (n > 0 && appends && !landed_at(fd, off + n, &end)) {
		/* Others appended below: what the kernel has cached is not what is there. */
		change_end(mount, file->inode, end, true);
		tm_cache_invalidate(mount->cache, file->inode);
		tm_notify_pages(mount->invalidator, ino);
	} else {
		change_end(mount, file->inode, end, true);
	}
	if (end_writing(file->inode) && n > 0)
		tm_notify_range(mount->invalidator, ino, off, (off_t)size);
	tm_cache_count(mount->cache, TM_STAT_BACKING_WRITES, 1);
	if (tm_killpriv_asked())
		tm_fs_killed(mount, file->inode);
	if (n < 0)
		tm_reply_rc(req, (int)n);
	else
		fuse_reply_write(req, (size_t)n);
}

static int allocate(fuse_req_t req, struct tm_file *file, int mode, off_t off, off_t len)
{
	TM_AUTO_KILLPRIV struct tm_killpriv killpriv =
		tm_fs_killpriv(req, file->inode, tm_killpriv_caller(req));

	return fallocate(tm_file_fd(file), mode, off, len) == 0 ? 0 : -errno;
}

static ssize_t copy(fuse_req_t req, int in, off_t off_in, struct tm_file *out, off_t off_out,
	size_t len, unsigned int flags)
{
	TM_AUTO_KILLPRIV struct tm_killpriv killpriv =
		tm_fs_killpriv(req, out->inode, tm_killpriv_caller(req));
	ssize_t n = copy_file_range(in, &off_in, tm_file_fd(out), &off_out, len, flags);

	return n < 0 ? -errno : n;
}

/* End a change that may have moved the file's end. */
static void change_end_at_size(struct tm_mount *mount, struct tm_file *file)
{
	struct stat st;

	if (fstat(tm_file_fd(file), &st) == 0) {
		change_end(mount, file->inode, st.st_size, false);
	} else {
		change_end(mount, file->inode, 0, true);
		tm_cache_invalidate(mount->cache, file->inode);
	}
}

void tm_op_fallocate(
	fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_file *file = tm_file_of(fi);
	int rc;
	/* Linux 6.18 refuses these itself. All that follows moves, and the size. */
	bool moves = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);

	change_begin(mount, file->inode, moves ? 0 : off, moves ? TM_WHOLE_FILE : (uint64_t)len);
	rc = allocate(req, file, mode, off, len);
	change_end_at_size(mount, file);
	tm_fs_killed(mount, file->inode);
	tm_cache_count(mount->cache, TM_STAT_BACKING_WRITES, 1);
	if (moves && rc == 0)
		tm_notify_pages(mount->invalidator, ino);
	tm_reply_rc(req, rc);
}

void tm_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	int fd = tm_file_fd(tm_file_of(fi));
	off_t found = fd < 0 ? fd : lseek(fd, off, whence);

	(void)ino;
	if (found < 0)
		tm_reply_rc(req, fd < 0 ? fd : -errno);
	else
		fuse_reply_lseek(req, found);
}

void tm_op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
	struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
	struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_file *in = tm_file_of(fi_in), *out = tm_file_of(fi_out);
	int in_fd = tm_file_fd(in);
	ssize_t n;

	(void)ino_in, (void)ino_out;
	len = TM_MIN(len, (size_t)COPY_MAX);
	if (in_fd < 0) {
		tm_reply_rc(req, in_fd);
		return;
	}
	change_begin(mount, out->inode, off_out, len);
	n = copy(req, in_fd, off_in, out, off_out, len, (unsigned int)flags);
	if (n == -EINVAL || n == -ENOSYS)
		n = -EOPNOTSUPP;
	change_end_at_size(mount, out);
	tm_fs_killed(mount, out->inode);
	tm_cache_count(mount->cache, TM_STAT_BACKING_WRITES, 1);
	if (n < 0)
		tm_reply_rc(req, (int)n); /* the kernel copies by read and write where we cannot */
	else
		fuse_reply_write(req, (size_t)n);
}
