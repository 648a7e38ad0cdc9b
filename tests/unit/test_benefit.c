/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_benefit.c - who makes the most of memory: by example, beside the optimum, and for curves
 * that make no sense
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/curve.h"
#include "core/util.h"
#include "tools/tmemd/benefit.h"
#include "tools/tmemd/policy.h"

#define M       (1ull << 20)
#define CLIENTS 12
#define ROUNDS  5000

static struct tm_ledger ledger;

/* A history that is known, and so far without a hit. */
static struct tm_history known(void)
{
	return (struct tm_history){
		.begun = true, .looks = TM_BENEFIT_LOOKS, .samples = TM_BENEFIT_SAMPLES};
}

/* So many hits need so much memory, to the byte. */
static void add_hits(struct tm_history *h, uint64_t bytes, uint64_t hits)
{
	h->hits[tm_curve_point(bytes)] += hits;
}

static struct tm_claim claim(const struct tm_history *h, uint32_t weight)
{
	return (struct tm_claim){.history = h, .weight = weight, .most = UINT64_MAX};
}

/* The memory that has at least so many bytes and is a point of curves. */
static uint64_t point(uint64_t bytes)
{
	return tm_curve_bytes(tm_curve_point(bytes));
}

static uint64_t hits_at(const struct tm_claim *c)
{
	uint64_t hits = 0;

	for (uint32_t i = 0; c->history && i < TM_CURVE_POINTS; i++)
		hits += tm_curve_bytes(i) <= c->aim ? c->history->hits[i] : 0;
	return hits;
}

static void a_cliff_behind_a_plateau_is_reached(void **state)
{
	struct tm_history loop = known(), slope = known();
	struct tm_claim c[] = {claim(&loop, 100), claim(&slope, 100)};

	(void)state;
	/* Nothing below 60M, then 6000 at once: 100 a MiB. The other one's first step is better
	 * than that, all others worse, and who climbs hills would stay there. */
	add_hits(&loop, 60 * M, 6000);
	add_hits(&slope, 16 * M, 1000);
	for (uint64_t m = 20; m <= 100; m += 4)
		add_hits(&slope, m * M, 40);
	assert_false(tm_benefit_divide(c, 2, 100 * M));
	assert_true(c[0].aim >= point(60 * M));
	assert_true(c[0].aim < 70 * M);
	assert_true(c[1].aim >= point(16 * M));
	assert_true(c[0].aim + c[1].aim <= 100 * M);
	assert_true(c[0].aim + c[1].aim >= 99 * M);
}

static void a_cliff_out_of_reach_is_left_alone(void **state)
{
	struct tm_history loop = known(), slope = known();
	struct tm_claim c[] = {claim(&loop, 100), claim(&slope, 100)};

	(void)state;
	add_hits(&loop, 96 * M, 1000000);
	for (uint64_t m = 4; m <= 80; m += 4)
		add_hits(&slope, m * M, 1);
	tm_benefit_divide(c, 2, 100 * M);
	/* The other's floor, 12.5M, is not to be had: what is left would do the loop no good. */
	assert_true(c[1].aim >= 80 * M);
	assert_true(c[0].aim >= c[0].floor);
}

static void the_last_step_does_not_end_on_a_plateau(void **state)
{
	struct tm_history a = known(), b = known();
	struct tm_claim c[] = {claim(&a, 100), claim(&b, 100)};

	(void)state;
	/* Both cliffs are worth it, but only one fits, and then there is a small one that does. */
	add_hits(&a, 60 * M, 7500);
	add_hits(&b, 60 * M, 6900);
	add_hits(&b, 30 * M, 300);
	tm_benefit_divide(c, 2, 100 * M);
	assert_true(c[0].aim >= point(60 * M));
	assert_true(c[1].aim >= point(30 * M));
	assert_int_equal(hits_at(&c[0]) + hits_at(&c[1]), 7800);
}

static void it_is_hits_per_byte(void **state)
{
	struct tm_history dense = known(), sparse = known();
	struct tm_claim c[] = {claim(&dense, 100), claim(&sparse, 100)};

	(void)state;
	/* The same hits; what the one keeps compresses twice as well. */
	for (uint64_t m = 1; m <= 40; m++) {
		add_hits(&dense, m * M / 2 + 8 * M, 100);
		add_hits(&sparse, m * M + 8 * M, 100);
	}
	tm_benefit_divide(c, 2, 40 * M);
	assert_true(c[0].aim >= 26 * M); /* all that it can use */
	assert_true(c[1].aim <= 14 * M);
}

