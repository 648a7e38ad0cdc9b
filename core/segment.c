/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/segment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/locks.h"
#include "core/memory.h"
#include "core/util.h"

_Static_assert(sizeof(struct tm_segment_header) == 64, "segment headers are 64 bytes");

struct tm_arena {
	struct tm_budget *budget;
	struct tm_memory memory;
	uint32_t segment_bytes;
	uint32_t count;
	struct tm_segment *segments; /* [count] */
	_Atomic uint64_t released;

	struct tm_lock lock; /* of what follows */
	uint32_t *free;      /* [count]: a stack of free ids */
	uint32_t free_count;
	uint64_t next_birth;
};

uint32_t tm_segment_bytes_for(uint64_t limit)
{
	uint32_t bytes = TM_SEGMENT_BYTES_MAX;

	while (bytes > TM_SEGMENT_BYTES_MIN && limit / bytes < 32)
		bytes /= 2;
	return bytes;
}

int tm_arena_open(
	struct tm_budget *b, uint64_t capacity, uint32_t segment_bytes, struct tm_arena **ret_arena)
{
	struct tm_arena *a = tm_node_alloc(b, NULL, sizeof(*a));
	int rc = -ENOMEM;

	if (!a)
		return -ENOMEM;
	a->budget = b;
	a->segment_bytes = segment_bytes;
	a->count = (uint32_t)TM_MIN(capacity / segment_bytes, (uint64_t)TM_SEGMENT_NONE - 1);
	a->segments = tm_node_alloc(b, NULL, a->count * sizeof(*a->segments));
	if (!a->segments)
		goto free_arena;
	a->free = tm_node_alloc(b, NULL, a->count * sizeof(*a->free));
	if (!a->free)
		goto free_segments;
	rc = tm_memory_open(
		(uint64_t)a->count * segment_bytes, segment_bytes == TM_HUGE_BYTES, &a->memory);
	if (rc < 0)
		goto free_stack;
	tm_lock_init(&a->lock, TM_LOCK_ARENA);
	for (uint32_t i = 0; i < a->count; i++)
		a->free[i] = a->count - 1 - i; /* lowest first */
	a->free_count = a->count;
	*ret_arena = a;
	return 0;

free_stack:
	tm_node_free(b, NULL, a->free, a->count * sizeof(*a->free));
free_segments:
	tm_node_free(b, NULL, a->segments, a->count * sizeof(*a->segments));
free_arena:
	tm_node_free(b, NULL, a, sizeof(*a));
	return rc;
}

void tm_arena_close(struct tm_arena *a)
{
	struct tm_budget *b = a->budget;

	tm_memory_close(&a->memory);
	tm_lock_destroy(&a->lock);
	tm_node_free(b, NULL, a->free, a->count * sizeof(*a->free));
	tm_node_free(b, NULL, a->segments, a->count * sizeof(*a->segments));
	tm_node_free(b, NULL, a, sizeof(*a));
}

uint32_t tm_arena_segments(const struct tm_arena *a)
{
	return a->count;
}

uint32_t tm_arena_segment_bytes(const struct tm_arena *a)
{
	return a->segment_bytes;
}

bool tm_arena_huge(const struct tm_arena *a)
{
	return a->memory.huge;
}

uint64_t tm_arena_released(const struct tm_arena *a)
{
	return atomic_load(&a->released);
}

struct tm_segment *tm_segment(const struct tm_arena *a, uint32_t id)
{
	return &a->segments[id];
}

uint8_t *tm_segment_data(const struct tm_arena *a, uint32_t id)
{
	return a->memory.base + (uint64_t)id * a->segment_bytes;
}

static bool is_ephemeral(const struct tm_owner *owner)
{
	return !(owner->flags & TM_POOL_PERSIST);
}

int tm_segment_open(struct tm_arena *a, const struct tm_owner *owner, const struct tm_oid *oid,
	bool privileged, uint32_t *ret_id)
{
	struct tm_segment_header header = {
		.magic = TM_SEGMENT_MAGIC,
		.version = TM_SEGMENT_VERSION,
		.pool = owner->pool,
		.flags = owner->flags,
		.attrs = owner->attrs,
		.segment_bytes = a->segment_bytes,
		.oid = *oid,
	};
	struct tm_segment *s;
	uint32_t id;

	if (tm_budget_charge(a->budget, a->segment_bytes, privileged) < 0)
		return -ENOMEM;
	tm_lock(&a->lock);
	if (a->free_count == 0) {
		tm_unlock(&a->lock);
		tm_budget_credit(a->budget, a->segment_bytes);
		return -ENOMEM;
	}
	id = a->free[--a->free_count];
	header.birth = ++a->next_birth;
	tm_unlock(&a->lock);

	header.check = XXH3_64bits(&header, offsetof(struct tm_segment_header, check));
	memcpy(tm_segment_data(a, id), &header, sizeof(header));
	s = &a->segments[id];
	s->tail = sizeof(header);
	s->birth = header.birth;
	s->owner = owner;
	s->oid = *oid;
	atomic_store(&s->live_bytes, 0);
	atomic_store(&s->state, TM_SEGMENT_OPEN);
	atomic_store(&s->refs, 1); /* last: tm_segment_try_ref looks at nothing else */
	atomic_fetch_add(owner->used_bytes, a->segment_bytes);
	if (is_ephemeral(owner))
		atomic_fetch_add(&a->budget->ledger->freeable_bytes, a->segment_bytes);
	tm_budget_report(a->budget);
	*ret_id = id;
	return 0;
}

void tm_segment_seal(struct tm_arena *a, uint32_t id)
{
	atomic_store(&a->segments[id].state, TM_SEGMENT_SEALED);
	tm_segment_unref(a, id);
}

void tm_segment_ref(struct tm_arena *a, uint32_t id)
{
	atomic_fetch_add(&a->segments[id].refs, 1);
}

bool tm_segment_try_ref(struct tm_arena *a, uint32_t id)
{
	struct tm_segment *s = &a->segments[id];
	uint32_t refs = atomic_load(&s->refs);

	while (refs != 0)
		if (atomic_compare_exchange_weak(&s->refs, &refs, refs + 1))
			return true;
	return false;
}

static void release(struct tm_arena *a, uint32_t id)
{
	struct tm_segment *s = &a->segments[id];

	atomic_store(&s->state, TM_SEGMENT_FREE);
	tm_memory_release(&a->memory, (uint64_t)id * a->segment_bytes, a->segment_bytes);
	atomic_fetch_sub(s->owner->used_bytes, a->segment_bytes);
	if (is_ephemeral(s->owner))
		atomic_fetch_sub(&a->budget->ledger->freeable_bytes, a->segment_bytes);
	tm_lock(&a->lock);
	a->free[a->free_count++] = id;
	tm_unlock(&a->lock);
	tm_budget_credit(a->budget, a->segment_bytes);
	tm_budget_report(a->budget);
	atomic_fetch_add(&a->released, 1);
}

void tm_segment_unref(struct tm_arena *a, uint32_t id)
{
	if (atomic_fetch_sub(&a->segments[id].refs, 1) == 1)
		release(a, id);
}
