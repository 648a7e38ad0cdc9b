/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_stream.c - stores saved to a stream, at rest and while they change, and restored; damaged
 * streams
 */
#include "core/index.h"
#include "core/store_private.h"
#include "tests/unit/tape.h"

#include <pthread.h>
#include <stdatomic.h>

#define LIMIT   (32u << 20)
#define SEGMENT (256u << 10)

static uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];

static void random_pools_come_back(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= (uint64_t)test_scale(12); seed++) {
		struct model swap = {.order = 0}, cache = {.order = (unsigned int)(seed % 3)};
		struct tape tape = {.size = 0};
		struct tm_move_result result;
		struct test_store a, b;
		uint64_t random = seed, saved;

		test_store_open(&a, LIMIT, SEGMENT);
		swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
		cache.pool = test_pool(&a, 0, cache.order, TM_POOL_RETAIN);
		model_fill(&a, &swap, &random, 2000);
		model_fill(&a, &cache, &random, 200);
		assert_int_equal(tape_save(&a, &tape, seed % 2, &result), 0);
		assert_int_equal(result.bytes, tape.size);
		assert_int_equal(tm_store_check(a.store), 0);
		saved = pages_of(&a, swap.pool) + pages_of(&a, cache.pool);
		assert_int_equal(result.pages, saved);

		test_store_open(&b, LIMIT, SEGMENT * (seed % 2 ? 1 : 4));
		assert_int_equal(test_pool(&b, 0, cache.order, TM_POOL_RETAIN), 0); /* other ids */
		assert_int_equal(test_pool(&b, TM_POOL_PERSIST, 0, 0), 1);
		assert_int_equal(tape_restore(&b, &tape, &result), 0);
		assert_int_equal(result.pages, saved);
		assert_int_equal(result.skipped, 0);
		assert_int_equal(result.bytes, tape.size);
		assert_int_equal(tm_store_check(b.store), 0);
		assert_int_equal(model_check(&b, &swap, 1, true), pages_of(&a, swap.pool));
		assert_int_equal(model_check(&b, &cache, 0, true), pages_of(&a, cache.pool));
		assert_int_equal(
			b.ledger->pools[1].stat[TM_STAT_RAW], a.ledger->pools[0].stat[TM_STAT_RAW]);

		/* It is a store as any other. */
		swap.pool = 1;
		model_fill(&b, &swap, &random, 1000);
		assert_int_equal(tm_store_check(b.store), 0);
		model_check(&b, &swap, 1, true);
		test_store_close(&a);
		test_store_close(&b);
		free(tape.bytes);
	}
}

/* A client that changes while it is saved, between any two frames. */
struct busy {
	struct test_store *t;
	struct model *m;
	uint64_t random;
	int left;
};

static void change_some(void *opaque)
{
	struct busy *b = opaque;

	if (b->left-- > 0)
		model_fill(b->t, b->m, &b->random, 40);
}

static void changes_during_a_live_save_are_in_it(void **state)
{
	struct model swap = {.order = 0};
	struct tape tape = {.on_write = change_some};
	struct tm_move_result result;
	struct test_store a, b;
	struct busy busy = {&a, &swap, 5, 60};

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_fill(&a, &swap, &busy.random, 3000);
	tape.opaque = &busy;
	busy.left = 14; /* all of them before the last frames */
	assert_int_equal(tape_save(&a, &tape, true, &result), 0);
	assert_true(busy.left < 0);

	test_store_open(&b, LIMIT, SEGMENT);
	test_pool(&b, TM_POOL_PERSIST, 0, 0);
	assert_int_equal(tape_restore(&b, &tape, &result), 0);
	assert_int_equal(model_check(&b, &swap, 0, true), pages_of(&a, 0));
	assert_int_equal(result.pages, pages_of(&a, 0));
	assert_int_equal(tm_store_check(a.store), 0);
	assert_int_equal(tm_store_check(b.store), 0);
	test_store_close(&a);
	test_store_close(&b);
	free(tape.bytes);
}

/* Threads that put, flush and make the store clean; each has its own objects. */
struct worker {
	pthread_t thread;
	struct test_store *t;
	struct model *m;
	unsigned int object;
	atomic_bool *stop;
	uint8_t buffer[TM_PAGE_SIZE];
};

