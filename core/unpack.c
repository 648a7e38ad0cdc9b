/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * unpack.c - a packed page that turned out to be in use gets its quick form back
 *
 *      get: hit, hit --decoded anyway--> LZ4 again --moved--> main queue
 *
 * The reader who has just decoded the page does it, once in the life of a packed page: it takes as
 * long as a put, and from then on each read takes a third. A store that evicts has no room for
 * that. A persistent page stays packed until it is written again, as swap reads a page once.
 *
 * Locking: it moves as cleaning does, all in one critical section of the page's shard, with the old
 * sequence number; only the compression is done before.
 */
#include "core/store_private.h"

/* The page's entry with another payload. */
static int entry_of(struct tm_store *s, uint64_t slot, struct tm_encoded encoded,
	struct tm_entry_view *ret_entry)
{
	int rc = tm_log_view(s->arena, slot, ret_entry);

	if (rc < 0)
		return rc;
	ret_entry->codec = encoded.codec;
	ret_entry->bytes = encoded.bytes;
	ret_entry->payload = encoded.payload;
	ret_entry->check = tm_entry_check(ret_entry);
	return 0;
}

void tm_page_unpack(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, uint64_t slot,
	const void *page)
{
	uint8_t buf[p->page_bytes];
	struct tm_entry_view e;
	uint64_t now, moved;
	struct tm_cursor c;
	bool done;

	if (tm_pool_is_persistent(p) || tm_store_evicts(s) ||
		entry_of(s, slot, tm_codec_encode(page, p->page_bytes, true, buf), &e) < 0)
		return;
	tm_index_lock(s->index, h, &c);
	now = tm_cursor_get(&c);
	done = tm_slot_location(now) == tm_slot_location(slot) &&
		tm_log_append(&p->log, TM_QUEUE_MAIN, false, &e, &moved) == 0;
	if (done) {
		tm_cursor_set(&c, moved); /* its hits brought it here */
		tm_page_moved_locked(s, p, now, moved);
	}
	tm_index_unlock(&c);
	if (done) {
		tm_segment_unref(s->arena, tm_slot_segment(slot));
		tm_stat_add(p, TM_STAT_UNPACKED, 1);
	}
}
