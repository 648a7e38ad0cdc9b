/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_store.c - the promises of tmem.h, one by one, and the edges of every argument
 */
#include "tests/unit/pages.h"

#define LIMIT (16u << 20)

static const struct tm_oid oid1 = {{1, 2, 3}};
static const struct tm_oid oid2 = {{1, 2, 4}}; /* differs in one word */
static const struct tm_oid no_oid = {{UINT64_MAX, UINT64_MAX, UINT64_MAX}};

static uint8_t page[65536], other[65536], got[65536];

static int setup(void **state)
{
	struct test_store *t = calloc(1, sizeof(*t));

	test_store_open(t, LIMIT, 0);
	test_page(3, page, sizeof(page));
	test_page(4, other, sizeof(other));
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct test_store *t = *state;

	assert_int_equal(tm_store_check(t->store), 0);
	test_store_close(t);
	free(t);
	return 0;
}

static void pools_are_numbered_lowest_first(void **state)
{
	struct test_store *t = *state;

	for (int i = 0; i < TM_POOLS_MAX; i++)
		assert_int_equal(test_pool(t, 0, 0, 0), i);
	assert_int_equal(test_pool(t, 0, 0, 0), -ENFILE);
	assert_int_equal(tm_store_destroy_pool(t->store, 5), 0);
	assert_int_equal(tm_store_destroy_pool(t->store, 3), 0);
	assert_int_equal(test_pool(t, 0, 0, 0), 3);
	assert_int_equal(test_pool(t, 0, 0, 0), 5);
}

static void bad_pools_are_refused(void **state)
{
	struct test_store *t = *state;
	static const struct {
		uint32_t flags, attrs;
		int rc;
	} bad[] = {
		{0, 0, -EINVAL},                                     /* spec version 0 */
		{2u << TM_POOL_VERSION_SHIFT, 0, -EINVAL},           /* spec version 2 */
		{1u << TM_POOL_VERSION_SHIFT | 1u << 8, 0, -EINVAL}, /* reserved */
		{1u << TM_POOL_VERSION_SHIFT | 1u << 3, 0, -EINVAL}, /* reserved */
		{1u << TM_POOL_VERSION_SHIFT | 5u << 4, 0, -EINVAL}, /* 128 KiB pages */
		{1u << TM_POOL_VERSION_SHIFT, 1u << 7, -EINVAL},     /* unknown attribute */
		{1u << TM_POOL_VERSION_SHIFT | 4, 0, -EOPNOTSUPP},   /* precompressed */
		{1u << TM_POOL_VERSION_SHIFT | 3, 0, -EOPNOTSUPP},   /* shared and persistent */
		{1u << TM_POOL_VERSION_SHIFT | 2, 0, -EACCES},       /* shared, by nobody's leave */
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(bad); i++) {
		struct tm_pool_params params = {
			.flags = bad[i].flags, .attrs = bad[i].attrs, .name = "bad"};

		assert_int_equal(tm_store_new_pool(t->store, &params), bad[i].rc);
	}
	assert_int_equal(test_pool(t, 0, 0, 0), 0); /* none of them took an id */
}

static void bad_handles_are_refused(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, TM_POOL_PERSIST, 0, 0);

	for (int bad = -1; bad <= TM_POOLS_MAX; bad += TM_POOLS_MAX + 1) {
		assert_int_equal(tm_store_put(t->store, bad, &oid1, 0, page), -ENOENT);
		assert_int_equal(tm_store_get(t->store, bad, &oid1, 0, got), -ENOENT);
		assert_int_equal(tm_store_destroy_pool(t->store, bad), -ENOENT);
	}
	assert_int_equal(tm_store_put(t->store, pool + 1, &oid1, 0, page), -ENOENT);
	assert_int_equal(tm_store_put(t->store, pool, &no_oid, 0, page), -EINVAL);
	assert_int_equal(tm_store_get(t->store, pool, &no_oid, 0, got), -EINVAL);
	assert_int_equal(tm_store_flush_page(t->store, pool, &no_oid, 0), -EINVAL);
	assert_int_equal(tm_store_flush_object(t->store, pool, &no_oid), -EINVAL);
}

