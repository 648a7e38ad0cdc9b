/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_threads.c - the store against a trivial reference, from many threads at once
 *
 * On handles of their own, on the same handles, on pools that come and go.
 */
#include "tests/unit/reference.h"

#include <pthread.h>
#include <sched.h>

#define THREADS 8

struct worker {
	struct model *m;   /* shared store; its reference is touched by handle's owner only */
	struct model *own; /* private buffers and random state */
	unsigned int number;
	int steps;
};

/* As one_step, on the handles whose index is this thread's, without what touches others' handles.
 */
static void *own_handles(void *arg)
{
	struct worker *w = arg;
	struct model *m = w->own;

	for (int n = 0; n < w->steps; n++) {
		unsigned int k = test_random(&m->random) % KINDS,
			     o = test_random(&m->random) % OBJECTS;
		unsigned int i =
			test_random(&m->random) % (INDEXES / THREADS) * THREADS + w->number;
		unsigned int op = test_random(&m->random) % 100;

		if (op < 45)
			do_put(m, k, o, i);
		else if (op < 80)
			do_get(m, k, o, i);
		else if (op < 92)
			do_range(m, k, o, i, op % 3);
		else
			do_flush(m, k, o, i, false);
	}
	return NULL;
}

static void threads_on_their_own_handles_do_not_meet(void **state)
{
	struct model *m = model_open(state);
	struct worker w[THREADS];
	pthread_t id[THREADS];

	for (unsigned int i = 0; i < THREADS; i++) {
		/* Each thread has a reference of its own, and the store in common. */
		struct model *own = calloc(1, sizeof(*own));

		own->t = m->t;
		own->random = i + 1;
		memcpy(own->pool, m->pool, sizeof(own->pool));
		w[i] = (struct worker){m, own, i, test_scale(60000)};
		assert_int_equal(pthread_create(&id[i], NULL, own_handles, &w[i]), 0);
	}
	for (int i = 0; i < test_scale(4000); i++) {
		do_policy(m);
		sched_yield();
	}
	atomic_store(&m->t.ledger->frozen, 0);
	atomic_store(&m->t.ledger->granted_bytes, UINT64_MAX);
	for (unsigned int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(id[i], NULL), 0);
		for (unsigned int k = 0; k < KINDS; k++)
			for (unsigned int o = 0; o < OBJECTS; o++)
				for (unsigned int n = i; n < INDEXES; n += THREADS) {
					do_get(w[i].own, k, o, n);
					forget(&w[i].own->ref[k][o][n]);
				}
		free(w[i].own);
	}
	model_close(m);
}

/* Versions are pages whose every word is the version: a torn or mixed page shows. */
static void *same_handles(void *arg)
{
	struct worker *w = arg;
	struct tm_oid oid = oid_of(0);
	uint64_t page[TM_PAGE_SIZE / 8], random = w->number;

	for (int n = 0; n < w->steps; n++) {
		uint32_t index = (uint32_t)(test_random(&random) % 4);
		int rc = 0;

		switch (test_random(&random) % 8) {
		case 0:
		case 1:
		case 2:
			for (size_t i = 0; i < TM_ARRAY_SIZE(page); i++)
				page[i] = (uint64_t)w->number << 32 | (unsigned int)n << 8 | i % 7;
			rc = tm_store_put(w->m->t.store, w->m->pool[0], &oid, index, page);
			break;
		case 3:
			rc = tm_store_flush_page(w->m->t.store, w->m->pool[0], &oid, index);
			break;
		case 4:
			rc = tm_store_flush_object(w->m->t.store, w->m->pool[0], &oid);
			break;
		case 5: /* exchange a range with itself: must change nothing */
			rc = tm_store_read(w->m->t.store, w->m->pool[0], &oid, index, 0, 56, page);
			break;
		default:
			rc = tm_store_get(w->m->t.store, w->m->pool[0], &oid, index, page);
			if (rc < 0)
				break;
			for (size_t i = 0; i < TM_ARRAY_SIZE(page); i++)
				assert_int_equal(page[i], page[0] + i % 7);
		}
		assert_true(rc == 0 || rc == -ENOENT || rc == -ENOMEM);
	}
	return NULL;
}

