/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * upkeep.h - a store whose keeper packs and cleans whatever is a millisecond old, and pages that
 * zstd makes a good deal smaller than LZ4 does
 */
#ifndef TM_TEST_UPKEEP_H
#define TM_TEST_UPKEEP_H

#include "core/store_private.h"
#include "tests/unit/pages.h"

#define SEGMENT (256u << 10)
#define LIMIT   (16u << 20)
#define PAGES   2000u

static const struct tm_oid oid = {{1, 2, 3}};

/* A page that zstd makes a good deal smaller than LZ4 does: words of a small alphabet. */
static inline void text_page(uint64_t seed, void *page, uint32_t bytes)
{
	uint8_t *p = page;

	for (uint32_t i = 0; i < bytes; i++)
		p[i] = "etaoin shrdlu"[test_random(&seed) % 13];
}

static inline void open_as(struct test_store *t, bool recompress, bool resident)
{
	test_store_open_as(t,
		(struct tm_store_params){.limit = LIMIT,
			.segment_bytes = SEGMENT,
			.keeper = true,
			.resident = resident,
			.patience_ms = 1000,
			.recompress = recompress,
			.upkeep_percent = 100,
			.cold_ms = 1});
}

static inline uint64_t stat_of(struct test_store *t, int pool, enum tm_stat stat)
{
	return atomic_load(&t->ledger->pools[pool].stat[stat]);
}

static inline void put_pages(struct test_store *t, int pool, uint32_t from, uint32_t to)
{
	uint8_t page[TM_PAGE_SIZE];

	for (uint32_t i = from; i < to; i++) {
		text_page(i, page, sizeof(page));
		assert_int_equal(tm_store_put(t->store, pool, &oid, i, page), 0);
	}
}

static inline void check_pages(struct test_store *t, int pool, uint32_t from, uint32_t to)
{
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];

	for (uint32_t i = from; i < to; i++) {
		text_page(i, page, sizeof(page));
		assert_int_equal(tm_store_get(t->store, pool, &oid, i, got), 0);
		assert_memory_equal(got, page, sizeof(page));
	}
}

/* A millisecond. What cleaning moved meanwhile is in a segment that may be open for ever. */
static inline void wait_a_little(struct test_store *t, int pool, int n)
{
	usleep(1000);
	if (n % 100 == 99)
		tm_log_seal(&t->store->pools[pool].log, 0);
}

static inline void wait_until(struct test_store *t, int pool, enum tm_stat stat, uint64_t least)
{
	for (int n = 0; stat_of(t, pool, stat) < least; n++)
		wait_a_little(t, pool, n);
}

/* The keeper is at rest when this returns, so that the store can be checked. */
static inline void check_and_close(struct test_store *t)
{
	tm_keeper_stop(t->store->keeper);
	t->store->keeper = NULL;
	assert_int_equal(tm_store_check(t->store), 0);
	test_store_close(t);
}

#endif
