/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_dir.c - listing directories
 *
 * An opened directory is read either from the backing or from a listing that is remembered (a fact
 * of its inode, known.h), to the end the same way:
 *
 *   stream    a descriptor of its own, whose offsets are used; it reads ahead one entry: the one
 * that did not fit into the last answer is the first of the next. What it shows is noted, and
 *             remembered if somebody reads it from the first to the last entry.
 *   listing   struct noted, one after the other; an offset is where the next one starts.
 */
#include "tmemfs/fs.h"
#include "tmemfs/call.h"

#include <dirent.h>
#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FACT_LISTING "listing"
#define NOTES_FIRST  4096

/* One entry of a listing; the next begins at the next multiple of its alignment. */
struct noted {
	uint64_t ino;
	uint32_t bytes; /* of all this */
	uint32_t type;  /* DT_... */
	char name[];
};

/* An open directory. fi->fh, counted: the kernel may close it once a listing is interrupted. */
struct tm_dir {
	_Atomic unsigned int refs;
	struct tm_inode *inode; /* constant; referenced */
	pthread_mutex_t lock;   /* the kernel lists one directory from several threads */

	/* lock */
	DIR *stream;            /* NULL: `notes` is the listing, and complete */
	struct dirent *pending; /* read, not answered yet */
	off_t offset;           /* of `pending`, or of what comes next */
	struct tm_asked asked;  /* before the first entry was read */
	char *notes;
	size_t noted, room; /* bytes of notes, bytes there */
	bool noting;        /* everything from the first entry on is in `notes` */
};

static struct tm_dir *dir_of(const struct fuse_file_info *fi)
{
	return (struct tm_dir *)(uintptr_t)fi->fh;
}

static void dir_unref(struct tm_dir *dir)
{
	if (atomic_fetch_sub(&dir->refs, 1) > 1)
		return;
	if (dir->stream)
		closedir(dir->stream);
	free(dir->notes);
	pthread_mutex_destroy(&dir->lock);
	tm_inode_unref(dir->inode);
	free(dir);
}

static struct tm_dir *dir_new(struct tm_inode *inode)
{
	struct tm_dir *dir = calloc(1, sizeof(*dir));

	if (!dir)
		return NULL;
	atomic_init(&dir->refs, 1);
	dir->inode = tm_inode_ref(inode);
	pthread_mutex_init(&dir->lock, NULL);
	return dir;
}

/* The remembered listing, if the directory has not changed since. 0 or -errno; without one, nothing
 * has happened. */
static int open_listing(struct tm_mount *mount, struct tm_dir *dir)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	void *listing = NULL;
	struct stat st;
	uint64_t left;
	int rc = 0;

	if (!tm_meta_has(mount->meta, dir->inode, FACT_LISTING))
		return 0;
	if (tm_fs_must_ask(mount) || !tm_meta_stat(mount->meta, dir->inode, &st, &left)) {
		rc = tm_fd_get(dir->inode, &place);
		if (rc == 0)
			rc = tm_fs_ask(mount, dir->inode, place.fd, &st);
		if (tm_fs_unreachable(mount, rc))
			rc = 0;
	}
	if (rc < 0 || !tm_meta_recall(mount->meta, dir->inode, FACT_LISTING, &rc, &listing))
		return rc;
	dir->notes = listing;
	dir->noted = (size_t)rc;
	return 0;
}

static int open_stream(struct tm_mount *mount, struct tm_dir *dir)
{
	int fd = tm_inode_reopen(dir->inode, O_RDONLY | O_DIRECTORY);
	struct stat st;
	uint64_t left;

	if (fd < 0)
		return fd;
	/* A listing is kept for the ctime that was seen before it was read. */
	if (!tm_meta_stat(mount->meta, dir->inode, &st, &left))
		tm_fs_stat(mount, dir->inode, fd, &st);
	dir->asked = tm_meta_ask(mount->meta);
	dir->noting = true;
	dir->stream = fdopendir(fd);
	if (!dir->stream)
		close(fd);
	return dir->stream ? 0 : -ENOMEM;
}

