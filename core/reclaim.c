/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reclaim.c - how a full store gets whole segments back
 *
 *      a sealed segment at most half alive  --clean-->  its pages moved, segment free
 *      else the next ephemeral one          --evict-->  pages in use moved, the rest dropped
 *      else the emptiest one with 1/16 dead --clean-->
 *      else seal the open segments and look again, else nothing
 *
 * Eviction is S3-FIFO (Yang et al., SOSP 2023) by whole segments:
 *
 *      put --> new queue --hit twice--> main queue --hit since--> its end again, one hit forgotten
 *       |          |                      ^    |
 *       |          +--else--> ghost       |    +--else--> gone
 *       +--in the ghost (ghost.h)---------+
 *
 * The new queue is kept short, so what is used once passes by quickly and takes little room: a
 * scan does not empty a warm store. A get that takes its page out marks it in the ghost, too: it is
 * in use, and comes back to the main queue. A hit only counts, in the page's slot; order is the
 * order of births.
 *
 * For index nodes, and when the limit fell, what lies ready goes first.
 *
 * A pass sweeps each segment at most once, so it ends even where an entry that is just being put
 * keeps its segment from going.
 *
 * One thread at a time (TM_LOCK_RECLAIM). A page moves under its shard's lock and keeps its
 * sequence number, so that no flush or overwrite can be acknowledged between the copy and its
 * publication.
 */
#include <errno.h>

#include "core/entry.h"
#include "core/store_private.h"
#include "core/util.h"
#include "core/victims.h"

/* A reclaim ends after this many segments whatever it found: a put may be refused, not delayed. */
#define STEPS_MAX 32

/* The first of them, at most that many and a quarter of the ephemeral ones, may keep all their
 * pages; later ones no more than half of a segment, so that each frees memory. 4 cost a P6 trace 5%
 * of its misses, 16 gained 2%. */
#define STEPS_FULL 8

/* The hits that lead from the new queue to the main one. What others cost is in docs/store.md. */
#define PROMOTE_HITS 2

/* What a walk over a segment's entries does with the pages it finds. */
struct sweep {
	struct tm_store *s;
	struct tm_pool *pool;
	uint32_t segment;
	enum tm_queue queue;
	bool keep_all;                  /* cleaning */
	uint32_t keep_bytes;            /* evicting: bytes of used pages that may still be kept */
	const struct tm_packed *packed; /* recompressing: the next of the new payloads */
	uint64_t evicted, promoted, cleaned, recompressed, saved;
};

/* Lock, and begin a pass: every sealed segment may be a victim once. */
static void begin_pass(struct tm_store *s)
{
	tm_lock(&s->reclaim_lock);
	s->reclaim_pass++;
}

static void end_pass(struct tm_store *s)
{
	tm_unlock(&s->reclaim_lock);
}

/* Move the page to the end of a queue. False when there is no room. */
static bool move_locked(struct sweep *w, struct tm_cursor *c, const struct tm_entry_view *e,
	uint64_t slot, enum tm_queue queue, uint32_t hits)
{
	uint64_t moved;

	if (tm_log_append(&w->pool->log, queue, true, e, &moved) < 0)
		return false;
	tm_cursor_set(c, moved | hits);
	/* The same page, but its object id may now be in the segment's header, or no longer be. */
	tm_page_moved_locked(w->s, w->pool, slot, moved);
	return true;
}

/* Cleaning keeps a page in its queue, but gathers those of a persistent pool that live long. */
static bool clean_locked(struct sweep *w, struct tm_cursor *c, const struct tm_entry_view *e,
	uint64_t slot, uint32_t hits)
{
	enum tm_queue queue = w->queue;

	if (tm_pool_is_persistent(w->pool))
		queue = tm_queue_promoted(queue);
	if (!move_locked(w, c, e, slot, queue, hits))
		return false;
	w->cleaned++;
	return true;
}

/* The page's new payload, if it has one. */
static const struct tm_packed *find_packed(struct sweep *w, uint32_t offset)
{
	while (w->packed->offset < offset)
		w->packed = tm_packed_next(w->packed);
	return w->packed->offset == offset ? w->packed : NULL;
}

