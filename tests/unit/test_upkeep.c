/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_upkeep.c - what the keeper does in its spare time: cold pages packed with zstd, holes closed
 * up
 */
#include "tests/unit/tape.h"
#include "tests/unit/upkeep.h"

#define HOLED 3000u

static void cold_pages_are_packed_and_read_back(
	struct test_store *t, uint32_t flags, uint32_t attrs)
{
	int pool = test_pool(t, flags, 0, attrs);
	uint64_t payload, saved;

	put_pages(t, pool, 0, PAGES);
	payload = stat_of(t, pool, TM_STAT_PAYLOAD_BYTES);
	tm_log_seal(&t->store->pools[pool].log, 0);
	atomic_store(&t->ledger->recompress, 1);
	wait_until(t, pool, TM_STAT_PACKED, PAGES);
	check_pages(t, pool, 0, PAGES);
	assert_true(stat_of(t, pool, TM_STAT_PAYLOAD_BYTES) < payload / 4 * 3);
	assert_int_equal(stat_of(t, pool, TM_STAT_RECOMPRESSED), PAGES);
	saved = payload - stat_of(t, pool, TM_STAT_PAYLOAD_BYTES);
	assert_in_range(stat_of(t, pool, TM_STAT_RECOMPRESS_SAVED_BYTES), saved - 4 * PAGES,
		saved + 4 * PAGES); /* entries are padded */
	put_pages(t, pool, 0, 100); /* replaced, they are no longer packed */
	tm_store_flush_page(t->store, pool, &oid, 100);
	check_pages(t, pool, 0, 100);
	check_pages(t, pool, 101, PAGES);
	check_and_close(t);
}

static void packing(void **state)
{
	struct test_store t;

	(void)state;
	open_as(&t, false, false);
	cold_pages_are_packed_and_read_back(&t, TM_POOL_PERSIST, 0);
}

static void packing_ephemeral_pages(void **state)
{
	struct test_store t;

	(void)state;
	open_as(&t, false, false);
	cold_pages_are_packed_and_read_back(&t, 0, TM_POOL_RETAIN);
}

static void save_and_restore_packed_pages(uint32_t flags, uint32_t attrs)
{
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct test_store from, to;
	int pool;

	open_as(&from, true, false);
	pool = test_pool(&from, flags, 0, attrs);
	put_pages(&from, pool, 0, PAGES);
	tm_log_seal(&from.store->pools[pool].log, 0);
	wait_until(&from, pool, TM_STAT_PACKED, PAGES);
	assert_int_equal(tape_save(&from, &tape, true, &result), 0);
	assert_int_equal(result.pages, PAGES);
	check_and_close(&from);

	open_as(&to, false, false);
	pool = test_pool(&to, flags, 0, attrs);
	assert_int_equal(tape_restore(&to, &tape, &result), 0);
	assert_int_equal(result.pages, PAGES);
	assert_int_equal(stat_of(&to, pool, TM_STAT_PACKED), PAGES);
	check_pages(&to, pool, 0, PAGES);
	check_and_close(&to);
	free(tape.bytes);
}

static void packed_pages_are_saved_and_restored_as_they_are(void **state)
{
	(void)state;
	save_and_restore_packed_pages(TM_POOL_PERSIST, 0);
	save_and_restore_packed_pages(0, TM_POOL_RETAIN);
}

static void packing_in_a_resident_store(void **state)
{
	struct test_store t;

	(void)state;
	open_as(&t, false, true);
	cold_pages_are_packed_and_read_back(&t, TM_POOL_PERSIST, 0);
}

static void packing_starts_and_stops_as_the_ledger_says(void **state)
{
	struct test_store t;
	int pool;

	(void)state;
	open_as(&t, false, false);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	put_pages(&t, pool, 0, PAGES);
	assert_int_equal(stat_of(&t, pool, TM_STAT_PACKED), 0);
	assert_null(atomic_load(&t.store->unpacker)); /* costs nothing where it is off */
	atomic_store(&t.ledger->recompress, 1);
	wait_until(&t, pool, TM_STAT_PACKED, PAGES / 2);
	check_pages(&t, pool, 0, PAGES);
	check_and_close(&t);
}

