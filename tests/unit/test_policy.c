/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_policy.c - the division of memory: what is promised, by example and for random clients
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/util.h"
#include "tools/tmemd/policy.h"

#define M       (1ull << 20)
#define CLIENTS 12
#define ROUNDS  20000

static struct tm_share share(uint32_t weight, uint64_t want, uint64_t persistent, uint64_t ceiling)
{
	return (struct tm_share){
		.weight = weight, .want = want, .persistent = persistent, .ceiling = ceiling};
}

static uint64_t any_number(void)
{
	switch (rand() % 8) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX - (uint64_t)(rand() % 3);
	default:
		return (uint64_t)rand() * M >> rand() % 40;
	}
}

#define SECOND 1000000000ull
#define TICK   (SECOND / 20)

/* RAM of 1 GiB, nobody's limit, a reserve of 100 MiB; 1 s after the epoch. */
static struct tm_outlook look_at(uint64_t used, uint64_t available)
{
	return (struct tm_outlook){.now_ns = SECOND,
		.ram = 1024 * M,
		.used = used,
		.available = available,
		.reserve = 100 * M,
		.limit = UINT64_MAX};
}

static uint64_t first_total(uint64_t used, uint64_t available, uint64_t reserve, uint64_t limit)
{
	struct tm_outlook look = look_at(used, available);
	struct tm_trend trend = {0};

	look.reserve = reserve;
	look.limit = limit;
	return tm_policy_total(&trend, &look);
}

static void total_is_clamped(void **state)
{
	(void)state;
	assert_int_equal(first_total(100, 1000, 200, 5000), 900);
	assert_int_equal(first_total(100, 1000, 2000, 5000), 0);
	assert_int_equal(first_total(100, 10000, 200, 5000), 5000);
	assert_int_equal(first_total(UINT64_MAX, UINT64_MAX, 0, 5000), 5000);
	assert_int_equal(first_total(0, 0, 0, 0), 0);
}

static void a_fall_is_followed_at_once_and_fully(void **state)
{
	struct tm_outlook look = look_at(300 * M, 500 * M);
	struct tm_trend trend = {0};

	(void)state;
	assert_int_equal(tm_policy_total(&trend, &look), 700 * M);
	look.now_ns += 1;
	look.available = 100 * M;
	assert_int_equal(tm_policy_total(&trend, &look), 300 * M);
	look.now_ns += 1;
	look.available = 0;
	look.used = 50 * M;
	assert_int_equal(tm_policy_total(&trend, &look), 0);
}

static void a_fall_makes_restless_for_a_while(void **state)
{
	struct tm_outlook look = look_at(300 * M, 500 * M);
	struct tm_trend trend = {0};

	(void)state;
	tm_policy_total(&trend, &look);
	assert_true(trend.restless_ns <= look.now_ns);
	look.now_ns += TICK;
	look.available -= 50 * M;
	tm_policy_total(&trend, &look);
	assert_true(trend.restless_ns > look.now_ns);
	look.now_ns += 2 * SECOND;
	tm_policy_total(&trend, &look);
	assert_true(trend.restless_ns <= look.now_ns);
	/* Where there is plenty nobody has to hurry. */
	look.limit = 100 * M;
	look.now_ns += TICK;
	tm_policy_total(&trend, &look);
	look.now_ns += TICK;
	look.available -= 50 * M;
	tm_policy_total(&trend, &look);
	assert_true(trend.restless_ns <= look.now_ns);
}

/* The total after `seconds` of ticks, during which `available` changes by `drift` a second. */
static uint64_t run(
	struct tm_trend *trend, struct tm_outlook *look, uint64_t seconds, int64_t drift)
{
	uint64_t total = 0;

	for (uint64_t i = 0; i < seconds * (SECOND / TICK); i++) {
		look->now_ns += TICK;
		look->available += (uint64_t)(drift / (int64_t)(SECOND / TICK));
		total = tm_policy_total(trend, look);
	}
	return total;
}

static void growth_is_slow_and_waits_for_quiet(void **state)
{
	struct tm_outlook look = look_at(0, 800 * M);
	struct tm_trend trend = {0};
	uint64_t total;

	(void)state;
	tm_policy_total(&trend, &look);
	look.available = 300 * M;
	run(&trend, &look, 1, 0);
	look.available = 800 * M;
	assert_int_equal(run(&trend, &look, 1, 0), 200 * M); /* not quiet yet */
	total = run(&trend, &look, 10, 0);
	assert_in_range(
		total, 200 * M + 9 * 10 * M, 200 * M + 10 * 21 * M); /* 1-2% of RAM a second */
	assert_int_equal(run(&trend, &look, 60, 0), 700 * M);        /* all of it, in the end */
}

