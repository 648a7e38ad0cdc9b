/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_ioctl.c - ioctl(2): what tmemctl asks of the cache, and the few of the backing that are passed
 *
 * Our own are core/fsctl.h's. Of the backing's go through: a file's flags and generation (lsattr,
 * chattr), and as root its project. The rest is ENOTTY: what an ioctl means, and what memory of the
 * caller it touches, only its file system knows.
 *
 * Since Linux 5.13 the kernel has checked who may set flags; before it nobody has, so it is done
 * here, too.
 */
#include "tmemfs/fs.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/fsctl.h"
#include "tmemfs/call.h"
#include "tmemfs/pin.h"

#define LIST_BATCH 128

struct request {
	fuse_req_t req;
	struct tm_mount *mount;
	struct tm_inode *inode;
	struct tm_file *file; /* NULL: a directory */
	const void *in;
	size_t in_bytes, out_bytes;
};

/* `size` bytes at `out` for the caller, or the error. */
static void answer(const struct request *r, int rc, const void *out, size_t size)
{
	if (rc < 0)
		tm_reply_rc(r->req, rc);
	else
		fuse_reply_ioctl(r->req, 0, out, TM_MIN(size, r->out_bytes));
}

/* Is it root who asks, or the user that runs the mount? */
static bool is_owner(const struct request *r)
{
	uid_t uid = fuse_req_ctx(r->req)->uid;

	return uid == 0 || uid == geteuid();
}

/* --- the cache ----------------------------------------------------------------------------- */

static void about(const struct request *r)
{
	struct tm_pins_total total = tm_pins_total(r->mount->pins);
	const struct tm_fsctl_about out = {
		.magic = TM_FSCTL_MAGIC,
		.version = TM_FSCTL_VERSION,
		.page_bytes = (uint32_t)tm_cache_page_size(r->mount->cache),
		.pins_bytes = total.max_bytes,
		.pinned_bytes = total.bytes,
		.pinned_files = total.files,
	};

	answer(r, 0, &out, sizeof(out));
}

static const uint32_t verdicts[] = {
	[TM_WARMTH_KEEPS] = TM_FSCTL_KEEPS,
	[TM_WARMTH_YOUNG] = TM_FSCTL_YOUNG,
	[TM_WARMTH_NEVER] = TM_FSCTL_NEVER,
	[TM_WARMTH_CHANGED] = TM_FSCTL_CHANGED,
};

static void warm(const struct request *r)
{
	struct tm_file *file = r->file;
	struct tm_fsctl_warm range;
	struct tm_warmed w;
	struct tm_call call;
	int rc;

	if (r->in_bytes < sizeof(range)) {
		answer(r, -EINVAL, NULL, 0);
		return;
	}
	memcpy(&range, r->in, sizeof(range));
	if (!file || (file->flags & O_ACCMODE) == O_WRONLY) {
		answer(r, -EBADF, NULL, 0);
		return;
	}
	if (range.off > INT64_MAX - TM_FSCTL_WARM_MAX || range.len > TM_FSCTL_WARM_MAX ||
		range.flags & ~TM_FSCTL_CHECK) {
		answer(r, -EINVAL, NULL, 0);
		return;
	}
	tm_file_ref(file); /* past an interrupt */
	tm_call_begin(r->req, &call);
	rc = tm_cache_warm(r->mount->cache, file->inode, &file->source, (int64_t)range.off,
		(size_t)range.len, !(range.flags & TM_FSCTL_CHECK), &w);
	if (rc == 0) {
		range.verdict = verdicts[w.warmth];
		range.wait_ms = w.wait_ms;
		range.full = w.full;
		range.size = w.size;
		range.found = w.found;
		range.stored = w.stored;
		range.refused = w.refused;
	}
	if (tm_call_end(r->req, &call))
		answer(r, rc, &range, sizeof(range));
	tm_file_unref(file);
}

static void pin(const struct request *r)
{
	struct tm_fsctl_pin out = {0};
	struct stat st;
	int fd, rc = !r->file ? -EBADF : !is_owner(r) ? -EPERM : 0;

	if (rc == 0 && atomic_load(&r->inode->excluded))
		rc = -EOPNOTSUPP;
	if (rc == 0) {
		fd = tm_file_fd(r->file);
		rc = fd < 0 ? fd : fstat(fd, &st) < 0 ? -errno : 0;
	}
	if (rc == 0)
		rc = tm_pins_add(r->mount->pins, r->inode, (uint64_t)st.st_size, &out.bytes);
	answer(r, rc, &out, sizeof(out));
}

static void unpin(const struct request *r)
{
	bool root = r->inode == tm_inodes_root(r->mount->inodes);
	int rc = !r->file && !root ? -EBADF : !is_owner(r) ? -EPERM : 0;

	if (rc == 0 && root)
		tm_pins_remove_all(r->mount->pins);
	else if (rc == 0)
		tm_pins_remove(r->mount->pins, r->inode);
	answer(r, rc, NULL, 0);
}

