/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_dir.c - listing directories
 *
 * Each opened directory has its own descriptor and reads ahead one entry: the one that did not fit
 * into the last answer is the first of the next. The offsets are the backing's.
 */
#include "tmemfs/fs.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* An open directory. fi->fh. */
struct tm_dir {
	struct tm_inode *inode; /* constant; referenced */
	pthread_mutex_t lock;   /* the kernel lists one directory from several threads */

	/* lock */
	DIR *stream;
	struct dirent *pending; /* read, not answered yet */
	off_t offset;           /* of `pending`, or of what comes next */
};

static struct tm_dir *dir_of(const struct fuse_file_info *fi)
{
	return (struct tm_dir *)(uintptr_t)fi->fh;
}

static void dir_free(struct tm_dir *dir)
{
	closedir(dir->stream);
	pthread_mutex_destroy(&dir->lock);
	tm_inode_unref(dir->inode);
	free(dir);
}

void tm_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tm_inode *inode = tm_inode_of(req, ino);
	int fd = tm_inode_reopen(inode, O_RDONLY | O_DIRECTORY);
	struct tm_dir *dir = NULL;
	DIR *stream = NULL;
	int rc = fd < 0 ? fd : 0;

	if (rc == 0) {
		stream = fdopendir(fd);
		dir = calloc(1, sizeof(*dir));
		rc = stream && dir ? 0 : -ENOMEM;
	}
	if (rc < 0) {
		if (stream)
			closedir(stream);
		else if (fd >= 0)
			close(fd);
		free(dir);
		tm_reply_rc(req, rc);
		return;
	}
	dir->inode = tm_inode_ref(inode);
	dir->stream = stream;
	pthread_mutex_init(&dir->lock, NULL);
	fi->fh = (uintptr_t)dir;
	if (fuse_reply_open(req, fi) < 0)
		dir_free(dir);
}

void tm_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	dir_free(dir_of(fi));
	fuse_reply_err(req, 0);
}

void tm_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	int fd = dirfd(dir_of(fi)->stream);

	(void)ino;
	tm_reply_rc(req, (datasync ? fdatasync(fd) : fsync(fd)) == 0 ? 0 : -errno);
}

static bool is_dot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* The next entry in dir->pending, NULL at the end. 0 or -errno. */
static int next_locked(struct tm_dir *dir)
{
	if (dir->pending)
		return 0;
	errno = 0;
	dir->pending = readdir(dir->stream);
	return dir->pending ? 0 : -errno;
}

/* Append the pending entry to the answer. Bytes used; 0: does not fit; -errno. */
static ssize_t add_entry_locked(
	fuse_req_t req, struct tm_dir *dir, bool plus, char *buf, size_t room)
{
	const struct dirent *d = dir->pending;
	struct fuse_entry_param entry = {
		.attr = {.st_ino = d->d_ino, .st_mode = DTTOIF(d->d_type)}};
	size_t need;
	int rc;

	if (!plus) {
		need = fuse_add_direntry(req, buf, room, d->d_name, &entry.attr, d->d_off);
		return need > room ? 0 : (ssize_t)need;
	}
	/* Look up only what fits: each look-up that is answered counts. */
	need = fuse_add_direntry_plus(req, NULL, 0, d->d_name, NULL, 0);
	if (need > room)
		return 0;
	if (!is_dot(d->d_name)) {
		rc = tm_fs_lookup(tm_mount_of(req), dir->inode, d->d_name, &entry);
		/* Gone or unreadable: listed without attributes, the kernel asks if it must know.
		 */
		if (rc < 0) {
			memset(&entry, 0, sizeof(entry));
			entry.attr.st_ino = d->d_ino;
			entry.attr.st_mode = DTTOIF(d->d_type);
		}
	}
	return (ssize_t)fuse_add_direntry_plus(req, buf, room, d->d_name, &entry, d->d_off);
}

static void list(fuse_req_t req, struct tm_dir *dir, size_t size, off_t off, bool plus)
{
	TM_AUTO_FREE char *buf = malloc(size);
	size_t used = 0;
	int rc = buf ? 0 : -ENOMEM;

	pthread_mutex_lock(&dir->lock);
	if (off != dir->offset) {
		seekdir(dir->stream, off);
		dir->pending = NULL;
		dir->offset = off;
	}
	while (rc == 0) {
		ssize_t n;

		rc = next_locked(dir);
		if (rc < 0 || !dir->pending)
			break;
		n = add_entry_locked(req, dir, plus, buf + used, size - used);
		if (n <= 0) {
			rc = (int)n;
			break;
		}
		used += (size_t)n;
		dir->offset = dir->pending->d_off;
		dir->pending = NULL;
	}
	pthread_mutex_unlock(&dir->lock);
	/* An error after some entries is met again by the next request. */
	if (rc < 0 && used == 0)
		tm_reply_rc(req, rc);
	else
		fuse_reply_buf(req, buf, used);
}

void tm_op_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	list(req, dir_of(fi), size, off, false);
}

void tm_op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	list(req, dir_of(fi), size, off, true);
}
