/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * page.c - the data plane: what happens to one page
 *
 * A handle's life, and the function of each change:
 *
 *      absent --publish--> present --publish--> present (the old entry dead)
 *                          present --flush_handle, take_out, lost, tm_make_room--> absent
 *
 * Each arrow is one critical section of the handle's shard. Entries are appended before it and
 * segments released after it, with no lock held.
 */
#include "core/store.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "core/codec.h"
#include "core/entry.h"
#include "core/store_private.h"
#include "core/util.h"

/* How often one put may reclaim before it is refused: other threads take what it freed. */
#define RECLAIM_TRIES 8

/* A call on one page: the pool entered, with whichever of the two functions suits it, and the
 * handle resolved. */
static int page_enter(struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index,
	struct tm_pool *(*enter)(struct tm_store *s, int id), struct tm_pool **ret_pool,
	struct tm_handle *ret_handle)
{
	struct tm_pool *p;

	if (!~(oid->w[0] & oid->w[1] & oid->w[2]))
		return -EINVAL;
	p = enter(s, id);
	if (!p)
		return -ENOENT;
	*ret_pool = p;
	*ret_handle = (struct tm_handle){p->objects, *oid, index};
	return 0;
}

enum tm_stat tm_codec_gauge(enum tm_codec codec)
{
	return codec == TM_CODEC_SAME    ? TM_STAT_SAME_FILLED
		: codec == TM_CODEC_RAW  ? TM_STAT_RAW
		: codec == TM_CODEC_ZSTD ? TM_STAT_PACKED
		: codec == TM_CODEC_DUP  ? TM_STAT_DEDUPED
					 : TM_STAT_COUNT;
}

static void entry_added(struct tm_pool *p, uint64_t slot)
{
	enum tm_stat gauge = tm_codec_gauge(tm_slot_codec(slot));

	tm_stat_add(p, TM_STAT_PAYLOAD_BYTES, tm_slot_total(slot));
	if (gauge != TM_STAT_COUNT)
		tm_stat_add(p, gauge, 1);
}

static void entry_gone(struct tm_pool *p, uint64_t slot)
{
	enum tm_stat gauge = tm_codec_gauge(tm_slot_codec(slot));

	tm_stat_sub(p, TM_STAT_PAYLOAD_BYTES, tm_slot_total(slot));
	if (gauge != TM_STAT_COUNT)
		tm_stat_sub(p, gauge, 1);
}

void tm_page_live_locked(struct tm_pool *p, uint64_t slot)
{
	tm_stat_add(p, TM_STAT_PAGES, 1);
	tm_stat_add(p, TM_STAT_ORIG_BYTES, p->page_bytes);
	entry_added(p, slot);
}

void tm_page_dead_locked(struct tm_store *s, struct tm_pool *p, uint64_t slot)
{
	tm_stat_sub(p, TM_STAT_PAGES, 1);
	tm_stat_sub(p, TM_STAT_ORIG_BYTES, p->page_bytes);
	entry_gone(p, slot);
	tm_log_kill(s->arena, slot);
}

void tm_page_moved_locked(struct tm_store *s, struct tm_pool *p, uint64_t from, uint64_t to)
{
	entry_added(p, to);
	entry_gone(p, from);
	tm_log_kill(s->arena, from);
}

/* Forget a page. True when there was one. */
static bool flush_handle(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h)
{
	struct tm_cursor c;
	uint64_t slot;

	tm_index_lock(s->index, h, &c);
	slot = tm_cursor_get(&c);
	tm_index_mark_locked(&c); /* what was not there must not come back either */
	if (slot != TM_SLOT_NONE) {
		tm_page_dead_locked(s, p, slot);
		tm_cursor_set(&c, TM_SLOT_NONE);
	}
	tm_index_unlock(&c);
	if (slot != TM_SLOT_NONE)
		tm_segment_unref(s->arena, tm_slot_segment(slot));
	return slot != TM_SLOT_NONE;
}

