/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * save.c - a store's pools to a stream; how is in move.h
 *
 * Why no page is forgotten: from the moment the index tells of changes, each slot that changes is
 * noted, be it by a put, a flush, an eviction or a page moved to another segment. A page that was
 * never noted lies, then, where it lay when the open segments were sealed, and that is a segment of
 * the list that is made after. The front end tells in the same way of pages that it has elsewhere:
 * one that is neither noted nor in a segment is elsewhere all the time, and the walk meets it.
 *
 * Why no put is refused for it: the stream's reader may be as slow as it likes, so nothing is
 * pinned while the stream is written to but what the pause left, which gives way (unsent.h).
 */
#include "core/move.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/elsewhere.h"
#include "core/entry.h"
#include "core/pieces.h"
#include "core/store_private.h"
#include "core/util.h"

/* Pages that may be left for the pause, 3.5 MiB of memory to list them. Fewer are aimed at for some
 * rounds; a client that does not get below it at all is not waited for for ever. */
#define LAST_MAX   (64u << 10)
#define LAST_GOAL  2048u
#define ROUNDS_AIM 8
#define ROUNDS_MAX 64

/* Of those, pages that the front end has elsewhere: the pause has to read them, into 4 MiB, which
 * is dearer than a look-up, so fewer are aimed at as well. In the walk neighbours are fetched
 * together. */
#define ELSEWHERE_MAX  1024u
#define ELSEWHERE_GOAL 128u
#define SPAN_MAX       32u

/* Room for changes: twice the runs there are, and so many that may appear meanwhile. */
#define SPARE_RUNS (16u << 10)

struct save {
	struct tm_store *s;
	const struct tm_move_params *who;
	const struct tm_save_params *params;
	struct tm_move_result *result;
	struct tm_stream_writer *writer;
	struct tm_changes *changes;
	struct tm_pool *pools[TM_POOLS_MAX]; /* by id, entered; NULL: not saved */
	uint32_t number[TM_POOLS_MAX];       /* of each in the stream */
	struct tm_piece *pieces;
	size_t piece_count;
	struct tm_elsewhere elsewhere;
	uint32_t copies, copies_max; /* how many copies the pause took, may take */
	bool too_many;               /* it would have taken more */
	bool held;                   /* the gate is shut since an earlier save, and stays so */
	bool shut;                   /* by us */
	uint64_t shut_ns;
	struct tm_stream_end end;
};

static int fail(struct save *v, int rc, const char *why)
{
	snprintf(v->result->why, sizeof(v->result->why), "%s", why);
	return rc;
}

/* --- one page --------------------------------------------------------------------------------- */

static void unpin(struct save *v, uint64_t slot)
{
	if (slot != TM_SLOT_NONE)
		tm_segment_unref(v->s->arena, tm_slot_segment(slot));
}

/* Send the entry at `slot`, whose segment is pinned, or that there is none. */
static int send_slot(struct save *v, const struct tm_handle *h, uint32_t pool, uint64_t slot)
{
	struct tm_stream_page page = {
		.pool = v->number[pool], .oid = h->oid, .index = h->index, .gone = true};
	struct tm_pool *p = v->pools[pool];
	uint64_t original = TM_SLOT_NONE;
	int rc;

	if (slot != TM_SLOT_NONE) {
		const struct tm_segment *seg = tm_segment(v->s->arena, tm_slot_segment(slot));
		struct tm_entry_view e;
		bool good = tm_log_view(v->s->arena, slot, &e) == 0 &&
			tm_entry_is(&e, &h->oid, h->index);

		if (!good && tm_pool_is_persistent(p))
			return fail(v, -EIO, "a page is damaged");
		/* Each page by itself: what it was equal to may not be there any more. */
		if (good && e.codec == TM_CODEC_DUP)
			good = tm_dedup_pin(v->s, p, &e, false, &e, &original) == 0;
		page.gone = !good; /* damaged: a miss, there as here */
		if (good) {
			page.main = !tm_queue_is_new(tm_log_queue(&p->log, seg));
			page.hits = tm_slot_hits(slot);
			page.codec = e.codec;
			page.bytes = e.bytes;
			page.payload = e.payload;
		}
	}
	v->result->pages += !page.gone;
	rc = tm_stream_put_page(v->writer, &page);
	unpin(v, original);
	return rc;
}

