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

/* Who gets the ephemeral memory that is short. */
enum tm_policy {
	TM_POLICY_WEIGHT,
	TM_POLICY_BENEFIT, /* see benefit.h */
	TM_POLICY_COUNT
};

/* Indexed by enum tm_policy. */
extern const char *const tm_policy_names[TM_POLICY_COUNT];

/* The policy of that name. 0; -EINVAL there is none. */
int tm_policy_parse(const char *name, enum tm_policy *ret_policy);

struct tm_share {
	/* in */
	uint32_t weight;     /* TM_WEIGHT_MIN to TM_WEIGHT_MAX */
	uint64_t want;       /* what the client could make use of, its ask-ahead included */
	uint64_t persistent; /* the part of that for pages it cannot give up; wanted first */
	uint64_t ceiling;    /* min(cap, its own limit): a grant never exceeds it */
	bool urgent;         /* what it stores frees more memory than that takes: local swap */
	/* in, of the policy `benefit` (benefit.h); else both 0 */
	uint64_t floor; /* ephemeral bytes that it gets before anybody gets by part */
	uint32_t part;  /* how what is left of ephemeral memory is poured, instead of by weight */
	/* out */
	uint64_t granted;
};

/* One look at the machine. */
struct tm_outlook {
	uint64_t now_ns;
	uint64_t ram;       /* what the machine, or our cgroup, has in all */
	uint64_t used;      /* by all clients */
	uint64_t available; /* to anybody */
	uint64_t reserve;   /* of that, what tmem leaves alone */
	uint64_t limit;     /* of all clients together */
	bool pressed;       /* somebody had to wait for memory */
};

/* What is remembered from one look to the next. All zero: nothing yet. */
struct tm_trend {
	bool known;
	uint64_t total; /* the last result */
	uint64_t looked_ns;
	uint64_t quiet_ns;      /* when growth may begin */
	uint64_t restless_ns;   /* until when it is worth to look more often */
	uint64_t mark, mark_ns; /* used + available to compare with, and when that was */
};

#define TM_QUIET_NS     2000000000ull /* growth begins so long after others took memory last */
#define TM_GROW_SECONDS 64u           /* to grow by all of RAM: 1.6% a second */

/* What all clients together may have: clamp(used + available - reserve, 0, limit). A first look is
 * followed as it is, and so is every fall. A rise is followed by 1.6% of RAM a second, and only
 * when for TM_QUIET_NS nobody but the clients took memory: neither did used + available fall by
 * more than RAM/1024 within a second, nor was the machine pressed. */
uint64_t tm_policy_total(struct tm_trend *trend, const struct tm_outlook *look);

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