static void threads_on_the_same_handles_see_whole_pages(void **state)
{
	struct model *m = model_open(state);
	struct worker w[THREADS];
	pthread_t id[THREADS];

	for (unsigned int i = 0; i < THREADS; i++) {
		w[i] = (struct worker){m, NULL, i + 1, test_scale(80000)};
		assert_int_equal(pthread_create(&id[i], NULL, same_handles, &w[i]), 0);
	}
	for (unsigned int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(id[i], NULL), 0);
	model_close(m);
}

/* Atomic counters in one page, by xchg-free read-modify-write: writes of single bytes never get
 * lost. */
static void *count_bytes(void *arg)
{
	struct worker *w = arg;
	struct tm_oid oid = oid_of(0);
	uint8_t byte;

	for (int n = 1; n <= w->steps; n++) {
		byte = (uint8_t)n;
		while (tm_store_write(w->m->t.store, w->m->pool[0], &oid, 0, w->number, 1, &byte) <
			0)
			;
	}
	return NULL;
}

static void concurrent_writes_to_one_page_are_all_kept(void **state)
{
	struct model *m = model_open(state);
	struct tm_oid oid = oid_of(0);
	struct worker w[THREADS];
	pthread_t id[THREADS];

	memset(m->page, 0, TM_PAGE_SIZE);
	assert_int_equal(tm_store_put(m->t.store, m->pool[0], &oid, 0, m->page), 0);
	for (unsigned int i = 0; i < THREADS; i++) {
		w[i] = (struct worker){m, NULL, i, test_scale(20000)};
		assert_int_equal(pthread_create(&id[i], NULL, count_bytes, &w[i]), 0);
	}
	for (unsigned int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(id[i], NULL), 0);
	assert_int_equal(tm_store_get(m->t.store, m->pool[0], &oid, 0, m->got), 0);
	for (unsigned int i = 0; i < THREADS; i++)
		assert_int_equal(m->got[i], (uint8_t)test_scale(20000));
	model_close(m);
}

/* Pools come and go under threads that use them. */
static void *use_any_pool(void *arg)
{
	struct worker *w = arg;
	struct tm_oid oid = oid_of(1);
	uint64_t random = w->number;
	static _Thread_local uint8_t page[65536];

	for (int n = 0; n < w->steps; n++) {
		int pool = (int)(test_random(&random) % TM_POOLS_MAX), rc;
		uint32_t index = (uint32_t)(test_random(&random) % 64);

		if (n % 2)
			rc = tm_store_put(w->m->t.store, pool, &oid, index, page);
		else
			rc = tm_store_get(w->m->t.store, pool, &oid, index, page);
		assert_true(rc == 0 || rc == -ENOENT || rc == -ENOMEM);
	}
	return NULL;
}

static void pools_can_be_destroyed_under_load(void **state)
{
	struct model *m = model_open(state);
	struct worker w[THREADS];
	pthread_t id[THREADS];

	for (unsigned int i = 0; i < THREADS; i++) {
		w[i] = (struct worker){m, NULL, i + 1, test_scale(100000)};
		assert_int_equal(pthread_create(&id[i], NULL, use_any_pool, &w[i]), 0);
	}
	for (int i = 0; i < test_scale(2000); i++) {
		unsigned int k = (unsigned int)i % KINDS;

		assert_int_equal(tm_store_destroy_pool(m->t.store, m->pool[k]), 0);
		m->pool[k] = test_pool(&m->t, kinds[k].flags, kinds[k].order, 0);
		assert_true(m->pool[k] >= 0);
	}
	for (unsigned int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(id[i], NULL), 0);
	model_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_on_their_own_handles_do_not_meet),
		cmocka_unit_test(threads_on_the_same_handles_see_whole_pages),
		cmocka_unit_test(concurrent_writes_to_one_page_are_all_kept),
		cmocka_unit_test(pools_can_be_destroyed_under_load),
		ahead(threads_on_their_own_handles_do_not_meet),
		ahead(pools_can_be_destroyed_under_load),
		resident(threads_on_their_own_handles_do_not_meet),
		resident(concurrent_writes_to_one_page_are_all_kept),
	};

	/* A failed assertion in a thread cannot jump back into the test: let it abort. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
