/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * policy.c - how much memory there is for tmem, and who gets it
 *
 * Everything is one operation, water-filling: pour an amount over needs so that each gets a part
 * proportional to its weight, nobody gets more than it needs, and what one leaves goes to the
 * others.
 *
 *      enough for every demand      grant the demands, then pour the spare up to the ceilings
 *      not enough                   pour over what is urgent, the persistent parts, the rest
 *
 * The rest goes by weight, or by benefit: floors, then by parts, which benefit.c has worked out;
 * only what those with a part leave goes by weight again. Demands and ceilings hold in any case.
 *
 * Persistent memory comes first because refusing it costs a disk write now, where refusing
 * ephemeral memory may cost a disk read later.
 *
 * Locking: none; pure functions. O(count^2) at worst: 256 random clients take
 * 8 us on average, 38 us at worst (gcc -O2, one core of the build machine).
 */
#include "tools/tmemd/policy.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "core/util.h"

/* What MemAvailable does by itself, as a part of RAM, and for how long that is added up. */
#define NOISE_FRACTION 1024
#define MARK_NS        1000000000ull
#define RESTLESS_NS    1000000000ull

const char *const tm_policy_names[TM_POLICY_COUNT] = {
	[TM_POLICY_WEIGHT] = "weight",
	[TM_POLICY_BENEFIT] = "benefit",
};

int tm_policy_parse(const char *name, enum tm_policy *ret_policy)
{
	for (int i = 0; i < TM_POLICY_COUNT; i++) {
		if (strcmp(tm_policy_names[i], name) == 0) {
			*ret_policy = (enum tm_policy)i;
			return 0;
		}
	}
	return -EINVAL;
}

static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

/* Has somebody else taken memory since the mark? What the clients take is in both numbers. */
static bool is_falling(struct tm_trend *t, uint64_t have, const struct tm_outlook *look)
{
	bool falling = add(have, look->ram / NOISE_FRACTION) < t->mark;

	if (falling || have > t->mark || look->now_ns - t->mark_ns >= MARK_NS) {
		t->mark = have;
		t->mark_ns = look->now_ns;
	}
	return falling;
}

uint64_t tm_policy_total(struct tm_trend *t, const struct tm_outlook *look)
{
	uint64_t have = add(look->used, look->available);
	uint64_t goal = TM_MIN(have > look->reserve ? have - look->reserve : 0, look->limit);
	uint64_t ms = TM_MIN((look->now_ns - t->looked_ns) / 1000000, (uint64_t)1000);
	uint64_t step = look->ram / 1000 * ms / TM_GROW_SECONDS;
	bool falling;

	if (!t->known)
		*t = (struct tm_trend){.known = true, .total = goal, .mark = have};
	falling = is_falling(t, have, look) || look->pressed;
	if (falling)
		t->quiet_ns = look->now_ns + TM_QUIET_NS;
	if (falling && goal < t->total)
		t->restless_ns = look->now_ns + RESTLESS_NS;
	if (goal < t->total)
		t->total = goal;
	else if (look->now_ns >= t->quiet_ns)
		t->total = TM_MIN(goal, add(t->total, step));
	t->looked_ns = look->now_ns;
	return t->total;
}

struct need {
	uint64_t need, got;
	uint32_t weight;
	bool full;
};

/* Pour `amount` over the needs: raises each `got` up to its `need`. Returns what is left over. */
static uint64_t water_fill(struct need *needs, size_t count, uint64_t amount)
{
	for (;;) {
		uint64_t weights = 0, level = amount, poured = 0;
		bool filled = false;

		for (size_t i = 0; i < count; i++)
			weights += needs[i].full ? 0 : needs[i].weight;
		if (weights == 0)
			return amount;
		/* Everybody whose need is below its part of this round is done. */
		for (size_t i = 0; i < count; i++) {
			struct need *n = &needs[i];
			uint64_t part = (uint64_t)((unsigned __int128)level * n->weight / weights);

			if (n->full || n->need > part)
				continue;
			n->got = n->need;
			n->full = filled = true;
			amount -= n->need;
		}
		if (filled)
			continue;
		for (size_t i = 0; i < count; i++) {
			struct need *n = &needs[i];

			if (n->full)
				continue;
			n->got = (uint64_t)((unsigned __int128)level * n->weight / weights);
			n->full = true;
			poured += n->got;
		}
		return amount - poured;
	}
}

static uint64_t share_demand(const struct tm_share *s)
{
	return TM_MIN(s->want, s->ceiling);
}

/* Pour `amount` over what is missing between each grant and `target`. Returns what is left over. */
static uint64_t pour(struct tm_share *shares, size_t count, uint64_t amount,
	uint64_t (*target)(const struct tm_share *s), bool by_part)
{
	struct need needs[count + 1];

	for (size_t i = 0; i < count; i++) {
		const struct tm_share *s = &shares[i];
		uint64_t goal = target(s);

		needs[i] = (struct need){.weight = by_part ? s->part : s->weight,
			.need = goal > s->granted ? goal - s->granted : 0};
	}
	amount = water_fill(needs, count, amount);
	for (size_t i = 0; i < count; i++)
		shares[i].granted += needs[i].got;
	return amount;
}

static uint64_t share_persistent(const struct tm_share *s)
{
	return TM_MIN(s->persistent, share_demand(s));
}

static uint64_t share_urgent(const struct tm_share *s)
{
	return s->urgent ? share_demand(s) : 0;
}

/* Floors come on top of what was granted for persistent pages. */
static uint64_t share_floor(const struct tm_share *s)
{
	return TM_MIN(add(s->granted, s->floor), share_demand(s));
}

static uint64_t share_ceiling(const struct tm_share *s)
{
	return s->ceiling;
}

uint64_t tm_policy_urgent(const struct tm_share *shares, size_t count, uint64_t limit)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum = add(sum, share_urgent(&shares[i]));
	return TM_MIN(sum, limit);
}

void tm_policy_divide(struct tm_share *shares, size_t count, uint64_t total)
{
	for (size_t i = 0; i < count; i++)
		shares[i].granted = 0;
	/* When the demands fit, these five grant exactly the demands. */
	total = pour(shares, count, total, share_urgent, false);
	total = pour(shares, count, total, share_persistent, false);
	total = pour(shares, count, total, share_floor, false);
	total = pour(shares, count, total, share_demand, true);
	total = pour(shares, count, total, share_demand, false);
	pour(shares, count, total, share_ceiling, false);
}

void tm_policy_release(const uint64_t *freeable, const uint32_t *weight, size_t count,
	uint64_t bytes, uint64_t *ret_ask)
{
	struct need needs[count + 1];
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++) {
		needs[i] = (struct need){.weight = weight[i], .need = freeable[i]};
		sum = add(sum, freeable[i]);
	}
	water_fill(needs, count, sum > bytes ? sum - bytes : 0);
	for (size_t i = 0; i < count; i++)
		ret_ask[i] = freeable[i] - needs[i].got;
}