static void every_order_and_content_comes_back(void **state)
{
	struct test_store *t = *state;

	for (unsigned int order = 0; order <= TM_ORDER_MAX; order++) {
		uint32_t bytes = TM_PAGE_SIZE << order;
		int pool = test_pool(t, TM_POOL_PERSIST, order, 0);

		for (uint64_t seed = 0; seed < 32; seed++) {
			test_page(seed, page, bytes);
			assert_int_equal(
				tm_store_put(t->store, pool, &oid1, (uint32_t)seed * 7, page), 0);
		}
		for (uint64_t seed = 0; seed < 32; seed++) {
			test_page(seed, page, bytes);
			assert_int_equal(
				tm_store_get(t->store, pool, &oid1, (uint32_t)seed * 7, got), 0);
			assert_memory_equal(page, got, bytes);
		}
		assert_int_equal(t->ledger->pools[pool].stat[TM_STAT_PAGES], 32);
		assert_int_equal(t->ledger->pools[pool].stat[TM_STAT_ORIG_BYTES], 32 * bytes);
		assert_int_equal(tm_store_check(t->store), 0);
		assert_int_equal(tm_store_destroy_pool(t->store, pool), 0);
	}
}

static void objects_that_differ_in_one_word_are_two(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, TM_POOL_PERSIST, 0, 0);

	assert_int_equal(tm_store_put(t->store, pool, &oid1, 9, page), 0);
	assert_int_equal(tm_store_put(t->store, pool, &oid2, 9, other), 0);
	assert_int_equal(tm_store_get(t->store, pool, &oid1, 9, got), 0);
	assert_memory_equal(got, page, TM_PAGE_SIZE);
	assert_int_equal(tm_store_flush_object(t->store, pool, &oid1), 0);
	assert_int_equal(tm_store_get(t->store, pool, &oid1, 9, got), -ENOENT);
	assert_int_equal(tm_store_get(t->store, pool, &oid2, 9, got), 0);
	assert_memory_equal(got, other, TM_PAGE_SIZE);
}

static void private_ephemeral_gets_are_exclusive_unless_retained(void **state)
{
	struct test_store *t = *state;
	int exclusive = test_pool(t, 0, 0, 0), retaining = test_pool(t, 0, 0, TM_POOL_RETAIN);

	assert_int_equal(tm_store_put(t->store, exclusive, &oid1, 0, page), 0);
	assert_int_equal(
		tm_store_read(t->store, exclusive, &oid1, 0, 8, 8, got), 0); /* not a get */
	assert_int_equal(tm_store_get(t->store, exclusive, &oid1, 0, got), 0);
	assert_memory_equal(got, page, TM_PAGE_SIZE);
	assert_int_equal(tm_store_get(t->store, exclusive, &oid1, 0, got), -ENOENT);
	assert_int_equal(tm_store_put(t->store, retaining, &oid1, 0, page), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(tm_store_get(t->store, retaining, &oid1, 0, got), 0);
}

static void a_frozen_put_is_refused_and_flushes(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, TM_POOL_PERSIST, 0, 0);

	assert_int_equal(tm_store_put(t->store, pool, &oid1, 0, page), 0);
	assert_int_equal(tm_store_put(t->store, pool, &oid1, 1, page), 0);
	atomic_store(&t->ledger->frozen, 1);
	assert_int_equal(tm_store_put(t->store, pool, &oid1, 0, other), -EBUSY);
	assert_int_equal(tm_store_get(t->store, pool, &oid1, 0, got), -ENOENT);
	assert_int_equal(tm_store_get(t->store, pool, &oid1, 1, got), 0);
	assert_int_equal(tm_store_write(t->store, pool, &oid1, 1, 0, 8, other), -EBUSY);
	assert_int_equal(tm_store_flush_page(t->store, pool, &oid1, 1), 0);
	assert_int_equal(tm_store_get(t->store, pool, &oid1, 1, got), -ENOENT);
	atomic_store(&t->ledger->frozen, 0);
	assert_int_equal(tm_store_put(t->store, pool, &oid1, 0, page), 0);
	assert_int_equal(t->ledger->pools[pool].stat[TM_STAT_PUTS_FROZEN], 2);
}

