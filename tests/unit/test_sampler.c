/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_sampler.c - the curve of a client, beside what is known of its references
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/curve.h"
#include "core/sampler.h"
#include "core/util.h"

#define M       (1ull << 20)
#define PAGE    4096ull
#define THREADS 4

static struct tm_ledger *ledger;
static int ledger_fd;
static struct tm_sampler *sampler;

static void add_pool(int pool, uint32_t kind, uint32_t attrs)
{
	tm_sampler_add_pool(sampler, pool,
		&(struct tm_pool_params){
			.flags = tm_pool_flags(kind, 0), .attrs = attrs, .name = "p"});
}

/* A sampler for a client with so much of its own, whose pool 0 retains. */
static void begin(uint64_t limit)
{
	assert_int_equal(tm_ledger_create(&ledger, &ledger_fd), 0);
	atomic_store(&ledger->limit_bytes, limit);
	assert_int_equal(tm_sampler_create(ledger, &sampler), 0);
	add_pool(0, 0, TM_POOL_RETAIN);
}

static void end(void)
{
	assert_true(tm_sampler_check(sampler));
	tm_sampler_destroy(sampler);
	assert_int_equal(atomic_load(&ledger->used_bytes), 0);
	tm_ledger_unmap(ledger);
	close(ledger_fd);
}

/* Page n of object `object`. */
static struct tm_oid oid(uint64_t object)
{
	return (struct tm_oid){{object, 7, 0}};
}

static void put(int pool, uint64_t object, uint32_t n)
{
	struct tm_oid o = oid(object);

	tm_sampler_put(sampler, pool, &o, n);
}

static void get(int pool, uint64_t object, uint32_t n)
{
	struct tm_oid o = oid(object);

	tm_sampler_get(sampler, pool, &o, n, true);
}

/* Hits with so much memory, over all points. */
static uint64_t hits(uint64_t bytes)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < TM_CURVE_POINTS && tm_curve_bytes(i) <= bytes; i++)
		sum += atomic_load(&ledger->curve[i]);
	return sum;
}

static void assert_near(uint64_t value, uint64_t expected, unsigned int percent)
{
	if (value + expected * percent / 100 < expected ||
		value > expected + expected * percent / 100)
		fail_msg("%llu is not within %u%% of %llu", (unsigned long long)value, percent,
			(unsigned long long)expected);
}

static void points_round_up_by_a_sixteenth(void **state)
{
	(void)state;
	assert_int_equal(tm_curve_point(0), 0);
	assert_int_equal(tm_curve_point(UINT64_MAX), TM_CURVE_POINTS - 1);
	for (uint32_t i = 0; i < TM_CURVE_POINTS; i++) {
		uint64_t bytes = tm_curve_bytes(i);

		assert_int_equal(tm_curve_point(bytes), i);
		if (i + 1 == TM_CURVE_POINTS)
			break;
		assert_int_equal(tm_curve_point(bytes + 1), i + 1);
		assert_true(tm_curve_bytes(i + 1) > bytes);
		if (i >= TM_CURVE_FINE)
			assert_true(tm_curve_bytes(i + 1) - bytes <= bytes / TM_CURVE_FINE);
	}
}

/* A loop hits with all of its pages, and not at all with fewer. */
static void a_loop_is_a_cliff(void **state)
{
	const uint32_t pages = 40000;

	(void)state;
	begin(1024 * M);
	for (int lap = 0; lap < 5; lap++) {
		for (uint32_t n = 0; n < pages; n++) {
			get(0, 1, n);
			put(0, 1, n);
		}
	}
	assert_int_equal(hits(pages * PAGE * 85 / 100), 0);
	assert_near(hits(pages * PAGE * 115 / 100), 4 * pages, 10);
	assert_int_equal(hits(UINT64_MAX), hits(pages * PAGE * 115 / 100));
	end();
}

static void what_is_read_once_hits_nothing(void **state)
{
	(void)state;
	begin(1024 * M);
	for (uint32_t n = 0; n < 500000; n++) {
		get(0, n >> 10, n);
		put(0, n >> 10, n);
	}
	assert_int_equal(hits(UINT64_MAX), 0);
	assert_true(atomic_load(&ledger->samples) > 2 * 500000 / 256); /* it was seen, though */
	end();
}

/* Uniform over n pages: with half of them half the gets hit. */
static void a_uniform_client_is_a_straight_line(void **state)
{
	const uint32_t pages = 65536, gets = 1000000;

	(void)state;
	begin(1024 * M);
	srand(2);
	for (uint32_t n = 0; n < pages; n++)
		put(0, 1, n);
	for (uint32_t i = 0; i < gets; i++)
		get(0, 1, (uint32_t)rand() % pages);
	for (uint32_t part = 1; part <= 3; part++) /* of four; points are coarse by 1/16 */
		assert_near(hits(pages * PAGE * part / 4 * 17 / 16), gets / 4ull * part, 12);
	assert_near(hits(UINT64_MAX), gets, 5);
	end();
}

