/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chunk.h - the part of a request that lies in one run of pages, with these pages locked
 *
 * Private to device.c, which locks and unlocks, and chunk.c, which moves pages between their
 * places. The states, invariants and locks are in device.h.
 */
#ifndef TM_CHUNK_H
#define TM_CHUNK_H

#include <pthread.h>
#include <stdatomic.h>

#include "nbd-plugin/buffers.h"
#include "nbd-plugin/device.h"
#include "nbd-plugin/state.h"

#define TM_RUN_PAGES   32u /* as many as a bit mask has bits */
#define TM_RUN_BYTES   (TM_RUN_PAGES * TM_DEVICE_PAGE)
#define TM_LOCKS       1024u
#define TM_DEV_BUFFERS 16u

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

/* What the fallback asks of its callers. */
_Static_assert(TM_STATE_EXPECTED % TM_LOCKS == 0, "pages that share a sum's place share a lock");

struct tm_device {
	uint64_t bytes, pages;
	struct tm_fallback *fallback; /* may be NULL */
	struct tmem *tmem;
	int pool;
	struct tm_buffers *buffers; /* of a run each */
	struct tm_state *state;
	bool resumed;         /* the state is another server's */
	_Atomic uint8_t *map; /* the state's; [pages]: enum tm_place, each under its page's lock */
	pthread_mutex_t locks[TM_LOCKS];
};

struct tm_chunk {
	struct tm_device *device;
	uint64_t offset; /* of its first byte in the device */
	uint32_t length; /* bytes */
	uint64_t first;  /* page */
	unsigned int pages;
	uint8_t *buffer;  /* page i of the chunk lies at i pages; NULL until something needs it */
	uint32_t refused; /* bit i: page i lies in the buffer and has to go to the fallback */
	uint32_t left; /* bit i: page i may have blocks on the fallback and does not live there */
};

static inline enum tm_place tm_place_of(const struct tm_device *d, uint64_t n)
{
	return atomic_load_explicit(&d->map[n], memory_order_acquire);
}

static inline void tm_device_count(struct tm_device *d, enum tm_stat stat, int64_t delta)
{
	d->tmem->ops->count(d->tmem, d->pool, stat, delta);
}

/* Carry a request out on a chunk whose pages the caller has locked; `buf` points at the bytes of
 * this chunk. Errors as in device.h. `buf` NULL writes zeros. */
int tm_chunk_read_locked(struct tm_chunk *c, uint8_t *ret_buf);
int tm_chunk_write_locked(struct tm_chunk *c, const uint8_t *buf);
int tm_chunk_cache_locked(struct tm_chunk *c);

/* Forget whole pages. The disk space of part of a run comes back here, that of whole runs when the
 * caller sees tm_chunk.left. */
void tm_chunk_trim_locked(struct tm_chunk *c);

#endif
