/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * benefit.c - who makes the most of ephemeral memory
 *
 *      ledgers' counters -> histories -> floors by weight -> steps along the hulls -> aims
 *
 * The steepest way from where a client stands to any later point of its curve is the next edge of
 * the curve's convex hull (Qureshi and Patt, MICRO 2006, call the search for it lookahead). Points
 * out of reach are left aside, so the last step, too, ends at a point and not on a plateau.
 *
 * Hits are sums of at most 2^38 a look and point, so 2^53 in all; bytes are below 2^64: 128 bits
 * hold their products.
 *
 * Locking: none; pure functions. A step costs a look at 400 points of one client and at one number
 * of each other; no step is shorter than 1/512 of all there is, so there are at most 512.
 */
#include "tools/tmemd/benefit.h"

#include "core/util.h"
#include "tools/tmemd/policy.h"

#define FORGET_SHIFT 6
#define LOOK_MAX     (1ull << 30) /* hits of a point and look that are believed */
#define WORTH        64u          /* part of the hits that is worth to move memory for */
#define STEPS_MAX    512u

/* --- histories -------------------------------------------------------------------------------- */

/* By how much a counter grew. One that fell, which no honest one does, begins anew. */
static uint64_t growth(uint64_t *seen, uint64_t now)
{
	uint64_t grown = now > *seen ? now - *seen : 0;

	*seen = now;
	return TM_MIN(grown, LOOK_MAX);
}

void tm_history_look(struct tm_history *h, const struct tm_ledger *ledger)
{
	uint64_t grown = growth(
		&h->samples_seen, atomic_load_explicit(&ledger->samples, memory_order_relaxed));

	h->samples += h->begun ? grown : 0;
	h->looks += h->looks < TM_BENEFIT_LOOKS;
	for (size_t i = 0; i < TM_CURVE_POINTS; i++) {
		grown = growth(
			&h->seen[i], atomic_load_explicit(&ledger->curve[i], memory_order_relaxed));
		h->hits[i] -= h->hits[i] >> FORGET_SHIFT;
		if (h->begun)
			h->hits[i] += grown * TM_BENEFIT_ONE;
	}
	h->begun = true;
}

bool tm_history_is_known(const struct tm_history *h)
{
	return h && h->samples >= TM_BENEFIT_SAMPLES && h->looks >= TM_BENEFIT_LOOKS;
}

/* --- the walk --------------------------------------------------------------------------------- */

/* A way up a client's curve: to `to` bytes, for `hits` more. */
struct way {
	uint64_t from, to, hits;
};

static bool is_steeper(const struct way *a, const struct way *b)
{
	return (unsigned __int128)a->hits * (b->to - b->from) >
		(unsigned __int128)b->hits * (a->to - a->from);
}

/* The steepest way from `from` to a point that is at least `step` away and at most at `most`. hits
 * is 0 where none leads up. */
static struct way steepest(const struct tm_history *h, uint64_t from, uint64_t most, uint64_t step)
{
	struct way way = {from, from, 0}, best = {from, from + 1, 0};
	uint32_t i = tm_curve_point(from);

	/* What needs no more than `from` is had already. */
	if (tm_curve_bytes(i) <= from)
		i++;
	for (; i < TM_CURVE_POINTS && tm_curve_bytes(i) <= most; i++) {
		way.to = tm_curve_bytes(i);
		way.hits += h->hits[i];
		if (way.to - from >= step && is_steeper(&way, &best))
			best = way;
	}
	return best;
}

/* The hits that so many bytes are good for, beyond those of the floor. */
static uint64_t hits_with(const struct tm_claim *c, uint64_t bytes)
{
	uint64_t hits = 0;

	for (uint32_t i = 0; i < TM_CURVE_POINTS && tm_curve_bytes(i) <= bytes; i++)
		if (tm_curve_bytes(i) > c->floor)
			hits += c->history->hits[i];
	return hits;
}

static uint64_t reach(const struct tm_claim *c, uint64_t left)
{
	return c->aim + TM_MIN(left, c->most - c->aim);
}

