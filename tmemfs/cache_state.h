/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cache_state.h - what cache.c and cache_read.c share, and nobody else sees
 */
#ifndef TMEMFS_CACHE_STATE_H
#define TMEMFS_CACHE_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "tmemfs/cache.h"
#include "core/idle.h"
#include "tmemfs/putq.h"

#define TM_STRIPES 256

struct tm_cache {
	/* Constant. */
	struct tmem *tm;
	int pool;
	unsigned int page_shift;
	size_t page_size;
	uint64_t file_max;
	bool shared;           /* the pool has other users */
	struct tm_scope scope; /* part of every object's name */
	struct tm_putq *queue; /* NULL once quiesced, as is `ahead` */
	struct tm_readahead *ahead;
	struct tm_idle idle;
	pthread_key_t buffer_key; /* each thread's struct tm_buffer, see cache_read.c */

	atomic_bool destroyed;    /* by an operator: tmem will never know a page again */
	atomic_bool refusing;     /* the last put was refused */
	_Atomic uint64_t read_ns; /* what a read of the backing takes, on average */
	_Atomic uint64_t fill_ns; /* tm_now_ns() when pages were last brought from there */

	pthread_rwlock_t stripes[TM_STRIPES];
};

/* The lock of the inode's version. */
pthread_rwlock_t *tm_cache_stripe(struct tm_cache *cache, const struct tm_inode *inode);

/* The version that is cached, as it is now. Takes the inode's stripe. */
struct tm_version tm_cache_snapshot(struct tm_cache *cache, struct tm_inode *inode);

/* Called by the queue's threads: put one page, if it is still what the file holds. */
void tm_cache_put(void *opaque, const struct tm_put *put);

/* Asked by the queue's threads: shall they leave the processors to others? */
bool tm_cache_hold(void *opaque);

/* The same: 0; -EAGAIN the file holds something else by now; another errno: it was refused. */
int tm_cache_put_now(struct tm_cache *cache, const struct tm_put *put);

/* Called by read-ahead's threads: read what tmem lacks of a piece, and put it. False if there was
 * nothing to do, or that did not work. */
bool tm_cache_ahead(
	void *opaque, struct tm_inode *inode, struct tm_source *source, int64_t off, size_t len);

/* Frees a thread's buffer when the thread ends. */
void tm_cache_buffer_free(void *buffer);

#endif
