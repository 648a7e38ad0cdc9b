/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * policy.h - how much memory there is for tmem, and who gets it
 *
 * Pure arithmetic: no clock, no file, no ledger. All numbers are bytes unless they are weights.
 * Every input may be any number at all, since clients write some of them; sums saturate.
 */
#ifndef TM_POLICY_H
#define TM_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/tmem.h" /* TM_WEIGHT_* */

struct tm_share {
	/* in */
	uint32_t weight;     /* TM_WEIGHT_MIN to TM_WEIGHT_MAX */
	uint64_t want;       /* what the client could make use of, its ask-ahead included */
	uint64_t persistent; /* what it cannot give up */
	uint64_t ceiling;    /* min(cap, its own limit): a grant never exceeds it */
	bool urgent;         /* what it stores frees more memory than that takes: local swap */
	/* out */
	uint64_t granted;
};

/* What all clients together may have: clamp(used + available - reserve, 0, limit). A rise of less
 * than 1/64 over `previous` is ignored, so that the noise of the machine does not reach the grants;
 * a fall is followed at once. */
uint64_t tm_policy_total(
	uint64_t used, uint64_t available, uint64_t reserve, uint64_t limit, uint64_t previous);

/* What urgent clients ask for, up to `limit`: they get it however little is available, since a page
 * that is swapped out frees 4 KiB and a refused one frees nothing. */
uint64_t tm_policy_urgent(const struct tm_share *shares, size_t count, uint64_t limit);

/* Divide `total` into grants, whose sum never exceeds it. */
void tm_policy_divide(struct tm_share *shares, size_t count, uint64_t total);

/* Choose what to ask of each client so that `bytes` are released in all (or everything there is):
 * what they keep of their freeable bytes is levelled by weight, so whoever is over its share gives
 * first. ret_ask[i] <= freeable[i]. */
void tm_policy_release(const uint64_t *freeable, const uint32_t *weight, size_t count,
	uint64_t bytes, uint64_t *ret_ask);

#endif
