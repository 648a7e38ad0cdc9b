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
 * Hits are sums of at most 2^38 a look and point, so 2^56 in all; bytes are below 2^64: 128 bits
 * hold their products.
 *
 * Locking: none; pure functions. A step costs a look at 400 points of one client and at one number
 * of each other; no step is shorter than 1/512 of all there is, so there are at most 512.
 */
#include "tools/tmemd/benefit.h"

#include "core/util.h"
#include "tools/tmemd/policy.h"

#define FORGET_SHIFT 9
#define LOOK_MAX     (1ull << 30) /* hits of a point and look that are believed */
#define WORTH        8u  /* part of the misses that memory could spare, worth to move it for */
#define ROUNDING     64u /* part that aims may be off when they are scaled */
#define STEPS_MAX    512u
#define HORIZON      4u /* times what the curves remember, for which they are believed */
#define AHEAD_BYTES  (4ull << 20)

/* --- histories -------------------------------------------------------------------------------- */

/* By how much a counter grew. One that fell, which no honest one does, begins anew. */
static uint64_t growth(uint64_t *seen, uint64_t now)
{
	uint64_t grown = now > *seen ? now - *seen : 0;

	*seen = now;
	return TM_MIN(grown, LOOK_MAX);
}

static uint64_t forget(uint64_t value)
{
	return value - (value >> FORGET_SHIFT);
}

/* Hits of all ephemeral pools. */
static uint64_t ledger_hits(const struct tm_ledger *ledger)
{
	uint64_t hits = 0;

	for (size_t i = 0; i < TM_POOLS_MAX; i++)
		if (!(ledger->pools[i].flags & TM_POOL_PERSIST))
			hits += atomic_load_explicit(
				&ledger->pools[i].stat[TM_STAT_HITS], memory_order_relaxed);
	return hits;
}

/* value * of / all; the value itself where all is 0. */
static uint64_t part_of(uint64_t value, uint64_t of, uint64_t all)
{
	return all ? (uint64_t)((unsigned __int128)value * of / all) : value;
}

/* What the store hits beside the curve, with `bytes`. More: from the points beyond that, evenly to
 * the others. Less: so much less at each of the others. */
static void correct(struct tm_history *h, uint64_t bytes)
{
	uint64_t more = h->had > h->expected ? h->had - h->expected : 0, beyond = 0, left, width;
	uint32_t last = 0;

	while (last < TM_CURVE_POINTS && tm_curve_bytes(last) <= bytes)
		last++;
	for (uint32_t i = last; i < TM_CURVE_POINTS; i++)
		beyond += h->raw[i];
	if (last == 0)
		more = 0;
	left = beyond - TM_MIN(beyond, more);
	for (uint32_t i = 0; i < TM_CURVE_POINTS; i++) {
		width = tm_curve_bytes(i) - (i ? tm_curve_bytes(i - 1) : 0);
		if (i >= last)
			h->hits[i] = part_of(h->raw[i], left, beyond);
		else if (more > 0)
			h->hits[i] = h->raw[i] + part_of(more, width, tm_curve_bytes(last - 1));
		else
			h->hits[i] = part_of(h->raw[i], h->had, h->expected);
	}
}

void tm_history_look(struct tm_history *h, const struct tm_ledger *ledger)
{
	uint64_t bytes = atomic_load_explicit(&ledger->freeable_bytes, memory_order_relaxed);
	uint64_t grown = growth(
		&h->samples_seen, atomic_load_explicit(&ledger->samples, memory_order_relaxed));
	uint64_t had = growth(&h->hits_seen, ledger_hits(ledger)), expected = 0;

	h->samples += h->begun ? grown : 0;
	h->looks += h->looks < TM_BENEFIT_LOOKS;
	for (uint32_t i = 0; i < TM_CURVE_POINTS; i++) {
		grown = growth(
			&h->seen[i], atomic_load_explicit(&ledger->curve[i], memory_order_relaxed));
		h->raw[i] = forget(h->raw[i]);
		if (h->begun)
			h->raw[i] += grown * TM_BENEFIT_ONE;
		if (tm_curve_bytes(i) <= bytes)
			expected += grown * TM_BENEFIT_ONE;
	}
	h->had = forget(h->had) + (h->begun ? had * TM_BENEFIT_ONE : 0);
	h->expected = forget(h->expected) + (h->begun ? expected : 0);
	h->begun = true;
	correct(h, bytes);
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
		if (aim > c->most || aim + aim / ROUNDING + 1 < c->floor)
			return false;
		ret_aim[i] = TM_MAX(aim, c->floor);
		sum += ret_aim[i];
	}
	return sum <= (unsigned __int128)total + total / ROUNDING;
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

/*
 * Are the aims of now so much better than those that may be kept? What counts is what is missed
 * with these and would not be with all the memory there could be: a client that hits nearly always
 * must not hide what another one misses. And a page that moves costs a miss or so in one place
 * before it brings hits in the other: these have to make up for it within HORIZON times what the
 * curves remember. Without a hit anywhere it is weights that count.
 */
static bool is_worth_it(const struct tm_claim *claims, size_t count, const uint64_t *kept)
{
	uint64_t had = 0, will = 0, all = 0, gain, moved = 0;

	for (size_t i = 0; i < count; i++) {
		const struct tm_claim *c = &claims[i];

		if (!tm_history_is_known(c->history))
			continue;
		had += hits_with(c, kept[i]);
		will += hits_with(c, c->aim);
		all += hits_with(c, UINT64_MAX);
		moved += (kept[i] - TM_MIN(kept[i], c->aim)) / TM_PAGE_SIZE;
	}
	gain = will > had ? will - had : 0;
	return will == 0 ||
		(gain > (all - had) / WORTH && HORIZON * (gain / TM_BENEFIT_ONE) > moved);
}

/* ---------------------------------------------------------------------------------------------- */

uint64_t tm_benefit_want(uint64_t used, uint64_t want)
{
	uint64_t more = want > used ? want - used : 0;

	return want - more + TM_MIN(more, used / 8 + AHEAD_BYTES);
}

bool tm_benefit_divide(struct tm_claim *claims, size_t count, uint64_t total)
{
	uint64_t before[count + 1], kept[count + 1], left = 0, known = 0;
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

	if (!fits || is_worth_it(claims, count, kept))
		return false;
	for (size_t i = 0; i < count; i++)
		if (tm_history_is_known(claims[i].history))
			claims[i].aim = kept[i];
	fit(claims, count, total);
	return true;
}

/* In pages: it is the proportion that counts. */
uint32_t tm_benefit_part(uint64_t floor, uint64_t aim)
{
	uint64_t pages = (aim - floor) / TM_PAGE_SIZE + ((aim - floor) % TM_PAGE_SIZE != 0);

	return (uint32_t)TM_MIN(pages, (uint64_t)UINT32_MAX);
}
