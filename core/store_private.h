/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store_private.h - what the files that make up the store share
 *
 * store.c (the store and its pools), page.c (pages), dedup.c (equal ones), reclaim.c (eviction and
 * cleaning), upkeep.c (what is done while nobody waits), unpack.c (and undone), recover.c (after a
 * crash), check.c (invariants).
 */
#ifndef TM_STORE_PRIVATE_H
#define TM_STORE_PRIVATE_H

#include <stdatomic.h>

#include "core/budget.h"
#include "core/ghost.h"
#include "core/idle.h"
#include "core/index.h"
#include "core/keeper.h"
#include "core/locks.h"
#include "core/log.h"
#include "core/pack.h"
#include "core/unsent.h"
#include "core/segment.h"
#include "core/slot.h"
#include "core/store.h"
#include "core/util.h"

/*
 * A pool's place. Never freed, so an owner pointer in a segment is always good.
 *
 *      free --new_pool--> live --destroy_pool--> (users drain, pages go) --> free
 *      free --tm_recover--> recovered --new_pool--> live
 */
struct tm_pool {
	_Atomic uint32_t users; /* calls inside, + TM_POOL_CHANGER for each that may change pages,
				 * + TM_POOL_LIVE_BIT while it may be entered */
	bool taken;             /* under pools_lock */
	bool recovered;         /* found in the mapping, not yet asked for; under pools_lock */
	uint32_t id;
	uint32_t page_bytes;
	struct tm_objects *objects;
	_Atomic uint64_t *stat; /* in the ledger */
	struct tm_log log;
	struct tm_ghost ghost;    /* of an ephemeral pool */
	struct tm_lines contents; /* of a pool with TM_POOL_DEDUP, see dedup.c */
};

#define TM_POOL_LIVE_BIT (1u << 31)
#define TM_POOL_CHANGER  (1u << 16)
#define TM_POOL_CHANGERS 0x7fff0000u

/* Calls that change pages wait while somebody looks at all of them (save.c). */
struct tm_gate {
	_Atomic bool shut;
	pthread_mutex_t lock; /* only for sleeping; no other lock is held */
	pthread_cond_t opened;
};

/* What the keeper does while nobody waits for it; its thread's alone. */
struct tm_upkeep {
	uint32_t percent;         /* constant: see struct tm_open_params */
	uint32_t cold_ms;         /* constant: how long a segment is left alone */
	struct tm_packer *packer; /* NULL: nothing was cold the last time */
	struct tm_idle idle;
	uint64_t sequence, at_ns; /* of the last look at how many puts there are */
};

struct tm_store {
	struct tm_ledger *ledger;
	struct tm_budget budget;
	struct tm_arena *arena;
	struct tm_index *index;
	struct tm_keeper *keeper; /* NULL: nobody works ahead */
	_Atomic uint64_t sequence;
	struct tm_lock pools_lock;   /* pools coming and going */
	struct tm_lock reclaim_lock; /* one evicts or cleans; held while a pool is torn down */
	uint64_t reclaim_pass;       /* under reclaim_lock */
	struct tm_unpacker
		*_Atomic unpacker; /* NULL until there is, or may soon be, a ZSTD entry */
	struct tm_upkeep upkeep;
	struct tm_gate gate;
	struct tm_unsent unsent; /* what a save still pins */
	bool patient;            /* constant: a refused put is worse than a save that fails */
	struct tm_pool pools[TM_POOLS_MAX];
};

static inline bool tm_pool_is_persistent(const struct tm_pool *p)
{
	return p->log.owner[TM_QUEUE_NEW].flags & TM_POOL_PERSIST;
}

/* A get takes the page out. */
static inline bool tm_pool_is_exclusive(const struct tm_pool *p)
{
	return !tm_pool_is_persistent(p) && !(p->log.owner[TM_QUEUE_NEW].attrs & TM_POOL_RETAIN);
}

/* Equal pages are stored once. */
static inline bool tm_pool_dedups(const struct tm_pool *p)
{
	return p->log.owner[TM_QUEUE_NEW].attrs & TM_POOL_DEDUP;
}

/* Where a page of this queue goes when recompressing it is done with: those of a persistent pool to
 * one queue, those of an ephemeral one stay new or not. */