static void ranges_are_read_written_and_exchanged(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, TM_POOL_PERSIST, 1, 0);
	uint8_t range[100];

	assert_int_equal(tm_store_write(t->store, pool, &oid1, 0, 0, 8, other), -ENOENT);
	assert_int_equal(tm_store_put(t->store, pool, &oid1, 0, page), 0);
	assert_int_equal(tm_store_write(t->store, pool, &oid1, 0, 4090, 100, other), 0);
	memcpy(page + 4090, other, 100);
	assert_int_equal(tm_store_read(t->store, pool, &oid1, 0, 4000, 300, got), 0);
	assert_memory_equal(got, page + 4000, 300);

	memset(range, 7, sizeof(range));
	assert_int_equal(tm_store_xchg(t->store, pool, &oid1, 0, 8092, 100, range), 0);
	assert_memory_equal(range, page + 8092, 100);
	memset(page + 8092, 7, 100);
	assert_int_equal(tm_store_get(t->store, pool, &oid1, 0, got), 0);
	assert_memory_equal(got, page, 8192);

	assert_int_equal(tm_store_read(t->store, pool, &oid1, 0, 8192, 0, got), 0);
	assert_int_equal(tm_store_read(t->store, pool, &oid1, 0, 8192, 1, got), -EINVAL);
	assert_int_equal(tm_store_read(t->store, pool, &oid1, 0, 1, 8192, got), -EINVAL);
	assert_int_equal(tm_store_read(t->store, pool, &oid1, 0, UINT32_MAX, 2, got), -EINVAL);
	assert_int_equal(tm_store_write(t->store, pool, &oid1, 0, 8000, UINT32_MAX, got), -EINVAL);
}

static void incompressible_pages_can_be_refused(void **state)
{
	struct test_store *t = *state;
	int keeps = test_pool(t, TM_POOL_PERSIST, 0, 0);
	int refuses = test_pool(t, TM_POOL_PERSIST, 0, TM_POOL_REFUSE_RAW);

	assert_int_equal(tm_store_put(t->store, refuses, &oid1, 0, page), 0);
	test_page(2, page, sizeof(page));
	assert_int_equal(tm_store_put(t->store, keeps, &oid1, 0, page), 0);
	assert_int_equal(t->ledger->pools[keeps].stat[TM_STAT_RAW], 1);
	assert_int_equal(tm_store_put(t->store, refuses, &oid1, 0, page), -E2BIG);
	assert_int_equal(tm_store_get(t->store, refuses, &oid1, 0, got), -ENOENT);
}

/* Fill `pool` until a put is refused or `max` pages; distinct compressible pages from index 0. */
static uint32_t fill(struct test_store *t, int pool, uint32_t max)
{
	for (uint32_t i = 0; i < max; i++) {
		test_page(i * 8 + 3, page, TM_PAGE_SIZE);
		if (tm_store_put(t->store, pool, &oid1, i, page) < 0)
			return i;
		assert_true(t->ledger->used_bytes <= t->ledger->limit_bytes);
	}
	return max;
}

static void a_full_store_refuses_and_forgets_the_old_page(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, TM_POOL_PERSIST, 0, 0);
	uint32_t n = fill(t, pool, 1u << 20);

	assert_in_range(n, 4000, 1u << 19); /* it filled, and used most of its room */
	assert_true(t->ledger->used_bytes > LIMIT * 3 / 4);
	/* Overwrite with a page too big for what is left: refused or not, never the old bytes. */
	for (uint32_t i = 0; i < 200; i++) {
		test_page(i * 8 + 2, page, TM_PAGE_SIZE);
		if (tm_store_put(t->store, pool, &oid1, i, page) == 0) {
			assert_int_equal(tm_store_get(t->store, pool, &oid1, i, got), 0);
			assert_memory_equal(got, page, TM_PAGE_SIZE);
		} else {
			assert_int_equal(tm_store_get(t->store, pool, &oid1, i, got), -ENOENT);
		}
	}
	for (uint32_t i = 200; i < n; i++) {
		test_page(i * 8 + 3, page, TM_PAGE_SIZE);
		assert_int_equal(tm_store_get(t->store, pool, &oid1, i, got), 0);
		assert_memory_equal(got, page, TM_PAGE_SIZE);
	}
}

