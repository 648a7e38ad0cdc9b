/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * drop.c - much ephemeral memory given back at once
 *
 * Sweeping a segment (reclaim.c) looks at each of its entries, a cache miss, and at the entry's
 * handle in the index, another one: 0.15 us a page. When a large part of a store has to go it is
 * cheaper to walk the whole index once, which reads its leaves one after the other, and to drop
 * what it says is in one of those segments. The entries themselves are not looked at.
 *
 *      choose segments, pin them --> their headers say no more what they are
 *      walk the index: each slot in one of them goes, and is counted
 *      references and accounts --> unpin: whole segments go back to the operating system
 *
 * Entries are not marked dead one by one, so their segments lose their headers first: were we
 * killed in between, nothing that was dropped, and perhaps flushed since, comes back.
 *
 * Locking: under the reclaim lock; one shard's lock at a time, for all of its leaves.
 */
#include <stdlib.h>

#include "core/victims.h"
#include "core/util.h"

/* A walk costs as much as sweeping this part of the segments would; for a few of them never. */
#define WORTH_SHARE 16u
#define WORTH_MIN   8u

#define QUEUES (TM_POOLS_MAX + 1)

struct candidate {
	uint64_t place; /* tm_victims_place() */
	uint32_t id;
	struct tm_queued *queue;
};

struct drop {
	struct tm_store *s;
	struct tm_victims v;
	struct candidate *candidates; /* [count], pinned: by queue, then by place */
	uint32_t count, room;
	struct {
		uint64_t pages, bytes, codec[8];
	} gone[TM_POOLS_MAX];
};

static int compare(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->queue != y->queue)
		return x->queue < y->queue ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

/* Every segment that may be evicted, pinned. */
static void collect(struct drop *d)
{
	struct tm_store *s = d->s;

	tm_victims_find(s, &d->v);
	for (uint32_t id = 0; id < tm_arena_segments(s->arena) && d->count < d->room; id++) {
		struct tm_segment *seg = tm_segment(s->arena, id);

		if (!tm_segment_try_ref(s->arena, id))
			continue;
		if (seg->owner->flags & TM_POOL_PERSIST ||
			atomic_load(&seg->state) != TM_SEGMENT_SEALED) {
			tm_segment_unref(s->arena, id);
			continue;
		}
		seg->leaving = false;
		seg->leaving_refs = seg->leaving_bytes = 0;
		d->candidates[d->count++] = (struct candidate){
			tm_victims_place(s, seg), id, tm_victims_queue(&d->v, s, seg)};
	}
	qsort(d->candidates, d->count, sizeof(*d->candidates), compare);
}

/* The queue's oldest is the candidate at `next`, if that is one of its. */
static void set_oldest(struct drop *d, struct tm_queued *q, uint32_t next)
{
	const struct candidate *c = &d->candidates[next];
	bool any = next < d->count && c->queue == q;

	q->oldest = any ? next : TM_SEGMENT_NONE; /* here a number of ours, not an id */
	q->oldest_place = any ? c->place : UINT64_MAX;
}

/* In the order of eviction, as one after the other would have gone. */
static void choose(struct drop *d, uint64_t segments)
{
	for (int i = 0; i < TM_POOLS_MAX; i++)
		set_oldest(d, &d->v.fresh[i], d->count);
	set_oldest(d, &d->v.main, d->count);
	for (uint32_t i = d->count; i-- > 0;)
		set_oldest(d, d->candidates[i].queue, i);

	while (segments-- > 0) {
		const struct tm_queued *chosen = tm_victims_choose(&d->v);
		struct candidate *c;

		if (!chosen)
			break;
		c = &d->candidates[chosen->oldest];
		tm_segment(d->s->arena, c->id)->leaving = true;
		tm_segment_disown(d->s->arena, c->id);
		set_oldest(d, c->queue, chosen->oldest + 1);
		c->queue->segments--;
		d->v.ephemeral--;
	}
}

/* Drop the page at a slot? */
static bool drop_page(void *opaque, const struct tm_handle *h, uint64_t slot)
{
	struct drop *d = opaque;
	struct tm_segment *seg = tm_segment(d->s->arena, tm_slot_segment(slot));
	struct tm_pool *p;

	if (!seg->leaving)
		return false;
	p = &d->s->pools[seg->owner->pool];
	if (h->objects != p->objects)
		return false; /* not published yet */
	seg->leaving_refs++;
	seg->leaving_bytes += tm_slot_total(slot);
	d->gone[p->id].pages++;
	d->gone[p->id].bytes += tm_slot_total(slot);
	d->gone[p->id].codec[tm_slot_codec(slot)]++;
	if (tm_queue_is_new(tm_log_queue(&p->log, seg)))
		tm_ghost_remember(&p->ghost, tm_ghost_hash(&h->oid, h->index));
	return true;
}

static void settle_accounts(struct drop *d)
{
	for (int id = 0; id < TM_POOLS_MAX; id++) {
		struct tm_pool *p = &d->s->pools[id];

		if (d->gone[id].pages == 0)
			continue;
		tm_stat_sub(p, TM_STAT_PAGES, d->gone[id].pages);
		tm_stat_sub(p, TM_STAT_ORIG_BYTES, d->gone[id].pages * p->page_bytes);
		tm_stat_sub(p, TM_STAT_PAYLOAD_BYTES, d->gone[id].bytes);
		for (unsigned int codec = 0; codec < TM_ARRAY_SIZE(d->gone[id].codec); codec++)
			if (tm_codec_gauge(codec) != TM_STAT_COUNT)
				tm_stat_sub(p, tm_codec_gauge(codec), d->gone[id].codec[codec]);
		tm_stat_add(p, TM_STAT_EVICTED, d->gone[id].pages);
	}
}

static void unpin_all(struct drop *d)
{
	for (uint32_t i = 0; i < d->count; i++) {
		uint32_t id = d->candidates[i].id;
		struct tm_segment *seg = tm_segment(d->s->arena, id);

		seg->leaving = false;
		atomic_fetch_sub(&seg->live_bytes, seg->leaving_bytes);
		atomic_fetch_sub(&seg->refs, seg->leaving_refs); /* not the last: ours is left */
		tm_segment_unref(d->s->arena, id);
	}
}

void tm_drop(struct tm_store *s, uint64_t bytes)
{
	uint64_t segments = bytes / tm_arena_segment_bytes(s->arena);
	struct drop d = {.s = s};

	if (segments < WORTH_MIN || segments * WORTH_SHARE < tm_arena_taken(s->arena))
		return;
	d.room = tm_arena_taken(s->arena); /* what comes later may stay */
	d.candidates = calloc(d.room, sizeof(*d.candidates));
	if (!d.candidates)
		return; /* then one after the other */
	collect(&d);
	choose(&d, segments);
	tm_index_drop(s->index, drop_page, &d);
	settle_accounts(&d);
	unpin_all(&d);
	free(d.candidates);
}
