/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_dedup.c - equal pages take little room, and are never anything but equal
 */
#include "tests/unit/pages.h"

#include "core/entry.h"
#include "core/store_private.h"

#define LIMIT (16u << 20)

static const struct tm_oid file1 = {{1, 0, 0}}, file2 = {{2, 0, 0}};

struct fixture {
	struct test_store t;
	int pool;
	_Alignas(8) uint8_t page[TM_PAGE_SIZE];
	uint8_t got[TM_PAGE_SIZE];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	test_store_open(&f->t, LIMIT, 256u << 10);
	f->pool = test_pool(&f->t, 0, 0, TM_POOL_RETAIN | TM_POOL_DEDUP);
	assert_in_range(f->pool, 0, TM_POOLS_MAX - 1);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(tm_store_check(f->t.store), 0);
	test_store_close(&f->t);
	free(f);
	return 0;
}

/* A page that compresses. */
static void make(struct fixture *f, uint64_t seed)
{
	test_page(seed * 8 + 3, f->page, sizeof(f->page));
}

static void put(struct fixture *f, const struct tm_oid *oid, uint32_t index, uint64_t seed)
{
	make(f, seed);
	assert_int_equal(tm_store_put(f->t.store, f->pool, oid, index, f->page), 0);
}

static int get(struct fixture *f, const struct tm_oid *oid, uint32_t index, uint64_t seed)
{
	int rc = tm_store_get(f->t.store, f->pool, oid, index, f->got);

	make(f, seed);
	if (rc == 0)
		assert_memory_equal(f->got, f->page, sizeof(f->page));
	return rc;
}

static uint64_t stat(struct fixture *f, enum tm_stat stat)
{
	return atomic_load(&f->t.store->pools[f->pool].stat[stat]);
}

static void equal_pages_take_one_place(void **state)
{
	struct fixture *f = *state;
	uint64_t once;

	for (uint32_t i = 0; i < 500; i++)
		put(f, &file1, i, i);
	once = stat(f, TM_STAT_PAYLOAD_BYTES);
	for (uint32_t i = 0; i < 500; i++)
		put(f, &file2, i, i);
	/* Marks are lost to others, and as their table grows: not all, but most. */
	assert_in_range(stat(f, TM_STAT_DEDUPED), 400, 500);
	assert_in_range(stat(f, TM_STAT_PAYLOAD_BYTES), once, once + once / 4);
	assert_int_equal(stat(f, TM_STAT_PAGES), 1000);
	for (uint32_t i = 0; i < 500; i++) {
		assert_int_equal(get(f, &file1, i, i), 0);
		assert_int_equal(get(f, &file2, i, i), 0);
	}
}

static void a_page_is_not_its_own_original(void **state)
{
	struct fixture *f = *state;

	put(f, &file1, 7, 1);
	put(f, &file1, 7, 1);
	assert_int_equal(stat(f, TM_STAT_DEDUPED), 0);
	assert_int_equal(get(f, &file1, 7, 1), 0);
}

static void without_its_original_a_page_is_a_miss(void **state)
{
	struct fixture *f = *state;

	for (uint32_t how = 0; how < 2; how++) {
		put(f, &file1, how, 1 + how);
		put(f, &file2, how, 1 + how);
		assert_int_equal(stat(f, TM_STAT_DEDUPED), 1);
		if (how == 0)
			tm_store_flush_object(f->t.store, f->pool, &file1);
		else
			put(f, &file1, how, 99);
		assert_int_equal(get(f, &file2, how, 1 + how), -ENOENT);
		assert_int_equal(stat(f, TM_STAT_DEDUPED), 0);
		/* What comes next under the original's name is none of it. */
		put(f, &file1, how, 1 + how);
		assert_int_equal(get(f, &file2, how, 1 + how), -ENOENT);
	}
	assert_int_equal(stat(f, TM_STAT_CORRUPT), 0);
}

static void a_part_written_makes_it_a_page_of_its_own(void **state)
{
	struct fixture *f = *state;
	uint64_t word = 0x1234;

	put(f, &file1, 0, 1);
	put(f, &file2, 0, 1);
	assert_int_equal(tm_store_write(f->t.store, f->pool, &file2, 0, 16, 8, &word), 0);
	assert_int_equal(stat(f, TM_STAT_DEDUPED), 0);
	assert_int_equal(get(f, &file1, 0, 1), 0);
	assert_int_equal(tm_store_get(f->t.store, f->pool, &file2, 0, f->got), 0);
	make(f, 1);
	memcpy(f->page + 16, &word, 8);
	assert_memory_equal(f->got, f->page, sizeof(f->page));
}

