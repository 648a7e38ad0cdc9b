/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_evict.c - which ephemeral pages a full store keeps, and the ghost that helps it choose
 */
#include <sched.h>

#include "core/store_private.h"
#include "tests/unit/pages.h"

#define LIMIT (16u << 20)
#define SCAN  100000u /* handles from here on are never used twice */

static const struct tm_oid oid = {{1, 2, 3}};
static uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];

static int setup(void **state)
{
	struct test_store *t = calloc(1, sizeof(*t));
	cpu_set_t here;

	/* On another processor puts go to another open segment, and the first is left alone. */
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	assert_int_equal(sched_setaffinity(0, sizeof(here), &here), 0);
	test_store_open(t, LIMIT, 0);
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

static uint64_t stat(const struct test_store *t, int pool, enum tm_stat which)
{
	return t->ledger->pools[pool].stat[which];
}

/* No put of these tests may be refused: there is always something to give up. */
static void put(struct test_store *t, int pool, uint32_t from, uint32_t n)
{
	for (uint32_t i = from; i < from + n; i++) {
		test_page(i * 8ull + 3, page, sizeof(page));
		assert_int_equal(tm_store_put(t->store, pool, &oid, i, page), 0);
	}
}

/* How many of them are there, and right. */
static uint32_t get(struct test_store *t, int pool, uint32_t from, uint32_t n)
{
	uint32_t hits = 0;

	for (uint32_t i = from; i < from + n; i++) {
		if (tm_store_get(t->store, pool, &oid, i, got) != 0)
			continue;
		test_page(i * 8ull + 3, page, sizeof(page));
		assert_memory_equal(got, page, sizeof(page));
		hits++;
	}
	return hits;
}

/* Fill the store with pages that nobody reads. Returns how many it holds. */
static uint32_t fill(struct test_store *t, int pool)
{
	uint32_t n = 0;

	while (stat(t, pool, TM_STAT_EVICTED) == 0)
		put(t, pool, SCAN + n++, 1);
	return n;
}

static void a_scan_leaves_what_is_read(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, 0, 0, TM_POOL_RETAIN), other = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t holds = fill(t, pool), warm = holds / 2, scan = (uint32_t)test_scale(10) * holds;

	put(t, other, 0, warm);
	for (int round = 0; round < 3; round++)
		assert_int_equal(get(t, other, 0, warm), warm);
	put(t, pool, SCAN + holds, scan);
	assert_true(get(t, other, 0, warm) > warm * 9 / 10);
	assert_true(stat(t, other, TM_STAT_PROMOTED) > 0);
}

static void a_scan_leaves_what_is_taken_and_put_back(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, 0, 0, 0);
	uint32_t holds = fill(t, pool), warm = holds / 2, scan = (uint32_t)test_scale(10) * holds;

	put(t, pool, 0, warm);
	for (uint32_t i = 0; i < warm; i++) {
		assert_int_equal(get(t, pool, i, 1), 1);
		assert_int_equal(get(t, pool, i, 1), 0);
		put(t, pool, i, 1);
	}
	put(t, pool, SCAN + holds, scan);
	assert_true(get(t, pool, 0, warm) > warm * 9 / 10);
}

static void a_page_put_again_soon_is_kept(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t holds = fill(t, pool), few = holds / 10;

	put(t, pool, 0, few);
	put(t, pool, SCAN + holds, holds * 3 / 2); /* they are given up, after as many others */
	assert_true(get(t, pool, 0, few) < few / 10);
	put(t, pool, 0, few);
	put(t, pool, SCAN + 4 * holds, 5 * holds);
	assert_true(get(t, pool, 0, few) > few * 8 / 10);
}

static void a_page_put_again_late_is_new(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t holds = fill(t, pool), few = holds / 10;

	put(t, pool, 0, few);
	put(t, pool, SCAN + holds, 4 * holds);
	put(t, pool, 0, few);
	put(t, pool, SCAN + 5 * holds, 2 * holds);
	assert_int_equal(get(t, pool, 0, few), 0);
}

