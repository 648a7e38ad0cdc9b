/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * curve.c - libFuzzer target: whatever clients write into the counters of their curves
 *
 * The input is a string of numbers. Some of them are written to counters of the ledgers of four
 * clients, between looks of the host; the rest are what else a division knows of them. Aims have
 * to keep to their floors, ceilings and total, and so do the grants that come of them.
 */
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemd/benefit.h"
#include "tools/tmemd/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CLIENTS 4

#define CHECK(condition)                                                                           \
	do                                                                                         \
		if (!(condition))                                                                  \
			abort();                                                                   \
	while (0)

struct input {
	const uint8_t *data;
	size_t size;
};

/* The next number: a byte that says how far to shift the two after it. */
static uint64_t next(struct input *in)
{
	uint64_t value;

	if (in->size < 3) {
		in->size = 0;
		return 0;
	}
	value = (uint64_t)(in->data[1] | in->data[2] << 8);
	value = in->data[0] & 64 ? ~value : value;
	value <<= in->data[0] & 63;
	in->data += 3;
	in->size -= 3;
	return value;
}

static void check_claims(const struct tm_claim *c, uint64_t total)
{
	for (size_t i = 0; i < CLIENTS; i++) {
		CHECK(c[i].floor <= c[i].aim);
		CHECK(c[i].aim <= c[i].most);
		CHECK(c[i].aim <= total);
		total -= c[i].aim;
	}
}

static void check_shares(const struct tm_share *s, uint64_t total)
{
	for (size_t i = 0; i < CLIENTS; i++) {
		CHECK(s[i].granted <= s[i].ceiling);
		CHECK(s[i].granted <= total);
		total -= s[i].granted;
	}
}

/* Write some counters, look, divide. */
static void round_of(
	struct input *in, struct tm_ledger *ledgers, struct tm_history *histories, uint64_t *aims)
{
	struct tm_claim claims[CLIENTS];
	struct tm_share shares[CLIENTS];
	uint64_t total = next(in);

	for (size_t i = 0; i < CLIENTS; i++) {
		struct tm_ledger *l = &ledgers[i];
		uint64_t writes = next(in) % 8;

		atomic_store(&l->samples, next(in));
		atomic_store(&l->freeable_bytes, next(in));
		atomic_store(&l->pools[i].stat[TM_STAT_HITS], next(in));
		for (uint64_t n = 0; n < writes; n++)
			atomic_store(&l->curve[next(in) % TM_CURVE_POINTS], next(in));
		tm_history_look(&histories[i], l);
		claims[i] = (struct tm_claim){.history = next(in) & 1 ? NULL : &histories[i],
			.weight = 1 + (uint32_t)(next(in) % TM_WEIGHT_MAX),
			.most = next(in),
			.aim = next(in) & 1 ? next(in) : aims[i]};
	}
	tm_benefit_divide(claims, CLIENTS, total);
	check_claims(claims, total);
	for (size_t i = 0; i < CLIENTS; i++) {
		uint64_t want = tm_benefit_want(next(in), next(in));

		aims[i] = claims[i].aim;
		shares[i] = (struct tm_share){.weight = claims[i].weight,
			.want = want,
			.persistent = next(in),
			.ceiling = claims[i].most,
			.urgent = next(in) & 1,
			.floor = claims[i].floor,
			.part = tm_benefit_part(claims[i].floor, claims[i].aim)};
	}
	tm_policy_divide(shares, CLIENTS, total);
	check_shares(shares, total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct tm_ledger ledgers[CLIENTS];
	static struct tm_history histories[CLIENTS];
	struct input in = {data, size};
	uint64_t aims[CLIENTS] = {0};

	memset(ledgers, 0, sizeof(ledgers));
	memset(histories, 0, sizeof(histories));
	for (int rounds = 0; in.size > 0 && rounds < 16; rounds++)
		round_of(&in, ledgers, histories, aims);
	return 0;
}