/* Append an entry. False: it does not fit. */
static bool add_pinned(struct tm_fsctl_pinned *out, const struct tm_pinned *pinned)
{
	struct tm_fsctl_pinned_entry entry = {.bytes = pinned->bytes, .kept = pinned->kept};
	size_t bytes;

	entry.length = (uint32_t)strlen(pinned->path) + 1;
	bytes = TM_ALIGN(sizeof(entry) + entry.length, sizeof(uint64_t));
	if (bytes > sizeof(out->data) - out->used) {
		/* A path that no answer has room for is one that nobody knows. */
		if (out->count > 0)
			return false;
		entry.length = 1;
		bytes = TM_ALIGN(sizeof(entry) + entry.length, sizeof(uint64_t));
	}
	memcpy(out->data + out->used, &entry, sizeof(entry));
	memcpy(out->data + out->used + sizeof(entry), entry.length > 1 ? pinned->path : "",
		entry.length);
	out->used += (uint32_t)bytes;
	out->count++;
	out->after = pinned->number;
	return true;
}

static void list_pinned(const struct request *r)
{
	TM_AUTO_FREE struct tm_fsctl_pinned *out = calloc(1, sizeof(*out));
	struct tm_pinned pinned[LIST_BATCH] = {0};
	unsigned int count = 0;
	bool fits = true;
	int rc = !out ? -ENOMEM : !is_owner(r) ? -EPERM : 0;

	if (rc == 0 && r->in_bytes < sizeof(*out))
		rc = -EINVAL;
	if (rc == 0) {
		memcpy(&out->after, r->in, sizeof(out->after));
		rc = tm_pins_list(r->mount->pins, out->after, LIST_BATCH, pinned, &count);
	}
	for (unsigned int i = 0; i < count; i++) {
		if (rc == 0 && fits)
			fits = add_pinned(out, &pinned[i]);
		free(pinned[i].path);
	}
	answer(r, rc, out, sizeof(*out));
}

/* --- the backing ----------------------------------------------------------------------------- */

/* May the caller set these flags? */
static int check_flags(const struct request *r, int fd, unsigned int flags)
{
	const unsigned int for_root = FS_IMMUTABLE_FL | FS_APPEND_FL;
	uid_t uid = fuse_req_ctx(r->req)->uid;
	unsigned int old = 0;
	struct stat st;

	if (uid == 0)
		return 0;
	if (fstat(fd, &st) < 0 || ioctl(fd, FS_IOC_GETFLAGS, &old) < 0)
		return -errno;
	return st.st_uid == uid && !((old ^ flags) & for_root) ? 0 : -EPERM;
}

/* What asks takes and gives the same few bytes. The kernel's own callers say how many; programs of
 * before 5.13 the size that the number has in it, which for flags is not what is used. */
static void pass_on(const struct request *r, unsigned long cmd, size_t bytes, bool sets)
{
	TM_AUTO_CLOSE int fd = -1;
	union {
		long number;
		unsigned int flags;
		struct fsxattr attr;
	} value = {0};
	int rc = 0;

	if (sets ? r->in_bytes < bytes : r->out_bytes < bytes)
		rc = -EINVAL;
	if (rc == 0) {
		fd = tm_inode_reopen(r->inode, O_RDONLY | O_NONBLOCK | (r->file ? 0 : O_DIRECTORY));
		rc = fd < 0 ? fd : 0;
	}
	if (rc == 0 && sets) {
		memcpy(&value, r->in, bytes);
		if (cmd == FS_IOC_SETFLAGS)
			rc = check_flags(r, fd, value.flags);
		else if (fuse_req_ctx(r->req)->uid != 0)
			rc = -EPERM;
		tm_meta_change_begin(r->mount->meta, r->inode);
		if (rc == 0 && ioctl(fd, cmd, &value) < 0)
			rc = -errno;
		tm_meta_change_end(r->mount->meta, r->inode);
	} else if (rc == 0 && ioctl(fd, cmd, &value) < 0) {
		rc = -errno;
	}
	answer(r, rc, &value, sets ? 0 : bytes);
}

void tm_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
	struct fuse_file_info *fi, unsigned int flags, const void *in_buf, size_t in_bufsz,
	size_t out_bufsz)
{
	struct request r = {
		.req = req,
		.mount = tm_mount_of(req),
		.inode = tm_inode_of(req, ino),
		.file = flags & FUSE_IOCTL_DIR ? NULL : tm_file_of(fi),
		.in = in_buf,
		.in_bytes = in_bufsz,
		.out_bytes = out_bufsz,
	};

	(void)arg;
	switch (cmd) {
	case TM_FSCTL_ABOUT:
		about(&r);
		break;
	case TM_FSCTL_WARM:
		warm(&r);
		break;
	case TM_FSCTL_PIN:
		pin(&r);
		break;
	case TM_FSCTL_UNPIN:
		unpin(&r);
		break;
	case TM_FSCTL_PINNED:
		list_pinned(&r);
		break;
	case (unsigned int)FS_IOC_GETFLAGS:
	case (unsigned int)FS_IOC_GETVERSION:
		pass_on(&r, cmd, sizeof(unsigned int), false);
		break;
	case (unsigned int)FS_IOC_SETFLAGS:
		pass_on(&r, cmd, sizeof(unsigned int), true);
		break;
	case (unsigned int)FS_IOC_FSGETXATTR:
		pass_on(&r, cmd, sizeof(struct fsxattr), false);
		break;
	case (unsigned int)FS_IOC_FSSETXATTR:
		pass_on(&r, cmd, sizeof(struct fsxattr), true);
		break;
	default:
		tm_reply_rc(req, -ENOTTY);
	}
}
