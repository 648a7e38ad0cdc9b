/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_damage.c - bits flip in the store's memory, anywhere
 *
 * A persistent get then says -EIO, an ephemeral one misses, or the bytes are right because the
 * damage was elsewhere. Never wrong bytes, never a crash, and the store can be filled, evicted,
 * cleaned and torn down afterwards.
 */
#include "core/store_private.h"
#include "tests/unit/pages.h"

#define LIMIT (4u << 20)
#define PAGES 600

static const struct tm_oid oids[2] = {{{1, 2, 3}}, {{4, 5, 6}}};

/* Flip a bit, zero a block or fill one with garbage, below the tail of a segment in use. */
static void damage(struct tm_store *s, uint64_t *random)
{
	uint32_t id = (uint32_t)(test_random(random) % tm_arena_segments(s->arena));
	struct tm_segment *seg = tm_segment(s->arena, id);
	uint8_t *data = tm_segment_data(s->arena, id);
	uint32_t at, n;

	if (atomic_load(&seg->refs) == 0)
		return;
	at = (uint32_t)(test_random(random) % seg->tail);
	n = (uint32_t)TM_MIN(test_random(random) % 4096, (uint64_t)(seg->tail - at));
	switch (test_random(random) % 4) {
	case 0:
		memset(data + at, 0, n);
		break;
	case 1:
		for (uint32_t i = 0; i < n; i++)
			data[at + i] = (uint8_t)test_random(random);
		break;
	default:
		data[at] ^= (uint8_t)(1u << test_random(random) % 8);
	}
}

static void fill(struct tm_store *s, int pool, unsigned int from)
{
	uint8_t page[TM_PAGE_SIZE];

	for (unsigned int i = from; i < PAGES; i += 2) {
		test_page(i, page, sizeof(page));
		tm_store_put(s, pool, &oids[i & 1], i, page);
	}
}

static void check_all(struct tm_store *s, int pool, bool persistent, uint64_t *bad)
{
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];

	for (unsigned int i = 0; i < PAGES; i++) {
		int rc = tm_store_get(s, pool, &oids[i & 1], i, got);

		assert_true(rc == 0 || rc == -ENOENT || (rc == -EIO && persistent));
		*bad += rc == -EIO;
		test_page(i, page, sizeof(page));
		if (rc == 0)
			assert_memory_equal(page, got, sizeof(page));
	}
}

static void no_damage_gives_wrong_bytes(void **state)
{
	uint64_t random = 1, bad = 0;
	struct test_store t;

	(void)state;
	for (int round = 0; round < test_scale(300); round++) {
		int swap, cache;

		test_store_open(&t, LIMIT, 0);
		swap = test_pool(&t, TM_POOL_PERSIST, 0, 0);
		cache = test_pool(&t, 0, 0, TM_POOL_RETAIN);
		fill(t.store, swap, 0);
		fill(t.store, swap, 1);
		fill(t.store, cache, 0);
		for (int i = 0; i < 8; i++)
			damage(t.store, &random);
		check_all(t.store, swap, true, &bad);
		check_all(t.store, cache, false, &bad);
		fill(t.store, cache, 1); /* evicts and cleans damaged segments */
		fill(t.store, cache, 0);
		tm_store_release(t.store, UINT64_MAX);
		check_all(t.store, swap, true, &bad);
		tm_store_destroy(t.store);
		tm_ledger_unmap(t.ledger);
		close(t.ledger_fd);
	}
	assert_true(bad > 0); /* the damage was met */
}

/* A page is damaged where it lies, and then cleaned out of its segment: it must not be given a
 * checksum that makes it right. */
static void damage_moves_along_with_its_page(void **state)
{
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];
	struct test_store t;
	int pool;

	(void)state;
	test_store_open(&t, LIMIT, 0);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	for (unsigned int i = 0; i < PAGES; i++) {
		test_page(i, page, sizeof(page));
		assert_int_equal(tm_store_put(t.store, pool, &oids[i & 1], i, page), 0);
	}
	for (uint32_t id = 0; id < tm_arena_segments(t.store->arena); id++) {
		struct tm_segment *seg = tm_segment(t.store->arena, id);
		uint8_t *data = tm_segment_data(t.store->arena, id);
		uint32_t at = sizeof(struct tm_segment_header);
		struct tm_entry_view e;

		while (atomic_load(&seg->refs) > 0 && at < seg->tail) {
			assert_int_equal(
				tm_entry_view(data + at, seg->tail - at, &seg->oid, &e), 0);
			data[e.payload - data + e.bytes / 2] ^= 1; /* of every page */
			at += e.total;
		}
	}
	for (unsigned int i = 0; i < PAGES; i++) /* leaves holes that are worth cleaning */
		if (i % 5 < 3)
			tm_store_flush_page(t.store, pool, &oids[i & 1], i);
	for (unsigned int i = PAGES; t.ledger->pools[pool].stat[TM_STAT_CLEANED] == 0; i++)
		tm_store_put(t.store, pool, &oids[0], i, page);
	for (unsigned int i = 0; i < PAGES; i++)
		assert_int_equal(tm_store_get(t.store, pool, &oids[i & 1], i, got),
			i % 5 < 3 ? -ENOENT : -EIO);
	test_store_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_damage_gives_wrong_bytes),
		cmocka_unit_test(damage_moves_along_with_its_page),
	};

	return cmocka_run_group_tests_name("damage", tests, NULL, NULL);
}