/* The table is full and full again: what it counts stays right. */
static void the_rate_falls_and_the_curve_stays(void **state)
{
	const uint32_t pages = 1000000;
	struct tm_sampler_state look;

	(void)state;
	begin(16384 * M);
	for (int lap = 0; lap < 3; lap++) {
		for (uint32_t n = 0; n < pages; n++) {
			get(0, n >> 16, n);
			put(0, n >> 16, n);
		}
		assert_true(tm_sampler_check(sampler));
	}
	tm_sampler_look(sampler, &look);
	assert_true(look.rate >= 256 && look.entries <= 4096 && look.entries >= 1024);
	assert_near(look.bytes, pages * PAGE, 10);
	assert_int_equal(hits(pages * PAGE * 85 / 100), 0);
	assert_near(hits(UINT64_MAX), 2ull * pages, 10);
	end();
}

static void the_rate_rises_when_pages_are_few(void **state)
{
	struct tm_sampler_state look;

	(void)state;
	begin(16384 * M);
	for (uint32_t n = 0; n < 1000000; n++)
		put(0, n >> 16, n);
	tm_sampler_look(sampler, &look);
	assert_true(look.rate >= 256);
	for (uint64_t object = 0; object < 16; object++) {
		struct tm_oid o = oid(object);

		tm_sampler_flush_object(sampler, 0, &o);
	}
	tm_sampler_look(sampler, &look);
	assert_int_equal(look.entries, 0);
	assert_int_equal(look.bytes, 0);
	for (uint32_t i = 0; i < 20000000 && look.rate > 16; i++) {
		put(0, 1, i % 5000);
		if (i % 65536 == 0)
			tm_sampler_look(sampler, &look);
	}
	assert_int_equal(look.rate, 16);
	for (uint32_t i = 0; i < 10000; i++) /* two laps: everything is where it belongs */
		put(0, 1, i % 5000);
	tm_sampler_look(sampler, &look);
	assert_near(look.bytes, 5000 * PAGE, 20);
	end();
}

/* What the client may never have is of no interest, and takes no room. */
static void nothing_is_kept_beyond_the_limit(void **state)
{
	struct tm_sampler_state look;

	(void)state;
	begin(64 * M);
	for (uint32_t n = 0; n < 1000000; n++)
		put(0, n >> 16, n);
	tm_sampler_look(sampler, &look);
	assert_true(look.bytes <= 64 * M);
	assert_near(look.bytes, 64 * M, 2);
	end();
}

/* Compressed bytes: what the pool says that its pages take. */
static void a_page_counts_what_it_takes(void **state)
{
	_Atomic uint64_t *stat;
	struct tm_sampler_state look;

	(void)state;
	begin(1024 * M);
	stat = ledger->pools[0].stat;
	atomic_store(&stat[TM_STAT_PAGES], 1000);
	atomic_store(&stat[TM_STAT_PAYLOAD_BYTES], 1000 * 1000);
	atomic_store(&stat[TM_STAT_USED_BYTES], 1000 * 1100);
	for (uint32_t n = 0; n < 65536; n++)
		put(0, 1, n);
	tm_sampler_look(sampler, &look);
	assert_near(look.bytes, 65536 * 1100, 10);
	/* Numbers that do not belong together do no harm. */
	atomic_store(&stat[TM_STAT_PAGES], 1);
	atomic_store(&stat[TM_STAT_PAYLOAD_BYTES], UINT64_MAX);
	atomic_store(&stat[TM_STAT_USED_BYTES], UINT64_MAX);
	for (uint32_t n = 0; n < 65536; n++)
		put(0, 1, n);
	tm_sampler_look(sampler, &look);
	assert_true(look.bytes <= 65536 * PAGE * 3 / 2);
	end();
}

static void pools_and_kinds(void **state)
{
	struct tm_sampler_state look, both;

	(void)state;
	begin(1024 * M);
	add_pool(1, 0, 0);
	add_pool(2, TM_POOL_PERSIST, 0);
	for (uint32_t n = 0; n < 20000; n++) {
		put(1, 1, n);
		put(2, 1, n); /* nobody wants to know */
		put(3, 1, n); /* there is none */
		put(-1, 1, n);
		put(TM_POOLS_MAX, 1, n);
	}
	tm_sampler_look(sampler, &look);
	assert_near(look.bytes, 20000 * PAGE, 20);
	for (uint32_t n = 0; n < 20000; n++) {
		get(2, 1, n);
		put(0, 1, n);
	}
	assert_int_equal(hits(UINT64_MAX), 0);
	tm_sampler_look(sampler, &both);
	/* A get takes a page out of an exclusive pool, a read does not. */
	for (uint32_t n = 0; n < 20000; n++) {
		struct tm_oid o = oid(1);

		tm_sampler_get(sampler, 1, &o, n, false);
	}
	assert_near(hits(UINT64_MAX), 20000, 20);
	for (uint32_t n = 0; n < 20000; n++) {
		get(1, 1, n);
		get(1, 1, n);
	}
	assert_near(hits(UINT64_MAX), 40000, 20);
	tm_sampler_look(sampler, &look);
	assert_near(look.entries, both.entries / 2, 20);
	assert_near(look.bytes, 20000 * PAGE, 20); /* pool 0 */
	tm_sampler_remove_pool(sampler, 0);
	tm_sampler_look(sampler, &look);
	assert_int_equal(look.entries, 0);
	put(0, 1, 0);
	for (uint32_t n = 0; n < 20000; n++)
		put(0, 1, n);
	tm_sampler_look(sampler, &look);
	assert_int_equal(look.entries, 0);
	end();
}

