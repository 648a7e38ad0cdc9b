/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/segment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/locks.h"
#include "core/memory.h"
#include "core/slot.h"
#include "core/util.h"

_Static_assert(sizeof(struct tm_segment_header) == 64, "segment headers are 64 bytes");

struct tm_arena {
	struct tm_budget *budget;
	struct tm_memory memory;
	uint32_t segment_bytes;
	uint32_t count;
	struct tm_segment *segments; /* [count] */
	_Atomic uint64_t released;
	_Atomic int giving_back;   /* see tm_arena_give_back */
	struct tm_reserve reserve; /* constant once other threads know the arena */

	struct tm_lock lock; /* of what follows */
	uint32_t *free;      /* [count]: free ids from the bottom, ready ones from the top */
	_Atomic uint32_t free_count; /* read without the lock by tm_arena_taken() */
	uint32_t ready_count;
	uint32_t coming; /* segments that are just being made ready */
	uint64_t next_birth;
};

uint32_t tm_segment_bytes_for(uint64_t limit)
{
	uint32_t bytes = TM_SEGMENT_BYTES_MAX;

	while (bytes > TM_SEGMENT_BYTES_MIN && limit / bytes < 32)
		bytes /= 2;
	return bytes;
}

/* Everything but the mapping. */
static int arena_create(
	struct tm_budget *b, uint64_t capacity, uint32_t segment_bytes, struct tm_arena **ret_arena)
{
	struct tm_arena *a = tm_node_alloc(b, NULL, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->budget = b;
	a->segment_bytes = segment_bytes;
	a->count = (uint32_t)TM_MIN(capacity / segment_bytes, (uint64_t)TM_SLOT_SEGMENTS_MAX);
	a->segments = tm_node_alloc(b, NULL, a->count * sizeof(*a->segments));
	a->free = a->segments ? tm_node_alloc(b, NULL, a->count * sizeof(*a->free)) : NULL;
	tm_lock_init(&a->lock, TM_LOCK_ARENA);
	if (!a->free) {
		tm_arena_close(a);
		return -ENOMEM;
	}
	*ret_arena = a;
	return 0;
}

int tm_arena_open(
	struct tm_budget *b, uint64_t capacity, uint32_t segment_bytes, struct tm_arena **ret_arena)
{
	struct tm_arena *a;
	int rc = arena_create(b, capacity, segment_bytes, &a);

	if (rc < 0)
		return rc;
	rc = tm_memory_open(
		(uint64_t)a->count * segment_bytes, segment_bytes == TM_HUGE_BYTES, &a->memory);
	if (rc < 0) {
		tm_arena_close(a);
		return rc;
	}
	tm_arena_settle(a);
	*ret_arena = a;
	return 0;
}

static uint64_t header_check(const struct tm_segment_header *header)
{
	return XXH3_64bits(header, offsetof(struct tm_segment_header, check));
}

bool tm_arena_next(struct tm_arena *a, uint32_t *id, struct tm_segment_header *ret_header)
{
	uint64_t at, end = a->memory.bytes;

	/* Looking for data first: reading a hole of the mapping would fill it. */
	for (; (at = tm_memory_next(&a->memory, (uint64_t)*id * a->segment_bytes)) < end; ++*id) {
		*id = (uint32_t)(at / a->segment_bytes);
		memcpy(ret_header, tm_segment_data(a, *id), sizeof(*ret_header));
		if (ret_header->magic == TM_SEGMENT_MAGIC &&
			ret_header->check == header_check(ret_header))
			return true;
	}
	return false;
}

static bool is_segment_size(uint32_t bytes)
{
	return bytes >= TM_SEGMENT_BYTES_MIN && bytes <= TM_SEGMENT_BYTES_MAX &&
		(bytes & (bytes - 1)) == 0;
}

/* Whatever settle would not recognise it gives back, so a mapping of another layout is found out
 * first. A damaged header is no other layout: its segment is lost, not the rest. */
static int check_layout(struct tm_arena *a)
{
	struct tm_segment_header header;

	for (uint32_t id = 0; tm_arena_next(a, &id, &header); id++) {
		if (header.version != TM_SEGMENT_VERSION)
			return -EPROTO;
		if (header.segment_bytes != a->segment_bytes)
			return -EINVAL;
	}
	return 0;
}

int tm_arena_attach(
	struct tm_budget *b, int fd, uint32_t segment_bytes, struct tm_arena **ret_arena)
{
	struct tm_memory memory;
	struct tm_arena *a = NULL;
	int rc;

