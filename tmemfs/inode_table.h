/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inode_table.h - what inode.c and inode_fd.c share, and nobody else sees
 */
#ifndef TMEMFS_INODE_TABLE_H
#define TMEMFS_INODE_TABLE_H

#include <pthread.h>

#include "tmemfs/inode.h"

#define TM_VOLUMES_MAX 64

/* What is so of all files of a file system. */
struct tm_traits {
	bool lasting; /* its handles outlive an inode */
	/* NFS: what is removed or renamed over while this machine has it open is renamed instead,
	 * until nobody has; a place counts as open. And while somebody here has a file open for
	 * writing, its client takes every change for ours, and keeps its pages. */
	bool nfs;
};

struct tm_inodes {
	pthread_mutex_t lock;

	/* Table lock. */
	struct tm_inode **buckets; /* by (dev, ino) */
	struct tm_inode **places;  /* by (parent, name) */
	size_t bucket_count;       /* of each; a power of two */
	size_t count;
	uint64_t next_generation;
	struct tm_inode *newest, *oldest; /* descriptors that nobody uses now, by last use */
	struct tm_inode *kept_newest, *kept_oldest;
	size_t kept_inodes, kept_inodes_max;
	uint64_t name_tick;      /* counts the changes of names */
	unsigned int fd_count;   /* open, unpinned or not, without `keep_fd` */
	unsigned int kept_count; /* with `keep_fd` */

	/* File systems met below the root. */
	struct {
		dev_t dev;
		struct tm_traits traits;
	} volumes[TM_VOLUMES_MAX];
	unsigned int volume_count;
	bool handles_refused; /* open_by_handle_at said EPERM: never again */

	/* Constant once mounted. */
	struct tm_inode *root;
	int root_fd;
	int root_mount_id;
	int own_mount_id;
	unsigned int fd_max;
	void (*on_free)(void *opaque, struct tm_inode *inode);
	void *opaque;
};

/* Who a descriptor's file is. `handle` is the caller's to free. */
struct tm_identity {
	struct stat st;
	struct file_handle *handle;
	struct tm_traits traits;
	int mount_id;
	bool by_handle;
};
void tm_identity_cleanup(struct tm_identity *id);
#define TM_AUTO_IDENTITY TM_CLEANUP(tm_identity_cleanup)

/* 0 and *ret_id; -ELOOP our own mount; -ENOMEM; the errno of fstat. Without locks. */
int tm_identify(struct tm_inodes *table, int fd, struct tm_identity *ret_id);
bool tm_identity_is(const struct tm_identity *id, const struct tm_inode *inode);

/* Give the inode an open descriptor. True if it was taken; else the caller closes it. */
bool tm_inode_offer_fd_locked(struct tm_inode *inode, int fd);

/* Take the inode's descriptor away. -1 if it has none; the caller closes it. */
int tm_inode_take_fd_locked(struct tm_inode *inode);

/* Close the longest unused descriptors until `max` are left, at most a few at a time. Takes and
 * leaves the lock itself. True if any was closed. */
bool tm_inodes_trim(struct tm_inodes *table, unsigned int max);

/* inode_names.c: the hash of places. */
struct tm_inode **tm_place_bucket(
	struct tm_inodes *table, const struct tm_inode *parent, const char *name);
void tm_place_hash_locked(struct tm_inode *inode);
void tm_place_unhash_locked(struct tm_inode *inode);

/*
 * Remember where the inode is, seen there at `place_ns` (0: doubtful); without memory, that it is
 * not known: then only a handle leads to it until the kernel looks again. Returns a parent that
 * nothing holds any more, to be freed.
 */
struct tm_inode *tm_place_set_locked(
	struct tm_inode *inode, struct tm_inode *parent, const char *name, uint64_t place_ns);

/* The kernel looked the inode up. */
void tm_inode_count_locked(struct tm_inode *inode);

/* The kernel has forgotten the inode: its reference goes to the list of kept ones, or false. The
 * caller closes *ret_fd, unless -1, and frees *ret_dead. */
bool tm_inode_keep_locked(struct tm_inode *inode, int *ret_fd, struct tm_inode **ret_dead);

/* Take the inode off the list; its reference is the caller's. */
void tm_inode_unkeep_locked(struct tm_inode *inode);

/* Drop a reference; at zero the inode is taken out and returned for tm_inode_free(). */
struct tm_inode *tm_inode_unref_locked(struct tm_inode *inode);
void tm_inode_free(struct tm_inode *inode);

#endif
