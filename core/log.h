/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log.h - where a pool appends: its open segments
 *
 * A few heads for new pages, chosen by processor so that threads seldom meet, and one head for
 * pages that cleaning or eviction moves, so that old pages and new ones do not share segments.
 *
 *      put -> head[cpu] -> open segment --full--> sealed
 *      move -> head[moved] -> open segment --full--> sealed
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

struct tm_log_head {
	struct tm_lock lock;
	uint32_t segment; /* open, or TM_SEGMENT_NONE; under lock */
};

struct tm_log {
	struct tm_arena *arena;
	struct tm_owner owner;
	unsigned int heads;                            /* for new pages */
	struct tm_log_head head[TM_LOG_HEADS_MAX + 1]; /* [heads] is the one for moved pages */
};

/* How many heads suit an arena: one per processor, fewer when segments are few. */
unsigned int tm_log_heads_for(const struct tm_arena *a);

void tm_log_init(struct tm_log *log, struct tm_arena *a);

/*
 * Append one encoded page. `moved`: into the head for moved pages, and its segment may come out of
 * the budget's headroom. On success the entry holds a reference on its segment, and *ret_slot says
 * where it is. -ENOMEM: no room for another segment.
 */
int tm_log_append(struct tm_log *log, bool moved, const struct tm_oid *oid, uint32_t index,
	uint64_t seq, struct tm_encoded encoded, uint64_t *ret_slot);

/* Mark an entry dead; the caller then drops its reference with tm_segment_unref(), holding no lock.
 */
struct tm_killed tm_log_kill(struct tm_arena *a, uint64_t slot);

/* Seal every open segment. Returns how many there were. */
unsigned int tm_log_seal(struct tm_log *log);

#endif
