/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_stream.c - stores saved to a stream in memory and restored from it
 *
 * The model: for each page the seed it was last put with, or none. What a restored store has is
 * compared with what the saved one had at the moment of the save, page by page.
 */
#include "core/index.h"
#include "core/move.h"
#include "core/store_private.h"
#include "tests/unit/pages.h"

#include <pthread.h>
#include <stdatomic.h>

#define LIMIT   (32u << 20)
#define SEGMENT (256u << 10)
#define OBJECTS 7
#define INDEXES 700

static const struct tm_move_params who = {.name = "one", .type = "test"};

/* --- a stream in memory ----------------------------------------------------------------------- */

struct tape {
	uint8_t *bytes;
	size_t size, room, at;
	size_t fail_at;                 /* writing: -EPIPE from this byte on; 0: never */
	void (*on_write)(void *opaque); /* called by the saver between two frames */
	void *opaque;
};

static int tape_write(void *opaque, const void *data, size_t bytes)
{
	struct tape *t = opaque;

	if (t->fail_at && t->size + bytes > t->fail_at)
		return -EPIPE;
	if (t->size + bytes > t->room) {
		t->room = (t->size + bytes) * 2;
		t->bytes = realloc(t->bytes, t->room);
		assert_non_null(t->bytes);
	}
	memcpy(t->bytes + t->size, data, bytes);
	t->size += bytes;
	if (t->on_write)
		t->on_write(t->opaque);
	return 0;
}

static int64_t tape_read(void *opaque, void *ret_data, size_t bytes)
{
	struct tape *t = opaque;
	size_t n = TM_MIN(bytes, t->size - t->at);

	n = TM_MIN(n, (size_t)4096); /* as a pipe gives it */
	memcpy(ret_data, t->bytes + t->at, n);
	t->at += n;
	return (int64_t)n;
}

static int save(struct test_store *t, struct tape *tape, bool live, struct tm_move_result *ret)
{
	struct tm_save_params params = {.live = live, .write = tape_write, .opaque = tape};

	return tm_store_save(t->store, &who, &params, ret);
}

static int restore(struct test_store *t, struct tape *tape, struct tm_move_result *ret)
{
	tape->at = 0;
	return tm_store_restore(t->store, &who, tape_read, tape, ret);
}

/* --- the model -------------------------------------------------------------------------------- */

struct model {
	int pool;
	unsigned int order;
	_Atomic uint64_t seed[OBJECTS][INDEXES]; /* 0: no page */
};

static uint8_t page[65536], got[65536];

static struct tm_oid object(unsigned int n)
{
	return (struct tm_oid){{n / 3, n, 77}};
}

static uint32_t index_of(unsigned int n)
{
	return n * (n % 5 == 0 ? 1 : 641); /* some runs full, most with a page or two */
}

static void model_put(struct test_store *t, struct model *m, unsigned int o, unsigned int i,
	uint64_t seed, uint8_t *buffer)
{
	struct tm_oid oid = object(o);

	if (seed) {
		test_page(seed, buffer, TM_PAGE_SIZE << m->order);
		assert_int_equal(tm_store_put(t->store, m->pool, &oid, index_of(i), buffer), 0);
	} else {
		assert_int_equal(tm_store_flush_page(t->store, m->pool, &oid, index_of(i)), 0);
	}
	m->seed[o][i] = seed;
}

static void model_fill(struct test_store *t, struct model *m, uint64_t *random, int n)
{
	while (n-- > 0) {
		unsigned int o = (unsigned int)(test_random(random) % OBJECTS);
		unsigned int i = (unsigned int)(test_random(random) % INDEXES);
		bool flush = test_random(random) % 8 == 0;

		model_put(t, m, o, i, flush ? 0 : test_random(random) | 16, page);
	}
}

/* `exact`: all of it is there; else what is there is right. Returns how many pages are. */
static uint64_t model_check(struct test_store *t, const struct model *m, int pool, bool exact)
{
	uint64_t pages = 0;

	for (unsigned int o = 0; o < OBJECTS; o++) {
		struct tm_oid oid = object(o);

		for (unsigned int i = 0; i < INDEXES; i++) {
			int rc = tm_store_read(t->store, pool, &oid, index_of(i), 0,
				TM_PAGE_SIZE << m->order, got);

			if (rc == -ENOENT && !(exact && m->seed[o][i]))
				continue;
			assert_int_equal(rc, 0);
			assert_true(m->seed[o][i] != 0);
			test_page(m->seed[o][i], page, TM_PAGE_SIZE << m->order);
			assert_memory_equal(got, page, TM_PAGE_SIZE << m->order);
			pages++;
		}
	}
	return pages;
}

static uint64_t pages_of(struct test_store *t, int pool)
{
	return t->ledger->pools[pool].stat[TM_STAT_PAGES];
}

