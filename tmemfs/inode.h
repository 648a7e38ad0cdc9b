/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inode.h - the inodes that the kernel knows, and descriptors for them
 *
 * An inode is one file of the backing: (st_dev, st_ino) and its file handle, which tells it from
 * earlier files of that number. The kernel's node id is the address of the struct.
 */
#ifndef TMEMFS_INODE_H
#define TMEMFS_INODE_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "core/util.h"
#include "tmemfs/known.h"
#include "tmemfs/past.h"
#include "tmemfs/version.h"

struct tm_inodes;
struct tm_pin;

struct tm_inode {
	/* Constant. */
	struct tm_inodes *table;
	dev_t dev;
	ino_t ino;
	mode_t type;                   /* S_IFMT bits */
	uint64_t generation;           /* never the same for two inodes at one address; root: 0 */
	struct file_handle *handle;    /* NULL: this backing has none, or none that last */
	bool by_handle;                /* `handle` can be opened */
	bool nfs;                      /* see struct tm_traits */
	_Atomic int held_fd;           /* -1, or: open for reading, since its last name went away */
	_Atomic bool filled;           /* tmem has, or had, pages of its version */
	_Atomic bool excluded;         /* by its name: not to be cached */
	_Atomic bool lost;             /* some were not put, as the queue was full */
	_Atomic bool again;            /* it was opened since */
	_Atomic unsigned int opens;    /* open files */
	_Atomic unsigned int unopened; /* of these, without a descriptor of their own */
	_Atomic unsigned int closing;  /* of the open ones, for writing and being closed above */
	_Atomic unsigned int writing;  /* writes under way */
	_Atomic bool raced;            /* somebody has read meanwhile */
	_Atomic unsigned int flocks;   /* open files that hold an flock(2) of the backing's */
	_Atomic bool wrote;            /* over NFS: it was opened for writing */
	_Atomic bool locked; /* somebody has asked for an fcntl(2) lock of the backing's */
	_Atomic bool sxid;   /* the kernel was told of a set-user-id or set-group-id bit */

	/* Table lock. */
	struct tm_inode *next_hash;
	struct tm_inode *newer, *older; /* list of open, unpinned descriptors; NULL at the ends */
	struct tm_inode *parent;        /* referenced; NULL: root, or not known */
	char *name;                     /* last known, in `parent` */
	uint64_t place_ns;              /* tm_now_ns() before it was last seen there; 0: doubtful */
	struct tm_inode *next_name;     /* of the hash of places */
	uint64_t names_changed_at; /* of a directory: tick of the last change of a name in it */
	uint64_t names_doubted_ns; /* of a directory: what was seen in it before is doubtful */
	unsigned int name_changes; /* of a directory: changes of our own under way */
	struct tm_inode *kept_newer, *kept_older; /* list of kept inodes */
	uint64_t nlookup;                         /* what the kernel holds */
	unsigned int refs;    /* one for nlookup > 0 or kept, users, children, files */
	unsigned int fd_pins; /* users of `fd` */
	int fd;               /* O_PATH, or -1 */
	bool keep_fd;         /* nothing else leads to it: not evicted */
	bool replaced;        /* by another file of its number: not found any more */
	bool unlinked;        /* through the mount: its last name is gone */
	bool kept;            /* the kernel has forgotten it, we have not */

	struct tm_past past;       /* past.c's lock */
	struct tm_pin *pin;        /* NULL: not pinned; pin.c's lock */
	struct tm_version version; /* cache.c's stripe lock */
	struct tm_known known;     /* known.c */
};

/*
 * Make the table for the tree below `root_fd` (O_RDONLY directory; owned by the table from now on,
 * also on failure). `on_free` is called without locks for an inode that is about to go.
 * 0; -ENOMEM; the errno of fstat.
 */
int tm_inodes_open(int root_fd, void (*on_free)(void *opaque, struct tm_inode *inode), void *opaque,
	struct tm_inodes **ret_table);

/* Free everything. No other call may be under way. */
void tm_inodes_close(struct tm_inodes *table);

struct tm_inode *tm_inodes_root(struct tm_inodes *table);

/* Keep up to `max` inodes that the kernel has forgotten, for what is known of them. */
void tm_inodes_keep(struct tm_inodes *table, size_t max);

/* Names below this mount id are our own mount: entering it is -ELOOP. Call before any look-up. */
void tm_inodes_set_own_mount(struct tm_inodes *table, int mount_id);

/*
 * Find the inode of `name` in `parent` and count one look-up by the kernel.
 * 0, *ret_inode, *ret_st and *ret_certain, false if the name may have changed meanwhile; -ENOMEM;
 * -ELOOP; the errno of openat, fstat. May block on the backing.
 */