static inline enum tm_queue tm_pool_packed_queue(const struct tm_pool *p, enum tm_queue queue)
{
	return tm_pool_is_persistent(p) ? TM_QUEUE_PACKED_MAIN : queue | TM_QUEUE_PACKED_BIT;
}

static inline void tm_stat_add(struct tm_pool *p, enum tm_stat stat, uint64_t n)
{
	atomic_fetch_add_explicit(&p->stat[stat], n, memory_order_relaxed);
}

static inline void tm_stat_sub(struct tm_pool *p, enum tm_stat stat, uint64_t n)
{
	atomic_fetch_sub_explicit(&p->stat[stat], n, memory_order_relaxed);
}

/* Enter a pool for one call; NULL when there is none. It cannot be destroyed until left. */
struct tm_pool *tm_pool_enter(struct tm_store *s, int id);
void tm_pool_leave(struct tm_pool *p);

/* The same for a call that puts or removes pages: waits while the gate is shut. */
struct tm_pool *tm_pool_enter_to_change(struct tm_store *s, int id);
void tm_pool_leave_changed(struct tm_pool *p);

/* Shut: when this returns no call that changes pages is inside, nor gets in. What reclaim does
 * still happens. One at a time; pools that appear meanwhile are shut, too. */
void tm_gate_shut(struct tm_store *s);
void tm_gate_open(struct tm_store *s);

/* Forget every page of an object; the pool is entered or being torn down. */
void tm_pool_flush_object(struct tm_store *s, struct tm_pool *p, const struct tm_oid *oid);

/* Refusals are dear (struct tm_open_params.patience_ms): have a save give up the pages it has still
 * to send. True when there were any; what only they kept can be cleaned now. */
static inline bool tm_save_gives_way(struct tm_store *s)
{
	return s->patient && tm_unsent_give_way(&s->unsent);
}

/* Make a free place a pool that nobody can enter yet, and the reverse. Under pools_lock, or before
 * anybody else knows the store. -ENOMEM. */
int tm_pool_set_up(struct tm_store *s, struct tm_pool *p, const struct tm_pool_params *params);
void tm_pool_tear_down(struct tm_store *s, struct tm_pool *p);

/* Rebuild pools and index from an attached arena. -ENOMEM. */
int tm_recover(struct tm_store *s, bool ephemeral);

/* Look a page up and pin its segment; `hit` counts as a use. TM_SLOT_NONE when there is none. The
 * other one begins with the place locked, and unlocks it. */
uint64_t tm_page_pin(struct tm_store *s, const struct tm_handle *h, bool hit);
uint64_t tm_page_pin_locked(struct tm_store *s, struct tm_cursor *c, bool hit);

/* The gauge that a codec's pages are counted in, or TM_STAT_COUNT. */
enum tm_stat tm_codec_gauge(enum tm_codec codec);

/* Under the shard's lock: the entry at `slot` became a page of the pool, in the counters. */
void tm_page_live_locked(struct tm_pool *p, uint64_t slot);

/* Under the shard's lock: the entry at `slot` is no longer anybody's page; or, moved, it is now the
 * one at `to`. The caller drops its reference once it holds no lock. */
void tm_page_dead_locked(struct tm_store *s, struct tm_pool *p, uint64_t slot);
void tm_page_moved_locked(struct tm_store *s, struct tm_pool *p, uint64_t from, uint64_t to);

/* Rebuild the page of an entry, of any codec, whose checksum is right. 0; -EIO; -ENOENT for a DUP
 * entry whose original is gone. */
int tm_entry_decode(
	struct tm_store *s, const struct tm_pool *p, const struct tm_entry_view *e, void *ret_page);

/*
 * After an allocation failed with `rc`, make room for another try. -ENOMEM: get at least one
 * segment back, also from the reserve if it was for a node. -ENOBUFS: wait for the keeper. `seen`
 * is tm_arena_released() from before that allocation: when somebody else made room since, that is
 * enough. False when there is nothing to give. Takes locks from TM_LOCK_RECLAIM down; bounded work
 * (some segments are moved or dropped).
 */
