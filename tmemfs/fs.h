/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs.h - the file system operations: what they share, and the table of them
 *
 *   main.c -> fs_meta.c  look-up, attributes        -> inode.h   inodes and descriptors
 *             fs_name.c  making and removing names     creds.h   as the caller
 *             fs_file.c  opening and closing           cache.h   bytes
 *             fs_data.c  the bytes of open files       notify.h  what the kernel has cached
 *             fs_dir.c   directories                   known.h   what need not be asked again
 *             fs_xattr.c                               pin.h     files that are kept warm
 *             fs_ioctl.c what tmemctl asks, file flags  killpriv.h set-user-id bits that go
 *             fs_lock.c  flock, fcntl                  locks.h   locks, lockwait.h who waits
 *             fs_caller.c all of these as the caller
 *                                                       past.h  what goes past us
 *
 * Conventions: an operation computes 0 or -errno and replies exactly once, at its end. The kernel
 * keeps the inodes that it names in a request alive until the reply. Permissions were checked by
 * the kernel (default_permissions).
 */
#ifndef TMEMFS_FS_H
#define TMEMFS_FS_H

#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/statvfs.h>

#include "tmemfs/cache.h"
#include "tmemfs/inode.h"
#include "tmemfs/killpriv.h"
#include "tmemfs/notify.h"
#include "tmemfs/past.h"

#define TM_STALE_SLOTS 64

struct tm_ring;

/* What statfs last said of a file system. All fields: `lock`. */
struct tm_volume {
	pthread_mutex_t lock;
	uint64_t checked_ns; /* 0: never */
	dev_t dev;
	struct statvfs fs;
};

/* One mount: the session's user data. Constant while it is served, but for `volume` and the
 * atomics. */
struct tm_mount {
	struct tm_inodes *inodes;
	struct tm_pins *pins;
	struct tm_cache *cache;
	struct tm_meta *meta;
	struct tm_notifier *notifier;    /* for opens */
	struct tm_notifier *invalidator; /* for what others changed */
	struct tm_locks *locks;          /* NULL: locks are the kernel's, among the mount's users */
	struct tm_lockwait *lockwait;
	struct tm_ring *ring; /* NULL: all requests are read from the device */
	double attr_timeout;
	double entry_timeout;
	double negative_timeout;
	const char *const *exclude; /* patterns of names that are not cached, up to NULL */
	bool stale_ok;              /* what is known counts while the backing cannot be asked */
	bool ask_on_open;           /* every open asks the backing, whatever is known */
	struct tm_volume volume;
	unsigned int background; /* reads that the kernel may send without waiting for them */
	bool direct; /* O_DIRECT goes past the kernel's pages, several writes of a file at once */
	struct fuse_session *session;
	int device; /* its /dev/fuse */
	bool past;  /* files that are being written may go past us */
	pthread_mutex_t past_lock;
	bool acl; /* running as root: the kernel may leave ACLs and umask to us */
	void (*on_ready)(void *opaque);
	void *opaque;
	/* By number: threads whose last open was answered -ESTALE, see fs_file.c. */
	_Atomic pid_t stale_told[TM_STALE_SLOTS];
};

/* An open file. fi->fh, counted: a read still needs it after its reply, when the kernel may have
 * closed it already. Constant, but for the atomics. */
struct tm_file {
	_Atomic unsigned int refs;
	struct tm_mount *mount;
	struct tm_inode *inode; /* referenced */
	struct tm_fd place;     /* if opened from memory and at hand: what `fd` is made from */
	int flags;
	_Atomic int fd;          /* -1: not needed so far */
	struct tm_source source; /* this file, for who reads ahead in it */
	_Atomic int plain_fd;    /* -1, or: without O_APPEND, for pages that mmap wrote */
	_Atomic int flock_fd;    /* -1, or: what flock(2) locks */
	_Atomic bool flocked;    /* it does */
	_Atomic bool closing;    /* for writing, and closed by somebody since it was written */
	/* Until its first read, if its open made the kernel drop pages: tm_cache_verify()'s. Else
	 * 0. */
	_Atomic uint64_t drop_epoch;
};

static inline struct tm_mount *tm_mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static inline struct tm_inode *tm_inode_of(fuse_req_t req, fuse_ino_t ino)
{
	if (ino == FUSE_ROOT_ID)
		return tm_inodes_root(tm_mount_of(req)->inodes);
	return (struct tm_inode *)(uintptr_t)ino;
}

static inline fuse_ino_t tm_node_id(const struct tm_inode *inode)
{
	return inode == tm_inodes_root(inode->table) ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)inode;
}

static inline struct tm_file *tm_file_of(const struct fuse_file_info *fi)
{
	return fi ? (struct tm_file *)(uintptr_t)fi->fh : NULL;
}

/* The backing's descriptor, opened now if it was not needed so far. Returns it or -errno. */
int tm_file_fd(struct tm_file *file);

/* It is being written: whoever closed it was not the last one. */
void tm_file_used(struct tm_file *file);