static void *work(void *opaque)
{
	struct worker *w = opaque;
	uint64_t random = w->object;

	while (!atomic_load(w->stop)) {
		unsigned int i = (unsigned int)(test_random(&random) % INDEXES);
		bool flush = test_random(&random) % 4 == 0;

		/* Where several make room at a time a put may be refused. */
		if (flush)
			model_put(w->t, w->m, w->object, i, 0, w->buffer);
		else
			model_try_put(
				w->t, w->m, w->object, i, test_random(&random) | 16, w->buffer);
	}
	return NULL;
}

/* With `hold`, what the threads have been answered when the save returns is what was saved: the
 * rest waits. */
static void a_held_save_is_what_was_answered(void **state)
{
	static struct worker workers[OBJECTS];
	struct model swap = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_save_params params = {.live = true, .hold = true, .write = tape_write};
	struct tm_move_result result;
	struct test_store a, b;
	atomic_bool stop = false;
	uint64_t random = 9;

	(void)state;
	test_store_open(&a, 16u << 20, SEGMENT); /* small: it has to clean */
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_fill(&a, &swap, &random, 2000);
	for (unsigned int i = 0; i < OBJECTS; i++) {
		workers[i] = (struct worker){.t = &a, .m = &swap, .object = i, .stop = &stop};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (int round = 0; round < test_scale(6); round++) {
		tape.size = 0;
		params.opaque = &tape;
		assert_int_equal(tm_store_save(a.store, &who, &params, &result), 0);
		test_store_open(&b, LIMIT, SEGMENT);
		test_pool(&b, TM_POOL_PERSIST, 0, 0);
		assert_int_equal(tape_restore(&b, &tape, &result), 0);
		assert_int_equal(pages_of(&b, 0), pages_of(&a, 0));
		/* model_put notes a change after its answer: those under way may be either. */
		for (unsigned int o = 0; o < OBJECTS; o++) {
			struct tm_oid oid = object(o);

			for (unsigned int i = 0; i < INDEXES; i++) {
				int there = tm_store_read(
					a.store, 0, &oid, index_of(i), 0, TM_PAGE_SIZE, page);
				int here = tm_store_read(
					b.store, 0, &oid, index_of(i), 0, TM_PAGE_SIZE, got);

				assert_int_equal(there, here);
				if (there == 0)
					assert_memory_equal(page, got, TM_PAGE_SIZE);
			}
		}
		assert_int_equal(tm_store_check(b.store), 0);
		test_store_close(&b);
		tm_store_resume(a.store, &who);
	}
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < OBJECTS; i++)
		pthread_join(workers[i].thread, NULL);
	assert_int_equal(tm_store_check(a.store), 0);
	model_check(&a, &swap, 0, true);
	test_store_close(&a);
	free(tape.bytes);
}

static void a_cut_or_damaged_stream_changes_nothing(void **state)
{
	struct model swap = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct test_store a, b;
	uint64_t random = 3, used;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_fill(&a, &swap, &random, 500);
	assert_int_equal(tape_save(&a, &tape, false, &result), 0);
	test_store_open(&b, LIMIT, SEGMENT);
	test_pool(&b, TM_POOL_PERSIST, 0, 0);
	used = b.ledger->used_bytes;

	for (int i = 0; i < test_scale(120); i++) {
		struct tape bad = tape;
		size_t at = (size_t)(test_random(&random) % tape.size);
		uint8_t bit = (uint8_t)(1u << i % 8);

		if (i < 20)
			at = (size_t)i * 8; /* of the first headers */
		if (i % 3 == 0)
			bad.size = at;
		else
			tape.bytes[at] ^= bit;
		assert_true(tape_restore(&b, &bad, &result) < 0);
		assert_true(*result.why != '\0');
		assert_int_equal(result.pages, 0);
		if (i % 3 != 0)
			tape.bytes[at] ^= bit;
		assert_int_equal(pages_of(&b, 0), 0);
		assert_int_equal(tm_store_check(b.store), 0);
		tm_store_release(b.store, UINT64_MAX); /* seals, so that empty segments go */
		assert_int_equal(b.ledger->used_bytes, used);
	}
	assert_int_equal(tape_write(&tape, "x", 1), 0); /* something follows */
	assert_int_equal(tape_restore(&b, &tape, &result), -EBADMSG);
	tape.size--;
	assert_int_equal(tape_restore(&b, &tape, &result), 0);
	assert_int_equal(model_check(&b, &swap, 0, true), pages_of(&a, 0));
	assert_int_equal(tape_restore(&b, &tape, &result), -EEXIST); /* not empty any more */
	assert_int_equal(model_check(&b, &swap, 0, true), pages_of(&a, 0));
	test_store_close(&a);
	test_store_close(&b);
	free(tape.bytes);
}

