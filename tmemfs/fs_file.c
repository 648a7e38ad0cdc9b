/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_file.c - opening and closing files
 *
 * Opening is where the mount agrees with the backing again (close-to-open): stat decides whether
 * the kernel may keep its pages. Where it shows a size the kernel was not told of, the answer to
 * the open goes through the notifier, which first makes the kernel ask for the attributes again.
 * A file that is cached and opened for reading is not opened below before a page is missing.
 */
#include "tmemfs/fs.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "tmemfs/call.h"
#include "tmemfs/creds.h"
#include "tmemfs/session.h"

/*
 * What the backing's descriptor is opened with. Not O_DIRECT: our buffers are not aligned as it
 * asks; the kernel does the part of it that users see. O_APPEND stays, so that two writers, one of
 * them below, do not write over each other.
 */
#define FLAGS_PASSED                                                                               \
	(O_ACCMODE | O_APPEND | O_TRUNC | O_EXCL | O_NOATIME | O_SYNC | O_DSYNC | O_LARGEFILE)

static int source_fd(void *file)
{
	return tm_file_fd(file);
}

static void source_ref(void *file)
{
	tm_file_ref(file);
}

static void source_unref(void *file)
{
	tm_file_unref(file);
}

static bool writes_over_nfs(const struct tm_file *file)
{
	return file->inode->nfs && (file->flags & O_ACCMODE) != O_RDONLY;
}

static struct tm_file *file_new(struct tm_mount *mount, struct tm_inode *inode, int fd, int flags)
{
	struct tm_file *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->mount = mount;
	file->inode = tm_inode_ref(inode);
	file->source = (struct tm_source){source_fd, source_ref, source_unref, file, {0}};
	file->flags = flags;
	if (writes_over_nfs(file))
		atomic_store(&inode->wrote, true);
	atomic_init(&file->fd, fd);
	atomic_fetch_add(&inode->opens, 1);
	if (fd < 0)
		atomic_fetch_add(&inode->unopened, 1);
	atomic_init(&file->plain_fd, -1);
	atomic_init(&file->flock_fd, -1);
	atomic_init(&file->refs, 1);
	return file;
}

void tm_file_ref(struct tm_file *file)
{
	atomic_fetch_add(&file->refs, 1);
}

void tm_file_unref(struct tm_file *file)
{
	int plain, fd;

	if (atomic_fetch_sub(&file->refs, 1) > 1)
		return;
	plain = atomic_load(&file->plain_fd);
	if (plain >= 0)
		close(plain);
	fd = atomic_load(&file->fd);
	if (fd >= 0)
		close(fd);
	else
		atomic_fetch_sub(&file->inode->unopened, 1);
	tm_fd_put(&file->place);
	tm_file_used(file);
	atomic_fetch_sub(&file->inode->opens, 1);
	tm_inode_unref(file->inode);
	free(file);
}

int tm_file_fd(struct tm_file *file)
{
	int fd = atomic_load(&file->fd), none = -1;

	if (fd >= 0)
		return fd;
	fd = atomic_load(&file->inode->held_fd);
	if (fd >= 0)
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		fd = tm_inode_reopen(file->inode, file->flags & FLAGS_PASSED & ~O_EXCL);
	if (fd < 0)
		return fd;
	if (!atomic_compare_exchange_strong(&file->fd, &none, fd)) {
		close(fd);
		return none;
	}
	atomic_fetch_sub(&file->inode->unopened, 1);
	return fd;
}

void tm_file_hold(struct tm_inode *inode)
{
	int fd, none = -1;

	if (atomic_load(&inode->unopened) == 0 || atomic_load(&inode->held_fd) >= 0)
		return;
	fd = tm_inode_reopen(inode, O_RDONLY);
	if (fd >= 0 && !atomic_compare_exchange_strong(&inode->held_fd, &none, fd))
		close(fd);
}

/* --- files that are being closed -------------------------------------------------------------
 *
 * close(2) returns as soon as the kernel has queued the release; until that is done, NFS has a
 * writer of the file, takes what others change now for its own, and keeps its old pages. So who
 * opens the file next waits for it; not for long, since a flush can also come from a process that
 * is not the last to have it. After that it has NFS drop its pages.
 */

#define CLOSE_WAIT_NS  1000000
#define CLOSE_WAIT_MAX 20

static void file_closes(struct tm_file *file)
{
	if (writes_over_nfs(file) && !atomic_exchange(&file->closing, true))
		atomic_fetch_add(&file->inode->closing, 1);
}

