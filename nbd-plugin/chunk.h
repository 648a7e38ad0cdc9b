/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chunk.h - the part of a request that lies in one run of pages, with these pages locked
 *
 * Private to device.c, which locks and unlocks, chunk.c, which moves pages between their places,
 * and writeback.c, which says when. The states, invariants and locks are in device.h.
 *
 * A page's byte in the map:
 *
 *      bits 0-1  enum tm_place: changes under the page's lock
 *      bit 2     touched: read or written since the clock's hand came by
 *      bit 3     raw: on the fallback, and tmem refused it because it does not compress
 *      bit 4     staged: nowhere, but a restore has put on the fallback what is to be there when it
 *                ends (move.h); changes under the page's lock
 *
 * Touched and raw are hints. Whatever a crash or a race makes of them, a page is moved too early or
 * too late, never lost: so the hand clears them without a lock.
 */
#ifndef TM_CHUNK_H
#define TM_CHUNK_H

#include <pthread.h>
#include <stdatomic.h>

#include "nbd-plugin/buffers.h"
#include "nbd-plugin/device.h"
#include "nbd-plugin/gate.h"
#include "nbd-plugin/state.h"
#include "nbd-plugin/writeback.h"

#define TM_RUN_PAGES   32u /* as many as a bit mask has bits */
#define TM_RUN_BYTES   (TM_RUN_PAGES * TM_DEVICE_PAGE)
#define TM_LOCKS       1024u
#define TM_DEV_BUFFERS 17u /* 16 requests and write-back */

/* The device is one object; page n is index n. */
#define TM_DEVICE_OID                                                                              \
	{                                                                                          \
		{                                                                                  \
			0, 0, 0                                                                    \
		}                                                                                  \
	}

enum tm_place {
	TM_NOWHERE, /* zeros */
	TM_IN_TMEM,
	TM_ON_FALLBACK,
};

#define TM_PLACE_MASK   0x03u
#define TM_PAGE_TOUCHED 0x04u
#define TM_PAGE_RAW     0x08u
#define TM_PAGE_STAGED  0x10u

/* What the fallback asks of its callers. */
_Static_assert(TM_STATE_EXPECTED % TM_LOCKS == 0, "pages that share a sum's place share a lock");

struct tm_device {
	uint64_t bytes, pages;
	struct tm_fallback *fallback; /* may be NULL */
	struct tmem *tmem;
	int pool;
	struct tm_buffers *buffers; /* of a run each */
	struct tm_state *state;
	bool resumed;                   /* the state is another server's */
	_Atomic uint8_t *map;           /* the state's; [pages]: see above */
	_Atomic uint64_t in_tmem;       /* pages, as the map says */
	_Atomic uint64_t on_fallback;   /* likewise */
	struct tm_writeback *writeback; /* NULL: none; constant while there are requests */
	struct tm_dev_gate gate;        /* of changes, with a fallback: before any page lock */
	_Atomic bool staging;           /* a restore has begun; changes with all page locks held */
	_Atomic bool spoiled;           /* and a page has changed since; under its lock */
	pthread_mutex_t locks[TM_LOCKS];
};

struct tm_chunk {
	struct tm_device *device;
	uint64_t offset; /* of its first byte in the device */
	uint32_t length; /* bytes */
	uint64_t first;  /* page */
	unsigned int pages;
	uint8_t *buffer; /* page i of the chunk lies at i pages; NULL until something needs it */
	uint32_t spill;  /* bit i: page i lies in the buffer and has to go to the fallback */
	uint32_t raw;    /* bit i: and does not compress */
	uint32_t left;   /* bit i: page i may have blocks on the fallback and does not live there */
};

static inline uint8_t tm_page_byte(const struct tm_device *d, uint64_t n)
{
	return atomic_load_explicit(&d->map[n], memory_order_acquire);
}

static inline enum tm_place tm_place_of(const struct tm_device *d, uint64_t n)
{
	return tm_page_byte(d, n) & TM_PLACE_MASK;
}

static inline void tm_device_count(struct tm_device *d, enum tm_stat stat, int64_t delta)
{
	d->tmem->ops->count(d->tmem, d->pool, stat, delta);
}

/* How many bits from i on are set. */
unsigned int tm_mask_span(uint32_t mask, unsigned int i);

/* The bytes from `offset` to the end of their run, `count` at most; lock and unlock their pages. */
struct tm_chunk tm_chunk_at(struct tm_device *d, uint64_t offset, uint64_t count);
void tm_chunk_lock(struct tm_chunk *c);
void tm_chunk_unlock(struct tm_chunk *c);

/* The same around changes, which wait while the device is held for a save. */
void tm_chunk_lock_to_change(struct tm_chunk *c);
void tm_chunk_unlock_changed(struct tm_chunk *c);

/* In the order in which requests take them. */
void tm_device_lock_all(struct tm_device *d);
void tm_device_unlock_all(struct tm_device *d);

/* Carry a request out on a chunk whose pages the caller has locked; `buf` points at the bytes of
 * this chunk. Errors as in device.h. `buf` NULL writes zeros. */
int tm_chunk_read_locked(struct tm_chunk *c, uint8_t *ret_buf);
int tm_chunk_write_locked(struct tm_chunk *c, const uint8_t *buf);
int tm_chunk_cache_locked(struct tm_chunk *c);

/* Forget whole pages. The disk space of part of a run comes back here, that of whole runs when the
 * caller sees tm_chunk.left. */
void tm_chunk_trim_locked(struct tm_chunk *c);

/* Write the chunk's pages that are in tmem and not touched to the fallback. One that cannot be read
 * or written stays where it is. 0; the fallback's errno. */
int tm_chunk_write_back_locked(struct tm_chunk *c);

/* Bring the chunk's pages that are on the fallback and may compress back into tmem, until it
 * refuses one for want of room. 0; the fallback's errno; -ENOMEM, -EBUSY refused. */
int tm_chunk_bring_back_locked(struct tm_chunk *c);

#endif
