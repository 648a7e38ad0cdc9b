/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * check.c - tm_store_check(): the invariants, counted afresh from the index and from the segments
 */
#include <stdlib.h>

#include "core/entry.h"
#include "core/store_private.h"
#include "core/util.h"

struct census {
	struct tm_store *s;
	uint32_t *entries;    /* per segment: slots that name it */
	uint32_t *live_bytes; /* per segment: their entries' bytes */
	uint64_t pages[TM_POOLS_MAX], payload[TM_POOLS_MAX], segments[TM_POOLS_MAX];
	int fault;
};

static void count_slot(void *opaque, const struct tm_handle *h, uint64_t slot)
{
	struct census *c = opaque;
	struct tm_store *s = c->s;
	uint32_t id = tm_slot_segment(slot), offset = tm_slot_offset(slot);
	const struct tm_segment *seg = tm_segment(s->arena, id);
	const uint8_t *at = tm_segment_data(s->arena, id) + offset;
	struct tm_entry_view e;

	if (id >= tm_arena_segments(s->arena) || atomic_load(&seg->refs) == 0 ||
		offset >= seg->tail || tm_entry_view(at, seg->tail - offset, &seg->oid, &e) < 0 ||
		e.dead || !tm_entry_is(&e, &h->oid, h->index) ||
		s->pools[seg->owner->pool].objects != h->objects) {
		c->fault = -TM_FAULT_SLOT;
		return;
	}
	c->entries[id]++;
	c->live_bytes[id] += e.total;
	c->pages[seg->owner->pool]++;
	c->payload[seg->owner->pool] += e.total;
}

/* Live entries of a segment, walking it. */
static uint32_t walk_segment(struct tm_store *s, uint32_t id)
{
	const struct tm_segment *seg = tm_segment(s->arena, id);
	uint32_t offset = sizeof(struct tm_segment_header), live = 0;
	struct tm_entry_view e;

	while (offset < seg->tail &&
		tm_entry_view(tm_segment_data(s->arena, id) + offset, seg->tail - offset, &seg->oid,
			&e) == 0) {
		live += !e.dead;
		offset += e.total;
	}
	return live;
}

static bool is_owner(const struct tm_pool *p, const struct tm_owner *owner)
{
	return p->taken && owner >= p->log.owner && owner < p->log.owner + TM_QUEUES;
}

static void check_segment(struct census *c, uint32_t id)
{
	struct tm_segment *seg = tm_segment(c->s->arena, id);
	uint32_t refs = atomic_load(&seg->refs);
	bool open = atomic_load(&seg->state) == TM_SEGMENT_OPEN;

	if (refs == 0)
		return;
	c->segments[seg->owner->pool]++;
	if (!is_owner(&c->s->pools[seg->owner->pool], seg->owner))
		c->fault = -TM_FAULT_OWNER;
	else if (walk_segment(c->s, id) != c->entries[id])
		c->fault = -TM_FAULT_ENTRY;
	else if (refs != c->entries[id] + open)
		c->fault = -TM_FAULT_REFS;
	else if (atomic_load(&seg->live_bytes) != c->live_bytes[id])
		c->fault = -TM_FAULT_LIVE_BYTES;
}

static void check_pool(struct census *c, const struct tm_pool *p)
{
	uint64_t fixed = c->segments[p->id] * tm_arena_segment_bytes(c->s->arena) +
		tm_lines_bytes(&p->ghost.buckets) + tm_lines_bytes(&p->contents);

	if (tm_pool_is_persistent(p) && tm_lines_bytes(&p->ghost.buckets) > 0)
		c->fault = -TM_FAULT_GHOST;
	else if (p->stat[TM_STAT_PAGES] != c->pages[p->id] ||
		p->stat[TM_STAT_PAYLOAD_BYTES] != c->payload[p->id] ||
		p->stat[TM_STAT_ORIG_BYTES] != c->pages[p->id] * p->page_bytes ||
		p->stat[TM_STAT_USED_BYTES] < fixed ||
		(c->pages[p->id] == 0) != (p->stat[TM_STAT_OBJECTS] == 0) ||
		(c->pages[p->id] == 0 && p->stat[TM_STAT_USED_BYTES] != fixed))
		c->fault = -TM_FAULT_GAUGE;
}

int tm_store_check(struct tm_store *s)
{
	uint32_t n = tm_arena_segments(s->arena);
	TM_AUTO_FREE uint32_t *entries = calloc(n, sizeof(*entries));
	TM_AUTO_FREE uint32_t *live_bytes = calloc(n, sizeof(*live_bytes));
	struct census c = {.s = s, .entries = entries, .live_bytes = live_bytes};

	if (!entries || !live_bytes)
		return 0; /* nothing was checked, nothing is known to be wrong */
	tm_index_each(s->index, count_slot, &c);
	for (uint32_t id = 0; id < n && c.fault == 0; id++)
		check_segment(&c, id);
	for (uint32_t id = 0; id < TM_POOLS_MAX && c.fault == 0; id++)
		if (s->pools[id].taken)
			check_pool(&c, &s->pools[id]);
	if (c.fault == 0 && tm_budget_used(&s->budget) > tm_budget_limit(&s->budget))
		c.fault = -TM_FAULT_LIMIT;
	return c.fault;
}
