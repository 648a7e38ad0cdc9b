/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stage.c - the pages of a stream to where nobody finds them yet; what that is for is in restore.c
 */
#include "core/restore_private.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "core/entry.h"
#include "core/util.h"

/* How long to wait for a host that may grant more: it looks every 100 ms. */
#define GRANT_TRIES   30
#define GRANT_WAIT_NS 50000000
#define ROOM_TRIES    8

/* And for the keeper of a resident store, which is less patient with puts. */
#define KEEPER_TRIES   300
#define KEEPER_WAIT_NS 10000000

/* The host grants ahead of need, but not this much at once. */
static bool wait_for_grant(struct tm_restore *v)
{
	const struct tm_ledger *l = v->s->ledger;
	uint64_t granted = atomic_load(&l->granted_bytes);

	if (!v->patient || granted >= atomic_load(&l->limit_bytes))
		return false;
	for (int i = 0; i < GRANT_TRIES; i++) {
		struct timespec pause = {.tv_nsec = GRANT_WAIT_NS};

		tm_budget_report(&v->s->budget);
		nanosleep(&pause, NULL);
		if (atomic_load(&l->granted_bytes) > granted)
			return true;
	}
	v->patient = false;
	return false;
}

static bool wait_for_keeper(struct tm_restore *v, enum tm_room room, int tries, uint64_t seen)
{
	struct timespec pause = {.tv_nsec = KEEPER_WAIT_NS};

	if (!tm_make_room(v->s, room, -ENOBUFS, seen))
		nanosleep(&pause, NULL);
	return tries < KEEPER_TRIES;
}

bool tm_restore_make_room(struct tm_restore *v, const struct tm_target *t, enum tm_room room,
	int rc, int tries, uint64_t seen)
{
	if (rc == -ENOBUFS)
		return wait_for_keeper(v, room, tries, seen);
	if (rc != -ENOMEM)
		return false;
	return (tm_pool_is_persistent(t->pool) && tries < ROOM_TRIES &&
		       tm_make_room(v->s, room, rc, seen)) ||
		wait_for_grant(v);
}

static int append(struct tm_restore *v, struct tm_target *t, const struct tm_stream_page *page,
	uint64_t *ret_slot)
{
	enum tm_queue queue = page->main ? TM_QUEUE_MAIN : TM_QUEUE_NEW;
	struct tm_entry_view e = {
		.oid = page->oid,
		.seq = atomic_fetch_add(&v->s->sequence, 1) + 1,
		.index = page->index,
		.bytes = page->bytes,
		.codec = page->codec,
		.payload = page->payload,
	};

	if (page->codec == TM_CODEC_ZSTD) {
		int rc = tm_upkeep_unpacker(v->s);

		queue = tm_pool_packed_queue(t->pool, queue);
		if (rc < 0)
			return rc;
	}
	e.check = tm_entry_check(&e);

	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(v->s->arena);
		int rc = tm_log_append(&t->pool->log, queue, false, &e, ret_slot);

		if (rc == 0 || !tm_restore_make_room(v, t, TM_ROOM_SEGMENT, rc, tries, seen))
			return rc;
	}
}

static void drop_entry(struct tm_restore *v, uint64_t slot)
{
	tm_log_kill(v->s->arena, slot);
	tm_segment_unref(v->s->arena, tm_slot_segment(slot));
}

int tm_restore_stage(
	struct tm_restore *v, struct tm_target *t, const struct tm_handle *h, uint64_t slot)
{
	struct tm_cursor c;
	uint64_t old;
	int rc = 0;

	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(v->s->arena);

		tm_index_lock(v->s->index, h, &c);
		old = tm_cursor_get(&c);
		if (slot != TM_SLOT_NONE)
			rc = tm_index_make_locked(&c, h);
		if (rc == 0 && (slot != TM_SLOT_NONE || old != TM_SLOT_NONE))
			tm_cursor_set(&c, slot);
		tm_index_unlock(&c);
		if (rc == 0 || !tm_restore_make_room(v, t, TM_ROOM_NODE, rc, tries, seen))
			break;
	}
	if (rc < 0)
		return rc;
	t->pages += slot != TM_SLOT_NONE;
	t->pages -= old != TM_SLOT_NONE;
	if (old != TM_SLOT_NONE)
		drop_entry(v, old);
	return 0;
}

int tm_restore_no_room(struct tm_restore *v)
{
	char need[TM_SIZE_TEXT_MAX], limit[TM_SIZE_TEXT_MAX];

	tm_size_format(tm_budget_used(&v->s->budget), need);
	tm_size_format(tm_budget_limit(&v->s->budget), limit);
	return tm_restore_fail(
		v, -ENOSPC, "no room: %s of %s were in use before all of it was read", need, limit);
}

