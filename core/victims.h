/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * victims.h - which segment goes next, of the emptiest ones and in the order of eviction
 *
 * The rules are those of the head of reclaim.c. Under the store's reclaim lock; segments may come,
 * go and empty meanwhile, so whoever sweeps one looks again.
 */
#ifndef TM_VICTIMS_H
#define TM_VICTIMS_H

#include "core/store_private.h"

/* A queue's segments, of one pool or of all. */
struct tm_queued {
	uint32_t segments;
	uint32_t oldest; /* sealed, not swept in this pass; TM_SEGMENT_NONE */
	uint64_t oldest_place;
};

struct tm_victims {
	uint32_t emptiest; /* sealed segment with the fewest live bytes */
	uint32_t emptiest_live;
	/* Of ephemeral pools. */
	struct tm_queued fresh[TM_POOLS_MAX]; /* the new queue of each pool */
	struct tm_queued main;                /* the main queue, of all of them */
	uint32_t putting;                     /* pools that have new pages */
	uint32_t ephemeral;                   /* segments of all of these */
};

/* Look at every segment. */
void tm_victims_find(struct tm_store *s, struct tm_victims *ret_v);

/*
 * The queue whose oldest segment is to be evicted, or NULL. As long as new pages have more than
 * their share of all, the oldest of them go, but not those of a pool that has no more than its part
 * of that share: whoever puts much does not crowd out who puts little. In the main queue, where
 * every page proved to be used, the oldest go, whoever's they are.
 */
const struct tm_queued *tm_victims_choose(const struct tm_victims *v);

/* The queue that an ephemeral segment, which the caller has pinned, is counted in. */
struct tm_queued *tm_victims_queue(
	struct tm_victims *v, const struct tm_store *s, const struct tm_segment *seg);

/* Where it stands there: less is older. Packed segments have what was oldest when it was packed, so
 * they go before the others, in the order of their births. */
uint64_t tm_victims_place(const struct tm_store *s, const struct tm_segment *seg);

#endif
