/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * benefit.h - who makes the most of ephemeral memory
 *
 * The policy `benefit`: beyond a floor by weight, memory goes where the next byte of it brings the
 * most hits. What it would bring is read off each client's miss-ratio curve (core/sampler.h,
 * core/curve.h), whose bytes are compressed ones.
 *
 * Pure arithmetic, all of it in whole numbers: no clock, no file. Every counter of a client may be
 * any number at all.
 */
#ifndef TM_BENEFIT_H
#define TM_BENEFIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/ledger.h"

/* Of its share by weight a client is left this part, whatever others would make of it. */
#define TM_BENEFIT_FLOOR 4u

/* A curve of so few references, or so few seconds, says nothing yet. */
#define TM_BENEFIT_SAMPLES 1024u
#define TM_BENEFIT_LOOKS   5u

/*
 * The curve is an LRU list's, and the store is none: mostly it hits with little memory some of what
 * LRU needs much for, and sometimes less. So what it really hits is looked at beside what the curve
 * says for the memory it has. What is more moves from the points beyond that evenly to those up to
 * it; what is less is taken from these.
 *
 * How a client's counters grew, the recent past first: each look forgets 1/512 of what was there,
 * so with one look a second half of it is forgotten after 6 minutes. All zeros is none yet.
 */
struct tm_history {
	bool begun;
	uint32_t looks;
	uint64_t samples; /* since it began */

	/* The ledger's, at the last look. */
	uint64_t samples_seen, hits_seen;
	uint64_t seen[TM_CURVE_POINTS];

	/* In parts of a hit, TM_BENEFIT_ONE to each. */
	uint64_t had, expected; /* with the memory that there was: really, and by the curve */
	uint64_t raw[TM_CURVE_POINTS];  /* as the client counts them: an LRU list's */
	uint64_t hits[TM_CURVE_POINTS]; /* what the division goes by */
};

#define TM_BENEFIT_ONE 256u

/* Look at the counters of a ledger. The first look only notes where they stand: what was before
 * it belongs to another host, or to another time. */
void tm_history_look(struct tm_history *history, const struct tm_ledger *ledger);

/* Is there enough of it to go by? NULL has nothing. */
bool tm_history_is_known(const struct tm_history *history);

struct tm_claim {
	/* in */
	const struct tm_history *history;
	uint32_t weight;
	uint64_t most; /* ephemeral bytes that it may have, or without a history: that it wants */
	/* in: of the last time, 0 when there was none; out */
	uint64_t aim;
	/* out */
	uint64_t floor;
};

/*
 * Divide `total` bytes of ephemeral memory into aims, whose sum never exceeds it, each of them at
 * least the claim's floor and at most its `most`.
 *
 * Who has no known history gets its share by weight, as floor and aim. The others get a part of
 * theirs as floor; what is left goes step by step to the client with the steepest way up to any
 * point of its curve that can still be reached. That is a walk along the convex hulls, so a
 * plateau is crossed when the cliff behind it is worth it, and a step never ends halfway up. Where
 * nobody gains any more, the rest goes by weight.
 *
 * The aims of the last time, scaled to the total of now, stay as they are unless the new ones would
 * have spared 1/8 of the misses that memory could spare at all, and more than there are pages to be
 * moved: noise moves no memory.
 * Returns whether they stayed.
 */
bool tm_benefit_divide(struct tm_claim *claims, size_t count, uint64_t total);

/* What a client wants that uses so much ephemeral memory and asks for more ahead of need. Where
 * memory is moved, what the winner has not yet filled is missing elsewhere. */
uint64_t tm_benefit_want(uint64_t used, uint64_t want);

/* What makes an aim a grant, with the floor: the part of struct tm_share. */
uint32_t tm_benefit_part(uint64_t floor, uint64_t aim);

#endif
