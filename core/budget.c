/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/budget.h"

#include <errno.h>
#include <stdlib.h>

#include "core/util.h"

uint64_t tm_budget_limit(const struct tm_budget *b)
{
	uint64_t own = atomic_load_explicit(&b->ledger->limit_bytes, memory_order_relaxed);
	uint64_t granted = atomic_load(&b->ledger->granted_bytes);

	return TM_MIN(own, granted);
}

uint64_t tm_budget_used(const struct tm_budget *b)
{
	return atomic_load_explicit(&b->ledger->used_bytes, memory_order_relaxed);
}

/* The host sees from `charging` whether anybody still goes by a grant that it has taken back: it
 * lowers the grant and then reads this, here it is the other way round, and all in one order. */
static bool charge(struct tm_budget *b, uint64_t bytes, uint64_t need)
{
	struct tm_ledger *l = b->ledger;
	uint64_t used = tm_budget_used(b), limit;
	bool fits, refused;

	atomic_fetch_add(&l->charging, 1);
	limit = tm_budget_limit(b);
	refused = b->refuse && b->refuse(b->opaque);
	do
		fits = !refused && used <= limit && need <= limit - used;
	while (fits && !atomic_compare_exchange_weak(&l->used_bytes, &used, used + bytes));
	atomic_fetch_sub(&l->charging, 1);
	return fits;
}

int tm_budget_charge(struct tm_budget *b, uint64_t bytes, bool privileged)
{
	if (b->unlimited) {
		atomic_fetch_add(&b->ledger->used_bytes, bytes);
		return 0;
	}
	return charge(b, bytes, bytes + (privileged ? 0 : b->headroom)) ? 0 : -ENOMEM;
}

void tm_budget_credit(struct tm_budget *b, uint64_t bytes)
{
	atomic_fetch_sub(&b->ledger->used_bytes, bytes);
}

/* A put stream fills 100-200 MB a second and the host looks 20 times a second. */
#define ASK_AHEAD_MIN (64ull << 20)

void tm_budget_report(struct tm_budget *b)
{
	struct tm_ledger *l = b->ledger;
	uint64_t used = tm_budget_used(b), freeable = atomic_load(&l->freeable_bytes);
	uint64_t want =
		TM_MIN(used + TM_MAX(ASK_AHEAD_MIN, used / 8), atomic_load(&l->limit_bytes));

	atomic_store(&l->ahead_bytes, want - TM_MIN(want, used));
	atomic_store(&l->want_bytes, want);
	atomic_store(&l->persistent_bytes, used > freeable ? used - freeable : 0);
}

/* What glibc takes for `size` bytes: a header word, in steps of 16, at least 32. */
uint64_t tm_node_bytes(size_t size)
{
	return TM_MAX(TM_ALIGN((uint64_t)size + 8, 16), 32u);
}

bool tm_budget_nodes_low(const struct tm_budget *b, uint64_t bytes)
{
	return b->resident && atomic_load(&b->node_bytes) < (int64_t)bytes;
}

void tm_budget_set_nodes(struct tm_budget *b, uint64_t bytes)
{
	atomic_store(&b->node_bytes, (int64_t)bytes);
}

/* False when that many bytes are not set aside any more. */
static bool take_nodes(struct tm_budget *b, uint64_t bytes)
{
	if (!b->resident || b->unlimited)
		return true;
	if (atomic_fetch_sub(&b->node_bytes, (int64_t)bytes) >= (int64_t)bytes)
		return true;
	atomic_fetch_add(&b->node_bytes, (int64_t)bytes);
	return false;
}

void *tm_node_alloc(struct tm_budget *b, _Atomic uint64_t *owner_bytes, size_t size)
{
	uint64_t bytes = tm_node_bytes(size);
	void *node;

	if (!take_nodes(b, bytes) || tm_budget_charge(b, bytes, false) < 0)
		return NULL;
	node = calloc(1, size);
	if (!node)
		tm_budget_credit(b, bytes);
	else if (owner_bytes)
		atomic_fetch_add_explicit(owner_bytes, bytes, memory_order_relaxed);
	return node;
}

void tm_node_free(struct tm_budget *b, _Atomic uint64_t *owner_bytes, void *node, size_t size)
{
	uint64_t bytes = tm_node_bytes(size);

	if (!node)
		return;
	free(node);
	if (owner_bytes)
		atomic_fetch_sub_explicit(owner_bytes, bytes, memory_order_relaxed);
	tm_budget_credit(b, bytes);
}