	if (!is_segment_size(segment_bytes))
		return -EINVAL;
	rc = tm_memory_attach(fd, &memory);
	if (rc < 0)
		return rc;
	if (memory.bytes % segment_bytes != 0)
		rc = -EINVAL;
	else
		rc = arena_create(b, memory.bytes, segment_bytes, &a);
	if (rc < 0) {
		tm_memory_detach(&memory);
		return rc;
	}
	a->memory = memory;
	rc = check_layout(a);
	if (rc < 0)
		tm_arena_detach(a);
	else
		*ret_arena = a;
	return rc;
}

void tm_arena_detach(struct tm_arena *a)
{
	struct tm_budget *b = a->budget;

	tm_memory_detach(&a->memory);
	tm_lock_destroy(&a->lock);
	tm_node_free(b, NULL, a->free, a->count * sizeof(*a->free));
	tm_node_free(b, NULL, a->segments, a->count * sizeof(*a->segments));
	tm_node_free(b, NULL, a, sizeof(*a));
}

void tm_arena_close(struct tm_arena *a)
{
	tm_memory_close(&a->memory);
	tm_arena_detach(a);
}

uint32_t tm_arena_segments(const struct tm_arena *a)
{
	return a->count;
}

uint32_t tm_arena_taken(const struct tm_arena *a)
{
	return a->count - atomic_load_explicit(&a->free_count, memory_order_relaxed);
}

uint32_t tm_arena_segment_bytes(const struct tm_arena *a)
{
	return a->segment_bytes;
}

bool tm_arena_huge(const struct tm_arena *a)
{
	return a->memory.huge;
}

int tm_arena_fd(const struct tm_arena *a)
{
	return a->memory.fd;
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

/* The segment has an owner from here on. */
static void take(struct tm_arena *a, uint32_t id, const struct tm_owner *owner,
	const struct tm_segment_header *header, enum tm_segment_state state)
{
	struct tm_segment *s = &a->segments[id];

	s->tail = sizeof(*header);
	s->birth = header->birth;
	s->owner = owner;
	s->oid = header->oid;
	atomic_store(&s->live_bytes, 0);
	atomic_store(&s->sealed_ns, tm_now_ns());
	atomic_store(&s->state, state);
	atomic_store(&s->refs, 1); /* last: tm_segment_try_ref looks at nothing else */
	atomic_fetch_add(owner->used_bytes, a->segment_bytes);
	if (is_ephemeral(owner))
		atomic_fetch_add(&a->budget->ledger->freeable_bytes, a->segment_bytes);
	tm_budget_report(a->budget);
}

void tm_segment_adopt(struct tm_arena *a, uint32_t id, const struct tm_owner *owner,
	const struct tm_segment_header *header)
{
	atomic_fetch_add(&a->budget->ledger->used_bytes, a->segment_bytes);
	a->next_birth = TM_MAX(a->next_birth, header->birth);
	take(a, id, owner, header, TM_SEGMENT_SEALED);
}

void tm_arena_populate(struct tm_arena *a)
{
	for (uint32_t id = 0; id < a->count; id++)
		if (atomic_load(&a->segments[id].state) != TM_SEGMENT_FREE)
			(void)tm_memory_populate(
				&a->memory, (uint64_t)id * a->segment_bytes, a->segment_bytes);
}

void tm_arena_settle(struct tm_arena *a)
{
	for (uint32_t id = a->count; id-- > 0;) { /* lowest on top */
		uint64_t at = (uint64_t)id * a->segment_bytes;

		if (atomic_load(&a->segments[id].state) != TM_SEGMENT_FREE)
			continue;
		if (tm_memory_next(&a->memory, at) < at + a->segment_bytes)
			tm_memory_release(&a->memory, at, a->segment_bytes);
		a->free[a->free_count++] = id;
	}
}

/* --- the reserve ------------------------------------------------------------------------------ */

void tm_arena_set_reserve(struct tm_arena *a, const struct tm_reserve *reserve)
{
	a->reserve = *reserve;
}

void tm_arena_give_back(struct tm_arena *a, int n)
{
	atomic_fetch_add(&a->giving_back, n);
}

static bool is_short_locked(const struct tm_arena *a)
{
	return a->ready_count + a->coming < a->reserve.target;
}

static void count_freeable(struct tm_arena *a, bool more)
{
	uint64_t bytes = a->reserve.only ? 0 : a->segment_bytes;

	atomic_fetch_add(&a->budget->ledger->freeable_bytes, more ? bytes : 0 - bytes);
}

/* A segment that is present, charged and zeros joins the reserve. */
static void push_ready(struct tm_arena *a, uint32_t id)
{
	tm_lock(&a->lock);
	a->coming--;
	a->free[a->count - ++a->ready_count] = id;
	tm_unlock(&a->lock);
	count_freeable(a, true);
}

static uint32_t pop_ready_locked(struct tm_arena *a)
{
	count_freeable(a, false);
	return a->free[a->count - a->ready_count--];
}

static void push_free(struct tm_arena *a, uint32_t id)
{
	tm_lock(&a->lock);
	a->free[a->free_count++] = id;
	tm_unlock(&a->lock);
}

/* The reserve grows only where index nodes have some room beside it: making room for a node takes
 * from the reserve, which must not come back for it. Where nothing else may be opened, its first
 * segment is the room that cleaning needs, and comes before everything. */
static bool has_room_to_fill_locked(const struct tm_arena *a)
{
	uint64_t leave = a->budget->headroom + a->segment_bytes / 8;

	if (a->reserve.only && a->ready_count == 0)
		leave = 0;
	return tm_budget_used(a->budget) + a->segment_bytes + leave <= tm_budget_limit(a->budget);
}

int tm_arena_fill(struct tm_arena *a)
{
	bool wanted;
	uint32_t id = 0;
	int rc;

	tm_lock(&a->lock);
	wanted = is_short_locked(a) && a->free_count > 0 && has_room_to_fill_locked(a);
	if (wanted) {
		a->coming++;
		id = a->free[--a->free_count];
	}
	tm_unlock(&a->lock);
	if (!wanted)
		return 0;

	rc = tm_budget_charge(a->budget, a->segment_bytes, a->reserve.only);
	if (rc == 0) {
		rc = tm_memory_populate(
			&a->memory, (uint64_t)id * a->segment_bytes, a->segment_bytes);
		if (rc == 0) {
			push_ready(a, id);
			return 1;
		}
		tm_memory_release(&a->memory, (uint64_t)id * a->segment_bytes, a->segment_bytes);
		tm_budget_credit(a->budget, a->segment_bytes);
	} else {
		rc = 0;
	}
	tm_lock(&a->lock);
	a->coming--;
	tm_unlock(&a->lock);
	push_free(a, id);
	return rc;
}

/* Give a ready segment back, if there are more than `keep`. */
static bool trim(struct tm_arena *a, uint32_t keep)
{
	uint32_t id = TM_SEGMENT_NONE;

	tm_lock(&a->lock);
	if (a->ready_count > keep)
		id = pop_ready_locked(a);
	tm_unlock(&a->lock);
	if (id == TM_SEGMENT_NONE)
		return false;
	tm_memory_release(&a->memory, (uint64_t)id * a->segment_bytes, a->segment_bytes);
	push_free(a, id);
	tm_budget_credit(a->budget, a->segment_bytes);
	atomic_fetch_add(&a->released, 1);
	return true;
}

bool tm_arena_trim(struct tm_arena *a)
{
	return trim(a, a->reserve.only && a->reserve.target > 0);
}

void tm_arena_trim_surplus(struct tm_arena *a)
{
	while (a->reserve.target > 0 && trim(a, a->reserve.target))
		;
}

/* Segments that are ready but for cleaning alone. */
static uint32_t kept_back(const struct tm_arena *a, bool privileged)
{
	return a->reserve.only && !privileged;
}

bool tm_arena_is_dry(struct tm_arena *a)
{
	bool dry;

	tm_lock(&a->lock);
	dry = is_short_locked(a) && a->ready_count + a->coming <= kept_back(a, false);
	tm_unlock(&a->lock);
	return dry;
}

/* What is ready is charged already: it may be taken as long as the headroom stays. */
static bool has_room_locked(const struct tm_arena *a, bool privileged)
{
	uint64_t used = tm_budget_used(a->budget), limit = tm_budget_limit(a->budget);
	uint64_t ready = (uint64_t)a->ready_count * a->segment_bytes;
	uint64_t need = (1 + kept_back(a, privileged)) * (uint64_t)a->segment_bytes;

	if (a->reserve.only)
		return ready >= need ||
			used + need + a->segment_bytes / 8 <= limit + ready; /* can be filled */
	return used + need + (privileged ? 0 : a->budget->headroom) <= limit + ready;
}

bool tm_arena_has_room(struct tm_arena *a)
{
	bool room;

	tm_lock(&a->lock);
	room = has_room_locked(a, false);
	tm_unlock(&a->lock);
	return room;
}

/* How many segments more than its target the reserve takes of those that become free. A client that
 * writes over its pages empties about one for each that it fills, but a little later: with none to
 * spare every segment went through the kernel, which zeroes it, and on a virtual machine may have
 * to find memory for it again. */
static uint32_t surplus_max(const struct tm_arena *a)
{
	return a->reserve.target / 4;
}

/* A segment that lost its last reference becomes part of the reserve, if that is short of it. */
static bool recycle(struct tm_arena *a, uint32_t id)
{
	struct tm_segment_header *header = (void *)tm_segment_data(a, id);
	bool wanted;

	if (a->reserve.target == 0 || atomic_load(&a->giving_back) > 0 ||
		tm_budget_used(a->budget) > tm_budget_limit(a->budget))
		return false;
	tm_lock(&a->lock);
	wanted = a->ready_count + a->coming < a->reserve.target + surplus_max(a);
	a->coming += wanted;
	tm_unlock(&a->lock);
	if (!wanted)
		return false;
	/* Should we be killed on the way, it is a segment without a header, not one with half of
	 * its entries. */
	tm_segment_disown(a, id);
	memset(header, 0, a->segment_bytes);
	push_ready(a, id);
	return true;
}

/* --- a segment's life ------------------------------------------------------------------------- */

/* Take a segment's memory from the reserve, or else from what is free. */
static int take_id(struct tm_arena *a, bool privileged, uint32_t *ret_id, uint64_t *ret_birth)
{
	bool low = false;
	int rc = 0;

	tm_lock(&a->lock);
	if (a->reserve.target > 0 && !has_room_locked(a, privileged)) {
		rc = -ENOMEM;
	} else if (a->ready_count > kept_back(a, privileged)) {
		*ret_id = pop_ready_locked(a);
		low = is_short_locked(a);
	} else if (a->reserve.only) {
		rc = -ENOBUFS;
	} else if (a->free_count == 0 ||
		tm_budget_charge(a->budget, a->segment_bytes, privileged) < 0) {
		rc = -ENOMEM;
	} else {
		*ret_id = a->free[--a->free_count];
		low = is_short_locked(a);
	}
	if (rc == 0)
		*ret_birth = ++a->next_birth;
	tm_unlock(&a->lock);
	if (low && a->reserve.low)
		a->reserve.low(a->reserve.opaque);
	return rc;
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
	uint32_t id;
	int rc = take_id(a, privileged, &id, &header.birth);

	if (rc < 0)
		return rc;
	header.check = header_check(&header);
	memcpy(tm_segment_data(a, id), &header, sizeof(header));
	take(a, id, owner, &header, TM_SEGMENT_OPEN);
	*ret_id = id;
	return 0;
}

void tm_segment_seal(struct tm_arena *a, uint32_t id)
{
	atomic_store(&a->segments[id].sealed_ns, tm_now_ns());
	atomic_store(&a->segments[id].state, TM_SEGMENT_SEALED);
	tm_segment_unref(a, id);
}

void tm_segment_disown(struct tm_arena *a, uint32_t id)
{
	struct tm_segment_header *header = (void *)tm_segment_data(a, id);

	header->magic = 0;
	atomic_signal_fence(memory_order_seq_cst); /* before anything that follows */
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
	atomic_fetch_sub(s->owner->used_bytes, a->segment_bytes);
	if (is_ephemeral(s->owner))
		atomic_fetch_sub(&a->budget->ledger->freeable_bytes, a->segment_bytes);
	if (!recycle(a, id)) {
		tm_memory_release(&a->memory, (uint64_t)id * a->segment_bytes, a->segment_bytes);
		push_free(a, id);
		tm_budget_credit(a->budget, a->segment_bytes);
	}
	tm_budget_report(a->budget);
	atomic_fetch_add(&a->released, 1);
}

void tm_segment_unref(struct tm_arena *a, uint32_t id)
{
	if (atomic_fetch_sub(&a->segments[id].refs, 1) == 1)
		release(a, id);
}
