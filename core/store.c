/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/store.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "core/store_private.h"
#include "core/util.h"

/* `fd` < 0: a new mapping; else that of another store. */
static int store_open(const struct tm_store_params *params, int fd, struct tm_store **ret_store)
{
	struct tm_ledger *ledger = params->ledger;
	uint32_t segment_bytes =
		params->segment_bytes ? params->segment_bytes : tm_segment_bytes_for(params->limit);
	struct tm_budget budget = {.ledger = ledger};
	struct tm_store *s;
	int rc;

	if (params->limit < TM_LIMIT_MIN)
		return -EINVAL;
	atomic_store(&ledger->limit_bytes, params->limit);
	s = tm_node_alloc(&budget, NULL, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->ledger = ledger;
	s->budget = budget;
	if (fd < 0)
		rc = tm_arena_open(&s->budget, params->limit, segment_bytes, &s->arena);
	else
		rc = tm_arena_attach(&s->budget, fd, segment_bytes, &s->arena);
	if (rc < 0)
		goto free_store;
	rc = tm_index_create(&s->budget, &s->index);
	if (rc < 0)
		goto close_arena;
	tm_lock_init(&s->pools_lock, TM_LOCK_POOLS);
	tm_lock_init(&s->reclaim_lock, TM_LOCK_RECLAIM);
	pthread_mutex_init(&s->gate.lock, NULL);
	pthread_cond_init(&s->gate.opened, NULL);
	tm_unsent_init(&s->unsent, s->arena);
	s->patient = params->patience_ms > 0;
	s->budget.headroom = segment_bytes;
	s->budget.refuse = params->refuse;
	s->budget.opaque = params->opaque;
	atomic_store(&ledger->segment_bytes, segment_bytes);
	atomic_store(&ledger->huge_pages, tm_arena_huge(s->arena));
	atomic_store(&ledger->resident, params->resident);
	atomic_store(&ledger->recompress, params->recompress);
	s->upkeep.percent = params->upkeep_percent ? params->upkeep_percent : TM_UPKEEP_DEFAULT;
	s->upkeep.cold_ms = params->cold_ms ? params->cold_ms : TM_COLD_MS_DEFAULT;
	tm_idle_open(&s->upkeep.idle);
	tm_budget_report(&s->budget);
	*ret_store = s;
	return 0;

close_arena:
	if (fd < 0)
		tm_arena_close(s->arena);
	else
		tm_arena_detach(s->arena);
free_store:
	tm_node_free(&budget, NULL, s, sizeof(*s));
	return rc;
}

/* What a put stream needs while the keeper populates the next segment, many times over; a store
 * that may not wait for memory at all keeps more. A small store keeps little. */
#define AHEAD_BYTES          (8u << 20)
#define AHEAD_BYTES_RESIDENT (16u << 20)

static int start_keeper(struct tm_store *s, const struct tm_store_params *params)
{
	uint32_t bytes = params->resident ? AHEAD_BYTES_RESIDENT : AHEAD_BYTES;
	uint32_t least = params->resident ? 2 : 0;
	uint32_t share = tm_arena_segments(s->arena) / (params->resident ? 4 : 16);
	struct tm_keeper_params keeper = {
		.arena = s->arena,
		.budget = &s->budget,
		.target = TM_MAX(TM_MIN(bytes / tm_arena_segment_bytes(s->arena), share), least),
		.resident = params->resident,
		.patience_ms = params->patience_ms,
		.clean = tm_upkeep_clean,
		.work = tm_upkeep_work,
		.opaque = s,
	};

	return params->keeper && keeper.target > 0 ? tm_keeper_start(&keeper, &s->keeper) : 0;
}

int tm_store_create(const struct tm_store_params *params, struct tm_store **ret_store)
{
	struct tm_store *s;
	int rc = store_open(params, -1, &s);

	if (rc < 0)
		return rc;
	rc = start_keeper(s, params);
	if (rc < 0)
		tm_store_destroy(s);
	else
		*ret_store = s;
	return rc;
}

int tm_store_recover(
	const struct tm_store_params *params, int fd, bool ephemeral, struct tm_store **ret_store)
{
	struct tm_store *s;
	int rc = store_open(params, fd, &s);

	if (rc < 0)
		return rc;
	rc = tm_recover(s, ephemeral);
	if (rc < 0)
		return rc;
	if (params->resident)
		tm_arena_populate(s->arena);
	tm_store_shrink(s); /* the limit may be lower today */
	/* Without a keeper a store that is not resident is just slower; one that is would refuse
	 * every put, and what it has can still be read. */
	(void)start_keeper(s, params);
	*ret_store = s;
	return 0;
}

void tm_store_destroy(struct tm_store *s)
{
	struct tm_budget budget = s->budget;

	tm_keeper_stop(s->keeper);
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++) {
		tm_store_destroy_pool(s, (int)id);
		if (s->pools[id].taken) /* recovered, and nobody asked for it */
			tm_pool_tear_down(s, &s->pools[id]);
	}
	tm_upkeep_end(s);
	tm_index_destroy(s->index);
	tm_arena_close(s->arena);
	tm_lock_destroy(&s->pools_lock);
	tm_lock_destroy(&s->reclaim_lock);
	pthread_mutex_destroy(&s->gate.lock);
	pthread_cond_destroy(&s->gate.opened);
	tm_node_free(&budget, NULL, s, sizeof(*s));
}