/* Frames in another order, repeated or left out, each of them right by itself. */
static void frames_have_their_place(void **state)
{
	struct model swap = {.order = 0};
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct test_store a, b;
	size_t frame[64], frames = 0;
	uint64_t random = 4;

	(void)state;
	test_store_open(&a, LIMIT, SEGMENT);
	swap.pool = test_pool(&a, TM_POOL_PERSIST, 0, 0);
	model_fill(&a, &swap, &random, 2000);
	assert_int_equal(tape_save(&a, &tape, false, &result), 0);
	test_store_open(&b, LIMIT, SEGMENT);
	test_pool(&b, TM_POOL_PERSIST, 0, 0);
	for (size_t at = 16; at < tape.size && frames < TM_ARRAY_SIZE(frame); frames++) {
		uint32_t bytes;

		frame[frames] = at;
		memcpy(&bytes, tape.bytes + at + 4, sizeof(bytes));
		at += 16 + bytes;
	}
	assert_true(frames > 6);
	for (size_t i = 1; i + 2 < frames; i++) {
		size_t first = frame[i + 1] - frame[i], second = frame[i + 2] - frame[i + 1];
		struct tape bad = {.size = 0};

		tape_write(&bad, tape.bytes, frame[i]);
		if (i % 3 != 0) /* else it is left out */
			tape_write(&bad, tape.bytes + frame[i + 1], second);
		if (i % 3 != 1) /* else it is moved */
			tape_write(&bad, tape.bytes + frame[i + 1], second);
		else
			tape_write(&bad, tape.bytes + frame[i], first);
		tape_write(&bad, tape.bytes + frame[i + 2], tape.size - frame[i + 2]);
		assert_int_equal(tape_restore(&b, &bad, &result), -EBADMSG);
		assert_int_equal(pages_of(&b, 0), 0);
		free(bad.bytes);
	}
	test_store_close(&a);
	test_store_close(&b);
	free(tape.bytes);
}

/* Of a flood of changes not all fit the table of changes, and a save says so instead of forgetting
 * one. */
static void more_changes_than_can_be_noted(void **state)
{
	struct tm_changes *changes;
	struct tm_changed_run run = {.pages = 0};
	const struct tm_changed_run *taken;
	uint64_t places, found = 0;
	bool overflow;

	(void)state;
	assert_int_equal(tm_changes_create(1, &changes), 0);
	for (uint32_t i = 0; i < 512; i++) {
		run.hash = i / 2; /* collisions */
		run.run = i;
		tm_changes_note(changes, &run, i % 64);
		tm_changes_note(changes, &run, i % 64);
	}
	assert_int_equal(tm_changes_count(changes, &overflow), 512);
	assert_false(overflow);
	taken = tm_changes_take(changes, &places);
	for (uint64_t i = 0; i < places; i++)
		found += taken[i].pages != 0 && taken[i].pages == 1ull << taken[i].run % 64;
	assert_int_equal(found, 512);
	assert_int_equal(tm_changes_count(changes, &overflow), 0);
	for (uint32_t i = 0; i < 513; i++) {
		run.hash = run.run = i;
		tm_changes_note(changes, &run, 0);
	}
	tm_changes_count(changes, &overflow);
	assert_true(overflow);
	tm_changes_destroy(changes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_pools_come_back),
		cmocka_unit_test(changes_during_a_live_save_are_in_it),
		cmocka_unit_test(a_held_save_is_what_was_answered),
		cmocka_unit_test(a_cut_or_damaged_stream_changes_nothing),
		cmocka_unit_test(frames_have_their_place),
		cmocka_unit_test(more_changes_than_can_be_noted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