static void growth_stops_while_others_take_memory(void **state)
{
	struct tm_outlook look = look_at(0, 900 * M);
	struct tm_trend trend = {0};
	uint64_t before;

	(void)state;
	look.limit = 400 * M;
	tm_policy_total(&trend, &look);
	look.limit = UINT64_MAX;
	before = run(&trend, &look, 5, 0);
	assert_true(before > 400 * M);
	/* Somebody takes 20 MiB a second; there would still be room. */
	look.available -= 2 * M;
	before = run(&trend, &look, 1, -20 * (int64_t)M);
	assert_int_equal(run(&trend, &look, 5, -20 * (int64_t)M), before);
	/* What the clients take themselves is no reason. */
	before = run(&trend, &look, 3, 0);
	for (int i = 0; i < 100; i++) {
		look.used += M;
		look.available -= M;
		look.now_ns += TICK;
		tm_policy_total(&trend, &look);
	}
	assert_true(trend.total > before + 5 * 10 * M);
}

static void growth_stops_under_pressure(void **state)
{
	struct tm_outlook look = look_at(0, 900 * M);
	struct tm_trend trend = {0};
	uint64_t before;

	(void)state;
	look.limit = 400 * M;
	before = tm_policy_total(&trend, &look);
	look.limit = UINT64_MAX;
	for (int i = 0; i < 10; i++) {
		look.pressed = true;
		run(&trend, &look, 1, 0);
		look.pressed = false;
		assert_int_equal(run(&trend, &look, 1, 0), before);
	}
	assert_true(run(&trend, &look, 5, 0) > before);
}

/* Noise that stays within RAM/1024 does not keep the total down. */
static void noise_does_not_stop_growth(void **state)
{
	struct tm_outlook look = look_at(0, 900 * M);
	struct tm_trend trend = {0};

	(void)state;
	srand(2);
	look.limit = 400 * M;
	tm_policy_total(&trend, &look);
	look.limit = UINT64_MAX;
	for (int i = 0; i < 2000; i++) {
		look.now_ns += TICK;
		look.available = 900 * M + (uint64_t)(rand() % (int)M);
		tm_policy_total(&trend, &look);
	}
	assert_true(trend.total >= 800 * M);
}

static void any_look_keeps_the_rules(void **state)
{
	struct tm_trend trend = {0};
	uint64_t now = SECOND, before = 0;

	(void)state;
	srand(3);
	for (int i = 0; i < ROUNDS; i++) {
		struct tm_outlook look = {.now_ns = now += (uint64_t)rand() % (2 * SECOND),
			.ram = 1 + any_number(),
			.used = any_number(),
			.available = any_number(),
			.reserve = any_number(),
			.limit = any_number(),
			.pressed = rand() % 2};
		bool known = trend.known;
		uint64_t total = tm_policy_total(&trend, &look);

		assert_true(total <= look.limit);
		if (look.used < UINT64_MAX / 2 && look.available < UINT64_MAX / 2)
			assert_true(total <= look.used + look.available);
		if (known && look.pressed)
			assert_true(total <= before);
		before = total;
	}
}

static void spare_goes_by_weight(void **state)
{
	struct tm_share s[] = {share(100, 100, 0, 100000), share(300, 200, 0, 100000)};

	(void)state;
	tm_policy_divide(s, 2, 4300);
	assert_int_equal(s[0].granted, 1100);
	assert_int_equal(s[1].granted, 3200);
}

static void spare_stops_at_the_ceiling(void **state)
{
	struct tm_share s[] = {share(100, 100, 0, 150), share(100, 100, 0, 100000)};

	(void)state;
	tm_policy_divide(s, 2, 1000);
	assert_int_equal(s[0].granted, 150);
	assert_int_equal(s[1].granted, 850);
}

static void persistent_comes_first(void **state)
{
	/* The swap device needs 600 of 1000; the mount has ten times its weight. */
	struct tm_share s[] = {share(10, 600, 600, 100000), share(100, 5000, 0, 100000)};

	(void)state;
	tm_policy_divide(s, 2, 1000);
	assert_int_equal(s[0].granted, 600);
	assert_int_equal(s[1].granted, 400);
}

static void urgent_comes_before_everything(void **state)
{
	struct tm_share s[] = {share(100, 400, 400, 1000), share(100, 300, 300, 1000)};

	(void)state;
	s[1].urgent = true;
	assert_int_equal(tm_policy_urgent(s, 2, 1000), 300);
	assert_int_equal(tm_policy_urgent(s, 2, 200), 200);
	tm_policy_divide(s, 2, 500);
	assert_int_equal(s[0].granted, 200);
	assert_int_equal(s[1].granted, 300);
	s[1].ceiling = 100; /* a cap holds whatever is urgent */
	assert_int_equal(tm_policy_urgent(s, 2, 1000), 100);
}