bool tm_page_is_used(const struct tm_pool *p, enum tm_queue queue, uint32_t hits)
{
	return hits >= (tm_queue_is_new(queue) && !tm_pool_is_persistent(p) ? PROMOTE_HITS : 1);
}

/* A page that was used gets another time in its present form. */
static bool keep_locked(struct sweep *w, struct tm_cursor *c, const struct tm_entry_view *e,
	uint64_t slot, uint32_t hits)
{
	bool promoted = tm_queue_is_new(w->queue) && !tm_pool_is_persistent(w->pool);

	return move_locked(w, c, e, slot, tm_queue_promoted(w->queue), promoted ? 0 : hits - 1);
}

/* What was used is kept; everything else is done with, in its new form if that is smaller, and has
 * as many hits as it had: so a page that is evicted some time later is the same one that would have
 * been without. */
static bool recompress_locked(struct sweep *w, struct tm_cursor *c, const struct tm_entry_view *e,
	uint64_t slot, uint32_t hits)
{
	const struct tm_packed *packed = find_packed(w, tm_slot_offset(slot));
	struct tm_entry_view new = *e;

	if (e->codec != TM_CODEC_ZSTD && tm_page_is_used(w->pool, w->queue, hits)) {
		if (!keep_locked(w, c, e, slot, hits))
			return false;
		w->cleaned++;
		return true;
	}
	if (packed) {
		new.codec = TM_CODEC_ZSTD;
		new.bytes = packed->bytes;
		new.payload = packed->payload;
		new.check = packed->check;
	}
	if (!move_locked(w, c, &new, slot, tm_pool_packed_queue(w->pool, w->queue), hits))
		return false;
	w->cleaned += !packed;
	w->recompressed += packed != NULL;
	w->saved += e->bytes - new.bytes;
	return true;
}

/* Was the page used since it came to its queue, and is there still room for such ones? */
static bool is_kept(const struct sweep *w, const struct tm_entry_view *e, uint32_t hits)
{
	return tm_page_is_used(w->pool, w->queue, hits) && e->total <= w->keep_bytes;
}

/* Pages that cannot be found by walking stay reachable through the index. Never choose their
 * segment again. */
static void give_up_segment(struct sweep *w)
{
	tm_stat_add(w->pool, TM_STAT_CORRUPT, 1);
	atomic_store(&tm_segment(w->s->arena, w->segment)->state, TM_SEGMENT_DAMAGED);
}

/* One live entry: keep it by moving it, or drop it. False: it could do neither. */
static bool sweep_entry(struct sweep *w, const struct tm_entry_view *e, uint32_t offset)
{
	struct tm_handle h = {w->pool->objects, e->oid, e->index};
	uint64_t here = tm_location(w->segment, offset), slot;
	bool done = true;
	struct tm_cursor c;
	uint32_t hits;

	tm_index_lock(w->s->index, &h, &c);
	slot = tm_cursor_get(&c);
	if (tm_slot_location(slot) != here) {
		/* Just being put, or just gone: whoever does it drops the reference. But if what
		 * is damaged is the name, nobody ever will. */
		tm_index_unlock(&c);
		if (!tm_entry_is(e, &e->oid, e->index))
			give_up_segment(w);
		return true;
	}
	hits = tm_slot_hits(slot);
	if (w->packed) {
		done = recompress_locked(w, &c, e, slot, hits);
	} else if (w->keep_all && clean_locked(w, &c, e, slot, hits)) {
		;
	} else if (is_kept(w, e, hits) && keep_locked(w, &c, e, slot, hits)) {
		w->keep_bytes -= e->total;
		w->promoted++;
	} else if (!tm_pool_is_persistent(w->pool)) {
		tm_page_dead_locked(w->s, w->pool, slot);
		tm_cursor_set(&c, TM_SLOT_NONE);
		if (tm_queue_is_new(w->queue))
			tm_ghost_remember(&w->pool->ghost, tm_ghost_hash(&e->oid, e->index));
		w->evicted++;
	} else {
		done = false;
	}
	tm_index_unlock(&c);
	if (done)
		tm_segment_unref(w->s->arena, w->segment);
	return done;
}