void tm_file_used(struct tm_file *file)
{
	if (atomic_load(&file->closing) && atomic_exchange(&file->closing, false))
		atomic_fetch_sub(&file->inode->closing, 1);
}

/* False if it still is being closed. */
static bool await_closed(struct tm_inode *inode)
{
	const struct timespec moment = {.tv_nsec = CLOSE_WAIT_NS};

	for (int i = 0; i < CLOSE_WAIT_MAX && atomic_load(&inode->closing) > 0; i++)
		nanosleep(&moment, NULL);
	return atomic_load(&inode->closing) == 0;
}

static void file_closed(struct tm_file *file)
{
	tm_past_close(file->mount, file->inode, atomic_load(&file->fd));
	tm_file_unref(file);
}

/* The kernel has been told of the open; or, if the opener was interrupted, will never close it. */
static void file_opened(void *arg, int rc)
{
	if (rc < 0)
		file_closed(arg);
}

/* --- files whose last name others removed --------------------------------------------------
 *
 * -ESTALE from an open makes the kernel look the name up again, once. What it then opens was found
 * while the user's open was under way already: that it is gone again is no reason to refuse.
 */

static _Atomic pid_t *stale_slot(struct tm_mount *mount, pid_t pid)
{
	return &mount->stale_told[(unsigned int)pid % TM_STALE_SLOTS];
}

bool tm_stale_told(struct tm_mount *mount, pid_t pid)
{
	return pid && atomic_load(stale_slot(mount, pid)) == pid;
}

bool tm_stale_over(struct tm_mount *mount, pid_t pid)
{
	_Atomic pid_t *slot = stale_slot(mount, pid);

	/* 0: not a process of this pid namespace, and no way to know it again. */
	return pid && atomic_load(slot) == pid && atomic_compare_exchange_strong(slot, &pid, 0);
}

/* An open under way. `req` may be answered meanwhile (tm_call_begin), but for one that empties the
 * file. */
struct opening {
	struct tm_mount *mount;
	struct tm_inode *inode;
	fuse_req_t req;
	int flags;
	pid_t pid;    /* of the thread, or 0 */
	bool again;   /* it was told -ESTALE the last time */
	bool closing; /* what others changed may not be in the backing's own pages */
};

static int check_linked(const struct opening *o, const struct stat *st)
{
	return st->st_nlink > 0 || o->again || tm_inode_unlinked(o->inode) ? 0 : -ESTALE;
}

/* The open ended with -ESTALE. */
static void told_stale(const struct opening *o)
{
	atomic_store(stale_slot(o->mount, o->pid), o->pid);
	tm_fs_doubt(o->mount, o->inode);
}

/* Compare what is open with what is cached. */
static int file_verify(const struct opening *o, struct tm_file *file, enum tm_verdict *ret_verdict)
{
	struct tm_mount *mount = o->mount;
	struct tm_moment moment = tm_cache_moment(mount->cache, file->inode);
	struct tm_asked asked = tm_meta_ask(mount->meta);
	struct stat st;
	uint64_t epoch;
	int rc;

	if (fstat(atomic_load(&file->fd), &st) < 0)
		return -errno;
	if (o->closing)
		(void)posix_fadvise(atomic_load(&file->fd), 0, 0, POSIX_FADV_DONTNEED);
	rc = check_linked(o, &st);
	if (rc < 0)
		return rc;
	tm_meta_learn(mount->meta, file->inode, &asked, &st);
	*ret_verdict = tm_cache_verify(mount->cache, file->inode, &st, &moment, &epoch);
	if (*ret_verdict != TM_VERDICT_SAME)
		atomic_store(&file->drop_epoch, epoch);
	return 0;
}

/* What the kernel is told of an open file, in `fi` and by what it returns. From here on the file is
 * open: file_closed(). */
static struct tm_opened fill_info(struct tm_mount *mount, struct fuse_file_info *fi,
	struct tm_file *file, enum tm_verdict verdict)
{
	fi->fh = (uintptr_t)file;
	fi->direct_io = mount->direct && file->flags & O_DIRECT;
	fi->keep_cache = verdict == TM_VERDICT_SAME;
	/* A lock that was asked for through it goes when it is released at the latest. */
	fi->noflush = (file->flags & O_ACCMODE) == O_RDONLY && !atomic_load(&file->inode->locked);
	return (struct tm_opened){
		.parallel = fi->direct_io,
		.past = tm_past_open(mount, file->inode, atomic_load(&file->fd), file->flags),
	};
}