/* Pages that are read between being put and getting cold stay as they are, for a while. */
static void pages_in_use_are_left_alone(void **state)
{
	struct test_store t;
	uint64_t packed;
	int pool;

	(void)state;
	open_as(&t, false, false);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	put_pages(&t, pool, 0, PAGES);
	for (int n = 0; n < 3; n++)
		check_pages(&t, pool, 0, 200);
	tm_log_seal(&t.store->pools[pool].log, 0);
	atomic_store(&t.ledger->recompress, 1);
	wait_until(&t, pool, TM_STAT_PACKED, PAGES - 200);
	packed = stat_of(&t, pool, TM_STAT_CLEANED);
	assert_true(packed >= 200); /* these were moved as they are */
	check_and_close(&t);
}

/* What zstd gains nothing on is moved once to those that are done with, and not tried again. */
static void raw_pages_are_tried_once(void **state)
{
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];
	struct test_store t;
	int pools[2];

	(void)state;
	open_as(&t, false, false);
	pools[0] = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	pools[1] = test_pool(&t, 0, 0, TM_POOL_RETAIN);
	for (int n = 0; n < 2; n++) {
		for (uint32_t i = 0; i < 500; i++) {
			test_page(8 * i + 2, page, sizeof(page));
			assert_int_equal(tm_store_put(t.store, pools[n], &oid, i, page), 0);
		}
		tm_log_seal(&t.store->pools[pools[n]].log, 0);
	}
	/* Not before all are cold: those that are not would be moved with the others, and again. */
	usleep(5000);
	atomic_store(&t.ledger->recompress, 1);
	for (int n = 0; n < 2; n++)
		wait_until(&t, pools[n], TM_STAT_CLEANED, 500);
	for (int n = 0; n < 20; n++)
		wait_a_little(&t, pools[0], n);
	for (int n = 0; n < 2; n++) {
		assert_int_equal(stat_of(&t, pools[n], TM_STAT_CLEANED), 500);
		assert_int_equal(stat_of(&t, pools[n], TM_STAT_RAW), 500);
		assert_int_equal(stat_of(&t, pools[n], TM_STAT_PACKED), 0);
		for (uint32_t i = 0; i < 500; i++) {
			test_page(8 * i + 2, page, sizeof(page));
			assert_int_equal(tm_store_get(t.store, pools[n], &oid, i, got), 0);
			assert_memory_equal(got, page, sizeof(page));
		}
	}
	check_and_close(&t);
}

static void find_packed_pages_again(uint32_t flags, uint32_t attrs)
{
	struct test_store t, again;
	struct tm_store_params params = {.limit = LIMIT, .segment_bytes = SEGMENT};
	int pool;

	open_as(&t, true, false);
	pool = test_pool(&t, flags, 0, attrs);
	put_pages(&t, pool, 0, PAGES);
	tm_log_seal(&t.store->pools[pool].log, 0);
	wait_until(&t, pool, TM_STAT_PACKED, PAGES);
	tm_keeper_stop(t.store->keeper);
	t.store->keeper = NULL;

	assert_int_equal(tm_ledger_create(&again.ledger, &again.ledger_fd), 0);
	params.ledger = again.ledger;
	assert_int_equal(
		tm_store_recover(&params, dup(tm_store_fd(t.store)), true, &again.store), 0);
	assert_int_equal(tm_store_check(again.store), 0);
	assert_int_equal(test_pool(&again, flags, 0, attrs), pool);
	assert_int_equal(stat_of(&again, pool, TM_STAT_PACKED), PAGES);
	check_pages(&again, pool, 0, PAGES);
	test_store_close(&again);
	tm_store_destroy(t.store);
	tm_ledger_unmap(t.ledger);
	close(t.ledger_fd);
}