/* Empty a sealed segment. */
static void sweep(struct sweep w)
{
	struct tm_store *s = w.s;
	uint32_t id = w.segment;
	struct tm_segment *seg = tm_segment(s->arena, id);
	const uint8_t *data = tm_segment_data(s->arena, id);
	uint32_t offset = sizeof(struct tm_segment_header);
	struct tm_entry_view e;
	bool going = true;

	if (!tm_segment_try_ref(s->arena, id))
		return; /* its last page went meanwhile */

	/* The last page went and somebody has it open again. */
	if (atomic_load(&seg->state) != TM_SEGMENT_SEALED) {
		tm_segment_unref(s->arena, id);
		return;
	}
	w.pool = &s->pools[seg->owner->pool];
	w.queue = tm_log_queue(&w.pool->log, seg);
	seg->swept = s->reclaim_pass;
	while (going && offset < seg->tail) {
		if (tm_entry_view(data + offset, seg->tail - offset, &seg->oid, &e) < 0) {
			give_up_segment(&w); /* a damaged length hides what follows it */
			break;
		}
		if (!e.dead)
			going = sweep_entry(&w, &e, offset);
		offset += e.total;
	}
	tm_stat_add(w.pool, TM_STAT_EVICTED, w.evicted);
	tm_stat_add(w.pool, TM_STAT_PROMOTED, w.promoted);
	tm_stat_add(w.pool, TM_STAT_CLEANED, w.cleaned);
	tm_stat_add(w.pool, TM_STAT_RECOMPRESSED, w.recompressed);
	tm_stat_add(w.pool, TM_STAT_RECOMPRESS_SAVED_BYTES, w.saved);
	tm_segment_unref(s->arena, id);
}

/* `keep_all`: clean it, else evict it, keeping up to `keep_bytes` of used pages. */
static void sweep_segment(struct tm_store *s, uint32_t id, bool keep_all, uint32_t keep_bytes)
{
	sweep((struct sweep){
		.s = s, .segment = id, .keep_all = keep_all, .keep_bytes = keep_bytes});
}

/* With 1/8, puts were refused while a sixth of the limit was free; with 1/32, a full store moves
 * twice as many pages for each put. */
uint32_t tm_clean_max(const struct tm_store *s)
{
	uint32_t bytes = tm_arena_segment_bytes(s->arena);

	return bytes - bytes / 16;
}

/* What is not yet written of a persistent pool's open segment is lost to nobody: one is sealed for
 * its dead pages only. */
static bool seal_all(struct tm_store *s)
{
	uint32_t bytes = tm_arena_segment_bytes(s->arena);
	unsigned int sealed = 0;

	for (int id = 0; id < TM_POOLS_MAX; id++) {
		struct tm_pool *p = tm_pool_enter(s, id);

		if (!p)
			continue;
		sealed += tm_log_seal(&p->log, tm_pool_is_persistent(p) ? bytes / 16 : 0);
		tm_pool_leave(p);
	}
	return sealed > 0;
}

/* Free, or begin to free, one segment of a pool, as step `n` of a pass. False when there is nothing
 * left to give. */
static bool step(struct tm_store *s, uint32_t n)
{
	uint32_t bytes = tm_arena_segment_bytes(s->arena);
	const struct tm_queued *evicted;
	struct tm_victims v;

	tm_victims_find(s, &v);
	evicted = tm_victims_choose(&v);
	if (v.emptiest_live <= bytes / 2)
		sweep_segment(s, v.emptiest, true, 0);
	else if (evicted)
		sweep_segment(s, evicted->oldest, false,
			n < TM_MIN((uint32_t)STEPS_FULL, v.ephemeral / 4) ? bytes : bytes / 2);
	else if (v.emptiest_live <= tm_clean_max(s))
		sweep_segment(s, v.emptiest, true, 0);
	else
		return seal_all(s);
	return true;
}