static void who_gains_nothing_keeps_a_floor_by_weight(void **state)
{
	struct tm_history loop = known(), scan = known();
	struct tm_claim c[] = {claim(&loop, 100), claim(&scan, 100), claim(&scan, 300)};

	(void)state;
	for (uint64_t m = 1; m <= 200; m++)
		add_hits(&loop, m * M, 1);
	tm_benefit_divide(c, 3, 100 * M);
	assert_int_equal(c[1].floor, 20 * M / TM_BENEFIT_FLOOR);
	assert_int_equal(c[2].floor, 60 * M / TM_BENEFIT_FLOOR);
	assert_true(c[0].aim >= 78 * M);
	assert_true(c[1].aim >= c[1].floor && c[1].aim < c[1].floor + M);
	assert_true(c[2].aim >= c[2].floor && c[2].aim < c[2].floor + 2 * M);
}

static void who_is_not_known_gets_its_weight(void **state)
{
	struct tm_history loop = known(), young = known();
	struct tm_claim c[] = {claim(&loop, 100), claim(NULL, 100), claim(&young, 200)};

	(void)state;
	young.samples = TM_BENEFIT_SAMPLES - 1;
	add_hits(&loop, 300 * M, 1000000);
	add_hits(&young, 300 * M, 1000000);
	tm_benefit_divide(c, 3, 100 * M);
	for (int i = 0; i < 3; i++)
		assert_int_equal(c[i].aim, i == 2 ? 50 * M : 25 * M);
	assert_int_equal(c[1].floor, 25 * M);
	assert_int_equal(c[2].floor, 50 * M);
	/* What it does not want goes to those who are known. */
	c[1].most = M;
	c[2].most = M;
	loop.hits[tm_curve_point(300 * M)] = 0;
	add_hits(&loop, 90 * M, 1);
	tm_benefit_divide(c, 3, 100 * M);
	assert_int_equal(c[0].aim, 98 * M);
}

static void nobody_hits_anything(void **state)
{
	struct tm_history scan = known();
	struct tm_claim c[] = {claim(&scan, 100), claim(&scan, 300)};

	(void)state;
	c[0].aim = 90 * M; /* and what was before does not matter then */
	c[1].aim = 10 * M;
	assert_false(tm_benefit_divide(c, 2, 100 * M));
	assert_int_equal(c[0].aim, 25 * M);
	assert_int_equal(c[1].aim, 75 * M);
	tm_benefit_divide(c, 2, 0);
	assert_int_equal(c[0].aim + c[1].aim, 0);
	tm_benefit_divide(c, 0, 100 * M);
}

static void nobody_gets_more_than_it_may_have(void **state)
{
	struct tm_history loop = known(), scan = known();
	struct tm_claim c[] = {claim(&loop, 100), claim(&scan, 100)};

	(void)state;
	add_hits(&loop, 80 * M, 1000);
	add_hits(&loop, 20 * M, 1);
	c[0].most = 30 * M + 1;
	tm_benefit_divide(c, 2, 100 * M);
	assert_int_equal(c[0].aim, 30 * M + 1);
	assert_int_equal(c[1].aim, 70 * M - 1);
}

/* A curve of n steps of the same size. */
static struct tm_history concave(uint64_t first, uint64_t percent, int seed)
{
	struct tm_history h = known();
	double hits = (double)first;

	for (uint64_t m = 1; m <= 100; m++) {
		add_hits(&h, m * M, (uint64_t)(hits + seed));
		hits = hits * (double)percent / 100;
	}
	return h;
}