static void scarce_persistent_goes_by_weight(void **state)
{
	struct tm_share s[] = {share(100, 900, 900, 100000), share(200, 900, 900, 100000)};

	(void)state;
	tm_policy_divide(s, 2, 900);
	assert_int_equal(s[0].granted, 300);
	assert_int_equal(s[1].granted, 600);
}

static void scarce_ephemeral_goes_by_weight(void **state)
{
	struct tm_share s[] = {share(100, 50, 0, 100000), share(100, 5000, 0, 100000),
		share(300, 5000, 0, 100000)};

	(void)state;
	tm_policy_divide(s, 3, 850);
	assert_int_equal(s[0].granted, 50);
	assert_int_equal(s[1].granted, 200);
	assert_int_equal(s[2].granted, 600);
}

static void cap_binds_persistent_too(void **state)
{
	struct tm_share s[] = {share(100, 900, 900, 100)};

	(void)state;
	tm_policy_divide(s, 1, 5000);
	assert_int_equal(s[0].granted, 100);
}

static void nobody_and_nothing(void **state)
{
	struct tm_share s[] = {share(1, 100, 100, 100)};

	(void)state;
	tm_policy_divide(NULL, 0, 1000);
	tm_policy_divide(s, 1, 0);
	assert_int_equal(s[0].granted, 0);
}

static void random_clients_keep_the_rules(void **state)
{
	(void)state;
	srand(1);
	for (int round = 0; round < ROUNDS; round++) {
		struct tm_share s[CLIENTS];
		size_t count = 1 + (size_t)rand() % CLIENTS;
		uint64_t total = any_number(), sum = 0, ceilings = 0;

		for (size_t i = 0; i < count; i++)
			s[i] = share(1 + (uint32_t)rand() % TM_WEIGHT_MAX, any_number(),
				any_number(), any_number());
		tm_policy_divide(s, count, total);
		for (size_t i = 0; i < count; i++) {
			assert_true(s[i].granted <= s[i].ceiling);
			assert_true(
				s[i].granted <= total - sum); /* the sum never exceeds the total */
			sum += s[i].granted;
			if (__builtin_add_overflow(ceilings, s[i].ceiling, &ceilings))
				ceilings = UINT64_MAX;
		}
		/* All of it is given away, but for what rounding leaves, unless nobody can have
		 * more. */
		if (ceilings != UINT64_MAX)
			assert_true(TM_MIN(total, ceilings) - sum <= 3 * CLIENTS);
	}
}

static void release_takes_from_the_largest(void **state)
{
	uint64_t freeable[] = {100, 900, 0}, ask[3];
	uint32_t weight[] = {100, 100, 100};

	(void)state;
	tm_policy_release(freeable, weight, 3, 600, ask);
	assert_int_equal(ask[0], 0);
	assert_int_equal(ask[1], 600);
	assert_int_equal(ask[2], 0);
	tm_policy_release(freeable, weight, 3, 900, ask);
	assert_int_equal(ask[0], 50);
	assert_int_equal(ask[1], 850);
	tm_policy_release(freeable, weight, 3, 5000, ask);
	assert_int_equal(ask[0] + ask[1], 1000);
}

static void release_respects_weight(void **state)
{
	uint64_t freeable[] = {1000, 1000}, ask[2];
	uint32_t weight[] = {300, 100};

	(void)state;
	tm_policy_release(freeable, weight, 2, 1200, ask);
	assert_int_equal(ask[0], 400); /* keeps 600 */
	assert_int_equal(ask[1], 800); /* keeps 200 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(total_is_clamped),
		cmocka_unit_test(a_fall_is_followed_at_once_and_fully),
		cmocka_unit_test(a_fall_makes_restless_for_a_while),
		cmocka_unit_test(growth_is_slow_and_waits_for_quiet),
		cmocka_unit_test(growth_stops_while_others_take_memory),
		cmocka_unit_test(growth_stops_under_pressure),
		cmocka_unit_test(noise_does_not_stop_growth),
		cmocka_unit_test(any_look_keeps_the_rules),
		cmocka_unit_test(spare_goes_by_weight),
		cmocka_unit_test(spare_stops_at_the_ceiling),
		cmocka_unit_test(persistent_comes_first),
		cmocka_unit_test(urgent_comes_before_everything),
		cmocka_unit_test(scarce_persistent_goes_by_weight),
		cmocka_unit_test(scarce_ephemeral_goes_by_weight),
		cmocka_unit_test(cap_binds_persistent_too),
		cmocka_unit_test(nobody_and_nothing),
		cmocka_unit_test(random_clients_keep_the_rules),
		cmocka_unit_test(release_takes_from_the_largest),
		cmocka_unit_test(release_respects_weight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