static void flushed_room_is_usable_again(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, TM_POOL_PERSIST, 0, 0);
	uint32_t n = fill(t, pool, 1u << 20), again = 0;

	/* Every third page goes: no segment is free, cleaning has to make them. */
	for (uint32_t i = 0; i < n; i += 3)
		assert_int_equal(tm_store_flush_page(t->store, pool, &oid1, i), 0);
	for (uint32_t i = 0; i < n; i += 3) {
		test_page(i * 8 + 3, page, TM_PAGE_SIZE);
		again += tm_store_put(t->store, pool, &oid1, i, page) == 0;
	}
	assert_true(again > n / 3 * 8 / 10);
	assert_true(t->ledger->pools[pool].stat[TM_STAT_CLEANED] > 0);
	assert_int_equal(tm_store_check(t->store), 0);
}

static void ephemeral_pages_give_way(void **state)
{
	struct test_store *t = *state;
	int cache = test_pool(t, 0, 0, TM_POOL_RETAIN), swap = test_pool(t, TM_POOL_PERSIST, 0, 0);

	assert_int_equal(fill(t, cache, 20000), 20000); /* over the limit: evicts, never refuses */
	assert_true(t->ledger->pools[cache].stat[TM_STAT_EVICTED] > 0);
	assert_int_equal(tm_store_get(t->store, cache, &oid1, 19999, got), 0);
	assert_int_equal(fill(t, swap, 4000), 4000);
	assert_int_equal(t->ledger->pools[swap].stat[TM_STAT_EVICTED], 0);
	assert_int_equal(tm_store_check(t->store), 0);
}

static void pages_in_use_survive_a_scan(void **state)
{
	struct test_store *t = *state;
	int cache = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t kept = 0;

	for (uint32_t i = 0; i < 20000; i++) {
		test_page(i * 8 + 3, page, TM_PAGE_SIZE);
		assert_int_equal(tm_store_put(t->store, cache, &oid1, i, page), 0);
		if (i >= 100)
			tm_store_get(t->store, cache, &oid1, i % 100, got);
	}
	for (uint32_t i = 0; i < 100; i++)
		kept += tm_store_get(t->store, cache, &oid1, i, got) == 0;
	assert_true(kept > 90);
	assert_true(t->ledger->pools[cache].stat[TM_STAT_PROMOTED] > 0);
}

static void release_gives_ephemeral_memory_back(void **state)
{
	struct test_store *t = *state;
	int cache = test_pool(t, 0, 0, TM_POOL_RETAIN), swap = test_pool(t, TM_POOL_PERSIST, 0, 0);
	uint64_t used, released;

	fill(t, swap, 1000);
	fill(t, cache, 2000);
	used = t->ledger->used_bytes;
	released = tm_store_release(t->store, 1 << 20);
	assert_in_range(released, 1 << 20, 4 << 20);
	assert_true(t->ledger->used_bytes <= used - released);
	tm_store_release(t->store, UINT64_MAX);
	assert_int_equal(t->ledger->freeable_bytes, 0);
	assert_int_equal(t->ledger->pools[cache].stat[TM_STAT_PAGES], 0);
	assert_int_equal(t->ledger->pools[swap].stat[TM_STAT_PAGES], 1000);
}

