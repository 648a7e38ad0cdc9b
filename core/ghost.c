/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/ghost.h"

#include <xxhash.h>

#include "core/util.h"

#define MARKS 16u

/* The clock's top bits are stamps: 256 while the whole table is marked once. */
#define STAMP_SHIFT 24
#define STAMP_MASK  0xfffu
#define STAMP_BITS  12

struct bucket {
	_Atomic uint32_t mark[MARKS]; /* 0: none */
};

_Static_assert(sizeof(struct bucket) == TM_LINE_BYTES, "a bucket is a cache line");

uint64_t tm_ghost_hash(const struct tm_oid *oid, uint32_t index)
{
	return XXH3_64bits_withSeed(oid, sizeof(*oid), index);
}

static uint32_t fingerprint(uint64_t hash)
{
	return (uint32_t)(hash >> 44) | 1u; /* never 0, so that no mark is */
}

static uint32_t stamp_now(struct tm_ghost *g)
{
	return (uint32_t)(atomic_load_explicit(&g->clock, memory_order_relaxed) >> STAMP_SHIFT) &
		STAMP_MASK;
}

static uint32_t age_of(uint32_t mark, uint32_t now)
{
	return (now - mark) & STAMP_MASK;
}

void tm_ghost_grow(
	struct tm_ghost *g, struct tm_budget *b, _Atomic uint64_t *owner_bytes, uint64_t pages)
{
	tm_lines_grow(&g->buckets, b, owner_bytes, pages, MARKS);
}

void tm_ghost_drop(struct tm_ghost *g, struct tm_budget *b, _Atomic uint64_t *owner_bytes)
{
	tm_lines_drop(&g->buckets, b, owner_bytes);
}

void tm_ghost_remember(struct tm_ghost *g, uint64_t hash)
{
	uint32_t buckets = tm_lines_count(&g->buckets), now, mark, victim = 0, victim_age = 0;
	struct bucket *bucket;

	if (buckets == 0)
		return;
	atomic_fetch_add_explicit(
		&g->clock, (1ull << 32) / (buckets * (uint64_t)MARKS), memory_order_relaxed);
	now = stamp_now(g);
	bucket = tm_lines_at(&g->buckets, (uint32_t)hash & (buckets - 1));
	for (uint32_t i = 0; i < MARKS; i++) {
		uint32_t age;

		mark = atomic_load_explicit(&bucket->mark[i], memory_order_relaxed);
		if (mark == 0 || mark >> STAMP_BITS == fingerprint(hash)) {
			victim = i;
			break;
		}
		age = age_of(mark, now);
		if (age >= victim_age) {
			victim = i;
			victim_age = age;
		}
	}
	atomic_store_explicit(
		&bucket->mark[victim], fingerprint(hash) << STAMP_BITS | now, memory_order_relaxed);
}

bool tm_ghost_recall(struct tm_ghost *g, uint64_t hash, uint64_t pages)
{
	uint32_t buckets = tm_lines_count(&g->buckets), now = stamp_now(g);
	struct bucket *bucket;

	if (buckets == 0)
		return false;
	bucket = tm_lines_at(&g->buckets, (uint32_t)hash & (buckets - 1));
	for (uint32_t i = 0; i < MARKS; i++) {
		uint32_t mark = atomic_load_explicit(&bucket->mark[i], memory_order_relaxed);

		if (mark >> STAMP_BITS != fingerprint(hash))
			continue;
		atomic_store_explicit(&bucket->mark[i], 0, memory_order_relaxed);
		return age_of(mark, now) * (buckets * (uint64_t)MARKS) / 256 <= pages;
	}
	return false;
}
