/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_move.c - streams that do not fit, stores without memory, readers that go away
 */
#include "core/index.h"
#include "core/store_private.h"
#include "tests/unit/tape.h"

#define LIMIT   (32u << 20)
#define SEGMENT (256u << 10)

static uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];

static void what_does_not_fit_is_refused(void **state)
{
	struct model swap = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct tm_move_params other = {.name = "one", .type = "other"};
	struct test_store a, b;
	uint64_t random = 6;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_fill(&a, &swap, &random, 2000);
	assert_int_equal(tape_save(&a, &tape, false, &result), 0);

	test_store_open(&b, TM_LIMIT_MIN, SEGMENT); /* too small */
	assert_int_equal(test_pool(&b, 0, 0, 0), 0);
	assert_int_equal(tape_restore(&b, &tape, &result), -EINVAL); /* no such pool */
	assert_int_equal(test_pool(&b, TM_POOL_PERSIST, 1, 0), 1);
	assert_int_equal(tape_restore(&b, &tape, &result), -EINVAL); /* nor page size */
	assert_int_equal(test_pool(&b, TM_POOL_PERSIST, 0, 0), 2);
	assert_int_equal(tape_restore(&b, &tape, &result), -ENOSPC);
	assert_int_equal(pages_of(&b, 2), 0);
	assert_int_equal(tm_store_check(b.store), 0);
	tape.at = 0;
	assert_int_equal(tm_store_restore(b.store, &other, tape_read, &tape, &result), -EINVAL);
	tape.bytes[8]++; /* the version */
	assert_int_equal(tape_restore(&b, &tape, &result), -EPROTO);
	tape.size = 0;
	assert_int_equal(tape_restore(&b, &tape, &result), -ENOMSG);
	test_store_close(&a);
	test_store_close(&b);
	free(tape.bytes);
}

/* Every allocation of a restore fails once: whole or nothing. */
static int refusals;

static bool refuse_one(void *opaque)
{
	(void)opaque;
	return refusals > 0 && --refusals == 0;
}

static bool refuse_all(void *opaque)
{
	(void)opaque;
	return refusals > 0 && (refusals == 1 || refusals-- == 0);
}

static void without_memory_it_is_all_or_nothing(void **state)
{
	struct model swap = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct test_store a, b;
	uint64_t random = 8;
	int failed = 0;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_fill(&a, &swap, &random, 300);
	assert_int_equal(tape_save(&a, &tape, false, &result), 0);
	for (int i = 1; i<1500; i += test_scale(1)> 1 ? 1 : 7) {
		struct tm_store_params params = {.limit = LIMIT,
			.segment_bytes = SEGMENT,
			.refuse = i % 2 ? refuse_all : refuse_one};
		int rc;

		refusals = 0;
		test_store_open_as(&b, params);
		test_pool(&b, TM_POOL_PERSIST, 0, 0);
		refusals = i;
		rc = tape_restore(&b, &tape, &result);
		refusals = 0;
		assert_true(rc == 0 || rc == -ENOSPC || rc == -ENOMEM);
		failed += rc < 0;
		if (rc < 0)
			assert_int_equal(pages_of(&b, 0), 0);
		else
			assert_int_equal(model_check(&b, &swap, 0, true), pages_of(&a, 0));
		assert_int_equal(tm_store_check(b.store), 0);
		test_store_close(&b);
	}
	assert_true(failed > 20);
	test_store_close(&a);
	free(tape.bytes);
}

