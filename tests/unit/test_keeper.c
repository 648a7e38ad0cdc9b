/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_keeper.c - what is made ready ahead: the arena's reserve, and the thread that fills it
 */
#include "tests/unit/pages.h"

#include <pthread.h>
#include <sys/mman.h>

#include "core/store_private.h"

#define SEGMENT (256u << 10)
#define LIMIT   (16ull * SEGMENT)

static const struct tm_oid oid = {{1, 2, 3}};

struct arena {
	struct tm_ledger *ledger;
	struct tm_budget budget;
	struct tm_arena *a;
	struct tm_owner owner;
	_Atomic uint64_t used;
	unsigned int lows;
	bool only;
};

static void count_low(void *opaque)
{
	struct arena *t = opaque;

	t->lows++;
}

static void arena_open(struct arena *t, uint32_t target, bool only)
{
	struct tm_reserve reserve = {target, only, count_low, t};
	int fd;

	memset(t, 0, sizeof(*t));
	t->only = only;
	assert_int_equal(tm_ledger_create(&t->ledger, &fd), 0);
	close(fd);
	atomic_store(&t->ledger->limit_bytes, LIMIT);
	t->budget.ledger = t->ledger;
	t->budget.headroom = SEGMENT;
	t->owner = (struct tm_owner){0, tm_pool_flags(TM_POOL_PERSIST, 0), 0, &t->used};
	assert_int_equal(tm_arena_open(&t->budget, LIMIT, SEGMENT, &t->a), 0);
	tm_arena_set_reserve(t->a, &reserve);
}

static void arena_close(struct arena *t)
{
	tm_arena_set_reserve(t->a, &(struct tm_reserve){.only = t->only});
	while (tm_arena_trim(t->a))
		;
	tm_arena_close(t->a);
	assert_int_equal(tm_budget_used(&t->budget), 0);
	assert_int_equal(t->ledger->freeable_bytes, 0);
	tm_ledger_unmap(t->ledger);
}

static bool is_present(struct arena *t, uint32_t id)
{
	unsigned char in_core[SEGMENT / TM_PAGE_SIZE];

	assert_int_equal(mincore(tm_segment_data(t->a, id), SEGMENT, in_core), 0);
	for (size_t i = 0; i < sizeof(in_core); i++)
		if (!(in_core[i] & 1))
			return false;
	return true;
}

static void a_ready_segment_is_present_charged_and_zeros(void **state)
{
	struct arena t;
	uint64_t before;
	uint32_t id;

	(void)state;
	arena_open(&t, 2, false);
	before = tm_budget_used(&t.budget);
	assert_int_equal(tm_arena_fill(t.a), 1);
	assert_int_equal(tm_arena_fill(t.a), 1);
	assert_int_equal(tm_arena_fill(t.a), 0);
	assert_int_equal(tm_budget_used(&t.budget), before + 2 * SEGMENT);
	assert_int_equal(t.ledger->freeable_bytes, 2 * SEGMENT);

	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, false, &id), 0);
	assert_int_equal(t.lows, 1);
	assert_true(is_present(&t, id));
	assert_int_equal(tm_budget_used(&t.budget), before + 2 * SEGMENT);
	assert_int_equal(t.ledger->freeable_bytes, SEGMENT);

	/* Freed, it joins the reserve again, with nothing left of what was in it. */
	memset(tm_segment_data(t.a, id) + sizeof(struct tm_segment_header), 0x5a,
		SEGMENT - sizeof(struct tm_segment_header));
	tm_segment_seal(t.a, id);
	assert_int_equal(t.ledger->freeable_bytes, 2 * SEGMENT);
	assert_true(is_present(&t, id));
	for (uint32_t i = 0; i < SEGMENT; i++)
		assert_int_equal(tm_segment_data(t.a, id)[i], 0);

	/* Unless memory is being given back. */
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, false, &id), 0);
	tm_arena_give_back(t.a, 1);
	tm_segment_seal(t.a, id);
	assert_false(is_present(&t, id));
	tm_arena_give_back(t.a, -1);
	assert_int_equal(tm_budget_used(&t.budget), before + SEGMENT);
	arena_close(&t);
}

