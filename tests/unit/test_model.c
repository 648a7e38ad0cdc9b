/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_model.c - the store against a trivial reference
 *
 * Random operations on a few handles of four pools, in a store so small that it evicts and cleans
 * all the time, beside an array that says what each handle must hold. Then the same with every
 * charge of the budget (segment, leaf, slot array, object, hash table) made to fail in turn, then
 * with several threads on handles of their own, and with several threads on the same handles. A
 * store does the same with a thread that works ahead, recompresses what is a millisecond old and
 * closes up holes all the time, and as a resident one that does.
 */
#include "core/store_private.h"
#include "tests/unit/pages.h"

#include <pthread.h>
#include <sched.h>

#define LIMIT   (4u << 20)
#define SEGMENT (256u << 10)
#define OBJECTS 3
#define INDEXES 96

/* Pools of every kind that behaves differently. */
static const struct kind {
	uint32_t flags;
	unsigned int order;
	uint32_t attrs;
	bool persistent, exclusive;
} kinds[] = {
	{TM_POOL_PERSIST, 0, 0, true, false},
	{0, 1, 0, false, true},
	{0, 0, TM_POOL_RETAIN, false, false},
	{TM_POOL_PERSIST, 2, TM_POOL_REFUSE_RAW, true, false},
	{0, 4, TM_POOL_RETAIN, false, false},
	{0, 0, TM_POOL_RETAIN | TM_POOL_DEDUP, false, false},
};
#define KINDS TM_ARRAY_SIZE(kinds)

/* What a handle holds: `seed` of its page, and what was written over it. */
struct ref {
	bool present;
	bool maybe; /* ephemeral: may have vanished, but if it is there it is this */
	uint8_t *page;
};

struct model {
	struct test_store t;
	int pool[KINDS];
	struct ref ref[KINDS][OBJECTS][INDEXES];
	uint64_t random;
	uint8_t page[65536], got[65536];

	/* Fault injection: the n-th charge from now is refused; -1 none. */
	_Atomic long refuse_in;
	_Atomic bool refused;
};

static bool refuse(void *opaque)
{
	struct model *m = opaque;

	if (m->refuse_in < 0 || m->refuse_in-- != 0)
		return false;
	m->refused = true;
	return true;
}

static struct tm_oid oid_of(unsigned int object)
{
	return (struct tm_oid){{7, object == 1, object == 2}};
}

/* Dense runs, sparse ones and the last page there is. */
static uint32_t index_of(unsigned int i)
{
	return i < 70 ? i : i < 90 ? i * 1000 : UINT32_MAX - (INDEXES - 1 - i);
}

static uint32_t bytes_of(unsigned int k)
{
	return TM_PAGE_SIZE << kinds[k].order;
}

enum mode {
	ALONE,
	AHEAD,
	RESIDENT,
};

static struct model *model_open(void **state)
{
	enum mode mode = *state ? *(enum mode *)*state : ALONE;
	struct model *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	m->refuse_in = -1;
	test_store_open_as(&m->t,
		(struct tm_store_params){
			.limit = LIMIT,
			.segment_bytes = SEGMENT,
			.keeper = mode != ALONE,
			.resident = mode == RESIDENT,
			.patience_ms = 2,
			.recompress = true,
			.upkeep_percent = 100,
			.cold_ms = 1,
			.refuse = refuse,
			.opaque = m,
		});
	for (unsigned int k = 0; k < KINDS; k++)
		m->pool[k] = test_pool(&m->t, kinds[k].flags, kinds[k].order, kinds[k].attrs);
	return m;
}

static void forget(struct ref *r)
{
	free(r->page);
	memset(r, 0, sizeof(*r));
}

/* Lowered grants may leave more in use than granted; everything else holds at any time that nobody
 * is working: the keeper rests until it was done. */
static void check(struct model *m)
{
	atomic_store(&m->t.ledger->granted_bytes, UINT64_MAX);
	tm_keeper_pause(m->t.store->keeper, true);
	assert_int_equal(tm_store_check(m->t.store), 0);
	tm_keeper_pause(m->t.store->keeper, false);
}

static void model_close(struct model *m)
{
	check(m);
	for (unsigned int k = 0; k < KINDS; k++)
		for (unsigned int o = 0; o < OBJECTS; o++)
			for (unsigned int i = 0; i < INDEXES; i++)
				forget(&m->ref[k][o][i]);
	test_store_close(&m->t);
	free(m);
}

static void remember(struct ref *r, unsigned int k, const uint8_t *page)
{
	if (!r->page)
		r->page = malloc(bytes_of(k));
	memcpy(r->page, page, bytes_of(k));
	r->present = true;
	r->maybe = !kinds[k].persistent;
}