int tm_store_fd(const struct tm_store *s)
{
	return tm_arena_fd(s->arena);
}

static int check_pool_params(const struct tm_pool_params *params)
{
	uint32_t flags = params->flags;

	if (flags >> TM_POOL_VERSION_SHIFT != TM_SPEC_VERSION || flags & TM_POOL_RESERVED)
		return -EINVAL;
	if ((flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT > TM_ORDER_MAX)
		return -EINVAL;
	if (params->attrs & ~TM_POOL_ATTRS || !params->name || strlen(params->name) > TM_NAME_MAX)
		return -EINVAL;
	/* An equal page may vanish with its original, which a get must not take out. */
	if (params->attrs & TM_POOL_DEDUP &&
		(flags & TM_POOL_PERSIST || !(params->attrs & TM_POOL_RETAIN)))
		return -EOPNOTSUPP;
	if (flags & TM_POOL_PRECOMPRESSED || (flags & TM_POOL_SHARED && flags & TM_POOL_PERSIST))
		return -EOPNOTSUPP;
	/* Only a host can hold what several clients trust; nobody here may authorise. */
	return flags & TM_POOL_SHARED ? -EACCES : 0;
}

static struct tm_pool *pool_place_locked(struct tm_store *s)
{
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++) {
		if (!s->pools[id].taken) {
			s->pools[id].id = id;
			return &s->pools[id];
		}
	}
	return NULL;
}

/* A pool of an earlier life of the store that is the one asked for. */
static struct tm_pool *pool_recovered_locked(
	struct tm_store *s, const struct tm_pool_params *params)
{
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++) {
		struct tm_pool *p = &s->pools[id];

		if (p->taken && p->recovered && p->log.owner->flags == params->flags &&
			p->log.owner->attrs == params->attrs)
			return p;
	}
	return NULL;
}

