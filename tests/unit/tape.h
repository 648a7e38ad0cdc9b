/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tape.h - a stream in memory, stores saved to it and restored from it, and what must come back
 *
 * The model: for each page the seed it was last put with, or none. What a restored store has is
 * compared with what the saved one had at the moment of the save, page by page.
 */
#ifndef TM_TEST_TAPE_H
#define TM_TEST_TAPE_H

#include "tests/unit/pages.h"

#include "core/move.h"

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

static inline int tape_write(void *opaque, const void *data, size_t bytes)
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

static inline int64_t tape_read(void *opaque, void *ret_data, size_t bytes)
{
	struct tape *t = opaque;
	size_t n = TM_MIN(bytes, t->size - t->at);

	n = TM_MIN(n, (size_t)4096); /* as a pipe gives it */
	memcpy(ret_data, t->bytes + t->at, n);
	t->at += n;
	return (int64_t)n;
}

static inline int tape_save(
	struct test_store *t, struct tape *tape, bool live, struct tm_move_result *ret)
{
	struct tm_save_params params = {.live = live, .write = tape_write, .opaque = tape};

	return tm_store_save(t->store, &who, &params, ret);
}

static inline int tape_restore(struct test_store *t, struct tape *tape, struct tm_move_result *ret)
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

static uint8_t tape_page[65536], tape_got[65536];

static inline struct tm_oid object(unsigned int n)
{
	return (struct tm_oid){{n / 3, n, 77}};
}

static inline uint32_t index_of(unsigned int n)
{
	return n * (n % 5 == 0 ? 1 : 641); /* some runs full, most with a page or two */
}

/* False: refused for want of room, and then the page is gone. */
static inline bool model_try_put(struct test_store *t, struct model *m, unsigned int o,
	unsigned int i, uint64_t seed, uint8_t *buffer)
{
	struct tm_oid oid = object(o);
	int rc;

	test_page(seed, buffer, TM_PAGE_SIZE << m->order);
	rc = tm_store_put(t->store, m->pool, &oid, index_of(i), buffer);
	assert_true(rc == 0 || rc == -ENOMEM);
	m->seed[o][i] = rc == 0 ? seed : 0;
	return rc == 0;
}

static inline void model_put(struct test_store *t, struct model *m, unsigned int o, unsigned int i,
	uint64_t seed, uint8_t *buffer)
{
	struct tm_oid oid = object(o);

	if (seed) {
		assert_true(model_try_put(t, m, o, i, seed, buffer));
	} else {
		assert_int_equal(tm_store_flush_page(t->store, m->pool, &oid, index_of(i)), 0);
	}
	m->seed[o][i] = seed;
}

static inline void model_fill(struct test_store *t, struct model *m, uint64_t *random, int n)
{
	while (n-- > 0) {
		unsigned int o = (unsigned int)(test_random(random) % OBJECTS);
		unsigned int i = (unsigned int)(test_random(random) % INDEXES);
		bool flush = test_random(random) % 8 == 0;

		model_put(t, m, o, i, flush ? 0 : test_random(random) | 16, tape_page);
	}
}

/* `exact`: all of it is there; else what is there is right. Returns how many pages are. */
static inline uint64_t model_check(
	struct test_store *t, const struct model *m, int pool, bool exact)
{
	uint64_t pages = 0;

	for (unsigned int o = 0; o < OBJECTS; o++) {
		struct tm_oid oid = object(o);

		for (unsigned int i = 0; i < INDEXES; i++) {
			int rc = tm_store_read(t->store, pool, &oid, index_of(i), 0,
				TM_PAGE_SIZE << m->order, tape_got);

			if (rc == -ENOENT && !(exact && m->seed[o][i]))
				continue;
			assert_int_equal(rc, 0);
			assert_true(m->seed[o][i] != 0);
			test_page(m->seed[o][i], tape_page, TM_PAGE_SIZE << m->order);
			assert_memory_equal(tape_got, tape_page, TM_PAGE_SIZE << m->order);
			pages++;
		}
	}
	return pages;
}

static inline uint64_t pages_of(struct test_store *t, int pool)
{
	return t->ledger->pools[pool].stat[TM_STAT_PAGES];
}

#endif