static void packed_pages_survive(void **state)
{
	(void)state;
	find_packed_pages_again(TM_POOL_PERSIST, 0);
	find_packed_pages_again(0, TM_POOL_RETAIN);
}

/* Damaged pages are not packed but stay what they are: errors. */
static void damage_is_not_packed(void **state)
{
	uint8_t got[TM_PAGE_SIZE];
	struct test_store t;
	int pool;

	(void)state;
	open_as(&t, false, false);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	put_pages(&t, pool, 0, PAGES);
	for (uint32_t id = 0; id < tm_arena_segments(t.store->arena); id++) {
		struct tm_segment *seg = tm_segment(t.store->arena, id);
		uint8_t *data = tm_segment_data(t.store->arena, id);
		uint32_t at = sizeof(struct tm_segment_header);
		struct tm_entry_view e;

		while (atomic_load(&seg->refs) > 0 && at < seg->tail) {
			assert_int_equal(
				tm_entry_view(data + at, seg->tail - at, &seg->oid, &e), 0);
			if (e.index % 2)
				data[e.payload - data + e.bytes / 2] ^= 1;
			at += e.total;
		}
	}
	tm_log_seal(&t.store->pools[pool].log, 0);
	atomic_store(&t.ledger->recompress, 1);
	wait_until(&t, pool, TM_STAT_PACKED, PAGES / 2);
	for (uint32_t i = 0; i < PAGES; i++)
		assert_int_equal(tm_store_get(t.store, pool, &oid, i, got), i % 2 ? -EIO : 0);
	assert_int_equal(stat_of(&t, pool, TM_STAT_PACKED), PAGES / 2);
	test_store_close(&t);
}

/* A full store with dead pages all over: the keeper gets the memory back without being asked. */
static void holes_are_closed_up(void **state)
{
	struct test_store t;
	int pool;

	(void)state;
	open_as(&t, false, false);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	put_pages(&t, pool, 0, HOLED);
	tm_log_seal(&t.store->pools[pool].log, 0);
	for (uint32_t i = 0; i < HOLED; i++)
		if (i % 3 == 0)
			tm_store_flush_page(t.store, pool, &oid, i);
	while (stat_of(&t, pool, TM_STAT_USED_BYTES) >
		stat_of(&t, pool, TM_STAT_PAYLOAD_BYTES) * 112 / 100 + 2 * SEGMENT)
		usleep(1000);
	for (uint32_t i = 0; i < HOLED; i++)
		if (i % 3)
			check_pages(&t, pool, i, i + 1);
	check_and_close(&t);
}

/* Pools come and go while they are packed. */
static void a_pool_can_go_while_it_is_packed(void **state)
{
	struct test_store t;

	(void)state;
	open_as(&t, true, false);
	for (int n = 0; n < 20; n++) {
		int pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);

		put_pages(&t, pool, 0, 600);
		wait_until(&t, pool, TM_STAT_PACKED, (uint32_t)n * 10);
		assert_int_equal(tm_store_destroy_pool(t.store, pool), 0);
	}
	check_and_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packing),
		cmocka_unit_test(packing_ephemeral_pages),
		cmocka_unit_test(packed_pages_are_saved_and_restored_as_they_are),
		cmocka_unit_test(packing_in_a_resident_store),
		cmocka_unit_test(packing_starts_and_stops_as_the_ledger_says),
		cmocka_unit_test(pages_in_use_are_left_alone),
		cmocka_unit_test(raw_pages_are_tried_once),
		cmocka_unit_test(packed_pages_survive),
		cmocka_unit_test(damage_is_not_packed),
		cmocka_unit_test(holes_are_closed_up),
		cmocka_unit_test(a_pool_can_go_while_it_is_packed),
	};

	return cmocka_run_group_tests_name("upkeep", tests, NULL, NULL);
}