int tm_pool_set_up(struct tm_store *s, struct tm_pool *p, const struct tm_pool_params *params)
{
	struct tm_ledger_pool *slot = &s->ledger->pools[p->id];
	uint32_t order = (params->flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT;
	int rc;

	memset(slot, 0, sizeof(*slot));
	slot->flags = params->flags;
	slot->attrs = params->attrs;
	p->stat = slot->stat;
	if (!(params->flags & TM_POOL_PERSIST)) {
		rc = tm_index_keep_marks(s->index, atomic_load(&s->ledger->limit_bytes));
		if (rc < 0)
			return rc;
	}
	rc = tm_objects_create(s->index, p->id, false, &p->stat[TM_STAT_USED_BYTES],
		&p->stat[TM_STAT_OBJECTS], &p->objects);
	if (rc < 0)
		return rc;
	p->page_bytes = TM_PAGE_SIZE << order;
	tm_log_init(&p->log, s->arena,
		&(struct tm_owner){
			p->id, params->flags, params->attrs, &p->stat[TM_STAT_USED_BYTES]});
	p->taken = true;
	p->recovered = false;
	return 0;
}

/* Let calls in. */
static void pool_go_live_locked(struct tm_store *s, struct tm_pool *p, const char *name)
{
	struct tm_ledger_pool *slot = &s->ledger->pools[p->id];

	p->recovered = false;
	strcpy(slot->name, name);
	atomic_store(&slot->state, TM_LEDGER_POOL_LIVE);
	atomic_fetch_add(&p->users, TM_POOL_LIVE_BIT);
}

int tm_store_new_pool(struct tm_store *s, const struct tm_pool_params *params)
{
	int rc = check_pool_params(params);
	struct tm_pool *p;
	uint64_t seen;

	if (rc < 0)
		return rc;
	tm_lock(&s->pools_lock);
	p = pool_recovered_locked(s, params);
	if (!p) {
		p = pool_place_locked(s);
		seen = tm_arena_released(s->arena);
		rc = p ? tm_pool_set_up(s, p, params) : -ENFILE;
		if (rc < 0 && tm_make_room(s, TM_ROOM_NODE, rc, seen))
			rc = tm_pool_set_up(s, p, params);
	}
	if (rc == 0) {
		pool_go_live_locked(s, p, params->name);
		rc = (int)p->id;
	}
	tm_unlock(&s->pools_lock);
	return rc;
}

struct tm_pool *tm_pool_enter(struct tm_store *s, int id)
{
	struct tm_pool *p;

	if (id < 0 || id >= TM_POOLS_MAX)
		return NULL;
	p = &s->pools[id];
	if (atomic_fetch_add(&p->users, 1) & TM_POOL_LIVE_BIT)
		return p;
	atomic_fetch_sub(&p->users, 1);
	return NULL;
}

void tm_pool_leave(struct tm_pool *p)
{
	atomic_fetch_sub(&p->users, 1);
}

/* --- the gate --------------------------------------------------------------------------------- */

static void gate_wait(struct tm_store *s, const struct tm_pool *p)
{
	pthread_mutex_lock(&s->gate.lock);
	while (atomic_load(&s->gate.shut) && atomic_load(&p->users) & TM_POOL_LIVE_BIT)
		pthread_cond_wait(&s->gate.opened, &s->gate.lock);
	pthread_mutex_unlock(&s->gate.lock);
}

/* Something that gate_wait() waits for has happened. */
static void gate_wake(struct tm_store *s)
{
	pthread_mutex_lock(&s->gate.lock);
	pthread_cond_broadcast(&s->gate.opened);
	pthread_mutex_unlock(&s->gate.lock);
}

struct tm_pool *tm_pool_enter_to_change(struct tm_store *s, int id)
{
	for (;;) {
		struct tm_pool *p;

		if (id < 0 || id >= TM_POOLS_MAX)
			return NULL;
		p = &s->pools[id];
		if (!(atomic_fetch_add(&p->users, TM_POOL_CHANGER + 1) & TM_POOL_LIVE_BIT)) {
			tm_pool_leave_changed(p);
			return NULL;
		}
		if (!atomic_load(&s->gate.shut))
			return p;
		tm_pool_leave_changed(p);
		gate_wait(s, p);
	}
}

void tm_pool_leave_changed(struct tm_pool *p)
{
	atomic_fetch_sub(&p->users, TM_POOL_CHANGER + 1);
}

void tm_gate_shut(struct tm_store *s)
{
	atomic_store(&s->gate.shut, true);
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++)
		while (atomic_load(&s->pools[id].users) & TM_POOL_CHANGERS)
			sched_yield(); /* calls are short */
}