static void yesterdays_pages_make_way(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t holds = fill(t, pool), warm = holds * 8 / 10;

	for (uint32_t day = 0; day < 4; day++) {
		for (int round = 0; round < 6; round++)
			for (uint32_t i = day * warm; i < (day + 1) * warm; i++)
				if (get(t, pool, i, 1) == 0)
					put(t, pool, i, 1);
		assert_true(get(t, pool, day * warm, warm) > warm * 9 / 10);
	}
	assert_true(get(t, pool, 0, warm) < warm / 10);
}

static void a_store_of_nothing_but_hits_takes_new_pages(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t holds = fill(t, pool), next = SCAN + holds;

	for (int round = 0; round < 3; round++) {
		for (int hits = 0; hits < 4; hits++)
			get(t, pool, SCAN, next - SCAN);
		put(t, pool, next, holds / 4);
		assert_int_equal(get(t, pool, next + holds / 4 - 1, 1), 1);
		next += holds / 4;
	}
}

static void a_replaced_page_keeps_its_hits(void **state)
{
	struct test_store *t = *state;
	int pool = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t holds = fill(t, pool), few = holds / 10;

	put(t, pool, 0, few);
	for (int round = 0; round < 3; round++)
		get(t, pool, 0, few);
	put(t, pool, 0, few);
	put(t, pool, SCAN + holds, 3 * holds);
	assert_true(get(t, pool, 0, few) > few * 9 / 10);
}

static void who_puts_much_crowds_out_its_own(void **state)
{
	struct test_store *t = *state;
	int busy = test_pool(t, 0, 0, TM_POOL_RETAIN), quiet = test_pool(t, 0, 0, TM_POOL_RETAIN);
	uint32_t holds = fill(t, busy), few = holds / 100;

	put(t, quiet, 0, few);
	put(t, busy, SCAN + holds, 10 * holds);
	assert_int_equal(get(t, quiet, 0, few), few);
	assert_int_equal(stat(t, quiet, TM_STAT_EVICTED), 0);
}

static void only_ephemeral_pools_have_a_ghost(void **state)
{
	struct test_store *t = *state;
	int cache = test_pool(t, 0, 0, TM_POOL_RETAIN), swap = test_pool(t, TM_POOL_PERSIST, 0, 0);
	uint32_t holds = fill(t, cache);
	uint64_t ghost = tm_lines_bytes(&t->store->pools[cache].ghost.buckets);

	put(t, swap, 0, 100);
	assert_int_equal(tm_lines_bytes(&t->store->pools[swap].ghost.buckets), 0);
	assert_in_range(ghost, 4 * holds, 9ull * holds);
	tm_store_flush_object(t->store, cache, &oid);
	tm_store_release(t->store, UINT64_MAX);
	assert_int_equal(stat(t, cache, TM_STAT_USED_BYTES), ghost);
	assert_int_equal(tm_store_destroy_pool(t->store, cache), 0);
	assert_int_equal(stat(t, cache, TM_STAT_USED_BYTES), 0);
}

/* --- the ghost alone -------------------------------------------------------------------------- */

struct haunted {
	struct tm_ledger ledger;
	struct tm_budget budget;
	struct tm_ghost ghost;
	_Atomic uint64_t owner;
	bool refusing;
};

static bool refuses(void *opaque)
{
	return ((struct haunted *)opaque)->refusing;
}

static int haunt(void **state)
{
	struct haunted *h = calloc(1, sizeof(*h));

	h->ledger.limit_bytes = h->ledger.granted_bytes = LIMIT;
	h->budget = (struct tm_budget){.ledger = &h->ledger, .refuse = refuses, .opaque = h};
	*state = h;
	return 0;
}

static int exorcise(void **state)
{
	struct haunted *h = *state;

	assert_int_equal(tm_lines_bytes(&h->ghost.buckets), h->owner);
	tm_ghost_drop(&h->ghost, &h->budget, &h->owner);
	assert_int_equal(h->owner, 0);
	assert_int_equal(h->ledger.used_bytes, 0);
	free(h);
	return 0;
}

static uint64_t hash_of(uint32_t i)
{
	return tm_ghost_hash(&oid, i);
}

static uint32_t recalled(struct haunted *h, uint32_t from, uint32_t n, uint64_t pages)
{
	uint32_t found = 0;

	for (uint32_t i = from; i < from + n; i++)
		found += tm_ghost_recall(&h->ghost, hash_of(i), pages);
	return found;
}