/* All the room there is can be used, whether it is ready or not, and the headroom stays. */
static void the_reserve_takes_no_room_away(void **state)
{
	struct arena plain, ahead;
	unsigned int opened[2] = {0, 0};
	uint32_t id;

	(void)state;
	arena_open(&plain, 0, false);
	arena_open(&ahead, 5, false);
	while (tm_segment_open(plain.a, &plain.owner, &oid, false, &id) == 0)
		opened[0]++;
	while (tm_arena_fill(ahead.a) > 0 ||
		tm_segment_open(ahead.a, &ahead.owner, &oid, false, &id) == 0)
		opened[1] += tm_arena_fill(ahead.a) == 0;
	assert_true(opened[0] > 10);
	assert_int_equal(ahead.used, plain.used);
	assert_int_equal(tm_segment_open(ahead.a, &ahead.owner, &oid, true, &id), 0);
	assert_int_equal(tm_segment_open(ahead.a, &ahead.owner, &oid, true, &id), -ENOMEM);
	for (id = 0; id < tm_arena_segments(ahead.a); id++) {
		if (atomic_load(&tm_segment(ahead.a, id)->state) == TM_SEGMENT_OPEN)
			tm_segment_seal(ahead.a, id);
		if (atomic_load(&tm_segment(plain.a, id)->state) == TM_SEGMENT_OPEN)
			tm_segment_seal(plain.a, id);
	}
	arena_close(&plain);
	arena_close(&ahead);
}

static void nothing_but_the_reserve_is_opened_where_only_that_may_be(void **state)
{
	struct arena t;
	uint32_t id;

	(void)state;
	arena_open(&t, 2, true);
	t.budget.headroom = 0;
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, false, &id), -ENOBUFS);
	assert_int_equal(tm_arena_fill(t.a), 1);
	assert_int_equal(t.ledger->freeable_bytes, 0);
	/* One is for cleaning. */
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, false, &id), -ENOBUFS);
	assert_int_equal(tm_arena_fill(t.a), 1);
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, false, &id), 0);

	/* The budget has no room for more: only cleaning gets one. */
	atomic_store(&t.ledger->granted_bytes, tm_budget_used(&t.budget));
	assert_int_equal(tm_arena_fill(t.a), 0);
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, false, &id), -ENOMEM);
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, true, &id), 0);
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, true, &id), -ENOMEM);

	/* What it frees is ready for the next time. */
	tm_segment_seal(t.a, id);
	assert_int_equal(tm_segment_open(t.a, &t.owner, &oid, true, &id), 0);
	for (id = 0; id < tm_arena_segments(t.a); id++)
		if (atomic_load(&tm_segment(t.a, id)->state) == TM_SEGMENT_OPEN)
			tm_segment_seal(t.a, id);
	arena_close(&t);
}

static void resident_open(struct test_store *t)
{
	test_store_open_as(t,
		(struct tm_store_params){.limit = LIMIT,
			.segment_bytes = SEGMENT,
			.keeper = true,
			.resident = true,
			.patience_ms = 1000});
}

/* A put that finds no node set aside waits for the keeper, and gets one. */
static void a_put_waits_for_the_keeper(void **state)
{
	struct test_store t;
	uint8_t page[TM_PAGE_SIZE];
	int pool, stored = 0;

	(void)state;
	resident_open(&t);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	test_page(1, page, sizeof(page));
	for (uint32_t i = 0; i < 100; i++) {
		atomic_store(&t.store->budget.node_bytes, 0);
		/* A second may be too short on a busy machine; not a hundred times. */
		stored += tm_store_put(t.store, pool, &oid, i * TM_LEAF_SLOTS, page) == 0;
	}
	assert_true(stored > 0);
	assert_int_equal(tm_store_check(t.store), 0);
	test_store_close(&t);
}

/* Where nothing can be made ready a put is refused, and what is stored stays. */
static void a_put_is_refused_when_waiting_is_in_vain(void **state)
{
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];
	struct test_store t;
	uint32_t stored = 0;
	int pool;

	(void)state;
	resident_open(&t);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	for (;; stored++) {
		test_page(stored * 4 + 2, page, sizeof(page)); /* incompressible */
		if (tm_store_put(t.store, pool, &oid, stored, page) < 0)
			break;
	}
	assert_true(stored > LIMIT / TM_PAGE_SIZE * 3 / 4);
	for (uint32_t i = 0; i < stored; i++) {
		test_page(i * 4 + 2, page, sizeof(page));
		assert_int_equal(tm_store_get(t.store, pool, &oid, i, got), 0);
		assert_memory_equal(got, page, sizeof(page));
	}
	for (int i = 0; tm_keeper_wait(t.store->keeper); i++)
		assert_true(i < 10);
	assert_int_equal(tm_store_check(t.store), 0);
	test_store_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ready_segment_is_present_charged_and_zeros),
		cmocka_unit_test(the_reserve_takes_no_room_away),
		cmocka_unit_test(nothing_but_the_reserve_is_opened_where_only_that_may_be),
		cmocka_unit_test(a_put_waits_for_the_keeper),
		cmocka_unit_test(a_put_is_refused_when_waiting_is_in_vain),
	};

	return cmocka_run_group_tests_name("keeper", tests, NULL, NULL);
}