/* A page that was given up, or given away, not long ago need not prove again that it is used. A
 * resident store has no time for what is allocated as it grows. */
static enum tm_queue queue_for(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h)
{
	uint64_t pages;

	if (tm_pool_is_persistent(p) || s->budget.resident)
		return TM_QUEUE_NEW;
	pages = atomic_load_explicit(&p->stat[TM_STAT_PAGES], memory_order_relaxed);
	tm_ghost_grow(&p->ghost, &s->budget, &p->stat[TM_STAT_USED_BYTES], pages);
	return tm_ghost_recall(&p->ghost, tm_ghost_hash(&h->oid, h->index), pages) ? TM_QUEUE_MAIN
										   : TM_QUEUE_NEW;
}

static int append(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	struct tm_encoded encoded, uint64_t *ret_slot)
{
	struct tm_entry_view e = {
		.oid = h->oid,
		.seq = atomic_fetch_add(&s->sequence, 1) + 1,
		.index = h->index,
		.bytes = encoded.bytes,
		.codec = encoded.codec,
		.payload = encoded.payload,
	};
	enum tm_queue queue = queue_for(s, p, h);

	e.check = tm_entry_check(&e);
	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(s->arena);
		int rc = tm_log_append(&p->log, queue, false, &e, ret_slot);

		if (rc == 0 || tries == RECLAIM_TRIES ||
			!tm_make_room(s, TM_ROOM_SEGMENT, rc, seen))
			return rc == -ENOBUFS ? -ENOMEM : rc;
	}
}

/* Make `slot` the handle's page, unless `expect` is given and the page is no longer there: -EAGAIN.
 */
static int publish(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, uint64_t slot,
	const uint64_t *expect)
{
	struct tm_cursor c;
	uint64_t old;
	int rc;

	tm_index_lock(s->index, h, &c);
	old = tm_cursor_get(&c);
	if (expect && tm_slot_location(old) != *expect)
		rc = -EAGAIN;
	else
		rc = tm_index_make_locked(&c, h);
	if (rc == 0) {
		/* Replaced, a page is as much in use as it was. */
		tm_cursor_set(&c, slot | tm_slot_hits(old));
		if (old == TM_SLOT_NONE) {
			tm_page_live_locked(p, slot);
		} else {
			tm_page_moved_locked(s, p, old, slot);
			tm_stat_add(p, TM_STAT_PUTS_REPLACED, !expect);
		}
	}
	tm_index_unlock(&c);
	if (rc == 0 && old != TM_SLOT_NONE)
		tm_segment_unref(s->arena, tm_slot_segment(old));
	return rc;
}

/* Append an encoded page and publish it. On failure the handle is as it was. */
static int insert(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	struct tm_encoded encoded, const uint64_t *expect)
{
	uint64_t slot;
	int rc = append(s, p, h, encoded, &slot);

	if (rc < 0)
		return rc;
	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(s->arena);

		rc = publish(s, p, h, slot, expect);
		if (rc == 0 || tries == RECLAIM_TRIES || !tm_make_room(s, TM_ROOM_NODE, rc, seen))
			break;
	}
	if (rc == -ENOBUFS)
		rc = -ENOMEM;
	if (rc < 0) {
		tm_log_kill(s->arena, slot);
		tm_segment_unref(s->arena, tm_slot_segment(slot));
	}
	return rc;
}

static bool is_frozen(const struct tm_store *s)
{
	return atomic_load_explicit(&s->ledger->frozen, memory_order_relaxed);
}

