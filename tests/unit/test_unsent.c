/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_unsent.c - no put is refused because a save has pages of a full store still to send
 *
 * The stream's reader is as slow as can be: while it has a frame the client writes all its pages
 * again and again.
 */
#include "core/store_private.h"
#include "tests/unit/tape.h"

#define LIMIT   (8u << 20)
#define SEGMENT (256u << 10)
#define FULL    (LIMIT / 100 * 66)

/* Longer than a busy machine lets the keeper wait: what is refused is not refused for that. */
#define PATIENT_MS 60000

struct full {
	struct test_store store;
	struct model model;
	struct tape tape;
	uint64_t random;
	unsigned int pages; /* the first of all objects' */
	int frames;
	int rewrites;      /* of all pages, every 16 frames */
	int rewrites_last; /* once the gate is open again */
};

static uint64_t a_seed(struct full *f)
{
	return test_random(&f->random) / 8 * 8 + 5; /* all compress alike */
}

static void put(struct full *f, unsigned int n);
static void put(struct full *f, unsigned int n)
{
	model_put(&f->store, &f->model, n / INDEXES, n % INDEXES, a_seed(f), tape_page);
}

static void rewrite(struct full *f)
{
	for (unsigned int n = 0; n < f->pages; n++)
		put(f, n);
}

static void full_open(struct full *f, bool resident, uint32_t patience_ms)
{
	*f = (struct full){.random = 1};
	test_store_open_as(&f->store,
		(struct tm_store_params){.limit = LIMIT,
			.segment_bytes = SEGMENT,
			.keeper = true,
			.resident = resident,
			.patience_ms = patience_ms});
	f->model.pool = test_pool(&f->store, TM_POOL_PERSIST, 0, 0);
	while (f->store.ledger->pools[0].stat[TM_STAT_PAYLOAD_BYTES] < FULL) {
		assert_true(f->pages < OBJECTS * INDEXES);
		put(f, f->pages++);
	}
	/* That much does fit, and can be written as often as one likes. */
	for (int n = 0; n < 3; n++)
		rewrite(f);
}

static void full_close(struct full *f)
{
	tm_keeper_pause(f->store.store->keeper, true);
	assert_int_equal(tm_store_check(f->store.store), 0);
	tm_keeper_pause(f->store.store->keeper, false);
	assert_int_equal(model_check(&f->store, &f->model, 0, true), f->pages);
	test_store_close(&f->store);
	free(f->tape.bytes);
}

/* Between two frames, in the saver's thread, which must not hold a lock. All pages change so often
 * that the save ends up with pinning all of them. */
static void meanwhile(void *opaque)
{
	struct full *f = opaque;
	bool last = f->store.store->unsent.offered;

	if (!last && f->frames++ % 16 < f->rewrites)
		rewrite(f);
	for (int n = 0; last && n < f->rewrites_last; n++)
		rewrite(f);
}

static int save_meanwhile(struct full *f, struct tm_move_result *ret_result)
{
	f->tape.size = 0;
	f->tape.on_write = meanwhile;
	f->tape.opaque = f;
	return tape_save(&f->store, &f->tape, true, ret_result);
}

static void saved_as_it_is(struct full *f)
{
	struct tm_move_result result;
	struct test_store b;

	f->tape.size = 0;
	f->tape.on_write = NULL;
	assert_int_equal(tape_save(&f->store, &f->tape, true, &result), 0);
	test_store_open(&b, LIMIT * 2, SEGMENT);
	test_pool(&b, TM_POOL_PERSIST, 0, 0);
	assert_int_equal(tape_restore(&b, &f->tape, &result), 0);
	assert_int_equal(model_check(&b, &f->model, 0, true), f->pages);
	test_store_close(&b);
}

static void what_is_still_to_be_sent_gives_way(void **state)
{
	(void)state;
	for (int resident = 0; resident < 2; resident++) {
		struct tm_move_result result;
		struct full f;

		full_open(&f, resident, PATIENT_MS);
		f.rewrites = 1;
		f.rewrites_last = 3;
		assert_int_equal(save_meanwhile(&f, &result), -EBUSY);
		assert_non_null(strstr(result.why, "memory is full"));
		saved_as_it_is(&f); /* the next one finds nothing of it */
		full_close(&f);
	}
}

/* What the walk over all pages holds is a segment, and not while the reader has us wait. */
static void what_is_being_sent_is_in_nobodys_way(void **state)
{
	(void)state;
	for (int resident = 0; resident < 2; resident++) {
		struct tm_move_result result;
		struct full f;

		full_open(&f, resident, PATIENT_MS);
		f.rewrites = 1;
		f.rewrites_last = 0;
		assert_int_equal(save_meanwhile(&f, &result), 0);
		saved_as_it_is(&f);
		full_close(&f);
	}
}

/* Where a refused put does no harm the save comes first. */
static void a_client_with_a_fallback_has_its_save(void **state)
{
	struct tm_move_result result;
	struct test_store b;
	struct full f;

	(void)state;
	full_open(&f, false, 0);
	f.rewrites = 1; /* but none in the end: those would be refused */
	assert_int_equal(save_meanwhile(&f, &result), 0);
	assert_false(tm_save_gives_way(f.store.store));
	test_store_open(&b, LIMIT * 2, SEGMENT);
	test_pool(&b, TM_POOL_PERSIST, 0, 0);
	assert_int_equal(tape_restore(&b, &f.tape, &result), 0);
	assert_int_equal(model_check(&b, &f.model, 0, true), f.pages);
	test_store_close(&b);
	full_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_still_to_be_sent_gives_way),
		cmocka_unit_test(what_is_being_sent_is_in_nobodys_way),
		cmocka_unit_test(a_client_with_a_fallback_has_its_save),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
