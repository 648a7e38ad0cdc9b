/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ghost.h - which pages an ephemeral pool gave up, or gave away, not long ago
 *
 *      hash of a handle -> bucket of 16 marks, one cache line -> mark = fingerprint:20 stamp:12
 *
 * A page that is put again while it is remembered has proved that it is used: it skips the queue of
 * new pages (reclaim.c). As many pages are remembered as the pool holds: what LRU would
 * still have is recognised. A mark tells its age by its stamp; a full bucket gives up its oldest.
 *
 * The table (lines.h) doubles as the pool grows, and half of what was remembered is forgotten then.
 * It takes 4 to 8 bytes for each page the pool ever held at once, charged to the pool, and never
 * shrinks before the pool goes.
 *
 * A wrong answer is harmless and rare: another page's mark is taken for ours in 1 of 65,000 times.
 *
 * Locking: none; thread safe. Marks are read and written whole; two threads that mark one bucket at
 * once may lose a mark.
 *
 * S3-FIFO (Yang et al., SOSP 2023) calls this the ghost queue.
 */
#ifndef TM_GHOST_H
#define TM_GHOST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/budget.h"
#include "core/lines.h"
#include "core/tmem.h"

/* All zeros remembers nothing. */
struct tm_ghost {
	struct tm_lines buckets;
	_Atomic uint64_t clock; /* 2^32 for each time all of the table was marked */
};

uint64_t tm_ghost_hash(const struct tm_oid *oid, uint32_t index);

/* Suit a pool of `pages`, as far as the budget allows; charged to `owner_bytes` as well. */
void tm_ghost_grow(
	struct tm_ghost *g, struct tm_budget *b, _Atomic uint64_t *owner_bytes, uint64_t pages);

/* Forget everything, and give the memory back. Nobody else uses it any more. */
void tm_ghost_drop(struct tm_ghost *g, struct tm_budget *b, _Atomic uint64_t *owner_bytes);

void tm_ghost_remember(struct tm_ghost *g, uint64_t hash);

/* Is it among the last `pages` that were remembered? It is forgotten then. */
bool tm_ghost_recall(struct tm_ghost *g, uint64_t hash, uint64_t pages);

#endif