/* Encode into `buf` and insert. */
static int put_page(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	const void *page, void *buf, const uint64_t *expect)
{
	bool compress =
		atomic_load_explicit(&s->ledger->compress, memory_order_relaxed) == TM_COMPRESS_LZ4;
	bool dedup = tm_pool_dedups(p);
	uint64_t content = dedup ? XXH3_64bits(page, p->page_bytes) : 0;
	struct tm_original original;
	struct tm_encoded encoded;
	int rc;

	if (is_frozen(s)) {
		tm_stat_add(p, TM_STAT_PUTS_FROZEN, 1);
		return -EBUSY;
	}
	if (dedup && tm_dedup_find(s, p, h, page, content, buf, &original))
		encoded = (struct tm_encoded){TM_CODEC_DUP, sizeof(original), &original};
	else
		encoded = tm_codec_encode(page, p->page_bytes, compress, buf);
	if (encoded.codec == TM_CODEC_RAW && compress && p->log.owner->attrs & TM_POOL_REFUSE_RAW)
		return -E2BIG;
	rc = insert(s, p, h, encoded, expect);
	if (rc == 0 && dedup && encoded.codec != TM_CODEC_DUP && encoded.codec != TM_CODEC_SAME)
		tm_dedup_remember(s, p, h, content);
	return rc;
}

int tm_store_put(
	struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index, const void *page)
{
	struct tm_handle h;
	struct tm_pool *p;
	int rc = page_enter(s, id, oid, index, tm_pool_enter_to_change, &p, &h);

	if (rc < 0)
		return rc;
	uint8_t buf[p->page_bytes];

	tm_stat_add(p, TM_STAT_PUTS, 1);
	rc = put_page(s, p, &h, page, buf, NULL);
	if (rc < 0) {
		tm_stat_add(p, TM_STAT_PUTS_REJECTED, 1);
		flush_handle(s, p, &h); /* never the older page after a put, however it failed */
	}
	tm_pool_leave_changed(p);
	return rc;
}

int tm_entry_decode(
	struct tm_store *s, const struct tm_pool *p, const struct tm_entry_view *e, void *ret_page)
{
	struct tm_unpacker *u;

	if (e->codec == TM_CODEC_DUP)
		return tm_dedup_decode(s, p, e, ret_page);
	if (e->codec != TM_CODEC_ZSTD)
		return tm_codec_decode(e->codec, e->payload, e->bytes, ret_page, p->page_bytes);
	u = atomic_load(&s->unpacker);
	return u ? tm_unpack(u, e->payload, e->bytes, ret_page, p->page_bytes) : -EIO;
}

/* Verify and decode the pinned entry at `slot` into a whole page. */
static int decode(struct tm_store *s, const struct tm_pool *p, const struct tm_handle *h,
	uint64_t slot, void *ret_page)
{
	struct tm_entry_view view;
	int rc = tm_log_view(s->arena, slot, &view);

	if (rc < 0)
		return rc;
	if (!tm_entry_is(&view, &h->oid, h->index))
		return -EIO;
	return tm_entry_decode(s, p, &view, ret_page);
}

uint64_t tm_page_pin_locked(struct tm_store *s, struct tm_cursor *c, bool hit)
{
	uint64_t slot = tm_cursor_get(c);

	if (slot != TM_SLOT_NONE) {
		tm_segment_ref(s->arena, tm_slot_segment(slot));
		if (hit)
			tm_cursor_set(c, tm_slot_hit(slot));
	}
	tm_index_unlock(c);
	return slot;
}

uint64_t tm_page_pin(struct tm_store *s, const struct tm_handle *h, bool hit)
{
	struct tm_cursor c;

	tm_index_lock(s->index, h, &c);
	return tm_page_pin_locked(s, &c, hit);
}

/* Take a page out in the same instant as it is found: the entry's own reference is the pin.
 * TM_SLOT_NONE on a miss. */
static uint64_t take_out(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h)
{
	struct tm_cursor c;
	uint64_t slot;

	tm_index_lock(s->index, h, &c);
	slot = tm_cursor_get(&c);
	if (slot != TM_SLOT_NONE) {
		tm_page_dead_locked(s, p, slot);
		tm_cursor_set(&c, TM_SLOT_NONE);
	}
	tm_index_unlock(&c);
	if (slot != TM_SLOT_NONE)
		tm_ghost_remember(&p->ghost, tm_ghost_hash(&h->oid, h->index));
	return slot;
}

static void unpin(struct tm_store *s, uint64_t slot)
{
	tm_segment_unref(s->arena, tm_slot_segment(slot));
}

