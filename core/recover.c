/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * recover.c - the index rebuilt from the segments of a process that is gone
 *
 *      each segment with a valid header: its pool is made, it is adopted, its entries walked
 *      each live entry: into its handle's slot, unless the slot has a newer one; the loser is dead
 *      every other segment: given back
 *
 * Why that is right is in docs/store.md, "Crash order". Checksums of pages are not verified here
 * but by the get that wants the page: a damaged one must stay an error, not become the page it
 * replaced.
 */
#include <errno.h>

#include "core/entry.h"
#include "core/store_private.h"
#include "core/util.h"

/* The pool a segment belonged to; NULL when it cannot be taken over. */
static struct tm_pool *pool_of(
	struct tm_store *s, const struct tm_segment_header *header, bool ephemeral, int *ret_rc)
{
	struct tm_pool_params params = {.flags = header->flags, .attrs = header->attrs, .name = ""};
	struct tm_pool *p;

	if (header->pool >= TM_POOLS_MAX || (!(header->flags & TM_POOL_PERSIST) && !ephemeral))
		return NULL;
	p = &s->pools[header->pool];
	if (!p->taken) {
		p->id = header->pool;
		*ret_rc = tm_pool_set_up(s, p, &params);
		if (*ret_rc < 0)
			return NULL;
		p->recovered = true;
	}
	return p->log.owner->flags == header->flags && p->log.owner->attrs == header->attrs ? p
											    : NULL;
}

static uint64_t sequence_at(struct tm_store *s, uint64_t slot)
{
	struct tm_entry_view e = {.seq = 0};

	tm_log_view(s->arena, slot, &e); /* it was walked already, so it can be taken apart */
	return e.seq;
}

/* One live entry at `slot`. 0 or -ENOMEM. */
static int recover_entry(
	struct tm_store *s, struct tm_pool *p, const struct tm_entry_view *e, uint64_t slot)
{
	struct tm_handle h = {p->objects, e->oid, e->index};
	struct tm_segment *seg = tm_segment(s->arena, tm_slot_segment(slot));
	struct tm_cursor c;
	uint64_t old;
	int rc;

	tm_index_lock(s->index, &h, &c);
	old = tm_cursor_get(&c);
	rc = tm_index_make_locked(&c, &h);
	if (rc == 0 && old != TM_SLOT_NONE && sequence_at(s, old) >= e->seq) {
		tm_entry_kill(
			tm_segment_data(s->arena, tm_slot_segment(slot)) + tm_slot_offset(slot));
	} else if (rc == 0) {
		tm_segment_ref(s->arena, tm_slot_segment(slot));
		atomic_fetch_add(&seg->live_bytes, tm_slot_total(slot));
		tm_page_live_locked(p, slot);
		if (old != TM_SLOT_NONE) {
			tm_page_dead_locked(s, p, old);
			/* Not its last: every adopted segment is held until the end. */
			tm_segment_unref(s->arena, tm_slot_segment(old));
		}
		tm_cursor_set(&c, slot);
	}
	tm_index_unlock(&c);
	return rc;
}

/* An entry that was only half written has no length yet and ends the walk, as the zeros behind the
 * tail do. */
static int recover_segment(struct tm_store *s, struct tm_pool *p, uint32_t id)
{
	struct tm_segment *seg = tm_segment(s->arena, id);
	const uint8_t *data = tm_segment_data(s->arena, id);
	uint32_t end = tm_arena_segment_bytes(s->arena);
	struct tm_entry_view e;
	int rc = 0;

	while (rc == 0 && tm_entry_view(data + seg->tail, end - seg->tail, &seg->oid, &e) == 0) {
		if (e.codec == TM_CODEC_ZSTD) {
			rc = tm_upkeep_unpacker(s);
			seg->owner = &p->log.owner[tm_pool_packed_queue(p, TM_QUEUE_NEW)];
		}
		if (rc == 0 && !e.dead)
			rc = recover_entry(s, p, &e, tm_slot(id, seg->tail, e.total, e.codec));
		s->sequence = TM_MAX(atomic_load(&s->sequence), e.seq);
		seg->tail += e.total;
	}
	return rc;
}

int tm_recover(struct tm_store *s, bool ephemeral)
{
	struct tm_segment_header header;
	int rc = 0;

	s->budget.unlimited = true;
	for (uint32_t id = 0; rc == 0 && tm_arena_next(s->arena, &id, &header); id++) {
		struct tm_pool *p = pool_of(s, &header, ephemeral, &rc);

		if (!p)
			continue;
		tm_segment_adopt(s->arena, id, &p->log.owner[TM_QUEUE_NEW], &header);
		rc = recover_segment(s, p, id);
	}
	s->budget.unlimited = false;
	if (rc < 0)
		return rc;
	tm_arena_settle(s->arena);
	for (uint32_t id = 0; id < tm_arena_segments(s->arena); id++)
		if (atomic_load(&tm_segment(s->arena, id)->state) == TM_SEGMENT_SEALED)
			tm_segment_unref(
				s->arena, id); /* adopted: its live entries hold it now, if any */
	return 0;
}
