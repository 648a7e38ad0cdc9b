/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sampler.h - what a client's hits would be with more memory, or less, from a sample of its handles
 *
 * A handle is in the sample or not by its hash. Of those that are, the sampler keeps the order of
 * their last uses, as an LRU list of pages would have it. A get of a page that is in the list would
 * be a hit with as much memory as the pages used since take, times the rate of the sample: the
 * point of the curve (curve.h) for that many bytes is counted, in the ledger, where the host reads
 * it. What memory the store really has does not matter, so a client learns what more would bring.
 *
 *      new page, or used again --> [ most recent ... least recent ] --> beyond the client's limit:
 * gone
 *                                          |
 *                                          +-- flushed, or taken out by an exclusive get: gone
 *
 * The sample is 1/16 of the handles of a small client; each time the table is full its rate is
 * halved, so it takes a fixed amount of memory (240 KiB, and at most 1/32 of the client's limit)
 * however many pages there are: 1/64 from 512 MiB of pages on. Bytes are compressed ones: a page
 * counts what the pages of its pool take on average when it is used.
 *
 * Only ephemeral pools are sampled; what a persistent page costs is asked for by nobody.
 *
 * Locking: TM_LOCK_SAMPLER, for sampled handles only. What the pools' pages take is read from the
 * ledger without it.
 *
 * After SHARDS (Waldspurger et al., FAST 2015), with the fixed size of its second half.
 */
#ifndef TM_SAMPLER_H
#define TM_SAMPLER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/ledger.h"
#include "core/tmem.h"

struct tm_sampler;

/* The memory is charged to the ledger, as the store's. 0; -ENOMEM, also when the limit leaves no
 * room for it. */
int tm_sampler_create(struct tm_ledger *ledger, struct tm_sampler **ret_sampler);

/* Give the memory back; before the ledger goes. NULL does nothing. */
void tm_sampler_destroy(struct tm_sampler *s);

/* Tell of a pool: from now on its pages are sampled, or no longer. For one that is not told of, or
 * that is persistent, the other functions do nothing. Any thread, any time, as all others. */
void tm_sampler_add_pool(struct tm_sampler *s, int pool, const struct tm_pool_params *params);
void tm_sampler_remove_pool(struct tm_sampler *s, int pool);

/*
 * What a front end did. Each of the first three costs a hash when the handle is not sampled, and
 * some 0.2 us when it is.
 *
 *   put     stored, or refused for want of memory: with more it would be there
 *   get     whether it was found or not; `remove`: it takes the page out where gets do so
 *   flush   also a put that was refused because of the page itself, or a freeze
 */
void tm_sampler_put(struct tm_sampler *s, int pool, const struct tm_oid *oid, uint32_t index);
void tm_sampler_get(
	struct tm_sampler *s, int pool, const struct tm_oid *oid, uint32_t index, bool remove);
void tm_sampler_flush(struct tm_sampler *s, int pool, const struct tm_oid *oid, uint32_t index);
void tm_sampler_flush_object(struct tm_sampler *s, int pool, const struct tm_oid *oid);

/* For tests: one in so many handles is sampled now; so many are in the list; the sum of their
 * bytes, scaled to all handles. And all invariants: false when one does not hold. */
struct tm_sampler_state {
	uint32_t rate, entries;
	uint64_t bytes;
};
void tm_sampler_look(struct tm_sampler *s, struct tm_sampler_state *ret_state);
bool tm_sampler_check(struct tm_sampler *s);

#endif