int tm_inode_lookup(struct tm_inode *parent, const char *name, struct stat *ret_st,
	bool *ret_certain, struct tm_inode **ret_inode);

/*
 * The same from memory: the inode that was seen as `name` in `parent` less than `ttl_ns` ago, if
 * nothing speaks against it, one look-up by the kernel counted, and how long that is good for; else
 * false.
 */
bool tm_inode_recall(struct tm_inode *parent, const char *name, uint64_t ttl_ns,
	struct tm_inode **ret_inode, uint64_t *ret_left_ns);

/* The same for an O_PATH descriptor, which is the table's from now on, also on failure. */
int tm_inode_adopt(struct tm_inode *parent, const char *name, int fd, struct stat *ret_st,
	struct tm_inode **ret_inode);

/* The same for a file that has no name (O_TMPFILE): it stays reachable, as one whose last name is
 * gone. Also -EMFILE, too many such files. */
int tm_inode_adopt_nameless(
	struct tm_inodes *table, int fd, struct stat *ret_st, struct tm_inode **ret_inode);

/* The kernel forgot `nlookup` of its look-ups. */
void tm_inode_forget(struct tm_inode *inode, uint64_t nlookup);

struct tm_inode *tm_inode_ref(struct tm_inode *inode);
void tm_inode_unref(struct tm_inode *inode);

/* The inode of `name` in `parent` if the kernel knows it: referenced, else NULL. With `keep`, it
 * stays reachable after that name is gone, if that can matter to anybody; *ret_last tells if it is
 * the last one. */
struct tm_inode *tm_inode_find(
	struct tm_inode *parent, const char *name, bool keep, bool *ret_last);

/* The name is not gone, or not the last one: no need to keep the descriptor. */
void tm_inode_unkeep(struct tm_inode *inode);

/* Around a change of our own to a name in `dir`: what was seen there meanwhile is doubtful. */
void tm_names_change_begin(struct tm_inode *dir, const char *name);
void tm_names_change_end(struct tm_inode *dir, const char *name);

/* The inode last seen as `name` in `dir`: referenced, NULL if there is none. That is doubtful from
 * now on: somebody else changed it. */
struct tm_inode *tm_names_doubt(struct tm_inode *dir, const char *name);

/* The same for whatever is seen in `dir`. */
void tm_names_doubt_all(struct tm_inode *dir);

/* The inode of that number, referenced; NULL if there is none. */
struct tm_inode *tm_inode_by_number(struct tm_inodes *table, dev_t dev, ino_t ino);

/* All inodes there are now, referenced, in an array that the caller frees; none without memory. */
void tm_inodes_all(struct tm_inodes *table, struct tm_inode ***ret_all, size_t *ret_count);

/* Where it was last seen: true, the directory, referenced, and the name, the caller's to free. */
bool tm_inode_place(struct tm_inode *inode, struct tm_inode **ret_parent, char **ret_name);

/* The name moved: remember the new place. */
void tm_inode_moved(struct tm_inode *inode, struct tm_inode *parent, const char *name);

/* The name is not certain to lead there any more. */
void tm_inode_doubt(struct tm_inode *inode);

/* The last name of the inode was removed through the mount. */
void tm_inode_set_unlinked(struct tm_inode *inode);
bool tm_inode_unlinked(struct tm_inode *inode);

/* What tells it from other inodes of its number; *ret_len may be 0. */
const void *tm_inode_identity(const struct tm_inode *inode, size_t *ret_len);

/*
 * A borrowed O_PATH descriptor: good until tm_fd_put(), which TM_AUTO_FD calls at the end of
 * the scope. 0; -ESTALE the file is gone; -EMFILE, -ENFILE; other errno of openat. May block.
 */
struct tm_fd {
	struct tm_inode *inode;
	int fd;
};
#define TM_FD_NONE ((struct tm_fd){NULL, -1})
#define TM_AUTO_FD TM_CLEANUP(tm_fd_put)

int tm_fd_get(struct tm_inode *inode, struct tm_fd *ret_fd);
void tm_fd_put(struct tm_fd *fd);

/* Close idle descriptors, after an -EMFILE. True if there were any. */
bool tm_inodes_shrink(struct tm_inodes *table);

/* The path that re-opens a descriptor, since O_PATH ones only name a file. */
#define TM_PROC_PATH_MAX 32
const char *tm_proc_path(int fd, char buf[static TM_PROC_PATH_MAX]);

/* Open the file itself: `flags` without O_CREAT. Returns a descriptor or -errno. May block. */
int tm_inode_reopen(struct tm_inode *inode, int flags);

#endif
