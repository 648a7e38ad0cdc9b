/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * segment.h - the arena: a mapping cut into segments, each of one pool
 *
 *      arena   | segment | segment | (free) | segment | ...        a sparse shared mapping
 *      segment | header | entry | entry | entry | ... tail |
 *
 *      free --tm_segment_open--> open --tm_segment_seal--> sealed --last tm_segment_unref--> free
 *       |                         ^                                                           |
 *       +--tm_arena_fill--> ready-+ <------------- (the reserve is short) -------------------+
 *
 * Invariants
 *   1. refs = live entries + 1 while open + readers and cleaners that pin it. Whoever drops the
 * last reference hands the whole segment back to the operating system. Nobody frees less.
 *   2. A free segment takes no memory and is charged to nobody; a ready one is present in memory
 * and charged to the budget, but to no pool. Both read as zeros: nothing stored by one pool is ever
 * seen by another.
 *   3. `tail` is written only under the lock of the log head that has it open; sealed, it is
 * constant.
 *   4. birth is unique and ascending: the order of births is the order of the queue.
 *
 * Locking: the free and the ready segments have a lock of their own (TM_LOCK_ARENA); references are
 * atomic.
 */
#ifndef TM_SEGMENT_H
#define TM_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/budget.h"
#include "core/tmem.h"

#define TM_SEGMENT_NONE      UINT32_MAX
#define TM_SEGMENT_BYTES_MIN (256u << 10) /* three of the largest pages */
#define TM_SEGMENT_BYTES_MAX (2u << 20)   /* a huge page */

#define TM_SEGMENT_MAGIC   0x67736d74u /* "tmsg" */
#define TM_SEGMENT_VERSION 2u

/* What a segment says of itself, for whoever finds the mapping after us. */
struct tm_segment_header {
	uint32_t magic, version;
	uint32_t pool;  /* id */
	uint32_t flags; /* of the pool, as of new_pool */
	uint32_t attrs;
	uint32_t segment_bytes;
	uint64_t birth;
	struct tm_oid oid; /* the object of entries that name none */
	uint64_t check;    /* XXH3 of everything above */
};

enum tm_segment_state {
	TM_SEGMENT_FREE,
	TM_SEGMENT_OPEN,
	TM_SEGMENT_SEALED,
	TM_SEGMENT_DAMAGED, /* sealed, and cannot be walked: kept until its pages go one by one */
};

/* Who a segment belongs to. Constant while the pool lives. */
struct tm_owner {
	uint32_t pool;
	uint32_t flags, attrs;
	_Atomic uint64_t *used_bytes; /* the pool's gauge */
};

struct tm_segment {
	_Atomic uint32_t state; /* enum tm_segment_state */
	_Atomic uint32_t refs;
	_Atomic uint32_t live_bytes; /* of entries that are not dead */
	uint32_t tail;               /* bytes appended, header included; see invariant 3 */
	uint64_t birth;
	_Atomic uint64_t
		sealed_ns; /* when it was, or was last found to be of no use to recompress */
	uint64_t swept; /* the reclaim pass that last emptied it; under the store's reclaim lock */
	const struct tm_owner *owner;
	struct tm_oid oid;

	/* Of a segment that is just being emptied at once (drop.c); under the store's reclaim lock.
	 */
	bool leaving;
	uint32_t leaving_refs, leaving_bytes; /* of what left it so far */
};

struct tm_arena;

/* The segment size that suits a client of `limit` bytes: large enough for huge pages, small enough
 * that a small client has a few dozen. */
uint32_t tm_segment_bytes_for(uint64_t limit);

/* Reserve address space for `capacity` bytes. `b` outlives the arena and is charged for its tables.
 * 0; -ENOMEM; errno of the mapping. */
int tm_arena_open(struct tm_budget *b, uint64_t capacity, uint32_t segment_bytes,
	struct tm_arena **ret_arena);
void tm_arena_close(struct tm_arena *a);
void tm_arena_detach(
	struct tm_arena *a); /* the same, but leaves the descriptor and what is in it */

/*
 * Take over the mapping of another arena, whose process is gone. On success the descriptor is the
 * arena's. Then, before anything else: tm_arena_next() finds the first segment at or behind *id
 * with a whole header, tm_segment_adopt() keeps one, tm_arena_settle() frees all others. 0;
 * -ENOMEM; -EINVAL no such segment size, or not that of the mapping; -EPROTO a layout of another
 * version; errno of the mapping. A failure changes nothing in it.
 */