/* --- tests ------------------------------------------------------------------------------------ */

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
		assert_int_equal(save(&a, &tape, seed % 2, &result), 0);
		assert_int_equal(result.bytes, tape.size);
		assert_int_equal(tm_store_check(a.store), 0);
		saved = pages_of(&a, swap.pool) + pages_of(&a, cache.pool);
		assert_int_equal(result.pages, saved);

		test_store_open(&b, LIMIT, SEGMENT * (seed % 2 ? 1 : 4));
		assert_int_equal(test_pool(&b, 0, cache.order, TM_POOL_RETAIN), 0); /* other ids */
		assert_int_equal(test_pool(&b, TM_POOL_PERSIST, 0, 0), 1);
		assert_int_equal(restore(&b, &tape, &result), 0);
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
	assert_int_equal(save(&a, &tape, true, &result), 0);
	assert_true(busy.left < 0);

	test_store_open(&b, LIMIT, SEGMENT);
	test_pool(&b, TM_POOL_PERSIST, 0, 0);
	assert_int_equal(restore(&b, &tape, &result), 0);
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

		model_put(
			w->t, w->m, w->object, i, flush ? 0 : test_random(&random) | 16, w->buffer);
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
		assert_int_equal(restore(&b, &tape, &result), 0);
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
		tm_store_resume(a.store);
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
	assert_int_equal(save(&a, &tape, false, &result), 0);
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
		assert_true(restore(&b, &bad, &result) < 0);
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
	assert_int_equal(restore(&b, &tape, &result), -EBADMSG);
	tape.size--;
	assert_int_equal(restore(&b, &tape, &result), 0);
	assert_int_equal(model_check(&b, &swap, 0, true), pages_of(&a, 0));
	assert_int_equal(restore(&b, &tape, &result), -EEXIST); /* not empty any more */
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
	assert_int_equal(save(&a, &tape, false, &result), 0);
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
		assert_int_equal(restore(&b, &bad, &result), -EBADMSG);
		assert_int_equal(pages_of(&b, 0), 0);
		free(bad.bytes);
	}
	test_store_close(&a);
	test_store_close(&b);
	free(tape.bytes);
}

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
	assert_int_equal(save(&a, &tape, false, &result), 0);

	test_store_open(&b, TM_LIMIT_MIN, SEGMENT); /* too small */
	assert_int_equal(test_pool(&b, 0, 0, 0), 0);
	assert_int_equal(restore(&b, &tape, &result), -EINVAL); /* no such pool */
	assert_int_equal(test_pool(&b, TM_POOL_PERSIST, 1, 0), 1);
	assert_int_equal(restore(&b, &tape, &result), -EINVAL); /* nor page size */
	assert_int_equal(test_pool(&b, TM_POOL_PERSIST, 0, 0), 2);
	assert_int_equal(restore(&b, &tape, &result), -ENOSPC);
	assert_int_equal(pages_of(&b, 2), 0);
	assert_int_equal(tm_store_check(b.store), 0);
	tape.at = 0;
	assert_int_equal(tm_store_restore(b.store, &other, tape_read, &tape, &result), -EINVAL);
	tape.bytes[8]++; /* the version */
	assert_int_equal(restore(&b, &tape, &result), -EPROTO);
	tape.size = 0;
	assert_int_equal(restore(&b, &tape, &result), -ENOMSG);
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
	assert_int_equal(save(&a, &tape, false, &result), 0);
	for (int i = 1; i<1500; i += test_scale(1)> 1 ? 1 : 7) {
		struct tm_store_params params = {.limit = LIMIT,
			.segment_bytes = SEGMENT,
			.refuse = i % 2 ? refuse_all : refuse_one};
		int rc;

		refusals = 0;
		test_store_open_as(&b, params);
		test_pool(&b, TM_POOL_PERSIST, 0, 0);
		refusals = i;
		rc = restore(&b, &tape, &result);
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
	assert_int_equal(save(&a, &tape, true, &result), 0);
	assert_int_equal(restore(&a, &tape, &result), 0); /* into the very life it comes from */
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
	assert_int_equal(restore(&a, &tape, &result), 0);
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
	assert_int_equal(restore(&a, &tape, &result), 0); /* a second time brings nothing */
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
	assert_int_equal(save(&a, &tape, true, &result), 0);
	test_store_open(&b, TM_LIMIT_MIN, SEGMENT);
	test_pool(&b, 0, 0, TM_POOL_RETAIN);
	assert_int_equal(restore(&b, &tape, &result), 0);
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
	assert_int_equal(save(&a, &tape, true, &result), -EIO);
	test_store_close(&a);
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
		cmocka_unit_test(what_does_not_fit_is_refused),
		cmocka_unit_test(without_memory_it_is_all_or_nothing),
		cmocka_unit_test(a_cache_does_not_remember_what_it_was_told_to_forget),
		cmocka_unit_test(a_smaller_cache_takes_what_it_can),
		cmocka_unit_test(a_reader_that_goes_away_leaves_the_source_as_it_was),
		cmocka_unit_test(a_damaged_page_is_not_saved),
		cmocka_unit_test(more_changes_than_can_be_noted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