static void a_lowered_grant_shrinks_the_cache(void **state)
{
	struct test_store *t = *state;
	int cache = test_pool(t, 0, 0, TM_POOL_RETAIN);

	fill(t, cache, 8000);
	atomic_store(&t->ledger->granted_bytes, LIMIT / 2);
	tm_store_shrink(t->store);
	assert_true(t->ledger->used_bytes <= LIMIT / 2);
	assert_true(t->ledger->pools[cache].stat[TM_STAT_PAGES] > 0);
	assert_int_equal(fill(t, cache, 8000), 8000);
	assert_true(t->ledger->used_bytes <= LIMIT / 2);
	atomic_store(&t->ledger->granted_bytes, 0); /* nothing at all */
	tm_store_shrink(t->store);
	assert_int_equal(t->ledger->pools[cache].stat[TM_STAT_PAGES], 0);
	assert_int_equal(tm_store_put(t->store, cache, &oid1, 0, page), -ENOMEM);
	atomic_store(&t->ledger->granted_bytes, UINT64_MAX);
	assert_int_equal(tm_store_put(t->store, cache, &oid1, 0, page), 0);
}

static void usage_tells_what_is_live_and_what_fits(void **state)
{
	struct test_store *t = *state;
	int swap = test_pool(t, TM_POOL_PERSIST, 0, 0);
	struct tm_usage empty, full, flushed, lowered;
	uint32_t n;

	tm_store_usage(t->store, &empty);
	assert_true(empty.limit_bytes < LIMIT && empty.limit_bytes > LIMIT / 2);
	assert_false(empty.frozen);

	n = fill(t, swap, 1u << 20);
	tm_store_usage(t->store, &full);
	assert_in_range(full.live_bytes, full.limit_bytes / 8 * 7, t->ledger->used_bytes);

	/* Every other page: no segment is free, but the room counts as room. */
	for (uint32_t i = 0; i < n; i += 2)
		tm_store_flush_page(t->store, swap, &oid1, i);
	tm_store_usage(t->store, &flushed);
	assert_in_range(flushed.live_bytes, full.live_bytes / 4, full.live_bytes / 4 * 3);

	atomic_store(&t->ledger->granted_bytes, LIMIT / 2);
	atomic_store(&t->ledger->frozen, 1);
	tm_store_usage(t->store, &lowered);
	assert_int_equal(lowered.limit_bytes, full.limit_bytes - LIMIT / 2);
	assert_int_equal(lowered.live_bytes, flushed.live_bytes);
	assert_true(lowered.frozen);
	atomic_store(&t->ledger->granted_bytes, 0);
	tm_store_usage(t->store, &lowered);
	assert_int_equal(lowered.limit_bytes, 0);
	atomic_store(&t->ledger->granted_bytes, UINT64_MAX);

	tm_none()->ops->usage(tm_none(), &lowered);
	assert_int_equal(lowered.limit_bytes, 0);
}

static void a_limit_too_small_is_refused(void **state)
{
	struct tm_ledger *ledger;
	struct tm_store *store = NULL;
	struct tm_store_params params = {.limit = TM_LIMIT_MIN - 1};
	int fd;

	(void)state;
	assert_int_equal(tm_ledger_create(&ledger, &fd), 0);
	params.ledger = ledger;
	assert_int_equal(tm_store_create(&params, &store), -EINVAL);
	assert_null(store);
	params.limit = TM_LIMIT_MIN;
	assert_int_equal(tm_store_create(&params, &store), 0);
	tm_store_destroy(store);
	assert_int_equal(ledger->used_bytes, 0);
	tm_ledger_unmap(ledger);
	close(fd);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(pools_are_numbered_lowest_first),
		TEST(bad_pools_are_refused),
		TEST(bad_handles_are_refused),
		TEST(every_order_and_content_comes_back),
		TEST(objects_that_differ_in_one_word_are_two),
		TEST(private_ephemeral_gets_are_exclusive_unless_retained),
		TEST(a_frozen_put_is_refused_and_flushes),
		TEST(ranges_are_read_written_and_exchanged),
		TEST(incompressible_pages_can_be_refused),
		TEST(a_full_store_refuses_and_forgets_the_old_page),
		TEST(flushed_room_is_usable_again),
		TEST(ephemeral_pages_give_way),
		TEST(pages_in_use_survive_a_scan),
		TEST(release_gives_ephemeral_memory_back),
		TEST(a_lowered_grant_shrinks_the_cache),
		TEST(usage_tells_what_is_live_and_what_fits),
		cmocka_unit_test(a_limit_too_small_is_refused),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