/* A get, read or write missed: right only where the page was never promised. */
static void check_miss(struct ref *r)
{
	assert_true(!r->present || r->maybe);
	forget(r); /* and a miss stays a miss */
}

static void check_hit(const struct ref *r, const uint8_t *got, uint32_t offset, uint32_t length)
{
	assert_true(r->present);
	assert_memory_equal(got, r->page + offset, length);
}

static void do_put(struct model *m, unsigned int k, unsigned int o, unsigned int i)
{
	uint64_t seed = test_random(&m->random);
	struct tm_oid oid = oid_of(o);
	int rc;

	if (kinds[k].attrs & TM_POOL_DEDUP)
		seed %= 100; /* so that many are equal */
	test_page(seed, m->page, bytes_of(k));
	rc = tm_store_put(m->t.store, m->pool[k], &oid, index_of(i), m->page);
	assert_true(rc == 0 || rc == -ENOMEM || rc == -EBUSY || rc == -E2BIG);
	if (rc == 0)
		remember(&m->ref[k][o][i], k, m->page);
	else
		forget(&m->ref[k][o][i]);
}

static void do_get(struct model *m, unsigned int k, unsigned int o, unsigned int i)
{
	struct ref *r = &m->ref[k][o][i];
	struct tm_oid oid = oid_of(o);
	int rc = tm_store_get(m->t.store, m->pool[k], &oid, index_of(i), m->got);

	if (rc == 0)
		check_hit(r, m->got, 0, bytes_of(k));
	else
		assert_int_equal(rc, -ENOENT);
	if (rc < 0)
		check_miss(r);
	else if (kinds[k].exclusive)
		forget(r);
}

static void do_range(
	struct model *m, unsigned int k, unsigned int o, unsigned int i, unsigned int op)
{
	struct ref *r = &m->ref[k][o][i];
	struct tm_oid oid = oid_of(o);
	uint32_t offset = (uint32_t)(test_random(&m->random) % bytes_of(k));
	uint32_t length = (uint32_t)(test_random(&m->random) % (bytes_of(k) - offset + 1));
	int rc;

	test_page(test_random(&m->random), m->page, bytes_of(k));
	memcpy(m->got, m->page, length);
	if (op == 0)
		rc = tm_store_read(
			m->t.store, m->pool[k], &oid, index_of(i), offset, length, m->got);
	else if (op == 1)
		rc = tm_store_write(
			m->t.store, m->pool[k], &oid, index_of(i), offset, length, m->page);
	else
		rc = tm_store_xchg(
			m->t.store, m->pool[k], &oid, index_of(i), offset, length, m->got);
	if (rc == -ENOENT) {
		check_miss(r);
		return;
	}
	if (rc < 0) { /* refused: the page is as it was */
		assert_true(op != 0 && (rc == -ENOMEM || rc == -EBUSY || rc == -E2BIG));
		assert_memory_equal(m->got, m->page, length);
		assert_true(r->present);
		return;
	}
	if (op != 1)
		check_hit(r, m->got, offset, length);
	assert_true(r->present);
	if (op != 0)
		memcpy(r->page + offset, m->page, length);
}

static void do_flush(struct model *m, unsigned int k, unsigned int o, unsigned int i, bool object)
{
	struct tm_oid oid = oid_of(o);

	if (!object) {
		assert_int_equal(tm_store_flush_page(m->t.store, m->pool[k], &oid, index_of(i)), 0);
		forget(&m->ref[k][o][i]);
		return;
	}
	assert_int_equal(tm_store_flush_object(m->t.store, m->pool[k], &oid), 0);
	for (i = 0; i < INDEXES; i++)
		forget(&m->ref[k][o][i]);
}

static void do_new_pool(struct model *m, unsigned int k)
{
	int rc;

	assert_int_equal(tm_store_destroy_pool(m->t.store, m->pool[k]), 0);
	for (unsigned int o = 0; o < OBJECTS; o++)
		for (unsigned int i = 0; i < INDEXES; i++)
			forget(&m->ref[k][o][i]);
	rc = test_pool(&m->t, kinds[k].flags, kinds[k].order, kinds[k].attrs);
	if (rc == -ENOMEM) { /* injected, or nothing granted */
		m->refuse_in = -1;
		atomic_store(&m->t.ledger->granted_bytes, UINT64_MAX);
		rc = test_pool(&m->t, kinds[k].flags, kinds[k].order, kinds[k].attrs);
	}
	m->pool[k] = rc;
	assert_in_range(rc, 0, TM_POOLS_MAX - 1);
}