/* The pinned entry at `slot` gave no page: -EIO, it is damaged, or -ENOENT, its original is gone.
 * An error where the page was promised; where it was not, it is gone from here on. -EAGAIN: the
 * handle has another page by now, and whoever put that knows of no miss. */
static int lost(
	struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, uint64_t slot, int why)
{
	struct tm_cursor c;
	uint64_t now;
	bool drop;

	tm_stat_add(p, TM_STAT_CORRUPT, why == -EIO);
	if (tm_pool_is_persistent(p))
		return -EIO;
	tm_index_lock(s->index, h, &c);
	now = tm_cursor_get(&c);
	drop = tm_slot_location(now) == tm_slot_location(slot);
	if (drop) {
		tm_page_dead_locked(s, p, slot);
		tm_cursor_set(&c, TM_SLOT_NONE);
	}
	tm_index_unlock(&c);
	if (drop)
		unpin(s, slot);
	return drop || now == TM_SLOT_NONE ? -ENOENT : -EAGAIN;
}

static int get_once(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, bool remove,
	void *ret_page)
{
	uint64_t slot = remove ? take_out(s, p, h) : tm_page_pin(s, h, true);
	int rc;

	if (slot == TM_SLOT_NONE)
		return -ENOENT;
	rc = decode(s, p, h, slot, ret_page);
	if (rc < 0)
		rc = lost(s, p, h, slot, rc);
	else if (!remove && tm_slot_codec(slot) == TM_CODEC_ZSTD &&
		tm_slot_hits(slot) == TM_UNPACK_HITS - 1)
		tm_page_unpack(s, p, h, slot, ret_page);
	unpin(s, slot);
	return rc;
}

static int get_page(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, bool remove,
	void *ret_page)
{
	int rc;

	do
		rc = get_once(s, p, h, remove, ret_page);
	while (rc == -EAGAIN);
	tm_stat_add(p, TM_STAT_GETS, 1);
	if (rc == 0)
		tm_stat_add(p, TM_STAT_HITS, 1);
	return rc;
}

int tm_store_get(
	struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index, void *ret_page)
{
	struct tm_handle h;
	struct tm_pool *p;
	int rc = page_enter(s, id, oid, index, tm_pool_enter, &p, &h);

	if (rc == 0 && !tm_pool_is_exclusive(p)) {
		rc = get_page(s, p, &h, false, ret_page);
		tm_pool_leave(p);
	} else if (rc == 0) { /* it takes the page out */
		tm_pool_leave(p);
		rc = page_enter(s, id, oid, index, tm_pool_enter_to_change, &p, &h);
		if (rc < 0)
			return rc;
		rc = get_page(s, p, &h, tm_pool_is_exclusive(p), ret_page);
		tm_pool_leave_changed(p);
	}
	return rc;
}

static bool bad_range(const struct tm_pool *p, uint32_t offset, uint32_t length)
{
	return offset > p->page_bytes || length > p->page_bytes - offset;
}

int tm_store_read(struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *ret_buf)
{
	struct tm_handle h;
	struct tm_pool *p;
	int rc = page_enter(s, id, oid, index, tm_pool_enter, &p, &h);

	if (rc < 0)
		return rc;
	if (bad_range(p, offset, length)) {
		rc = -EINVAL;
	} else if (length == p->page_bytes) {
		rc = get_page(s, p, &h, false, ret_buf);
	} else {
		uint8_t page[p->page_bytes];

		rc = get_page(s, p, &h, false, page);
		if (rc == 0)
			memcpy(ret_buf, page + offset, length);
	}
	tm_pool_leave(p);
	return rc;
}

/* A whole page needs nothing of the old one but that there is one. */
static int replace_once(
	struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, const void *page)
{
	uint8_t scratch[p->page_bytes];
	uint64_t slot = tm_page_pin(s, h, true), location = tm_slot_location(slot);
	int rc;

	if (slot == TM_SLOT_NONE)
		return -ENOENT;
	rc = put_page(s, p, h, page, scratch, &location);
	unpin(s, slot); /* only now: the location stays unique until the page is published */
	return rc;
}