void tm_gate_open(struct tm_store *s)
{
	atomic_store(&s->gate.shut, false);
	gate_wake(s);
}

/* ---------------------------------------------------------------------------------------------- */

void tm_pool_tear_down(struct tm_store *s, struct tm_pool *p)
{
	struct tm_oid oid;

	tm_lock(&s->reclaim_lock); /* nobody moves pages of this pool from here on */
	while (tm_objects_any(p->objects, &oid))
		tm_pool_flush_object(s, p, &oid);
	tm_log_seal(&p->log, 0);
	tm_ghost_drop(&p->ghost, &s->budget, &p->stat[TM_STAT_USED_BYTES]);
	tm_lines_drop(&p->contents, &s->budget, &p->stat[TM_STAT_USED_BYTES]);
	tm_objects_destroy(p->objects);
	tm_unlock(&s->reclaim_lock);

	atomic_store(&s->ledger->pools[p->id].state, TM_LEDGER_POOL_FREE);
	p->taken = false;
}

int tm_store_destroy_pool(struct tm_store *s, int id)
{
	struct tm_pool *p;
	int rc = -ENOENT;

	if (id < 0 || id >= TM_POOLS_MAX)
		return -ENOENT;
	p = &s->pools[id];
	tm_lock(&s->pools_lock);
	if (atomic_fetch_and(&p->users, ~TM_POOL_LIVE_BIT) & TM_POOL_LIVE_BIT) {
		gate_wake(s);
		while (atomic_load(&p->users) != 0)
			sched_yield(); /* calls are short */
		tm_pool_tear_down(s, p);
		rc = 0;
	}
	tm_unlock(&s->pools_lock);
	return rc;
}

void tm_store_count(struct tm_store *s, int id, enum tm_stat stat, int64_t delta)
{
	struct tm_pool *p = tm_pool_enter(s, id);

	if (!p)
		return;
	tm_stat_add(p, stat, (uint64_t)delta);
	tm_pool_leave(p);
}

void tm_store_changed(struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index)
{
	struct tm_pool *p = tm_pool_enter(s, id);
	struct tm_cursor c;

	if (!p)
		return;
	tm_index_lock(s->index, &(struct tm_handle){p->objects, *oid, index}, &c);
	tm_index_note_locked(&c, &(struct tm_handle){p->objects, *oid, index});
	tm_index_unlock(&c);
	tm_pool_leave(p);
}

void tm_store_usage(struct tm_store *s, struct tm_usage *ret_usage)
{
	uint64_t segment = tm_arena_segment_bytes(s->arena), open = segment;
	uint64_t taken = tm_arena_taken(s->arena) * segment;
	uint64_t used = tm_budget_used(&s->budget), limit = tm_budget_limit(&s->budget);
	uint64_t live = used - TM_MIN(used, taken); /* tables and nodes */

	for (int id = 0; id < TM_POOLS_MAX; id++) {
		struct tm_pool *p = tm_pool_enter(s, id);

		if (!p)
			continue;
		live += atomic_load_explicit(&p->stat[TM_STAT_PAYLOAD_BYTES], memory_order_relaxed);
		open += (p->log.heads + 1) * segment;
		if (atomic_load(&s->unpacker))
			open += (tm_pool_is_persistent(p) ? 1 : 2) * segment;
		tm_pool_leave(p);
	}
	*ret_usage = (struct tm_usage){
		.live_bytes = live,
		.limit_bytes = limit - TM_MIN(limit, open),
		.frozen = atomic_load_explicit(&s->ledger->frozen, memory_order_relaxed),
	};
}