/* Before a page is pinned: let the stream have what would not fit with it. */
static int make_way(struct save *v, uint32_t pool)
{
	return tm_stream_make_way(v->writer, v->number[pool], v->pools[pool]->page_bytes);
}

/* --- pages that the front end has elsewhere --------------------------------------------------- */

/* Send copy `n` as the store would have it. */
static int send_copy(struct save *v, const struct tm_handle *h, uint32_t pool, uint32_t n)
{
	struct tm_stream_page page = {.pool = v->number[pool], .oid = h->oid, .index = h->index};

	tm_elsewhere_encode(&v->elsewhere, n, &page);
	v->result->pages++;
	return tm_stream_put_page(v->writer, &page);
}

/* Copy what of the span is elsewhere, from copy `n` on. */
static int fetch(struct save *v, const struct tm_span *span, uint32_t n, bool *ret_have)
{
	const struct tm_elsewhere *e = &v->elsewhere;
	int rc = 0;

	memset(ret_have, 0, span->count * sizeof(*ret_have));
	if (v->pools[span->pool] && tm_elsewhere_knows(e, v->pools[span->pool]))
		rc = e->ops->fetch(e->opaque, span, tm_elsewhere_copy(e, n), ret_have);
	return rc < 0 ? fail(v, rc, "a page on the fallback cannot be read, or is damaged") : 0;
}

static int fetch_one(
	struct save *v, const struct tm_handle *h, uint32_t pool, uint32_t n, bool *ret_have)
{
	return fetch(v, &(struct tm_span){(int)pool, h->oid, h->index, 1}, n, ret_have);
}

static int send_span(struct save *v, const struct tm_span *span)
{
	bool have[SPAN_MAX];
	int rc = fetch(v, span, 0, have);

	for (uint32_t i = 0; i < span->count && rc == 0; i++) {
		struct tm_handle h = {v->pools[span->pool]->objects, span->oid, span->index + i};

		if (have[i])
			rc = send_copy(v, &h, (uint32_t)span->pool, i);
	}
	return rc;
}

/* After the store's own pages, which are the ones in use: where room is short those get it. */
static int send_elsewhere(struct save *v)
{
	const struct tm_elsewhere *e = &v->elsewhere;
	struct tm_span span;
	uint64_t at = 0;
	int rc = 0;

	while (rc == 0 && e->ops && e->ops->next(e->opaque, &at, SPAN_MAX, &span))
		rc = send_span(v, &span);
	return rc;
}

/* --- all pages -------------------------------------------------------------------------------- */

/* The entry at `offset` of a segment that we pin, if it is still its handle's page. */
static int send_entry(struct save *v, const struct tm_piece *piece, const struct tm_entry_view *e,
	uint32_t offset)
{
	struct tm_handle h = {v->pools[piece->pool]->objects, e->oid, e->index};
	struct tm_cursor c;
	uint64_t slot;

	tm_index_lock(v->s->index, &h, &c);
	slot = tm_cursor_get(&c);
	tm_index_unlock(&c);
	/* Else it is just being put, or gone, or moved: that was noted, or will be. */
	if (tm_slot_location(slot) != tm_location(piece->id, offset))
		return 0;
	return send_slot(v, &h, piece->pool, slot);
}