static void an_empty_ghost_remembers_nothing(void **state)
{
	struct haunted *h = *state;

	tm_ghost_remember(&h->ghost, hash_of(1));
	assert_false(tm_ghost_recall(&h->ghost, hash_of(1), 1000));
}

static void a_mark_is_found_once(void **state)
{
	struct haunted *h = *state;

	tm_ghost_grow(&h->ghost, &h->budget, &h->owner, 1000);
	tm_ghost_remember(&h->ghost, hash_of(1));
	tm_ghost_remember(&h->ghost, hash_of(1));
	assert_false(tm_ghost_recall(&h->ghost, hash_of(2), 1000));
	assert_true(tm_ghost_recall(&h->ghost, hash_of(1), 1000));
	assert_false(tm_ghost_recall(&h->ghost, hash_of(1), 1000));
}

static void as_many_as_the_pool_holds_are_remembered(void **state)
{
	struct haunted *h = *state;

	for (uint32_t pages = 1000; pages < 60000; pages *= 3) {
		tm_ghost_grow(&h->ghost, &h->budget, &h->owner, pages);
		for (uint32_t i = 0; i < 4 * pages; i++)
			tm_ghost_remember(&h->ghost, hash_of(i));
		assert_true(recalled(h, 3 * pages, pages, pages) > pages * 8 / 10);
		assert_true(recalled(h, 2 * pages, pages, pages) < pages / 50);
		assert_true(recalled(h, 4 * pages, pages, pages) <= 2); /* never seen */
	}
}

static void the_ghost_is_bounded(void **state)
{
	struct haunted *h = *state;

	for (uint64_t pages = 1; pages < 1u << 30; pages += pages / 2 + 1) {
		tm_ghost_grow(&h->ghost, &h->budget, &h->owner, pages);
		assert_true(tm_lines_bytes(&h->ghost.buckets) <= LIMIT / 64);
	}
	assert_true(tm_lines_bytes(&h->ghost.buckets) > LIMIT / 256);
}

static void a_refused_ghost_goes_on_as_it_is(void **state)
{
	struct haunted *h = *state;
	uint64_t before;

	tm_ghost_grow(&h->ghost, &h->budget, &h->owner, 1000);
	tm_ghost_remember(&h->ghost, hash_of(7));
	before = tm_lines_bytes(&h->ghost.buckets);
	h->refusing = true;
	tm_ghost_grow(&h->ghost, &h->budget, &h->owner, 10000);
	assert_int_equal(tm_lines_bytes(&h->ghost.buckets), before);
	assert_true(tm_ghost_recall(&h->ghost, hash_of(7), 10000));
	h->refusing = false;
	tm_ghost_grow(&h->ghost, &h->budget, &h->owner, 10001); /* not so soon again */
	assert_int_equal(tm_lines_bytes(&h->ghost.buckets), before);
	tm_ghost_grow(&h->ghost, &h->budget, &h->owner, 12000);
	assert_true(tm_lines_bytes(&h->ghost.buckets) > before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define STORE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define GHOST_TEST(f) cmocka_unit_test_setup_teardown(f, haunt, exorcise)
		STORE_TEST(a_scan_leaves_what_is_read),
		STORE_TEST(a_scan_leaves_what_is_taken_and_put_back),
		STORE_TEST(a_page_put_again_soon_is_kept),
		STORE_TEST(a_page_put_again_late_is_new),
		STORE_TEST(yesterdays_pages_make_way),
		STORE_TEST(a_store_of_nothing_but_hits_takes_new_pages),
		STORE_TEST(a_replaced_page_keeps_its_hits),
		STORE_TEST(who_puts_much_crowds_out_its_own),
		STORE_TEST(only_ephemeral_pools_have_a_ghost),
		GHOST_TEST(an_empty_ghost_remembers_nothing),
		GHOST_TEST(a_mark_is_found_once),
		GHOST_TEST(as_many_as_the_pool_holds_are_remembered),
		GHOST_TEST(the_ghost_is_bounded),
		GHOST_TEST(a_refused_ghost_goes_on_as_it_is),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