static void do_policy(struct model *m)
{
	switch (test_random(&m->random) % 6) {
	case 0:
		atomic_store(&m->t.ledger->frozen, 1);
		break;
	case 1:
	case 2:
		atomic_store(&m->t.ledger->frozen, 0);
		break;
	case 3:
		tm_store_release(m->t.store, test_random(&m->random) % LIMIT);
		break;
	case 4:
		atomic_store(&m->t.ledger->granted_bytes, test_random(&m->random) % LIMIT);
		tm_store_shrink(m->t.store);
		break;
	default:
		atomic_store(&m->t.ledger->granted_bytes, UINT64_MAX);
	}
}

static void one_step(struct model *m)
{
	unsigned int k = test_random(&m->random) % KINDS, o = test_random(&m->random) % OBJECTS;
	unsigned int i = test_random(&m->random) % INDEXES, op = test_random(&m->random) % 1000;

	if (op < 450)
		do_put(m, k, o, i);
	else if (op < 800)
		do_get(m, k, o, i);
	else if (op < 900)
		do_range(m, k, o, i, op % 3);
	else if (op < 985)
		do_flush(m, k, o, i, false);
	else if (op < 990)
		do_flush(m, k, o, i, true);
	else if (op < 991)
		do_new_pool(m, k);
	else
		do_policy(m);
}

/* After every step in the builds that look for errors, where no keeper has to be stopped for it. */
static void random_operations_match_the_reference(void **state)
{
	struct model *m = model_open(state);
	const char *variant = getenv("TM_TEST_VARIANT");
	int every = variant && *variant && !m->t.store->keeper ? 1 : 500;

	for (int i = 0; i < test_scale(200000); i++) {
		one_step(m);
		if (i % every == 0)
			check(m);
	}
	model_close(m);
}

/* Refuse the n-th charge after a random moment, for each n that a few operations can reach. */
static void each_refused_allocation_changes_nothing_else(void **state)
{
	struct model *m = model_open(state);
	long reached = 0;

	for (int round = 0; round < test_scale(3000); round++) {
		m->random = (uint64_t)round;
		m->refused = false;
		m->refuse_in = round % 40;
		for (int i = 0; i < 60; i++)
			one_step(m);
		reached += m->refused;
		m->refuse_in = -1;
		if (round % 20 == 0)
			check(m);
	}
	assert_true(reached > test_scale(3000) / 4); /* the faults were really met */
	model_close(m);
}

/* Every charge from the first on is refused: nothing is stored, nothing breaks. */
static void a_store_without_any_memory_is_empty(void **state)
{
	struct model *m = model_open(state);

	m->t.ledger->granted_bytes = 0;
	for (int i = 0; i < 1000; i++)
		do_put(m, (unsigned int)i % KINDS, 0, (unsigned int)i % INDEXES);
	for (unsigned int k = 0; k < KINDS; k++)
		assert_int_equal(m->t.ledger->pools[m->pool[k]].stat[TM_STAT_PAGES], 0);
	m->t.ledger->granted_bytes = UINT64_MAX;
	model_close(m);
}

/* --- threads -------------------------------------------------------------------------------- */

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

#define ahead(test)                                                                                \
	{                                                                                          \
#test ", working ahead", test, NULL, NULL, &(enum mode)                            \
		{                                                                                  \
			AHEAD                                                                      \
		}                                                                                  \
	}
#define resident(test)                                                                             \
	{                                                                                          \
#test ", resident", test, NULL, NULL, &(enum mode)                                 \
		{                                                                                  \
			RESIDENT                                                                   \
		}                                                                                  \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations_match_the_reference),
		cmocka_unit_test(each_refused_allocation_changes_nothing_else),
		cmocka_unit_test(a_store_without_any_memory_is_empty),
		cmocka_unit_test(threads_on_their_own_handles_do_not_meet),
		cmocka_unit_test(threads_on_the_same_handles_see_whole_pages),
		cmocka_unit_test(concurrent_writes_to_one_page_are_all_kept),
		cmocka_unit_test(pools_can_be_destroyed_under_load),
		ahead(random_operations_match_the_reference),
		ahead(each_refused_allocation_changes_nothing_else),
		ahead(threads_on_their_own_handles_do_not_meet),
		ahead(pools_can_be_destroyed_under_load),
		resident(random_operations_match_the_reference),
		resident(each_refused_allocation_changes_nothing_else),
		resident(threads_on_their_own_handles_do_not_meet),
		resident(concurrent_writes_to_one_page_are_all_kept),
	};

	/* A failed assertion in a thread cannot jump back into the test: let it abort. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