/* A node needs bytes that are not charged; for a segment what is ready counts as well. */
static bool has_room(const struct tm_store *s, enum tm_room room)
{
	uint64_t used = tm_budget_used(&s->budget), limit = tm_budget_limit(&s->budget);

	if (room == TM_ROOM_SEGMENT)
		return tm_arena_has_room(s->arena);
	return used + s->budget.headroom + tm_arena_segment_bytes(s->arena) <= limit;
}

bool tm_make_room(struct tm_store *s, enum tm_room room, int rc, uint64_t seen)
{
	bool done;

	if (rc == -ENOBUFS)
		return tm_keeper_wait(s->keeper) || tm_save_gives_way(s);
	if (rc != -ENOMEM)
		return false;
	begin_pass(s);
	done = tm_arena_released(s->arena) != seen && has_room(s, room);
	for (uint32_t i = 0; i < STEPS_MAX && !done; i++) {
		if (!(room == TM_ROOM_NODE && tm_arena_trim(s->arena)) && !step(s, i))
			break;
		done = has_room(s, room);
	}
	end_pass(s);
	return done || tm_save_gives_way(s);
}

uint64_t tm_store_release(struct tm_store *s, uint64_t bytes)
{
	uint64_t before, released = 0;
	bool sealed = false;
	const struct tm_queued *evicted;
	struct tm_victims v;

	begin_pass(s);
	tm_arena_give_back(s->arena, 1);
	before = tm_arena_released(s->arena);
	tm_drop(s, bytes);
	released = (tm_arena_released(s->arena) - before) * tm_arena_segment_bytes(s->arena);
	while (released < bytes) {
		tm_victims_find(s, &v);
		evicted = tm_victims_choose(&v);
		if (!s->budget.resident && tm_arena_trim(s->arena))
			; /* the cheapest way */
		else if (evicted)
			sweep_segment(s, evicted->oldest, false, 0);
		else if (sealed || !seal_all(s))
			break;
		else
			sealed = true;
		released =
			(tm_arena_released(s->arena) - before) * tm_arena_segment_bytes(s->arena);
	}
	tm_arena_give_back(s->arena, -1);
	end_pass(s);
	return released;
}

void tm_store_shrink(struct tm_store *s)
{
	uint64_t used = tm_budget_used(&s->budget), limit = tm_budget_limit(&s->budget);

	begin_pass(s);
	if (used > limit)
		tm_drop(s, used - limit);
	while (tm_budget_used(&s->budget) > tm_budget_limit(&s->budget) &&
		(tm_arena_trim(s->arena) || step(s, STEPS_MAX)))
		;
	end_pass(s);
}

void tm_sweep_packed(struct tm_store *s, uint32_t id, const struct tm_packed *packed)
{
	begin_pass(s);
	sweep((struct sweep){.s = s, .segment = id, .keep_all = true, .packed = packed});
	end_pass(s);
}

/* The sealed segment with the fewest live bytes, some at least, if they are at most `live_max`; in
 * an ephemeral pool, where eviction is cheaper, half a segment. */
static uint32_t find_emptiest(struct tm_store *s, uint32_t live_max)
{
	uint32_t emptiest = TM_SEGMENT_NONE, half = tm_arena_segment_bytes(s->arena) / 2;

	for (uint32_t id = 0; id < tm_arena_segments(s->arena); id++) {
		struct tm_segment *seg = tm_segment(s->arena, id);
		uint32_t live;

		if (!tm_segment_try_ref(s->arena, id))
			continue;
		live = atomic_load(&seg->live_bytes);
		if (atomic_load(&seg->state) == TM_SEGMENT_SEALED && live > 0 && live <= live_max &&
			(live <= half || seg->owner->flags & TM_POOL_PERSIST)) {
			emptiest = id;
			live_max = live;
		}
		tm_segment_unref(s->arena, id);
	}
	return emptiest;
}

bool tm_clean(struct tm_store *s, uint32_t live_max)
{
	uint64_t seen;
	uint32_t id;

	begin_pass(s);
	seen = tm_arena_released(s->arena);
	id = find_emptiest(s, live_max);
	if (id != TM_SEGMENT_NONE)
		sweep_segment(s, id, true, 0);
	end_pass(s);
	return tm_arena_released(s->arena) != seen;
}