static void noise_moves_no_memory(void **state)
{
	struct tm_history a = concave(1000000, 97, 0), b = concave(1000000, 97, 0), a0 = a, b0 = b;
	struct tm_claim c[] = {claim(&a, 100), claim(&b, 100)};
	uint64_t aims[2];

	(void)state;
	srand(7);
	assert_false(tm_benefit_divide(c, 2, 100 * M));
	aims[0] = c[0].aim;
	aims[1] = c[1].aim;
	for (int i = 0; i < 1000; i++) {
		for (uint32_t p = 0; p < TM_CURVE_POINTS; p++) {
			a.hits[p] = a0.hits[p] * (97 + (uint64_t)rand() % 7) / 100;
			b.hits[p] = b0.hits[p] * (97 + (uint64_t)rand() % 7) / 100;
		}
		assert_true(tm_benefit_divide(c, 2, 100 * M));
		assert_int_equal(c[0].aim, aims[0]);
		assert_int_equal(c[1].aim, aims[1]);
	}
	/* A total that changes is followed in proportion; */
	assert_true(tm_benefit_divide(c, 2, 110 * M));
	assert_true(c[0].aim * 10 / 11 - aims[0] + 1 <= 2);
	/* a client that does something else is followed at once, */
	a = concave(1000000, 90, 0);
	b = concave(1000000, 99, 0);
	assert_false(tm_benefit_divide(c, 2, 100 * M));
	assert_true(c[1].aim > c[0].aim + 20 * M);
	/* and so is a weight, by the floor that goes with it. */
	c[0].weight = TM_WEIGHT_MAX;
	assert_false(tm_benefit_divide(c, 2, 100 * M));
	assert_true(c[0].aim >= 24 * M);
}

/* What the one needs much memory for no longer happens; that it hits nearly always, and so has most
 * of all hits, must not keep the other one from what it misses. */
static void who_always_hits_does_not_hide_who_misses(void **state)
{
	struct tm_history hot = known(), poor = known();
	struct tm_claim c[] = {claim(&hot, 100), claim(&poor, 100)};

	(void)state;
	add_hits(&hot, 20 * M, 10000 * M); /* above its floor, and half of all there ever are */
	add_hits(&hot, 80 * M, 1000 * M);
	assert_false(tm_benefit_divide(c, 2, 100 * M));
	assert_true(c[0].aim >= 80 * M);
	hot.hits[tm_curve_point(80 * M)] = 0;
	add_hits(&poor, 60 * M, 500 * M); /* 5% of what the hot one hits, and all that is missed */
	assert_false(tm_benefit_divide(c, 2, 100 * M));
	assert_true(c[1].aim >= 60 * M);
	assert_true(c[0].aim >= point(20 * M));
}

/* The most hits that any division into points has, by dynamic programming over MiB. */
static uint64_t best_of(struct tm_claim *c, size_t count, uint32_t mib)
{
	uint64_t best[count + 1][mib + 1];

	memset(best, 0, sizeof(best));
	for (size_t i = 0; i < count; i++) {
		for (uint32_t m = 0; m <= mib; m++) {
			for (uint32_t own = 0; own <= m; own++) {
				struct tm_claim one = c[i];
				uint64_t hits;

				one.aim = own * M;
				if (one.aim < c[i].floor)
					continue;
				hits = best[i][m - own] + hits_at(&one);
				best[i + 1][m] = TM_MAX(best[i + 1][m], hits);
			}
		}
	}
	return best[count][mib];
}

/* On curves without plateaus the walk is as good as any; with cliffs it loses one step at most, and
 * far less on average. */
