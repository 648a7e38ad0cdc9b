/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log.h - where a pool appends: its open segments
 *
 * A pool's segments form two queues: pages that are new, and pages that proved to be used or, in a
 * persistent pool, to live long. So old pages and new ones do not share segments; nor do those that
 * were cold and are done with recompressing, which are the older end of each queue. Within each of
 * the two parts segments stand in the order of their births. What is new and was not packed has a
 * few heads, chosen by processor so that threads seldom meet.
 *
 *      TM_QUEUE_PACKED_NEW -> TM_QUEUE_NEW     the new queue of an ephemeral pool, oldest first
 *      TM_QUEUE_PACKED_MAIN -> TM_QUEUE_MAIN   the main queue; every packed page of a persistent
 * one
 *
 *      TM_QUEUE_NEW         -> head[cpu] ---> open segment --full--> sealed
 *      each of the others   -> head[heads..]-> open segment --full--> sealed
 *
 * Which queue a segment is in, its owner tells: there is one for each.
 *
 * Locking: one lock per head (TM_LOCK_HEAD), held while an encoded page is copied, never while one
 * is encoded.
 */
#ifndef TM_LOG_H
#define TM_LOG_H

#include <stdint.h>

#include "core/entry.h"
#include "core/locks.h"
#include "core/segment.h"

#define TM_LOG_HEADS_MAX 8

enum tm_queue {
	TM_QUEUE_NEW,
	TM_QUEUE_MAIN,
	TM_QUEUE_PACKED_NEW, /* TM_QUEUE_NEW and TM_QUEUE_PACKED_BIT */
	TM_QUEUE_PACKED_MAIN,
	TM_QUEUES
};
#define TM_QUEUE_PACKED_BIT TM_QUEUE_PACKED_NEW

static inline bool tm_queue_is_packed(enum tm_queue queue)
{
	return queue & TM_QUEUE_PACKED_BIT;
}

static inline bool tm_queue_is_new(enum tm_queue queue)
{
	return (queue & ~TM_QUEUE_PACKED_BIT) == TM_QUEUE_NEW;
}

/* Where a page of this queue goes that proved to be used. */
static inline enum tm_queue tm_queue_promoted(enum tm_queue queue)
{
	return tm_queue_is_packed(queue) ? TM_QUEUE_PACKED_MAIN : TM_QUEUE_MAIN;
}

struct tm_log_head {
	struct tm_lock lock;
	uint32_t segment; /* open, or TM_SEGMENT_NONE; under lock */
};

struct tm_log {
	struct tm_arena *arena;
	struct tm_owner owner[TM_QUEUES]; /* alike, but for their addresses */
	unsigned int heads; /* of the new queue; each other queue has one, behind them */
	struct tm_log_head head[TM_LOG_HEADS_MAX + TM_QUEUES - 1];
};

/* How many heads suit an arena: one per processor, fewer when segments are few. */
unsigned int tm_log_heads_for(const struct tm_arena *a);

void tm_log_init(struct tm_log *log, struct tm_arena *a, const struct tm_owner *owner);

/* The queue of a segment of this log's. */
enum tm_queue tm_log_queue(const struct tm_log *log, const struct tm_segment *s);

/*
 * Append an entry as tm_entry_write() does. `privileged`: its segment may come out of the budget's
 * headroom. On success the entry holds a reference on its segment and *ret_slot says where and what
 * it is. -ENOMEM: no room for another segment.
 */
int tm_log_append(struct tm_log *log, enum tm_queue queue, bool privileged,
	const struct tm_entry_view *e, uint64_t *ret_slot);

/* Take the entry at a slot, whose segment is pinned, apart. 0; -EIO as tm_entry_view(). */
int tm_log_view(struct tm_arena *a, uint64_t slot, struct tm_entry_view *ret_view);

/* Mark an entry dead; the caller then drops its reference with tm_segment_unref(), holding no lock.
 */
void tm_log_kill(struct tm_arena *a, uint64_t slot);

/* Seal every open segment of which all, or at least `dead_min` bytes, are dead. Returns how many
 * there were.
 */
unsigned int tm_log_seal(struct tm_log *log, uint32_t dead_min);

#endif