/* Send entries of the pinned segment from *offset on, until the stream has to be written to. */
static int send_entries(struct save *v, const struct tm_piece *piece, uint32_t *offset)
{
	const struct tm_segment *seg = tm_segment(v->s->arena, piece->id);
	const uint8_t *data = tm_segment_data(v->s->arena, piece->id);
	uint32_t page_bytes = v->pools[piece->pool]->page_bytes;
	struct tm_entry_view e;
	int rc = 0;

	while (rc == 0 && *offset < seg->tail &&
		tm_stream_has_way(v->writer, v->number[piece->pool], page_bytes)) {
		if (tm_entry_view(data + *offset, seg->tail - *offset, &seg->oid, &e) < 0) {
			/* A damaged length hides what follows it. */
			*offset = seg->tail;
			if (tm_pool_is_persistent(v->pools[piece->pool]))
				rc = fail(v, -EIO, "a segment is damaged");
			break;
		}
		if (!e.dead)
			rc = send_entry(v, piece, &e, *offset);
		*offset += e.total;
	}
	return rc;
}

static int send_piece(struct save *v, const struct tm_piece *piece)
{
	uint32_t offset = sizeof(struct tm_segment_header);
	bool more = true;
	int rc = 0;

	while (rc == 0 && more) {
		rc = make_way(v, piece->pool);
		if (rc < 0 || !tm_piece_pin(v->s, piece))
			break;
		rc = send_entries(v, piece, &offset);
		more = offset < tm_segment(v->s->arena, piece->id)->tail;
		tm_segment_unref(v->s->arena, piece->id);
	}
	return rc;
}

static int send_pieces(struct save *v)
{
	int rc = tm_pieces_list(v->s, v->pools, &v->pieces, &v->piece_count);

	for (size_t i = 0; i < v->piece_count && rc == 0; i++)
		rc = send_piece(v, &v->pieces[i]);
	return rc;
}

/* --- what changed meanwhile ------------------------------------------------------------------- */

/* Each page of a run that changed; `each` returns 0 to go on. */
static int each_changed(struct save *v, const struct tm_changed_run *run,
	int (*each)(struct save *v, const struct tm_handle *h, uint32_t pool))
{
	uint64_t pages = run->pages;
	int rc = 0;

	if (!v->pools[run->pool])
		return 0; /* a pool that came after us */
	for (; pages && rc == 0; pages &= pages - 1) {
		struct tm_handle h = {v->pools[run->pool]->objects, run->oid,
			run->run << TM_LEAF_SHIFT | (uint32_t)__builtin_ctzll(pages)};

		rc = each(v, &h, run->pool);
	}
	return rc;
}

static int send_now(struct save *v, const struct tm_handle *h, uint32_t pool)
{
	int rc = make_way(v, pool);
	bool have = false;
	uint64_t slot;

	if (rc < 0)
		return rc;
	slot = tm_page_pin(v->s, h, false);
	if (slot == TM_SLOT_NONE)
		rc = fetch_one(v, h, pool, 0, &have);
	/* One that moves just now is in neither place, or in both: that is noted as well. */
	if (rc == 0)
		rc = have ? send_copy(v, h, pool, 0) : send_slot(v, h, pool, slot);
	unpin(v, slot);
	return rc;
}

static int send_later(struct save *v, const struct tm_handle *h, uint32_t pool)
{
	struct tm_unsent_page page = {*h, pool, TM_NO_COPY, tm_page_pin(v->s, h, false)};
	bool have = false;
	int rc = 0;

	if (page.slot == TM_SLOT_NONE && v->elsewhere.ops) {
		if (v->copies == v->copies_max)
			v->too_many = true;
		else
			rc = fetch_one(v, h, pool, v->copies, &have);
		if (have)
			page.copy = v->copies++;
	}
	tm_unsent_add(&v->s->unsent, &page);
	return rc;
}

/* The pause would be too long: what was listed for it is sent after all. */
static int send_listed(struct save *v)
{
	struct tm_unsent *unsent = &v->s->unsent;
	int rc = 0;

	tm_unsent_release(unsent);
	for (size_t i = 0; i < unsent->count && rc == 0; i++)
		rc = send_now(v, &unsent->list[i].handle, unsent->list[i].pool);
	unsent->count = 0;
	v->copies = 0;
	v->too_many = false;
	return rc;
}

static int changed(
	struct save *v, int (*each)(struct save *v, const struct tm_handle *h, uint32_t pool))
{
	uint64_t places;
	const struct tm_changed_run *run = tm_changes_take(v->changes, &places);
	int rc = 0;