/*
 * Open for reading what is cached, without opening it below: what is known of it decides, or else
 * one stat that asks the server itself. 0 and a file, or NULL if it must be opened after all.
 */
static int open_from_memory(const struct opening *o, struct tm_file **ret_file)
{
	struct tm_mount *mount = o->mount;
	struct tm_inode *inode = o->inode;
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct tm_moment moment = tm_cache_moment(mount->cache, inode);
	struct tm_file *file;
	struct stat st;
	uint64_t left;
	int rc = 0;

	if (tm_fs_must_ask(mount) || !tm_meta_stat(mount->meta, inode, &st, &left)) {
		rc = tm_fd_get(inode, &place);
		if (rc == 0)
			rc = tm_fs_ask(mount, inode, place.fd, &st);
		if (tm_fs_unreachable(mount, rc) && tm_meta_stat(mount->meta, inode, &st, &left))
			rc = 0;
	}
	if (rc == 0)
		rc = check_linked(o, &st);
	if (rc < 0)
		return rc;
	*ret_file = NULL;
	if (!tm_cache_current(mount->cache, inode, &st, &moment))
		return 0;
	file = file_new(mount, inode, -1, o->flags);
	if (!file)
		return -ENOMEM;
	file->place = place;
	place = TM_FD_NONE;
	*ret_file = file;
	return 0;
}

/* A descriptor of the file, emptied if the flags say so; or -errno. Who empties it, and may not
 * keep its set-user-id bit, is the caller. */
static int open_as_asked(fuse_req_t req, struct tm_inode *inode, int flags)
{
	TM_AUTO_KILLPRIV struct tm_killpriv killpriv = tm_killpriv_begin(NULL, tm_killpriv_asked());
	TM_AUTO_CREDS struct tm_creds creds = {false};
	int rc = flags & O_TRUNC ? tm_creds_enter(req, &creds) : 0;

	return rc < 0 ? rc : tm_inode_reopen(inode, flags);
}

static int open_below(
	const struct opening *o, struct tm_file **ret_file, enum tm_verdict *ret_verdict)
{
	struct tm_mount *mount = o->mount;
	struct tm_inode *inode = o->inode;
	bool truncates = o->flags & O_TRUNC;
	struct tm_file *file;
	int fd, rc;

	if (truncates) {
		tm_meta_change_begin(mount->meta, inode);
		tm_cache_change_begin(mount->cache, inode, 0, TM_WHOLE_FILE);
	}
	fd = open_as_asked(o->req, inode, o->flags & FLAGS_PASSED & ~O_EXCL);
	if (truncates) {
		tm_cache_change_end(mount->cache, inode, 0, fd < 0);
		tm_meta_change_end(mount->meta, inode);
		tm_fs_killed(mount, inode);
	}
	if (fd < 0)
		return fd;
	file = file_new(mount, inode, fd, o->flags & ~O_TRUNC);
	if (!file) {
		close(fd);
		return -ENOMEM;
	}
	rc = file_verify(o, file, ret_verdict);
	if (rc < 0)
		tm_file_unref(file);
	else
		*ret_file = file;
	return rc;
}

static int open_file(
	const struct opening *o, struct tm_file **ret_file, enum tm_verdict *ret_verdict)
{
	struct tm_inode *inode = o->inode;
	int rc = 0;

	*ret_file = NULL;
	*ret_verdict = TM_VERDICT_SAME;
	if (atomic_load(&inode->lost))
		atomic_store(&inode->again, true);
	if ((o->flags & (O_ACCMODE | O_TRUNC)) == O_RDONLY && atomic_load(&inode->filled))
		rc = open_from_memory(o, ret_file);
	if (rc == 0 && !*ret_file)
		rc = open_below(o, ret_file, ret_verdict);
	if (rc == -ESTALE)
		told_stale(o);
	return rc;
}

static struct opening opening_of(fuse_req_t req, struct tm_inode *inode, int flags)
{
	struct tm_mount *mount = tm_mount_of(req);
	pid_t pid = fuse_req_ctx(req)->pid;

	return (struct opening){mount, inode, req, flags, pid, tm_stale_over(mount, pid), false};
}