int tm_arena_attach(
	struct tm_budget *b, int fd, uint32_t segment_bytes, struct tm_arena **ret_arena);
bool tm_arena_next(struct tm_arena *a, uint32_t *id, struct tm_segment_header *ret_header);
void tm_arena_settle(struct tm_arena *a);

/* Keep a segment found by tm_arena_next: sealed, with one reference, which the caller drops when it
 * has counted the live entries. Charged whatever the limit. */
void tm_segment_adopt(struct tm_arena *a, uint32_t id, const struct tm_owner *owner,
	const struct tm_segment_header *header);

/* Make every segment that is in use present in this process, as far as that goes. */
void tm_arena_populate(struct tm_arena *a);

uint32_t tm_arena_segments(const struct tm_arena *a); /* how many there are, used or not */
uint32_t tm_arena_taken(const struct tm_arena *a);    /* how many of them are charged now */
uint32_t tm_arena_segment_bytes(const struct tm_arena *a);
bool tm_arena_huge(const struct tm_arena *a);
int tm_arena_fd(const struct tm_arena *a); /* of the mapping; stays the arena's */

/* How many segments were ever given back: a thread that waited for room sees that there is some. */
uint64_t tm_arena_released(const struct tm_arena *a);

/*
 * The reserve: segments made ready ahead, so that opening one neither faults nor waits for memory.
 * Freed segments go to it while it is short, else back to the operating system.
 *
 * Keep `target` segments ready; call `low`, holding no lock of the arena's, whenever one was taken
 * and fewer are left. `only`: open nothing but ready segments, keep one of them for privileged
 * opens instead of the budget's headroom, and do not count them as freeable. Before other threads
 * know the arena. A reserve of 0 (the default) is none.
 */
struct tm_reserve {
	uint32_t target;
	bool only;
	void (*low)(void *opaque);
	void *opaque;
};
void tm_arena_set_reserve(struct tm_arena *a, const struct tm_reserve *reserve);

/* Is none ready for the next put, though there should be? */
bool tm_arena_is_dry(struct tm_arena *a);

/* Make one more segment ready: 1; 0 when there are enough, or no room in the budget for more;
 * -ENOMEM when the machine has none. May wait for memory, holding no lock. */
int tm_arena_fill(struct tm_arena *a);

/* Give a ready segment back to the operating system. False when there is none, or only the one that
 * cleaning needs where nothing else may be opened. */
bool tm_arena_trim(struct tm_arena *a);

/* Give back what the reserve has beyond its target: it takes a quarter more of what becomes free,
 * for those who write over what they have. */
void tm_arena_trim_surplus(struct tm_arena *a);

/* While `n` of these are in force (they count), freed segments go back to the operating system. */
void tm_arena_give_back(struct tm_arena *a, int n);

/* Would the budget let a segment be opened, from the reserve or not? */
bool tm_arena_has_room(struct tm_arena *a);

struct tm_segment *tm_segment(const struct tm_arena *a, uint32_t id);
uint8_t *tm_segment_data(const struct tm_arena *a, uint32_t id);

/* Take a ready or a free segment, write its header and hold it open (one reference). `privileged`
 * may use the budget's headroom. 0; -ENOMEM; -ENOBUFS the budget has room but nothing is ready. */
int tm_segment_open(struct tm_arena *a, const struct tm_owner *owner, const struct tm_oid *oid,
	bool privileged, uint32_t *ret_id);

/* No more appends: drop the reference of tm_segment_open. */
void tm_segment_seal(struct tm_arena *a, uint32_t id);

/* Take back what its header says: whoever finds the mapping after us does not adopt it. */
void tm_segment_disown(struct tm_arena *a, uint32_t id);

/* One more reference on a segment that the caller knows to have one. */
void tm_segment_ref(struct tm_arena *a, uint32_t id);
/* The same when it may just be losing its last: false then. */
bool tm_segment_try_ref(struct tm_arena *a, uint32_t id);
/* Drop one; the last one frees the segment (up to 0.3 ms on small pages: hold no lock). */
void tm_segment_unref(struct tm_arena *a, uint32_t id);

#endif