	for (uint64_t i = 0; i < places && rc == 0; i++)
		if (run[i].pages)
			rc = each_changed(v, &run[i], each);
	return rc;
}

/* --- the pause -------------------------------------------------------------------------------- */

static void shut(struct save *v)
{
	v->shut_ns = tm_now_ns();
	tm_elsewhere_hold(&v->elsewhere);
	tm_gate_shut(v->s);
	v->shut = true;
}

static void open_up(struct save *v)
{
	if (!v->shut)
		return;
	v->shut = false;
	tm_gate_open(v->s);
	tm_elsewhere_release(v->who);
	v->result->pause_ns += tm_now_ns() - v->shut_ns;
}

static int describe(struct save *v, struct tm_stream_head *ret_head)
{
	const struct tm_move_ops *ops = v->who->ops;

	ret_head->front_bytes = 0;
	return ops && ops->describe ? ops->describe(v->who->opaque, ret_head->front,
					      &ret_head->front_bytes, v->result->why)
				    : 0;
}

/* How many pages of a pool a restore of this moment has to bring. */
static uint64_t pages_of(const struct save *v, uint32_t id)
{
	const struct tm_pool *p = v->pools[id];

	if (!tm_pool_is_persistent(p))
		return TM_STREAM_FORGETS;
	return atomic_load(&p->stat[TM_STAT_PAGES]) + tm_elsewhere_pages(&v->elsewhere, p);
}

/* With the gate shut: pin and copy what is left to be sent. */
static int take_last(struct save *v)
{
	struct tm_stream_head head;
	int rc = describe(v, &head);

	if (rc == 0)
		rc = changed(v, send_later);
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++)
		if (v->pools[id])
			v->end.pages[v->number[id]] = pages_of(v, id);
	return rc;
}

/* Send changes until few are left, and pin those. */
static int catch_up(struct save *v)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		bool overflow;
		uint64_t pages = tm_changes_count(v->changes, &overflow);
		int rc = 0;

		if (!overflow && pages <= (round < ROUNDS_AIM ? LAST_GOAL : LAST_MAX / 2)) {
			bool ours = !v->shut && !v->held;

			if (ours)
				shut(v);
			pages = tm_changes_count(v->changes, &overflow);
			if (!overflow && pages <= LAST_MAX) {
				v->copies_max = round < ROUNDS_AIM ? ELSEWHERE_GOAL : ELSEWHERE_MAX;
				rc = take_last(v);
				if (rc < 0 || !v->too_many)
					return rc;
			}
			if (ours)
				open_up(v);
		}
		if (overflow)
			break;
		rc = v->too_many ? send_listed(v) : changed(v, send_now);
		if (rc < 0)
			return rc;
	}
	return fail(v, -EBUSY, "its pages change faster than the stream is read");
}

static int send_last(struct save *v)
{
	struct tm_unsent *unsent = &v->s->unsent;
	struct tm_unsent_page page;
	int rc = 0;

	while (rc == 0 && unsent->next < unsent->count) {
		rc = make_way(v, unsent->list[unsent->next].pool);
		if (rc < 0)
			return rc;
		if (!tm_unsent_next(unsent, &page))
			return fail(v, -EBUSY,
				"its memory is full, and what is written there needs the room of "
				"what was still to be sent: read the stream faster");
		if (page.copy != TM_NO_COPY)
			rc = send_copy(v, &page.handle, page.pool, page.copy);
		else
			rc = send_slot(v, &page.handle, page.pool, page.slot);
		unpin(v, page.slot);
	}
	return rc;
}

/* --- the whole -------------------------------------------------------------------------------- */