/* One attempt to replace a range: -EAGAIN when the page changed underneath. `ret_old`, if not NULL,
 * receives what the range was. */
static int modify_once(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	uint32_t offset, uint32_t length, const void *buf, void *ret_old)
{
	uint8_t page[p->page_bytes], old[length + 1], scratch[p->page_bytes];
	uint64_t slot = tm_page_pin(s, h, true), location = tm_slot_location(slot);
	int rc;

	if (slot == TM_SLOT_NONE)
		return -ENOENT;
	rc = decode(s, p, h, slot, page);
	if (rc < 0) {
		rc = lost(s, p, h, slot, rc);
	} else {
		memcpy(old, page + offset, length);
		memcpy(page + offset, buf, length);
		rc = put_page(s, p, h, page, scratch, &location);
	}
	unpin(s, slot); /* as above */
	if (rc == 0 && ret_old)
		memcpy(ret_old, old, length);
	return rc;
}

static int modify(struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, const void *buf, void *ret_old)
{
	struct tm_handle h;
	struct tm_pool *p;
	int rc = page_enter(s, id, oid, index, tm_pool_enter_to_change, &p, &h);

	if (rc < 0)
		return rc;
	tm_stat_add(p, TM_STAT_WRITES, 1);
	if (bad_range(p, offset, length))
		rc = -EINVAL;
	else
		do
			rc = length == p->page_bytes && !ret_old
				? replace_once(s, p, &h, buf)
				: modify_once(s, p, &h, offset, length, buf, ret_old);
		while (rc == -EAGAIN);
	tm_pool_leave_changed(p);
	return rc;
}

int tm_store_write(struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, const void *buf)
{
	return modify(s, id, oid, index, offset, length, buf, NULL);
}

int tm_store_xchg(struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *buf)
{
	return modify(s, id, oid, index, offset, length, buf, buf);
}

/* --- flushes -------------------------------------------------------------------------------- */

int tm_store_flush_page(struct tm_store *s, int id, const struct tm_oid *oid, uint32_t index)
{
	struct tm_handle h;
	struct tm_pool *p;
	int rc = page_enter(s, id, oid, index, tm_pool_enter_to_change, &p, &h);

	if (rc < 0)
		return rc;
	tm_stat_add(p, TM_STAT_FLUSHES, 1);
	if (flush_handle(s, p, &h))
		tm_stat_add(p, TM_STAT_FLUSHED, 1);
	tm_pool_leave_changed(p);
	return 0;
}

void tm_pool_flush_object(struct tm_store *s, struct tm_pool *p, const struct tm_oid *oid)
{
	struct tm_handle h = {p->objects, *oid, 0};
	struct tm_walk walk = {0, 0};
	uint32_t runs[64];
	uint64_t flushed = 0;
	size_t n;

	tm_index_mark_object(p->objects, oid);
	while ((n = tm_objects_walk(p->objects, oid, &walk, runs, TM_ARRAY_SIZE(runs))) > 0) {
		for (size_t i = 0; i < n * TM_LEAF_SLOTS; i++) {
			h.index = runs[i / TM_LEAF_SLOTS] << TM_LEAF_SHIFT |
				(uint32_t)i % TM_LEAF_SLOTS;
			flushed += flush_handle(s, p, &h);
		}
	}
	tm_stat_add(p, TM_STAT_FLUSHED, flushed);
}

int tm_store_flush_object(struct tm_store *s, int id, const struct tm_oid *oid)
{
	struct tm_handle h;
	struct tm_pool *p;
	int rc = page_enter(s, id, oid, 0, tm_pool_enter_to_change, &p, &h);

	if (rc < 0)
		return rc;
	tm_stat_add(p, TM_STAT_OBJECT_FLUSHES, 1);
	tm_pool_flush_object(s, p, oid);
	tm_pool_leave_changed(p);
	return 0;
}
