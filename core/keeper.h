/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper.h - a store's own thread, which works ahead of its callers
 *
 * It keeps the reserve of ready segments full (segment.h), and for a resident store the heap that
 * index nodes come from. It sleeps until somebody took from a reserve; what else it does meanwhile,
 * the store tells it.
 *
 *      put -> takes a ready segment -> fewer are left than there should be -> low() -> keeper
 *      put -> nothing is ready, the store is resident -> tm_keeper_wait() <- filled <- keeper
 *
 * Locking: one lock (TM_LOCK_KEEPER), below every other and never held while the thread works.
 */
#ifndef TM_KEEPER_H
#define TM_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/segment.h"

struct tm_keeper;

struct tm_keeper_params {
	struct tm_arena *arena;
	struct tm_budget *budget;
	uint32_t target;      /* segments to keep ready */
	bool resident;        /* see struct tm_open_params */
	uint32_t patience_ms; /* the longest tm_keeper_wait() may take */

	/* From the keeper's thread, which holds no lock. May be NULL, both or none. */
	bool (*clean)(void *opaque); /* make room for a ready segment; false: it could not */
	uint32_t (*work)(
		void *opaque, const struct tm_keeper *k); /* something that can wait;
							   * returns when to go on, in ms */
	void *opaque;
};

/* Become the arena's reserve. For a resident store: fill it before this returns. Starts a thread.
 * 0; -ENOMEM; errno of pthread_create. */
int tm_keeper_start(const struct tm_keeper_params *params, struct tm_keeper **ret_keeper);

/* Join the thread and give the reserve back. Nobody else uses the store any more. */
void tm_keeper_stop(struct tm_keeper *k);

/* Something was not ready (-ENOBUFS): wait until there is more. False when there is not soon; then
 * nobody waits again before there is, since a machine that has run out of memory is helped by
 * refusals, not by patience. `k` may be NULL. */
bool tm_keeper_wait(struct tm_keeper *k);

/* Wait until the keeper does nothing, and have it do nothing until told otherwise: for checks of a
 * store at rest. `k` may be NULL. */
void tm_keeper_pause(struct tm_keeper *k, bool pause);

/* The keeper has something to do that cannot wait. `k` may be NULL. */
bool tm_keeper_is_wanted(const struct tm_keeper *k);

#endif