void tm_file_ref(struct tm_file *file);
void tm_file_unref(struct tm_file *file);

/* Was the thread's last open answered -ESTALE, so that what is known of the name is not good
 * enough? */
bool tm_stale_told(struct tm_mount *mount, pid_t pid);

/* The retry of a thread after -ESTALE is over. True if there was one. */
bool tm_stale_over(struct tm_mount *mount, pid_t pid);

/* fuse_reply_err for 0 or -errno. */
void tm_reply_rc(fuse_req_t req, int rc);

/* stat through any descriptor of the inode; the cache learns of it. 0 or -errno. */
int tm_fs_stat(struct tm_mount *mount, struct tm_inode *inode, int fd, struct stat *ret_st);

/* The same, past what the backing's own client has cached (NFS, FUSE); what the cache makes of it
 * is the caller's business. */
int tm_fs_ask(struct tm_mount *mount, struct tm_inode *inode, int fd, struct stat *ret_st);

/* An open asks the backing, whatever is known. */
static inline bool tm_fs_must_ask(struct tm_mount *mount)
{
	return mount->ask_on_open && !(mount->stale_ok && tm_meta_stale(mount->meta));
}

/* `rc` says that the backing cannot be asked, and what is known may be shown instead, however old:
 * try that. */
bool tm_fs_unreachable(struct tm_mount *mount, int rc);

/* The backing does not know the inode by the name that we remember (-ESTALE): nor do we. */
void tm_fs_doubt(struct tm_mount *mount, struct tm_inode *inode);

/* Look `name` up for the kernel, with `ask` in the backing whatever is known of it: 0 and a full
 * entry, which counts one look-up; or -errno. */
int tm_fs_lookup(struct tm_mount *mount, struct tm_inode *parent, const char *name, bool ask,
	struct fuse_entry_param *ret_entry);

/* The same for a file that was just opened with `fd`; NULL: it has no name. */
int tm_fs_adopt(struct tm_mount *mount, struct tm_inode *parent, const char *name, int fd,
	struct fuse_entry_param *ret_entry);

/* What the user sees of a file's attributes. */
void tm_fs_present(struct tm_mount *mount, struct tm_inode *inode, struct stat *st);

/* Around a change of the file that takes these bits away, if `kills`. */
struct tm_killpriv tm_fs_killpriv(fuse_req_t req, struct tm_inode *inode, bool kills);

/* A change may have taken the file's set-user-id bit away (killpriv.h): the kernel must not go by
 * what it knows of it, after the answer. */
void tm_fs_killed(struct tm_mount *mount, struct tm_inode *inode);

/* A time that is left, as the kernel wants it. */
static inline double tm_fs_seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

/* How long attributes that the backing has just shown are good. */
double tm_fs_attr_timeout(struct tm_mount *mount, struct tm_inode *inode);

/* A timeout as the clocks count it. */
static inline uint64_t tm_fs_ns(double seconds)
{
	return (uint64_t)(seconds * 1e9);
}

/* All operations. */
extern const struct fuse_lowlevel_ops tm_fs_ops;
extern const struct fuse_lowlevel_ops tm_fs_caller_ops; /* over NFS, fs_caller.c */

/*
 * A file that is being removed may be open from memory only: open it really, as long as it has a
 * name. Where the backing hides what is removed while open, it stays readable.
 */
void tm_file_hold(struct tm_inode *inode);

/* fs_meta.c */
void tm_op_init(void *userdata, struct fuse_conn_info *conn);
void tm_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void tm_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void tm_op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void tm_op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tm_op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void tm_op_readlink(fuse_req_t req, fuse_ino_t ino);
void tm_op_statfs(fuse_req_t req, fuse_ino_t ino);

/* fs_name.c */
void tm_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void tm_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void tm_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void tm_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void tm_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void tm_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void tm_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	const char *newname, unsigned int flags);

/* fs_file.c */
void tm_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi);
void tm_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tm_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tm_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tm_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);

/* fs_lock.c */
void tm_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation);
void tm_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);
void tm_op_setlk(
	fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep);

/* A process closed the file; or the last one did. Before anything else of it is given up. */
void tm_fs_unlock_owner(struct tm_mount *mount, struct tm_inode *inode, uint64_t owner);
void tm_fs_unlock_file(struct tm_mount *mount, struct tm_file *file);

/* fs_data.c */
void tm_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void tm_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	struct fuse_file_info *fi);
void tm_op_fallocate(
	fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void tm_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void tm_op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
	struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
	struct fuse_file_info *fi_out, size_t len, int flags);

/* fs_dir.c */
void tm_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tm_op_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void tm_op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void tm_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void tm_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);

/* fs_ioctl.c */
void tm_op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
	struct fuse_file_info *fi, unsigned int flags, const void *in_buf, size_t in_bufsz,
	size_t out_bufsz);

/* fs_xattr.c */
void tm_op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
	size_t size, int flags);
void tm_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void tm_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void tm_op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

#endif
