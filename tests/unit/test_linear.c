/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_linear.c - calls on one handle have some serial order
 *
 * Threads work on a few handles at once and note, for each call, when it began and ended and what
 * it said. Then a search tries to put the calls of each handle in one order that a single thread
 * could have made: no call before one that had ended when it began, each answer right for what the
 * calls before it left. Meanwhile pages are evicted, cleaned and recompressed.
 */
#include "tests/unit/pages.h"

#include <pthread.h>

#define THREADS 4
#define CALLS   8 /* of a thread in a round */
#define HANDLES 2

enum call_kind {
	PUT,
	GET,
	FLUSH,
	WRITE, /* of the whole page */
	XCHG,
	KINDS,
};

struct call {
	enum call_kind kind;
	unsigned int handle;
	uint64_t began, ended; /* on one clock for all */
	uint64_t value;        /* what was put or written */
	uint64_t got;          /* what was there; 0: nothing, or it does not say */
	int rc;
};

struct round {
	struct test_store t;
	int pool;
	bool ephemeral, exclusive;
	uint64_t alike; /* so many puts and writes have the same value */
	_Atomic uint64_t clock, values;
	struct call calls[THREADS][CALLS];
	pthread_barrier_t start, end;
	_Atomic bool stop;
};

struct worker {
	struct round *r;
	unsigned int number;
	uint64_t random;
};

static const struct tm_oid oid = {{1, 2, 3}}, other = {{4, 5, 6}};

/* Some compress, some do not, all say who they are. */
static void make_page(uint64_t value, uint64_t *page)
{
	test_page(value, page, TM_PAGE_SIZE);
	page[0] = value;
}

static uint64_t value_of(const uint64_t *page)
{
	uint64_t expected[TM_PAGE_SIZE / 8];

	make_page(page[0], expected);
	assert_memory_equal(page, expected, sizeof(expected)); /* whole, and no mixture */
	return page[0];
}

static void do_call(struct round *r, struct call *c)
{
	uint64_t page[TM_PAGE_SIZE / 8];
	struct tm_store *s = r->t.store;

	if (c->kind != GET && c->kind != FLUSH) {
		c->value = atomic_fetch_add(&r->values, 1) / r->alike + 1;
		make_page(c->value, page);
	}
	c->got = 0;
	c->began = atomic_fetch_add(&r->clock, 1);
	switch (c->kind) {
	case PUT:
		c->rc = tm_store_put(s, r->pool, &oid, c->handle, page);
		break;
	case GET:
		c->rc = tm_store_get(s, r->pool, &oid, c->handle, page);
		break;
	case FLUSH:
		c->rc = tm_store_flush_page(s, r->pool, &oid, c->handle);
		break;
	case WRITE:
		c->rc = tm_store_write(s, r->pool, &oid, c->handle, 0, TM_PAGE_SIZE, page);
		break;
	default:
		c->rc = tm_store_xchg(s, r->pool, &oid, c->handle, 0, TM_PAGE_SIZE, page);
	}
	c->ended = atomic_fetch_add(&r->clock, 1);
	if (c->rc == 0 && (c->kind == GET || c->kind == XCHG))
		c->got = value_of(page);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct round *r = w->r;

	for (;;) {
		pthread_barrier_wait(&r->start);
		if (r->stop)
			return NULL;
		for (int i = 0; i < CALLS; i++) {
			struct call *c = &r->calls[w->number][i];

			c->kind = test_random(&w->random) % KINDS;
			c->handle = (unsigned int)(test_random(&w->random) % HANDLES);
			do_call(r, c);
		}
		pthread_barrier_wait(&r->end);
	}
}

/* Could the call give its answer when the handle holds `before`, and what does it hold then? */
static bool is_right(
	const struct round *r, const struct call *c, uint64_t before, uint64_t *ret_after)
{
	*ret_after = before;
	if (c->rc == -ENOENT || (c->rc == 0 && c->kind == FLUSH)) {
		*ret_after = 0; /* an ephemeral page may just have gone */
		return c->kind == FLUSH || before == 0 || r->ephemeral;
	}
	if (c->rc == -ENOMEM) {
		*ret_after = c->kind == PUT ? 0 : before;
		return c->kind == PUT || before != 0;
	}
	assert_int_equal(c->rc, 0);
	if (c->kind == GET) {
		*ret_after = r->exclusive ? 0 : before;
		return c->got == before;
	}
	*ret_after = c->value;
	return c->kind == PUT || (before != 0 && (c->kind == WRITE || c->got == before));
}

/* The thread's next call on the handle from `at` on. */
static int call_on(const struct round *r, unsigned int thread, int at, unsigned int handle)
{
	while (at < CALLS && r->calls[thread][at].handle != handle)
		at++;
	return at;
}

/* Is there an order of what is left of each thread's calls, from next[] on? */
static bool search(
	const struct round *r, unsigned int handle, const int next[THREADS], uint64_t holds)
{
	uint64_t first_end = UINT64_MAX, after;
	int then[THREADS];
	bool any = false;

	for (unsigned int t = 0; t < THREADS; t++)
		if (next[t] < CALLS)
			first_end = TM_MIN(first_end, r->calls[t][next[t]].ended);
	for (unsigned int t = 0; t < THREADS; t++) {
		const struct call *c = &r->calls[t][TM_MIN(next[t], CALLS - 1)];

		if (next[t] == CALLS)
			continue;
		any = true;
		if (c->began > first_end || !is_right(r, c, holds, &after))
			continue;
		memcpy(then, next, sizeof(then));
		then[t] = call_on(r, t, next[t] + 1, handle);
		if (search(r, handle, then, after))
			return true;
	}
	return !any;
}