static void it_is_near_the_optimum(void **state)
{
	uint64_t walked = 0, optimum = 0;

	(void)state;
	srand(11);
	for (int round = 0; round < 60; round++) {
		struct tm_history h[3];
		struct tm_claim c[3];
		uint64_t sum = 0, best;
		bool cliffs = round % 2;

		for (int i = 0; i < 3; i++) {
			h[i] = cliffs ? known()
				      : concave(1000 + (uint64_t)rand() % 9000,
						90 + (uint64_t)rand() % 9, 0);
			for (int n = 0; cliffs && n < 4; n++)
				add_hits(&h[i], (1 + (uint64_t)rand() % 40) * M,
					1 + (uint64_t)rand() % 1000);
			c[i] = claim(&h[i], 100);
		}
		tm_benefit_divide(c, 3, 60 * M);
		for (int i = 0; i < 3; i++)
			sum += hits_at(&c[i]);
		best = best_of(c, 3, 60);
		assert_true(sum <= best + best / 50 + 1); /* it may use bytes, not only MiB */
		if (!cliffs)
			assert_true(sum >= best * 95 / 100);
		else
			assert_true(sum >= best * 60 / 100);
		walked += sum;
		optimum += best;
	}
	assert_true(walked >= optimum * 95 / 100);
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

/* Clients write whatever they like into their ledgers, look after look. */
static void nonsense_keeps_the_rules(void **state)
{
	static struct tm_history h[CLIENTS];

	(void)state;
	srand(13);
	memset(h, 0, sizeof(h));
	for (int round = 0; round < ROUNDS; round++) {
		struct tm_claim c[CLIENTS];
		struct tm_share s[CLIENTS];
		size_t count = 1 + (size_t)rand() % CLIENTS;
		uint64_t total = any_number(), sum = 0;

		for (size_t i = 0; i < count; i++) {
			atomic_store(&ledger.samples, any_number());
			for (uint32_t p = 0; p < TM_CURVE_POINTS; p++)
				atomic_store(&ledger.curve[p],
					round % 2 ? any_number() : UINT64_MAX * (uint64_t)(p & 1));
			tm_history_look(&h[i], &ledger);
			for (uint32_t p = 0; p < TM_CURVE_POINTS; p++)
				assert_true(h[i].raw[p] < 1ull << 48 && h[i].hits[p] < 1ull << 56);
			c[i] = claim(
				rand() % 4 ? &h[i] : NULL, 1 + (uint32_t)rand() % TM_WEIGHT_MAX);
			c[i].most = any_number();
			c[i].aim = rand() % 2 ? any_number() : c[i].most;
		}
		tm_benefit_divide(c, count, total);
		for (size_t i = 0; i < count; i++) {
			assert_true(c[i].floor <= c[i].aim);
			assert_true(c[i].aim <= c[i].most);
			assert_true(c[i].aim <= total - sum);
			sum += c[i].aim;
			s[i] = (struct tm_share){.weight = c[i].weight,
				.want = any_number(),
				.persistent = any_number(),
				.ceiling = any_number(),
				.floor = any_number(),
				.part = (uint32_t)any_number()};
		}
		/* Nor does what comes of it break the rules of the division. */
		tm_policy_divide(s, count, total);
		sum = 0;
		for (size_t i = 0; i < count; i++) {
			assert_true(s[i].granted <= s[i].ceiling);
			assert_true(s[i].granted <= total - sum);
			sum += s[i].granted;
		}
	}
}

static void a_history_begins_at_its_first_look(void **state)
{
	struct tm_history h = {0};

	(void)state;
	memset(&ledger, 0, sizeof(ledger));
	assert_false(tm_history_is_known(NULL));
	atomic_store(&ledger.samples, 1000000);
	atomic_store(&ledger.curve[7], 1000000);
	tm_history_look(&h, &ledger);
	assert_int_equal(h.hits[7], 0);
	atomic_fetch_add(&ledger.curve[7], 100);
	atomic_fetch_add(&ledger.samples, TM_BENEFIT_SAMPLES);
	tm_history_look(&h, &ledger);
	assert_int_equal(h.hits[7], 100 * TM_BENEFIT_ONE);
	for (int i = 2; i < (int)TM_BENEFIT_LOOKS; i++) {
		assert_false(tm_history_is_known(&h));
		tm_history_look(&h, &ledger);
	}
	assert_true(tm_history_is_known(&h));
	for (int i = 0; i < 355; i++)
		tm_history_look(&h, &ledger);
	assert_true(h.hits[7] > 48 * TM_BENEFIT_ONE && h.hits[7] < 55 * TM_BENEFIT_ONE);
	/* A successor's ledger counts from 0: it takes nothing away, and adds from there on. */
	atomic_store(&ledger.curve[7], 0);
	tm_history_look(&h, &ledger);
	atomic_store(&ledger.curve[7], 100);
	tm_history_look(&h, &ledger);
	assert_true(h.hits[7] > 147 * TM_BENEFIT_ONE && h.hits[7] < 155 * TM_BENEFIT_ONE);
}

/* The store hits what an LRU list of its size would not: that much less is to be had beyond. */
static void what_is_really_hit_counts(void **state)
{
	struct tm_history h = {0};
	uint64_t near = 0, far = 0;

	(void)state;
	memset(&ledger, 0, sizeof(ledger));
	tm_history_look(&h, &ledger);
	atomic_store(&ledger.freeable_bytes, 32 * M);
	atomic_store(&ledger.curve[tm_curve_point(16 * M)], 1000);
	atomic_store(&ledger.curve[tm_curve_point(64 * M)], 3000);
	atomic_store(&ledger.pools[3].stat[TM_STAT_HITS], 2500);
	atomic_store(&ledger.pools[4].stat[TM_STAT_HITS], 999999);
	ledger.pools[4].flags = TM_POOL_PERSIST; /* of no concern */
	tm_history_look(&h, &ledger);
	for (uint32_t i = 0; i < TM_CURVE_POINTS; i++)
		*(tm_curve_bytes(i) <= 32 * M ? &near : &far) += h.hits[i];
	assert_true(near / TM_BENEFIT_ONE >= 2490 && near / TM_BENEFIT_ONE <= 2500);
	assert_true(far / TM_BENEFIT_ONE >= 1490 && far / TM_BENEFIT_ONE <= 1500);
	/* Without a byte there is nothing that it could have hit. */
	atomic_store(&ledger.freeable_bytes, 0);
	tm_history_look(&h, &ledger);
	assert_int_equal(h.hits[0], 0);
	/* Nor is what it should hit and does not any reason to give it that much. */
	memset(&h, 0, sizeof(h));
	tm_history_look(&h, &ledger);
	atomic_store(&ledger.freeable_bytes, 128 * M);
	atomic_fetch_add(&ledger.curve[tm_curve_point(64 * M)], 3000);
	atomic_fetch_add(&ledger.curve[tm_curve_point(256 * M)], 1000);
	atomic_fetch_add(&ledger.pools[3].stat[TM_STAT_HITS], 600);
	tm_history_look(&h, &ledger);
	assert_int_equal(h.hits[tm_curve_point(64 * M)], 600 * TM_BENEFIT_ONE);
	assert_int_equal(h.hits[tm_curve_point(256 * M)], 1000 * TM_BENEFIT_ONE);
}

static void little_is_asked_ahead(void **state)
{
	(void)state;
	assert_int_equal(tm_benefit_want(80 * M, 144 * M), 94 * M);
	assert_int_equal(tm_benefit_want(80 * M, 81 * M), 81 * M);
	assert_int_equal(tm_benefit_want(80 * M, 10 * M), 10 * M);
	assert_int_equal(tm_benefit_want(UINT64_MAX, UINT64_MAX), UINT64_MAX);
	assert_int_equal(tm_benefit_want(0, UINT64_MAX), 4 * M);
}

/* From aims to grants: parts above floors, within demands and ceilings, persistent pages first. */
static void parts_become_grants(void **state)
{
	struct tm_share s[] = {
		{.weight = 100, .want = 90 * M, .ceiling = 200 * M, .floor = 10 * M, .part = 3},
		{.weight = 100, .want = 90 * M, .ceiling = 200 * M, .floor = 10 * M, .part = 1},
		{.weight = 1, .want = 40 * M, .persistent = 40 * M, .ceiling = 200 * M},
	};

	(void)state;
	tm_policy_divide(s, 3, 100 * M);
	assert_int_equal(s[0].granted, 40 * M);
	assert_int_equal(s[1].granted, 20 * M);
	assert_int_equal(s[2].granted, 40 * M);
	/* What one does not want the other gets, though it has no part of it. */
	s[1].part = 0;
	s[0].want = 15 * M;
	tm_policy_divide(s, 3, 100 * M);
	assert_int_equal(s[0].granted, 15 * M);
	assert_int_equal(s[1].granted, 45 * M);
	/* A cap holds to the byte. */
	s[0].want = 90 * M;
	s[0].ceiling = 13 * M + 1;
	tm_policy_divide(s, 3, 100 * M);
	assert_int_equal(s[0].granted, 13 * M + 1);
	assert_int_equal(s[1].granted, 47 * M - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cliff_behind_a_plateau_is_reached),
		cmocka_unit_test(a_cliff_out_of_reach_is_left_alone),
		cmocka_unit_test(the_last_step_does_not_end_on_a_plateau),
		cmocka_unit_test(it_is_hits_per_byte),
		cmocka_unit_test(who_gains_nothing_keeps_a_floor_by_weight),
		cmocka_unit_test(who_is_not_known_gets_its_weight),
		cmocka_unit_test(nobody_hits_anything),
		cmocka_unit_test(nobody_gets_more_than_it_may_have),
		cmocka_unit_test(noise_moves_no_memory),
		cmocka_unit_test(who_always_hits_does_not_hide_who_misses),
		cmocka_unit_test(it_is_near_the_optimum),
		cmocka_unit_test(nonsense_keeps_the_rules),
		cmocka_unit_test(a_history_begins_at_its_first_look),
		cmocka_unit_test(what_is_really_hit_counts),
		cmocka_unit_test(little_is_asked_ahead),
		cmocka_unit_test(parts_become_grants),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