static void what_is_flushed_hits_nothing(void **state)
{
	struct tm_oid one = oid(1);

	(void)state;
	begin(1024 * M);
	for (uint32_t n = 0; n < 20000; n++) {
		put(0, 1, n);
		put(0, 2, n);
	}
	tm_sampler_flush_object(sampler, 0, &one);
	for (uint32_t n = 0; n < 20000; n++)
		get(0, 1, n);
	assert_int_equal(hits(UINT64_MAX), 0);
	for (uint32_t n = 0; n < 10000; n++) {
		struct tm_oid two = oid(2);

		tm_sampler_flush(sampler, 0, &two, n);
	}
	for (uint32_t n = 0; n < 20000; n++)
		get(0, 2, n);
	assert_near(hits(UINT64_MAX), 10000, 20);
	end();
}

/* Whatever is done in whatever order, the list and its sums agree. */
static void random_references_keep_the_invariants(void **state)
{
	(void)state;
	srand(3);
	for (int round = 0; round < 8; round++) {
		begin((4ull << 2 * (rand() % 5)) * M);
		add_pool(1, 0, 0);
		for (int i = 0; i < 300000; i++) {
			uint64_t object = (uint64_t)rand() % 200;
			uint32_t n = (uint32_t)rand() % 1000;
			struct tm_oid o = oid(object);
			int pool = rand() % 2;

			switch (rand() % 1000) {
			case 0:
				tm_sampler_flush_object(sampler, pool, &o);
				break;
			case 1:
				if (rand() % 50 == 0) {
					tm_sampler_remove_pool(sampler, pool);
					add_pool(pool, 0, pool ? 0 : TM_POOL_RETAIN);
				}
				break;
			case 2 ... 50:
				tm_sampler_flush(sampler, pool, &o, n);
				break;
			case 51 ... 500:
				get(pool, object, n);
				break;
			default:
				put(pool, object, n);
			}
			if (i % 10000 == 0)
				assert_true(tm_sampler_check(sampler));
		}
		end();
	}
}

static void a_client_with_no_room_has_none(void **state)
{
	struct tm_sampler *none;

	(void)state;
	begin(TM_LIMIT_MIN);
	assert_true(atomic_load(&ledger->used_bytes) <= TM_LIMIT_MIN / 32);
	atomic_store(&ledger->used_bytes, TM_LIMIT_MIN);
	assert_int_equal(tm_sampler_create(ledger, &none), -12);
	atomic_store(&ledger->used_bytes, 0);
	tm_sampler_put(NULL, 0, &(struct tm_oid){{0, 0, 0}}, 0);
	tm_sampler_destroy(NULL);
	tm_sampler_destroy(sampler);
	tm_ledger_unmap(ledger);
	close(ledger_fd);
}

static void *busy(void *arg)
{
	uint64_t mine = (uint64_t)(uintptr_t)arg;

	for (uint32_t i = 0; i < 200000; i++) {
		struct tm_oid o = oid(mine);

		put(0, mine, i);
		get(0, mine + i % 2, i / 2);
		if (i % 1000 == 0)
			tm_sampler_flush_object(sampler, 0, &o);
		if (i % 50000 == 0 && mine == 0) {
			tm_sampler_remove_pool(sampler, 0);
			add_pool(0, 0, TM_POOL_RETAIN);
		}
	}
	return NULL;
}

static void threads(void **state)
{
	pthread_t thread[THREADS];

	(void)state;
	begin(256 * M);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, busy, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(points_round_up_by_a_sixteenth),
		cmocka_unit_test(a_loop_is_a_cliff),
		cmocka_unit_test(what_is_read_once_hits_nothing),
		cmocka_unit_test(a_uniform_client_is_a_straight_line),
		cmocka_unit_test(the_rate_falls_and_the_curve_stays),
		cmocka_unit_test(the_rate_rises_when_pages_are_few),
		cmocka_unit_test(nothing_is_kept_beyond_the_limit),
		cmocka_unit_test(a_page_counts_what_it_takes),
		cmocka_unit_test(pools_and_kinds),
		cmocka_unit_test(what_is_flushed_hits_nothing),
		cmocka_unit_test(random_references_keep_the_invariants),
		cmocka_unit_test(a_client_with_no_room_has_none),
		cmocka_unit_test(threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