enum tm_room {
	TM_ROOM_SEGMENT,
	TM_ROOM_NODE,
};
bool tm_make_room(struct tm_store *s, enum tm_room room, int rc, uint64_t seen);

/* Evict at least `bytes` of whole segments at once, if that is cheaper than one after the other:
 * where it is a large part of the store. Less where there is less, or no memory for it. Under the
 * reclaim lock; 20 ms for 1 GiB. */
void tm_drop(struct tm_store *s, uint64_t bytes);

/* A segment is worth cleaning for a put as long as no more of it is alive. */
uint32_t tm_clean_max(const struct tm_store *s);

/* Move the pages out of the emptiest segment, if at most `live_max` bytes of it are alive (in an
 * ephemeral pool: half of them). False when that freed nothing. Takes locks as tm_make_room. */
bool tm_clean(struct tm_store *s, uint32_t live_max);

/*
 * New payloads for entries of a segment, in the order of the segment, on addresses that are
 * multiples of 4. The last one has no bytes and the offset UINT32_MAX.
 */
struct tm_packed {
	uint32_t offset; /* of the entry */
	uint32_t check;  /* its tm_entry_check() with the new payload */
	uint32_t bytes;
	uint8_t payload[];
};

static inline struct tm_packed *tm_packed_next(const struct tm_packed *packed)
{
	return (struct tm_packed *)(packed->payload + TM_ALIGN(packed->bytes, 4u));
}

/* Was a page of this queue hit so often since it came there that it stays as it is, where others
 * are evicted or packed? */
bool tm_page_is_used(const struct tm_pool *p, enum tm_queue queue, uint32_t hits);

/* Empty a segment: each page that is still where it was and was not used goes to the queue of
 * packed pages, with its new payload or, if it has none, as it is. The pool is entered. */
void tm_sweep_packed(struct tm_store *s, uint32_t id, const struct tm_packed *packed);

/* --- dedup.c ---------------------------------------------------------------------------------- */

/* The payload of a DUP entry: which entry has its bytes. */
struct tm_original {
	struct tm_oid oid;
	uint64_t seq;
	uint32_t index, zero;
};

/* Is a page with these bytes, whose XXH3 is `content`, stored under another handle than `h`?
 * `scratch` has room for a page. Takes as long as a get when there is one; holds no lock. */
bool tm_dedup_find(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	const void *page, uint64_t content, void *scratch, struct tm_original *ret_original);

/* `h` has this content now, in an entry that is no DUP. */
void tm_dedup_remember(
	struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, uint64_t content);

/* Pin the segment of the entry that a DUP entry names, and take that apart; `hit` counts as a use
 * of it. 0; -ENOENT it is gone, or damaged; -EIO the DUP entry is no such thing. */
int tm_dedup_pin(struct tm_store *s, const struct tm_pool *p, const struct tm_entry_view *dup,
	bool hit, struct tm_entry_view *ret_original, uint64_t *ret_slot);

/* The same, and rebuild the page. */
int tm_dedup_decode(struct tm_store *s, const struct tm_pool *p, const struct tm_entry_view *dup,
	void *ret_page);

/* --- unpack.c --------------------------------------------------------------------------------- */

#define TM_UNPACK_HITS 2u /* as many as show that a new page is used */

/* A get has hit the packed page at `slot`, which it has pinned, for the TM_UNPACK_HITS-th time:
 * `page`, its bytes, may be stored in the form that is quicker to read. Holds no lock; takes as
 * long as a put. */
void tm_page_unpack(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, uint64_t slot,
	const void *page);

/* --- upkeep.c --------------------------------------------------------------------------------- */

#define TM_COLD_MS_DEFAULT 30000

/* See struct tm_keeper_params. */
bool tm_upkeep_clean(void *store);
uint32_t tm_upkeep_work(void *store, const struct tm_keeper *k);

/* Is the store so full of ephemeral pages that the next puts evict some, and so large that it is
 * worth evicting some for what packing needs? */
bool tm_store_evicts(struct tm_store *s);

/* Readers for packed pages, if there are none yet. -ENOMEM. */
int tm_upkeep_unpacker(struct tm_store *s);

/* Give back what it holds. Nobody uses the store any more. */
void tm_upkeep_end(struct tm_store *s);

#endif
