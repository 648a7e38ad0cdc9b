/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/ghost.h"

#include <xxhash.h>

#include "core/util.h"

#define BUCKETS_FIRST 4u
#define MARKS         16u

/* A table takes at most this part of the limit, however small the pages are. */
#define LIMIT_SHARE 64u

/* The clock's top bits are stamps: 256 while the whole table is marked once. */
#define STAMP_SHIFT 24
#define STAMP_MASK  0xfffu
#define STAMP_BITS  12

struct tm_ghost_bucket {
	_Atomic uint32_t mark[MARKS]; /* 0: none */
};

_Static_assert(sizeof(struct tm_ghost_bucket) == 64, "a bucket is a cache line");

uint64_t tm_ghost_hash(const struct tm_oid *oid, uint32_t index)
{
	return XXH3_64bits_withSeed(oid, sizeof(*oid), index);
}

/* Chunk 0 has the first buckets, each other one as many as all before it. */
static uint32_t chunk_buckets(unsigned int i)
{
	return i == 0 ? BUCKETS_FIRST : BUCKETS_FIRST << (i - 1);
}

static size_t chunk_bytes(unsigned int i)
{
	return chunk_buckets(i) * sizeof(struct tm_ghost_bucket);
}

static unsigned int chunks_of(uint32_t buckets)
{
	return buckets == 0 ? 0 : 1 + (unsigned int)__builtin_ctz(buckets / BUCKETS_FIRST);
}

static struct tm_ghost_bucket *bucket_of(const struct tm_ghost *g, uint32_t buckets, uint64_t hash)
{
	uint32_t n = (uint32_t)hash & (buckets - 1);
	unsigned int i;

	if (n < BUCKETS_FIRST)
		return &g->chunk[0][n];
	i = 1 + (unsigned int)__builtin_clz(BUCKETS_FIRST) - (unsigned int)__builtin_clz(n);
	return &g->chunk[i][n - chunk_buckets(i)];
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

/* False where nothing may be added. */
static bool add_chunk(
	struct tm_ghost *g, struct tm_budget *b, _Atomic uint64_t *owner_bytes, uint32_t buckets)
{
	unsigned int i = chunks_of(buckets);

	if (i == TM_GHOST_CHUNKS_MAX ||
		tm_ghost_bytes(g) + tm_node_bytes(chunk_bytes(i)) >
			tm_budget_limit(b) / LIMIT_SHARE)
		return false;
	g->chunk[i] = tm_node_alloc(b, owner_bytes, chunk_bytes(i));
	return g->chunk[i] != NULL;
}

void tm_ghost_grow(
	struct tm_ghost *g, struct tm_budget *b, _Atomic uint64_t *owner_bytes, uint64_t pages)
{
	uint32_t buckets;

	if (pages <= atomic_load_explicit(&g->grow_at, memory_order_relaxed) ||
		atomic_flag_test_and_set(&g->growing))
		return;
	buckets = atomic_load(&g->buckets);
	while (buckets * (uint64_t)MARKS < pages && add_chunk(g, b, owner_bytes, buckets)) {
		buckets = buckets == 0 ? BUCKETS_FIRST : buckets * 2;
		atomic_store(&g->buckets, buckets);
	}
	/* Where there was no room, not again before the pool has grown by an eighth. */
	atomic_store(&g->grow_at, TM_MAX(buckets * (uint64_t)MARKS, pages + pages / 8));
	atomic_flag_clear(&g->growing);
}

void tm_ghost_drop(struct tm_ghost *g, struct tm_budget *b, _Atomic uint64_t *owner_bytes)
{
	unsigned int chunks = chunks_of(atomic_load(&g->buckets));

	atomic_store(&g->buckets, 0);
	atomic_store(&g->grow_at, 0);
	for (unsigned int i = 0; i < chunks; i++)
		tm_node_free(b, owner_bytes, g->chunk[i], chunk_bytes(i));
}

void tm_ghost_remember(struct tm_ghost *g, uint64_t hash)
{
	uint32_t buckets = atomic_load(&g->buckets), now, mark, victim = 0, victim_age = 0;
	struct tm_ghost_bucket *bucket;

	if (buckets == 0)
		return;
	atomic_fetch_add_explicit(
		&g->clock, (1ull << 32) / (buckets * (uint64_t)MARKS), memory_order_relaxed);
	now = stamp_now(g);
	bucket = bucket_of(g, buckets, hash);
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
	uint32_t buckets = atomic_load(&g->buckets), now = stamp_now(g);
	struct tm_ghost_bucket *bucket;

	if (buckets == 0)
		return false;
	bucket = bucket_of(g, buckets, hash);
	for (uint32_t i = 0; i < MARKS; i++) {
		uint32_t mark = atomic_load_explicit(&bucket->mark[i], memory_order_relaxed);

		if (mark >> STAMP_BITS != fingerprint(hash))
			continue;
		atomic_store_explicit(&bucket->mark[i], 0, memory_order_relaxed);
		return age_of(mark, now) * (buckets * (uint64_t)MARKS) / 256 <= pages;
	}
	return false;
}

uint64_t tm_ghost_bytes(const struct tm_ghost *g)
{
	unsigned int chunks = chunks_of(atomic_load(&g->buckets));
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < chunks; i++)
		bytes += tm_node_bytes(chunk_bytes(i));
	return bytes;
}