/* Give `left` bytes away, step by step. Returns what brings nothing to anybody. */
static uint64_t walk(struct tm_claim *claims, size_t count, uint64_t left)
{
	uint64_t step = left / STEPS_MAX;
	struct way ways[count + 1];

	for (size_t i = 0; i < count; i++)
		ways[i] = (struct way){0};
	for (;;) {
		struct way *best = NULL;

		for (size_t i = 0; i < count; i++) {
			struct tm_claim *c = &claims[i];

			if (!tm_history_is_known(c->history))
				continue;
			/* Look again where it has moved, or what it saw has gone out of reach. */
			if (ways[i].to == 0 || ways[i].from != c->aim ||
				(ways[i].hits > 0 && ways[i].to > reach(c, left)))
				ways[i] = steepest(c->history, c->aim, reach(c, left), step);
			if (ways[i].hits > 0 && (!best || is_steeper(&ways[i], best)))
				best = &ways[i];
		}
		if (!best)
			return left;
		claims[best - ways].aim = best->to;
		left -= best->to - best->from;
	}
}

/* By weight, as far as each can have more. */
static void by_weight(struct tm_claim *claims, size_t count, uint64_t total, bool known_only)
{
	struct tm_share shares[count + 1];

	for (size_t i = 0; i < count; i++) {
		struct tm_claim *c = &claims[i];
		uint64_t more = c->most - c->aim;

		if (known_only && !tm_history_is_known(c->history))
			more = 0;
		shares[i] = (struct tm_share){.weight = c->weight, .want = more, .ceiling = more};
	}
	tm_policy_divide(shares, count, total);
	for (size_t i = 0; i < count; i++)
		claims[i].aim += shares[i].granted;
}

/* --- hysteresis ------------------------------------------------------------------------------- */

/* What the aims of the last time come to with `total` of the known ones' bytes. False: they do not
 * fit any more, and nothing was changed. */
static bool scale(const struct tm_claim *claims, size_t count, uint64_t total, uint64_t *ret_aim)
{
	unsigned __int128 before = 0, sum = 0;

	for (size_t i = 0; i < count; i++)
		before += tm_history_is_known(claims[i].history) ? claims[i].aim : 0;
	for (size_t i = 0; i < count; i++) {
		const struct tm_claim *c = &claims[i];
		uint64_t aim;

		if (!tm_history_is_known(c->history))
			continue;
		if (c->aim == 0)
			return false;
		aim = (uint64_t)((unsigned __int128)c->aim * total / before);
		/* Rounding is no reason, nor is the coming and going of some of the total. */
		if (aim > c->most || aim + aim / WORTH + 1 < c->floor)
			return false;
		ret_aim[i] = TM_MAX(aim, c->floor);
		sum += ret_aim[i];
	}
	return sum <= (unsigned __int128)total + total / WORTH;
}

/* The rest of the sum after floors were raised. */
static void fit(struct tm_claim *claims, size_t count, uint64_t total)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += claims[i].aim;
	for (size_t i = 0; i < count && sum > total; i++) {
		struct tm_claim *c = &claims[i];
		uint64_t less = TM_MIN(sum - total, c->aim - c->floor);

		c->aim -= less;
		sum -= less;
	}
}

/* ---------------------------------------------------------------------------------------------- */

bool tm_benefit_divide(struct tm_claim *claims, size_t count, uint64_t total)
{
	uint64_t before[count + 1], kept[count + 1], left = 0, known = 0, old = 0, new = 0;
	bool fits;

	for (size_t i = 0; i < count; i++) {
		before[i] = claims[i].aim;
		claims[i].aim = 0;
	}
	by_weight(claims, count, total, false);
	for (size_t i = 0; i < count; i++) {
		struct tm_claim *c = &claims[i];

		c->floor = c->aim;
		if (tm_history_is_known(c->history)) {
			known += c->aim;
			c->floor = c->aim / TM_BENEFIT_FLOOR;
			left += c->aim - c->floor;
			c->aim = before[i];
		}
	}
	fits = scale(claims, count, known, kept);
	for (size_t i = 0; i < count; i++)
		claims[i].aim = claims[i].floor;
	by_weight(claims, count, walk(claims, count, left), true);

	for (size_t i = 0; i < count && fits; i++) {
		if (tm_history_is_known(claims[i].history)) {
			old += hits_with(&claims[i], kept[i]);
			new += hits_with(&claims[i], claims[i].aim);
		}
	}
	/* Without a hit anywhere it is weights that count. */
	if (!fits || new == 0 || (new > old &&new - old > new / WORTH))
		return false;
	for (size_t i = 0; i < count; i++)
		if (tm_history_is_known(claims[i].history))
			claims[i].aim = kept[i];
	fit(claims, count, total);
	return true;
}