static int send_head(struct save *v)
{
	struct tm_stream_head head = {.pools = 0};
	int rc = describe(v, &head);

	if (rc < 0)
		return rc;
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++)
		if (v->pools[id])
			v->number[id] = head.pools++;
	snprintf(head.name, sizeof(head.name), "%s", v->who->name);
	snprintf(head.type, sizeof(head.type), "%s", v->who->type);
	rc = tm_stream_put_head(v->writer, &head);
	for (uint32_t id = 0; id < TM_POOLS_MAX && rc == 0; id++) {
		const struct tm_ledger_pool *slot = &v->s->ledger->pools[id];
		struct tm_stream_pool pool = {.flags = slot->flags, .attrs = slot->attrs};

		if (!v->pools[id])
			continue;
		pool.pages = atomic_load(&slot->stat[TM_STAT_PAGES]);
		pool.bytes = atomic_load(&slot->stat[TM_STAT_PAYLOAD_BYTES]);
		memcpy(pool.name, slot->name, sizeof(pool.name));
		rc = tm_stream_put_pool(v->writer, &pool);
	}
	return rc;
}

static int prepare(struct save *v)
{
	uint64_t runs = SPARE_RUNS;
	int rc;

	for (uint32_t id = 0; id < TM_POOLS_MAX; id++) {
		struct tm_pool *p = v->pools[id] = tm_pool_enter(v->s, (int)id);

		if (p)
			runs += 2 *
				(atomic_load(&p->stat[TM_STAT_OBJECTS]) +
					atomic_load(&p->stat[TM_STAT_PAGES]) / TM_LEAF_SLOTS);
	}
	rc = tm_unsent_open(&v->s->unsent, LAST_MAX);
	if (rc == 0)
		rc = tm_elsewhere_open(v->who, ELSEWHERE_MAX, &v->elsewhere);
	if (rc == 0)
		rc = tm_changes_create(runs, &v->changes);
	return rc < 0 ? rc : tm_stream_writer_open(v->params->write, v->params->opaque, &v->writer);
}

static int save(struct save *v)
{
	int rc = prepare(v);

	if (rc == 0)
		rc = send_head(v);
	if (rc < 0)
		return rc;
	if (!v->params->live && !v->held)
		shut(v);
	tm_index_tell(v->s->index, v->changes);
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++)
		if (v->pools[id])
			tm_log_seal(&v->pools[id]->log, 0);
	rc = send_pieces(v);
	if (rc == 0)
		rc = send_elsewhere(v);
	if (rc == 0)
		rc = catch_up(v);
	tm_unsent_offer(&v->s->unsent);
	if (v->params->live && !(rc == 0 && v->params->hold))
		open_up(v);
	tm_index_tell(v->s->index, NULL);
	if (rc == 0)
		rc = send_last(v);
	return rc < 0 ? rc : tm_stream_put_end(v->writer, &v->end);
}

static void clean_up(struct save *v)
{
	tm_unsent_close(&v->s->unsent);
	for (uint32_t id = 0; id < TM_POOLS_MAX; id++)
		if (v->pools[id])
			tm_pool_leave(v->pools[id]);
	tm_stream_writer_close(v->writer);
	tm_changes_destroy(v->changes);
	free(v->pieces);
	tm_elsewhere_close(&v->elsewhere);
}

int tm_store_save(struct tm_store *s, const struct tm_move_params *who,
	const struct tm_save_params *params, struct tm_move_result *ret_result)
{
	struct save v = {.s = s, .who = who, .params = params, .result = ret_result};
	int rc;

	*ret_result = (struct tm_move_result){.pages = 0};
	v.held = atomic_load(&s->gate.shut);
	rc = save(&v);
	if (rc == 0 && params->hold) {
		/* It is ours no more: tm_store_resume() opens it. */
		if (v.shut)
			ret_result->pause_ns += tm_now_ns() - v.shut_ns;
	} else {
		open_up(&v);
	}
	ret_result->bytes = v.writer ? tm_stream_written(v.writer) : 0;
	clean_up(&v);
	if (rc < 0 && !*ret_result->why)
		fail(&v, rc, strerror(-rc));
	return rc;
}

void tm_store_resume(struct tm_store *s, const struct tm_move_params *who)
{
	if (!atomic_load(&s->gate.shut))
		return;
	tm_gate_open(s);
	tm_elsewhere_release(who);
}