/* --- elsewhere -------------------------------------------------------------------------------- */

/* The record's page, as it is, in the copy. */
static int unfold(
	struct tm_restore *v, const struct tm_target *t, const struct tm_stream_page *page)
{
	struct tm_entry_view e = {
		.codec = page->codec, .bytes = page->bytes, .payload = page->payload};
	int rc = page->codec == TM_CODEC_ZSTD ? tm_upkeep_unpacker(v->s) : 0;

	if (rc == 0)
		rc = tm_entry_decode(v->s, t->pool, &e, tm_elsewhere_copy(&v->elsewhere, 0));
	return rc;
}

/* 0; -ENOSPC: not there. */
static int take_elsewhere(
	struct tm_restore *v, struct tm_target *t, const struct tm_stream_page *page, bool raw)
{
	const struct tm_elsewhere *e = &v->elsewhere;
	int rc;

	if (!tm_elsewhere_knows(e, t->pool))
		return -ENOSPC;
	rc = unfold(v, t, page);
	if (rc < 0)
		return tm_restore_fail(v, rc, "a page of the stream is damaged");
	rc = e->ops->take(
		e->opaque, (int)t->pool->id, &page->oid, page->index, tm_elsewhere_copy(e, 0), raw);
	if (rc == -EEXIST)
		return tm_restore_fail(v, rc, "it was written to meanwhile");
	if (rc < 0)
		return rc == -ENOSPC
			? rc
			: tm_restore_fail(v, rc, "a page cannot be stored: %s", strerror(-rc));
	t->pages += (unsigned int)rc;
	t->elsewhere += (unsigned int)rc;
	return 0;
}

static void drop_elsewhere(
	struct tm_restore *v, struct tm_target *t, const struct tm_stream_page *page)
{
	const struct tm_elsewhere *e = &v->elsewhere;

	if (t->elsewhere == 0 ||
		!e->ops->drop(e->opaque, (int)t->pool->id, &page->oid, page->index))
		return;
	t->pages--;
	t->elsewhere--;
}

/* --- a record --------------------------------------------------------------------------------- */

static int keep(struct tm_restore *v, struct tm_target *t, const struct tm_handle *h,
	const struct tm_stream_page *page)
{
	uint64_t slot;
	int rc = append(v, t, page, &slot);

	if (rc < 0)
		return rc;
	rc = tm_restore_stage(v, t, h, slot | page->hits);
	if (rc < 0)
		drop_entry(v, slot);
	else
		drop_elsewhere(v, t, page);
	return rc;
}

/* Since the last page that had no room none has become free: later records give back what they
 * replace, a segment at a time. */
static bool is_full(const struct tm_restore *v, const struct tm_target *t)
{
	return t->overflows && t->released == tm_arena_released(v->s->arena);
}

/* What the pool would refuse goes elsewhere at once, as does all that comes when it is full. */
static int place(struct tm_restore *v, struct tm_target *t, const struct tm_handle *h,
	const struct tm_stream_page *page)
{
	bool raw = page->codec == TM_CODEC_RAW && t->pool->log.owner->attrs & TM_POOL_REFUSE_RAW;
	int rc = raw || is_full(v, t) ? take_elsewhere(v, t, page, raw) : -ENOSPC;

	if (rc == -ENOSPC) {
		rc = keep(v, t, h, page);
		if (rc == 0)
			return 0;
		rc = take_elsewhere(v, t, page, false);
		t->overflows = rc == 0;
		t->released = tm_arena_released(v->s->arena);
	}
	if (rc == -ENOSPC)
		return tm_restore_no_room(v);
	return rc < 0 ? rc : tm_restore_stage(v, t, h, TM_SLOT_NONE);
}

/* A cache takes what it can. */
static int place_if_room(struct tm_restore *v, struct tm_target *t, const struct tm_handle *h,
	const struct tm_stream_page *page)
{
	if (!t->full && keep(v, t, h, page) == 0)
		return 0;
	/* What was there before it is older than what has no room. */
	t->full = true;
	v->result->skipped++;
	return tm_restore_stage(v, t, h, TM_SLOT_NONE);
}

int tm_restore_page(struct tm_restore *v, const struct tm_stream_page *page)
{
	struct tm_target *t = &v->targets[page->pool];
	struct tm_handle h = {t->staged, page->oid, page->index};

	if (page->gone) {
		drop_elsewhere(v, t, page);
		return tm_restore_stage(v, t, &h, TM_SLOT_NONE);
	}
	return tm_pool_is_persistent(t->pool) ? place(v, t, &h, page)
					      : place_if_room(v, t, &h, page);
}