/* Rules 2 and 3: an ephemeral page that this life has put or flushed does not come back. */
static void a_cache_does_not_remember_what_it_was_told_to_forget(void **state)
{
	struct model cache = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct test_store a;
	struct tm_oid dropped = object(1), touched = object(2), whole = object(3);
	uint64_t random = 2, pages;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	cache.pool = test_pool(&a, 0, 0, TM_POOL_RETAIN);
	model_fill(&a, &cache, &random, 2000);
	pages = pages_of(&a, 0);
	assert_int_equal(tape_save(&a, &tape, true, &result), 0);
	assert_int_equal(
		tape_restore(&a, &tape, &result), 0); /* into the very life it comes from */
	assert_int_equal(result.pages, 0);
	assert_int_equal(result.skipped, pages);
	test_store_close(&a);

	test_store_open(&a, LIMIT, SEGMENT);
	test_pool(&a, 0, 0, TM_POOL_RETAIN);
	/* Flushed before it was ever there, put anew, and an object that goes as a whole. */
	assert_int_equal(tm_store_flush_page(a.store, 0, &dropped, index_of(5)), 0);
	test_page(123457, page, TM_PAGE_SIZE);
	assert_int_equal(tm_store_put(a.store, 0, &touched, index_of(10), page), 0);
	assert_int_equal(tm_store_flush_object(a.store, 0, &whole), 0);
	assert_int_equal(tape_restore(&a, &tape, &result), 0);
	assert_true(result.pages > 0 && result.skipped > 0);
	assert_int_equal(result.pages + result.skipped, pages);
	assert_int_equal(tm_store_read(a.store, 0, &dropped, index_of(5), 0, 16, got), -ENOENT);
	assert_int_equal(tm_store_get(a.store, 0, &touched, index_of(10), got), 0);
	assert_memory_equal(got, page, TM_PAGE_SIZE);
	for (unsigned int i = 0; i < INDEXES; i++)
		assert_int_equal(
			tm_store_read(a.store, 0, &whole, index_of(i), 0, 16, got), -ENOENT);
	assert_int_equal(tm_store_check(a.store), 0);
	pages = pages_of(&a, 0);
	assert_int_equal(tape_restore(&a, &tape, &result), 0); /* a second time brings nothing */
	assert_int_equal(result.pages, 0);
	assert_int_equal(pages_of(&a, 0), pages);
	test_store_close(&a);
	free(tape.bytes);
}

static void a_smaller_cache_takes_what_it_can(void **state)
{
	struct model cache = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct test_store a, b;
	uint64_t random = 2;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	cache.pool = test_pool(&a, 0, 0, TM_POOL_RETAIN);
	model_fill(&a, &cache, &random, 4000);
	assert_int_equal(tape_save(&a, &tape, true, &result), 0);
	test_store_open(&b, TM_LIMIT_MIN, SEGMENT);
	test_pool(&b, 0, 0, TM_POOL_RETAIN);
	assert_int_equal(tape_restore(&b, &tape, &result), 0);
	assert_true(result.pages > 100 && result.skipped > 100);
	assert_int_equal(result.pages, pages_of(&b, 0));
	assert_int_equal(model_check(&b, &cache, 0, false), result.pages);
	assert_int_equal(tm_store_check(b.store), 0);
	test_store_close(&a);
	test_store_close(&b);
	free(tape.bytes);
}

static void a_reader_that_goes_away_leaves_the_source_as_it_was(void **state)
{
	struct model swap = {.order = 0};
	struct tm_move_result result;
	struct test_store a;
	uint64_t random = 2, used;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_fill(&a, &swap, &random, 2000);
	for (size_t at = 1; at < 4u << 20; at = at * 2 + 37) {
		struct tape tape = {.fail_at = at};
		struct tm_save_params params = {
			.live = at % 2, .hold = at % 3 == 0, .write = tape_write, .opaque = &tape};

		used = a.ledger->used_bytes;
		assert_int_equal(tm_store_save(a.store, &who, &params, &result), -EPIPE);
		assert_true(*result.why != '\0');
		free(tape.bytes);
		assert_int_equal(a.ledger->used_bytes, used);
		assert_int_equal(tm_store_check(a.store), 0);
		model_fill(&a, &swap, &random, 10); /* would wait for ever at a shut gate */
	}
	model_check(&a, &swap, 0, true);
	test_store_close(&a);
}

static void a_damaged_page_is_not_saved(void **state)
{
	struct model swap = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct test_store a;
	struct tm_oid oid = object(1);
	uint64_t slot;
	struct tm_cursor c;
	struct tm_handle h;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_put(&a, &swap, 1, 3, 21, page);
	h = (struct tm_handle){a.store->pools[0].objects, oid, index_of(3)};
	tm_index_lock(a.store->index, &h, &c);
	slot = tm_cursor_get(&c);
	tm_index_unlock(&c);
	tm_segment_data(a.store->arena, tm_slot_segment(slot))[tm_slot_offset(slot) + 60] ^= 1;
	assert_int_equal(tape_save(&a, &tape, true, &result), -EIO);
	test_store_close(&a);
	free(tape.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_does_not_fit_is_refused),
		cmocka_unit_test(without_memory_it_is_all_or_nothing),
		cmocka_unit_test(a_cache_does_not_remember_what_it_was_told_to_forget),
		cmocka_unit_test(a_smaller_cache_takes_what_it_can),
		cmocka_unit_test(a_reader_that_goes_away_leaves_the_source_as_it_was),
		cmocka_unit_test(a_damaged_page_is_not_saved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