void tm_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_ref(tm_inode_of(req, ino)); /* past an interrupt */
	struct opening opening = opening_of(req, inode, fi->flags);
	enum tm_verdict verdict;
	struct tm_file *file;
	struct tm_call call;
	int rc, flags = fi->flags;

	/* What is done as the caller needs the request to the end. */
	if (!(flags & O_TRUNC))
		tm_call_begin(req, &call);
	opening.closing = !await_closed(inode);
	rc = open_file(&opening, &file, &verdict);
	tm_inode_unref(inode);
	if (!(flags & O_TRUNC) && !tm_call_end(req, &call)) {
		if (rc == 0)
			tm_file_unref(file);
	} else if (rc < 0) {
		tm_reply_rc(req, rc);
	} else {
		struct tm_opened how = fill_info(mount, fi, file, verdict);

		if (verdict == TM_VERDICT_CHANGED) {
			tm_notify_open(mount->notifier, req, ino, fi, &how, file_opened, file);
		} else {
			tm_session_opened(&how);
			file_opened(file, fuse_reply_open(req, fi));
		}
	}
}

/* A descriptor of the new file, made as the caller; or -errno. Without a name it gets none. */
static int create_as_caller(
	fuse_req_t req, struct tm_inode *parent, const char *name, mode_t mode, int flags)
{
	int how = (name ? O_CREAT | O_NOFOLLOW : O_TMPFILE) | O_CLOEXEC;
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE;
	TM_AUTO_KILLPRIV struct tm_killpriv killpriv = tm_killpriv_begin(NULL, tm_killpriv_asked());
	TM_AUTO_CREDS struct tm_creds creds = {false};
	int rc = tm_fd_get(parent, &dir), fd;

	if (rc == 0)
		rc = tm_creds_enter(req, &creds);
	if (rc < 0)
		return rc;
	do {
		fd = openat(dir.fd, name ? name : ".", (flags & FLAGS_PASSED) | how, mode);
		if (fd >= 0)
			return fd;
		rc = -errno;
	} while ((rc == -EMFILE || rc == -ENFILE) && tm_inodes_shrink(parent->table));
	return rc;
}

/* The file is made, as `name` or none in `dir`, and open: `fd`, or -errno. */
static void answer_created(
	fuse_req_t req, struct tm_inode *dir, const char *name, int fd, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct fuse_entry_param entry;
	enum tm_verdict verdict;
	struct tm_file *file = NULL;
	struct opening opening;
	struct tm_opened how;
	struct tm_inode *inode;
	int rc = fd < 0 ? fd : tm_fs_adopt(mount, dir, name, fd, &entry);

	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		tm_reply_rc(req, rc);
		return;
	}
	inode = tm_inode_of(req, entry.ino);
	file = file_new(mount, inode, fd, fi->flags);
	opening = opening_of(req, inode, fi->flags);
	rc = file ? file_verify(&opening, file, &verdict) : -ENOMEM;
	if (rc == -ESTALE)
		told_stale(&opening);
	if (rc < 0) {
		if (file)
			tm_file_unref(file);
		else
			close(fd);
		tm_inode_forget(inode, 1);
		tm_reply_rc(req, rc);
		return;
	}
	how = fill_info(mount, fi, file, verdict);
	tm_session_opened(&how);
	if (fuse_reply_create(req, &entry, fi) < 0) {
		file_closed(file);
		tm_inode_forget(inode, 1);
	}
}

void tm_op_create(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *dir = tm_inode_of(req, parent);
	int fd;

	if (tm_session_nameless()) {
		fd = create_as_caller(req, dir, NULL, mode, fi->flags);
		answer_created(req, dir, NULL, fd, fi);
		return;
	}
	tm_meta_change_begin(mount->meta, dir);
	tm_names_change_begin(dir, name);
	fd = create_as_caller(req, dir, name, mode, fi->flags);
	tm_names_change_end(dir, name);
	tm_meta_change_end(mount->meta, dir);
	answer_created(req, dir, name, fd, fi);
}

void tm_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tm_file *file = tm_file_of(fi);

	(void)ino;
	tm_fs_unlock_file(file->mount, file);
	file_closed(file);
	fuse_reply_err(req, 0);
}

/* A network file system reports a failed write when a descriptor is closed: close one. */
void tm_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tm_file *file = tm_file_of(fi);
	int fd = dup(atomic_load(&file->fd)); /* -1: nothing was written */
	int rc = fd < 0 ? 0 : close(fd) == 0 ? 0 : -errno;

	(void)ino;
	tm_fs_unlock_owner(tm_mount_of(req), file->inode, fi->lock_owner);
	file_closes(file);
	tm_reply_rc(req, rc);
}

void tm_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	int fd = tm_file_fd(tm_file_of(fi)), rc = fd;

	(void)ino;
	if (fd >= 0)
		rc = (datasync ? fdatasync(fd) : fsync(fd)) == 0 ? 0 : -errno;
	tm_reply_rc(req, rc);
}