static bool has_order(const struct round *r, unsigned int handle)
{
	int next[THREADS];

	for (unsigned int t = 0; t < THREADS; t++)
		next[t] = call_on(r, t, 0, handle);
	return search(r, handle, next, 0);
}

static void print_history(const struct round *r, unsigned int handle)
{
	for (unsigned int t = 0; t < THREADS; t++)
		for (int i = 0; i < CALLS; i++) {
			const struct call *c = &r->calls[t][i];

			if (c->handle == handle)
				print_error(
					"thread %u: %llu-%llu kind %d value %llu got %llu rc %d\n",
					t, (unsigned long long)c->began,
					(unsigned long long)c->ended, c->kind,
					(unsigned long long)c->value, (unsigned long long)c->got,
					c->rc);
		}
}

/* Pages of another object come and go, so that there is something to evict, clean and recompress.
 */
static void make_turmoil(struct round *r, uint64_t *random)
{
	uint64_t page[TM_PAGE_SIZE / 8];

	for (int i = 0; i < 40; i++) {
		make_page(test_random(random), page);
		(void)tm_store_put(
			r->t.store, r->pool, &other, (uint32_t)(test_random(random) % 700), page);
	}
}

static void run(uint32_t kind, uint32_t attrs)
{
	struct round *r = calloc(1, sizeof(*r));
	struct worker w[THREADS];
	pthread_t id[THREADS];
	uint64_t random = 1;

	test_store_open_as(&r->t,
		(struct tm_store_params){.limit = 4u << 20,
			.segment_bytes = 256u << 10,
			.keeper = true,
			.recompress = true,
			.upkeep_percent = 100,
			.cold_ms = 1});
	r->pool = test_pool(&r->t, kind, 0, attrs);
	r->ephemeral = !(kind & TM_POOL_PERSIST);
	r->alike = attrs & TM_POOL_DEDUP ? 2 : 1;
	r->exclusive = r->ephemeral && !(attrs & TM_POOL_RETAIN);
	pthread_barrier_init(&r->start, NULL, THREADS + 1);
	pthread_barrier_init(&r->end, NULL, THREADS + 1);
	for (unsigned int i = 0; i < THREADS; i++) {
		w[i] = (struct worker){r, i, i + 1};
		assert_int_equal(pthread_create(&id[i], NULL, work, &w[i]), 0);
	}
	for (int n = 0; n < test_scale(4000); n++) {
		pthread_barrier_wait(&r->start);
		make_turmoil(r, &random);
		pthread_barrier_wait(&r->end);
		for (unsigned int h = 0; h < HANDLES; h++) {
			if (!has_order(r, h)) {
				print_history(r, h);
				fail_msg("round %d: the calls on handle %u have no order", n, h);
			}
			tm_store_flush_page(r->t.store, r->pool, &oid, h); /* empty again */
		}
	}
	r->stop = true;
	pthread_barrier_wait(&r->start);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(id[i], NULL);
	pthread_barrier_destroy(&r->start);
	pthread_barrier_destroy(&r->end);
	test_store_close(&r->t);
	free(r);
}

static void persistent_calls_have_an_order(void **state)
{
	(void)state;
	run(TM_POOL_PERSIST, 0);
}

static void retained_calls_have_an_order(void **state)
{
	(void)state;
	run(0, TM_POOL_RETAIN);
}

static void deduplicated_calls_have_an_order(void **state)
{
	(void)state;
	run(0, TM_POOL_RETAIN | TM_POOL_DEDUP);
}

static void exclusive_calls_have_an_order(void **state)
{
	(void)state;
	run(0, 0);
}

/* The search finds nothing where there is nothing to find. */
static void a_stale_read_has_no_order(void **state)
{
	static struct round r;

	(void)state;
	for (unsigned int t = 0; t < THREADS; t++)
		for (int i = 0; i < CALLS; i++)
			r.calls[t][i].handle = 1;
	r.calls[0][0] = (struct call){PUT, 0, 1, 2, 7, 0, 0};
	r.calls[0][1] = (struct call){PUT, 0, 3, 6, 8, 0, 0};
	r.calls[1][0] = (struct call){GET, 0, 4, 5, 0, 8, 0};
	r.calls[2][0] = (struct call){GET, 0, 4, 7, 0, 7, 0};
	assert_true(has_order(&r, 0));
	r.calls[2][0].began = 6; /* after the other had seen the new page */
	r.calls[1][0].ended = 5;
	assert_false(has_order(&r, 0));
	r.calls[2][0] = (struct call){GET, 0, 8, 9, 0, 0, -ENOENT};
	assert_false(has_order(&r, 0));
	r.ephemeral = true;
	assert_true(has_order(&r, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stale_read_has_no_order),
		cmocka_unit_test(persistent_calls_have_an_order),
		cmocka_unit_test(retained_calls_have_an_order),
		cmocka_unit_test(deduplicated_calls_have_an_order),
		cmocka_unit_test(exclusive_calls_have_an_order),
	};

	/* A failed assertion in a thread cannot jump back into the test: let it abort. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
