/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * locks.h - every lock of the core, in the order in which they may be taken
 *
 * A thread that holds a lock may only take locks further down. Under -DTM_DEBUG_LOCKS (on in every
 * sanitizer build) each acquisition is checked against that order.
 */
#ifndef TM_LOCKS_H
#define TM_LOCKS_H

#include <pthread.h>

enum tm_lock_rank {
	TM_LOCK_POOLS,     /* store: making and destroying pools */
	TM_LOCK_RECLAIM,   /* store: one thread evicts or cleans */
	TM_LOCK_SHARD,     /* index: the leaves of one region of handles */
	TM_LOCK_OBJECTS,   /* index: a pool's objects and their lists of leaves */
	TM_LOCK_HEAD,      /* store: one open segment */
	TM_LOCK_UNSENT,    /* a save's pages that are still to be sent */
	TM_LOCK_ARENA,     /* arena: the free segments */
	TM_LOCK_CHANGES,   /* a save's table of changes */
	TM_LOCK_KEEPER,    /* keeper: what it is to do */
	TM_LOCK_SAMPLER,   /* sampler: the list of sampled handles */
	TM_LOCK_WORKSPACE, /* unpacker: zstd's memory for one processor */
	TM_LOCK_RANKS
};

struct tm_lock {
	pthread_mutex_t mutex;
	enum tm_lock_rank rank;
};

void tm_lock_init(struct tm_lock *lock, enum tm_lock_rank rank);
void tm_lock_destroy(struct tm_lock *lock);
void tm_lock(struct tm_lock *lock);
void tm_unlock(struct tm_lock *lock);

#endif