static void originals_that_move_are_found(void **state)
{
	struct fixture *f = *state;
	uint32_t found = 0;

	for (uint32_t i = 0; i < 200; i++) {
		put(f, &file1, i, i);
		put(f, &file2, i, i);
		for (uint32_t hit = 0; hit < 3; hit++) /* worth keeping */
			assert_int_equal(get(f, &file2, i, i), 0);
	}
	for (uint32_t i = 0; stat(f, TM_STAT_PROMOTED) < 200 && i < 20000; i++)
		put(f, &file1, 1000 + i, 1000 + i);
	assert_true(stat(f, TM_STAT_PROMOTED) >= 200);
	for (uint32_t i = 0; i < 200; i++)
		found += get(f, &file2, i, i) == 0;
	assert_in_range(found, 150, 200);
}

/* Damaged, the bytes that two pages share are returned to neither. */
static void a_damaged_original_is_two_misses(void **state)
{
	struct fixture *f = *state;
	struct tm_pool *p = &f->t.store->pools[f->pool];
	struct tm_handle h = {p->objects, file1, 0};
	struct tm_cursor c;
	uint64_t slot;

	put(f, &file1, 0, 1);
	put(f, &file2, 0, 1);
	tm_index_lock(f->t.store->index, &h, &c);
	slot = tm_cursor_get(&c);
	tm_index_unlock(&c);
	tm_segment_data(f->t.store->arena, tm_slot_segment(slot))[tm_slot_offset(slot) + 100] ^= 4;
	assert_int_equal(get(f, &file2, 0, 1), -ENOENT);
	assert_int_equal(get(f, &file1, 0, 1), -ENOENT);
	assert_int_equal(stat(f, TM_STAT_CORRUPT), 1);
}

static void only_pools_that_may_lose_and_do_retain(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(test_pool(&f->t, TM_POOL_PERSIST, 0, TM_POOL_DEDUP), -EOPNOTSUPP);
	assert_int_equal(test_pool(&f->t, 0, 0, TM_POOL_DEDUP), -EOPNOTSUPP);
}

/* What was found before a crash is found after it, and nothing else. */
static void a_successor_finds_both(void **state)
{
	struct fixture *f = *state;
	struct tm_store_params params = {.limit = LIMIT, .segment_bytes = 256u << 10};
	struct test_store dead = f->t;

	for (uint32_t i = 0; i < 300; i++) {
		put(f, &file1, i, i);
		put(f, &file2, i, i);
	}
	tm_store_flush_page(f->t.store, f->pool, &file1, 5);
	assert_int_equal(tm_ledger_create(&f->t.ledger, &f->t.ledger_fd), 0);
	params.ledger = f->t.ledger;
	assert_int_equal(
		tm_store_recover(&params, dup(tm_store_fd(dead.store)), true, &f->t.store), 0);
	f->pool = test_pool(&f->t, 0, 0, TM_POOL_RETAIN | TM_POOL_DEDUP);
	assert_true(stat(f, TM_STAT_DEDUPED) > 280);
	for (uint32_t i = 0; i < 300; i++)
		assert_int_equal(get(f, &file2, i, i), i == 5 ? -ENOENT : 0);
	/* Not `dead`'s to empty: that the mapping is shared is of this test alone. */
	assert_int_equal(tm_store_check(f->t.store), 0);
	tm_store_destroy(f->t.store);
	tm_ledger_unmap(f->t.ledger);
	close(f->t.ledger_fd);
	f->t = dead;
	f->pool = 0;
	tm_store_destroy_pool(f->t.store, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(equal_pages_take_one_place),
		TEST(a_page_is_not_its_own_original),
		TEST(without_its_original_a_page_is_a_miss),
		TEST(a_part_written_makes_it_a_page_of_its_own),
		TEST(originals_that_move_are_found),
		TEST(a_damaged_original_is_two_misses),
		TEST(only_pools_that_may_lose_and_do_retain),
		TEST(a_successor_finds_both),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("dedup", tests, NULL, NULL);
}
