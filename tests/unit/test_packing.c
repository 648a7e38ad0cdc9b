/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_packing.c - packed pages of ephemeral pools: which they are, who goes first, who gets LZ4
 * back
 */
#include "tests/unit/upkeep.h"

#include <pthread.h>

#define FULL (64u << 20)

static uint32_t held(struct test_store *t, int pool, uint32_t from, uint32_t to)
{
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];
	uint32_t hits = 0;

	for (uint32_t i = from; i < to; i++) {
		if (tm_store_get(t->store, pool, &oid, i, got) != 0)
			continue;
		text_page(i, page, sizeof(page));
		assert_memory_equal(got, page, sizeof(page));
		hits++;
	}
	return hits;
}

static enum tm_queue queue_of(struct test_store *t, int pool, uint32_t i, enum tm_codec *ret_codec)
{
	struct tm_pool *p = &t->store->pools[pool];
	struct tm_cursor c;
	uint64_t slot;

	tm_index_lock(t->store->index, &(struct tm_handle){p->objects, oid, i}, &c);
	slot = tm_cursor_get(&c);
	assert_true(slot != TM_SLOT_NONE);
	*ret_codec = tm_slot_codec(slot);
	tm_index_unlock(&c);
	return tm_log_queue(&p->log, tm_segment(t->store->arena, tm_slot_segment(slot)));
}

/* Until so many pages were packed, and so many moved as they are. */
static void pack_all(struct test_store *t, int pool, uint64_t packed, uint64_t kept)
{
	tm_log_seal(&t->store->pools[pool].log, 0);
	atomic_store(&t->ledger->recompress, 1);
	while (stat_of(t, pool, TM_STAT_RECOMPRESSED) < packed ||
		stat_of(t, pool, TM_STAT_CLEANED) < kept)
		usleep(1000); /* what was moved meanwhile stays in its open segment */
	atomic_store(&t->ledger->recompress, 0);
	tm_keeper_pause(t->store->keeper, true);
	tm_keeper_pause(t->store->keeper, false);
}

/* Packed is what eviction would drop; the rest is promoted as eviction would. Nobody becomes an old
 * hand in the main queue by being packed. */
static void packing_keeps_pages_in_their_queue(void **state)
{
	enum tm_codec codec;
	struct test_store t;
	int pool;

	(void)state;
	open_as(&t, false, false);
	pool = test_pool(&t, 0, 0, TM_POOL_RETAIN);
	put_pages(&t, pool, 0, 900);
	check_pages(&t, pool, 300, 900); /* once */
	check_pages(&t, pool, 600, 900); /* twice */
	pack_all(&t, pool, 600, 300);
	for (uint32_t i = 0; i < 900; i++) {
		enum tm_queue queue = queue_of(&t, pool, i, &codec);

		/* Promoted pages may have been found cold by now. */
		assert_true(i < 600 ? queue == TM_QUEUE_PACKED_NEW : !tm_queue_is_new(queue));
		assert_true(codec == TM_CODEC_ZSTD || i >= 600);
	}
	pack_all(&t, pool, 900, 300); /* those of the main queue were not used since */
	for (uint32_t i = 600; i < 900; i++)
		assert_int_equal(queue_of(&t, pool, i, &codec), TM_QUEUE_PACKED_MAIN);

	/* The hit that pages had counts on: the second one brings them to the main queue. */
	tm_keeper_pause(t.store->keeper, true);
	check_pages(&t, pool, 0, 600);
	for (uint32_t i = 0; i < 600; i++)
		assert_int_equal(queue_of(&t, pool, i, &codec),
			i < 300 ? TM_QUEUE_PACKED_NEW : TM_QUEUE_MAIN);
	tm_keeper_pause(t.store->keeper, false);
	check_and_close(&t);
}

/* Whoever reads a packed page for the second time gives it its quick form back. */
static void pages_that_are_read_often_are_unpacked(void **state)
{
	enum tm_codec codec;
	struct test_store t;
	int cache, swap;

	(void)state;
	open_as(&t, false, false);
	cache = test_pool(&t, 0, 0, TM_POOL_RETAIN);
	swap = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	put_pages(&t, cache, 0, 600);
	put_pages(&t, swap, 0, 300);
	pack_all(&t, cache, 600, 0);
	pack_all(&t, swap, 300, 0);
	tm_keeper_pause(t.store->keeper, true); /* a page that it moves meanwhile stays packed */
	check_pages(&t, cache, 0, 600);
	assert_int_equal(stat_of(&t, cache, TM_STAT_UNPACKED), 0);
	for (int n = 0; n < 8; n++) {
		check_pages(&t, cache, 0, 300);
		check_pages(&t, swap, 0, 300);
	}
	assert_int_equal(stat_of(&t, cache, TM_STAT_UNPACKED), 300);
	assert_int_equal(stat_of(&t, cache, TM_STAT_PACKED), 300);
	assert_int_equal(stat_of(&t, swap, TM_STAT_PACKED), 300);
	for (uint32_t i = 0; i < 600; i++) {
		assert_int_equal(queue_of(&t, cache, i, &codec),
			i < 300 ? TM_QUEUE_MAIN : TM_QUEUE_PACKED_NEW);
		assert_int_equal(codec == TM_CODEC_ZSTD, i >= 300);
	}
	tm_keeper_pause(t.store->keeper, false);
	check_and_close(&t);
}

