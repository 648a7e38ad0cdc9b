/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * budget.h - the hard byte limit of one client
 *
 * Every byte the store takes, segments and metadata alike, is charged here first; the sum is the
 * ledger's used_bytes. The limit is the client's own or the host's grant, whichever is lower, read
 * afresh at each charge, so a lowered grant holds from the next allocation on.
 *
 * Invariants
 *   1. A charge never takes used_bytes above the limit that it has read, not for an instant
 *      (compare and swap). A limit that falls meanwhile holds when `charging` of the ledger has
 *      been 0 after that. Only a recovery may find more in use than the limit of the day.
 *   2. `headroom` bytes stay free for privileged charges: moving live pages out of a segment needs
 *      a segment to move them to, or nothing could ever be cleaned in a full store.
 *
 * Locking: none; thread safe.
 */
#ifndef TM_BUDGET_H
#define TM_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/ledger.h"

struct tm_budget {
	struct tm_ledger *ledger;
	uint64_t headroom; /* bytes that only privileged charges may use */
	bool unlimited;    /* recovery: what is there already is charged, whatever the limit */

	/* A resident store: how many bytes of nodes may still be allocated without waiting for
	 * memory; below zero is none. Set before other threads know the budget, or by the keeper.
	 */
	bool resident;
	_Atomic int64_t node_bytes;

	/* Tests: refuse a charge when this says true. NULL in production. */
	bool (*refuse)(void *opaque);
	void *opaque;
};

/* The limit that holds now, in bytes. */
uint64_t tm_budget_limit(const struct tm_budget *b);

/* Bytes charged now. */
uint64_t tm_budget_used(const struct tm_budget *b);

/* Charge `bytes`. 0, or -ENOMEM when they do not fit (or a test refuses). */
int tm_budget_charge(struct tm_budget *b, uint64_t bytes, bool privileged);

/* Give back `bytes` that were charged. */
void tm_budget_credit(struct tm_budget *b, uint64_t bytes);

/* Tell the host, through the ledger, what part of used_bytes is persistent and how much more would
 * be put to use: asked ahead of need, so that no put waits for a grant. */
void tm_budget_report(struct tm_budget *b);

/*
 * Heap memory that counts: charged with what malloc really takes, also on `owner_bytes` (a pool's
 * used_bytes gauge; may be NULL). Zeroed. NULL when the budget or malloc refuses, or, in a resident
 * store, when the bytes set aside are used up: tm_budget_nodes_low(b, 1) tells. tm_node_free wants
 * the same size, budget and owner.
 */
uint64_t tm_node_bytes(size_t size); /* what is charged for it */
void *tm_node_alloc(struct tm_budget *b, _Atomic uint64_t *owner_bytes, size_t size);
void tm_node_free(struct tm_budget *b, _Atomic uint64_t *owner_bytes, void *node, size_t size);

/* Fewer than `bytes` of nodes are left of a resident store's; what the keeper has put there. */
bool tm_budget_nodes_low(const struct tm_budget *b, uint64_t bytes);
void tm_budget_set_nodes(struct tm_budget *b, uint64_t bytes);

#endif