void tm_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_dir *dir = dir_new(tm_inode_of(req, ino));
	struct fuse_file_info info = *fi; /* past an interrupt */
	struct tm_call call;
	bool answer;
	int rc;

	if (!dir) {
		tm_reply_rc(req, -ENOMEM);
		return;
	}
	tm_call_begin(req, &call);
	rc = open_listing(mount, dir);
	if (rc == 0 && !dir->notes)
		rc = open_stream(mount, dir);
	if (rc == -ESTALE)
		tm_fs_doubt(mount, dir->inode);
	answer = tm_call_end(req, &call);
	if (rc < 0 && answer)
		tm_reply_rc(req, rc);
	info.fh = (uintptr_t)dir;
	if (rc < 0 || !answer || fuse_reply_open(req, &info) < 0)
		dir_unref(dir);
}

void tm_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	dir_unref(dir_of(fi));
	fuse_reply_err(req, 0);
}

void tm_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	TM_AUTO_CLOSE int own_fd = -1;
	struct tm_dir *dir = dir_of(fi);
	int fd = dir->stream ? dirfd(dir->stream) : -1, rc;

	(void)ino;
	if (fd < 0)
		fd = own_fd = tm_inode_reopen(dir->inode, O_RDONLY | O_DIRECTORY);
	rc = fd;
	if (fd >= 0)
		rc = (datasync ? fdatasync(fd) : fsync(fd)) == 0 ? 0 : -errno;
	tm_reply_rc(req, rc);
}

/* --- entries ------------------------------------------------------------------------------ */

/* What comes next. `name` lives until the next one. */
struct entry {
	const char *name;
	uint64_t ino;
	uint32_t type;
	off_t next; /* offset of the one after it */
};

static bool is_dot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static size_t noted_bytes(const char *name)
{
	return TM_ALIGN(sizeof(struct noted) + strlen(name) + 1, _Alignof(struct noted));
}

/* Note what the stream shows; give up noting when it gets too long, or without memory. */
static void note_locked(struct tm_dir *dir, const struct dirent *d)
{
	size_t bytes = noted_bytes(d->d_name);
	struct noted *noted;

	if (dir->noted + bytes > dir->room) {
		size_t room = TM_MAX(dir->room * 2, (size_t)NOTES_FIRST);
		char *notes = room <= TM_FACT_MAX ? realloc(dir->notes, room) : NULL;

		if (!notes) {
			free(dir->notes);
			dir->notes = NULL;
			dir->noting = false;
			return;
		}
		dir->notes = notes;
		dir->room = room;
	}
	noted = (struct noted *)(dir->notes + dir->noted);
	memset(noted, 0, bytes);
	noted->ino = d->d_ino;
	noted->type = d->d_type;
	noted->bytes = (uint32_t)bytes;
	memcpy(noted->name, d->d_name, strlen(d->d_name));
	dir->noted += bytes;
}

/* The next entry of the stream, or none at its end, where the notes are complete. 0 or -errno. */
static int peek_stream_locked(struct tm_mount *mount, struct tm_dir *dir, struct entry *ret_entry)
{
	if (!dir->pending) {
		errno = 0;
		dir->pending = readdir(dir->stream);
		if (!dir->pending && errno)
			return -errno;
		if (dir->pending && dir->noting)
			note_locked(dir, dir->pending);
		if (!dir->pending && dir->noting && dir->noted)
			tm_meta_remember(mount->meta, dir->inode, &dir->asked, FACT_LISTING,
				(int)dir->noted, dir->notes);
	}
	if (dir->pending)
		*ret_entry = (struct entry){dir->pending->d_name, dir->pending->d_ino,
			dir->pending->d_type, dir->pending->d_off};
	return 0;
}

/* The next entry; its name is NULL at the end. 0 or -errno. */
static int peek_locked(struct tm_mount *mount, struct tm_dir *dir, struct entry *ret_entry)
{
	const struct noted *noted = (struct noted *)(dir->notes + dir->offset);

	*ret_entry = (struct entry){.name = NULL};
	if (dir->stream)
		return peek_stream_locked(mount, dir, ret_entry);
	if ((size_t)dir->offset < dir->noted)
		*ret_entry = (struct entry){
			noted->name, noted->ino, noted->type, dir->offset + (off_t)noted->bytes};
	return 0;
}