/* The oldest pages of a queue are the packed ones, so they go first. */
static void packed_pages_are_evicted_first(void **state)
{
	struct test_store t;
	int pool;

	(void)state;
	open_as(&t, false, false);
	pool = test_pool(&t, 0, 0, TM_POOL_RETAIN);
	put_pages(&t, pool, 0, PAGES);
	pack_all(&t, pool, PAGES, 0);
	put_pages(&t, pool, PAGES, 2 * PAGES);
	while (stat_of(&t, pool, TM_STAT_PACKED) > PAGES / 2)
		assert_true(tm_store_release(t.store, SEGMENT) > 0);
	assert_int_equal(held(&t, pool, PAGES, 2 * PAGES), PAGES);
	assert_in_range(held(&t, pool, 0, PAGES), PAGES / 8, PAGES / 2);

	/* The same at once. */
	tm_log_seal(&t.store->pools[pool].log, 0);
	tm_store_release(t.store, LIMIT / 3);
	assert_int_equal(stat_of(&t, pool, TM_STAT_PACKED), 0);
	assert_true(held(&t, pool, PAGES, 2 * PAGES) > 0);
	check_and_close(&t);
}

/* Has the keeper done what it could while the store fills up? Open segments are left out. */
static bool is_packed_ahead(struct test_store *t, int pool)
{
	return atomic_load(&t->ledger->used_bytes) < FULL - FULL / 16 ||
		stat_of(t, pool, TM_STAT_PACKED) + 2000 > stat_of(t, pool, TM_STAT_PAGES);
}

/* Put by somebody who lets the keeper have its time: it packs what would be evicted, and that
 * before it is cold. */
static void a_full_store_packs_before_it_evicts(void **state)
{
	uint32_t holds[2];

	(void)state;
	for (int pack = 0; pack < 2; pack++) {
		struct test_store t;
		uint32_t n = 0;
		int pool;

		test_store_open_as(&t,
			(struct tm_store_params){.limit = FULL,
				.segment_bytes = SEGMENT,
				.keeper = true,
				.recompress = pack,
				.upkeep_percent = 100,
				.cold_ms = 8});
		pool = test_pool(&t, 0, 0, TM_POOL_RETAIN);
		while (stat_of(&t, pool, TM_STAT_EVICTED) == 0) {
			put_pages(&t, pool, n, n + 1);
			n++;
			while (pack && !is_packed_ahead(&t, pool))
				usleep(100);
		}
		tm_keeper_pause(t.store->keeper, true); /* it goes on making room */
		holds[pack] = (uint32_t)stat_of(&t, pool, TM_STAT_PAGES);
		assert_int_equal(held(&t, pool, 0, n), holds[pack]);
		tm_keeper_pause(t.store->keeper, false);
		check_and_close(&t);
	}
	assert_true(holds[1] > holds[0] * 3 / 2);
}

static void equal_pages_share_a_packed_one(void **state)
{
	uint8_t page[TM_PAGE_SIZE];
	struct test_store t;
	uint64_t copies;
	int pool;

	(void)state;
	open_as(&t, false, false);
	pool = test_pool(&t, 0, 0, TM_POOL_RETAIN | TM_POOL_DEDUP);
	put_pages(&t, pool, 0, 500);
	for (uint32_t i = 0; i < 500; i++) {
		text_page(i, page, sizeof(page));
		assert_int_equal(tm_store_put(t.store, pool, &(struct tm_oid){{4}}, i, page), 0);
	}
	copies = stat_of(&t, pool, TM_STAT_DEDUPED);
	assert_in_range(copies, 400, 500); /* a few find no place among the hints */
	pack_all(&t, pool, 1000 - copies, copies);
	for (uint32_t i = 0; i < 500; i++) {
		uint8_t got[TM_PAGE_SIZE];

		text_page(i, page, sizeof(page));
		assert_int_equal(tm_store_get(t.store, pool, &(struct tm_oid){{4}}, i, got), 0);
		assert_memory_equal(got, page, sizeof(page));
	}
	assert_int_equal(stat_of(&t, pool, TM_STAT_DEDUPED), copies);
	assert_int_equal(stat_of(&t, pool, TM_STAT_PACKED), 1000 - copies);
	check_and_close(&t);
}

struct reader {
	struct test_store *t;
	int pool;
	uint32_t number;
};

/* A cache's life: hot pages, warm ones and some that nobody wants twice; a flush now and then. */
static void *read_through(void *opaque)
{
	struct reader *r = opaque;
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];
	struct tm_oid own = {{r->number, 1, 2}};
	uint64_t random = r->number;

	for (int n = 0; n < test_scale(60000); n++) {
		uint64_t any = test_random(&random);
		uint32_t i = any % 4 == 0 ? (uint32_t)(any >> 8) % 200
			: any % 4 == 1    ? (uint32_t)(any >> 8) % 8000
					  : 8000 + (uint32_t)n;

		text_page(i + r->number, page, sizeof(page));
		if (tm_store_get(r->t->store, r->pool, &own, i, got) == 0)
			assert_memory_equal(got, page, sizeof(page));
		else
			assert_int_equal(tm_store_put(r->t->store, r->pool, &own, i, page), 0);
		if (any % 64 == 0)
			tm_store_flush_page(
				r->t->store, r->pool, &own, (uint32_t)(any >> 40) % 8000);
	}
	return NULL;
}

static void threads_read_through_a_store_that_packs_and_evicts(void **state)
{
	struct reader r[4];
	pthread_t id[4];
	struct test_store t;
	int pools[2];

	(void)state;
	test_store_open_as(&t,
		(struct tm_store_params){.limit = FULL / 2,
			.segment_bytes = SEGMENT,
			.keeper = true,
			.recompress = true,
			.upkeep_percent = 100,
			.cold_ms = 8});
	pools[0] = test_pool(&t, 0, 0, TM_POOL_RETAIN);
	pools[1] = test_pool(&t, 0, 0, TM_POOL_RETAIN | TM_POOL_DEDUP);
	for (uint32_t i = 0; i < 4; i++) {
		r[i] = (struct reader){&t, pools[i % 2], i};
		assert_int_equal(pthread_create(&id[i], NULL, read_through, &r[i]), 0);
	}
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(pthread_join(id[i], NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_true(stat_of(&t, pools[i], TM_STAT_EVICTED) > 0);
		assert_true(stat_of(&t, pools[i], TM_STAT_RECOMPRESSED) > 0);
	}
	check_and_close(&t);
}

/* Memory that has to be given back comes at once, whatever is just being packed. */
static void a_store_that_shrinks_is_not_kept_by_packing(void **state)
{
	struct test_store t;
	int pool;

	(void)state;
	open_as(&t, true, false);
	pool = test_pool(&t, 0, 0, TM_POOL_RETAIN);
	for (uint32_t n = 0; n < (uint32_t)test_scale(40); n++) {
		put_pages(&t, pool, n * 200, n * 200 + 2000);
		tm_log_seal(&t.store->pools[pool].log, 0);
		for (uint64_t granted = LIMIT / 2; granted >= LIMIT / 8; granted /= 2) {
			atomic_store(&t.ledger->granted_bytes, granted);
			tm_store_shrink(t.store);
		}
		/* Its own memory, which eviction cannot take, goes as soon as the keeper looks. */
		while (atomic_load(&t.ledger->used_bytes) > LIMIT / 8) {
			usleep(100);
			tm_store_shrink(t.store);
		}
		atomic_store(&t.ledger->granted_bytes, UINT64_MAX);
	}
	check_and_close(&t);
}

/* A store found again has its packed pages, and can be packed further. */
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packing_keeps_pages_in_their_queue),
		cmocka_unit_test(pages_that_are_read_often_are_unpacked),
		cmocka_unit_test(packed_pages_are_evicted_first),
		cmocka_unit_test(a_full_store_packs_before_it_evicts),
		cmocka_unit_test(equal_pages_share_a_packed_one),
		cmocka_unit_test(threads_read_through_a_store_that_packs_and_evicts),
		cmocka_unit_test(a_store_that_shrinks_is_not_kept_by_packing),
	};

	/* A failed assertion in a thread cannot jump back into the test: let it abort. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	return cmocka_run_group_tests_name("packing", tests, NULL, NULL);
}