/* It has been answered. */
static void step_locked(struct tm_dir *dir, const struct entry *entry)
{
	dir->offset = entry->next;
	dir->pending = NULL;
}

static int seek_locked(struct tm_dir *dir, off_t off)
{
	off_t at = 0;

	if (off == dir->offset)
		return 0;
	if (dir->stream) {
		seekdir(dir->stream, off);
		dir->pending = NULL;
		dir->noting = false;
	} else {
		while (at < off && (size_t)at < dir->noted)
			at += ((struct noted *)(dir->notes + at))->bytes;
		if (at != off)
			return -EINVAL;
	}
	dir->offset = off;
	return 0;
}

/* Append an entry to the answer. Bytes used; 0: does not fit. */
static size_t add_entry(struct tm_mount *mount, struct tm_dir *dir, const struct entry *e,
	bool plus, char *buf, size_t room)
{
	struct fuse_entry_param entry = {.attr = {.st_ino = e->ino, .st_mode = DTTOIF(e->type)}};
	const fuse_req_t req = NULL; /* libfuse does not need it, and it may be answered */
	size_t need;

	if (!plus) {
		need = fuse_add_direntry(req, buf, room, e->name, &entry.attr, e->next);
		return need > room ? 0 : need;
	}
	/* Look up only what fits: each look-up that is answered counts. */
	need = fuse_add_direntry_plus(req, NULL, 0, e->name, NULL, 0);
	if (need > room)
		return 0;
	/* Gone or unreadable: listed without attributes, the kernel asks if it must know. */
	if (!is_dot(e->name) && tm_fs_lookup(mount, dir->inode, e->name, false, &entry) < 0) {
		memset(&entry, 0, sizeof(entry));
		entry.attr.st_ino = e->ino;
		entry.attr.st_mode = DTTOIF(e->type);
	}
	return fuse_add_direntry_plus(req, buf, room, e->name, &entry, e->next);
}

/* Fill `buf` with entries from `off` on. Bytes used, or -errno. */
static ssize_t list(
	struct tm_mount *mount, struct tm_dir *dir, char *buf, size_t size, off_t off, bool plus)
{
	struct entry entry;
	size_t used = 0, n;
	int rc;

	pthread_mutex_lock(&dir->lock);
	rc = seek_locked(dir, off);
	while (rc == 0) {
		rc = peek_locked(mount, dir, &entry);
		if (rc < 0 || !entry.name)
			break;
		n = add_entry(mount, dir, &entry, plus, buf + used, size - used);
		if (n == 0)
			break;
		used += n;
		step_locked(dir, &entry);
	}
	pthread_mutex_unlock(&dir->lock);
	/* An error after some entries is met again by the next request. */
	return rc < 0 && used == 0 ? rc : (ssize_t)used;
}

/* The kernel was never told of these look-ups. */
static void forget_entries(const char *buf, size_t used)
{
	const struct fuse_direntplus *plus;

	for (size_t at = 0; at < used; at += FUSE_DIRENTPLUS_SIZE(plus)) {
		plus = (const struct fuse_direntplus *)(buf + at);
		if (plus->entry_out.nodeid)
			tm_inode_forget((struct tm_inode *)(uintptr_t)plus->entry_out.nodeid, 1);
	}
}

static void reply_list(fuse_req_t req, struct tm_dir *dir, size_t size, off_t off, bool plus)
{
	struct tm_mount *mount = tm_mount_of(req);
	TM_AUTO_FREE char *buf = malloc(size);
	struct tm_call call;
	ssize_t n = -ENOMEM;
	bool told;

	atomic_fetch_add(&dir->refs, 1);
	tm_call_begin(req, &call);
	if (buf)
		n = list(mount, dir, buf, size, off, plus);
	told = tm_call_end(req, &call);
	if (told && n < 0)
		tm_reply_rc(req, (int)n);
	else if (told)
		told = fuse_reply_buf(req, buf, (size_t)n) == 0;
	if (!told && plus && n > 0)
		forget_entries(buf, (size_t)n);
	dir_unref(dir);
}

void tm_op_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	reply_list(req, dir_of(fi), size, off, false);
}

void tm_op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	reply_list(req, dir_of(fi), size, off, true);
}
