/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dedup.c - equal pages of a pool, stored once
 *
 *      put:  hash of the content -> mark = clue:46 hash:18 -> the handle that was put with it
 *            (lines.h)              (index.h)                 the same bytes? then DUP, else as
 * ever
 *
 *      entry of B  | header, codec DUP | handle and sequence of A |
 *      entry of A  | header, codec LZ4 | payload |
 *
 * A page that is stored already is not compressed again: its entry names the other one, in some 60
 * bytes. Only for pools whose pages may vanish: when A goes or changes, B is a miss, and there is
 * nothing to count and nobody to tell. That is also why B may not simply be given A's slot.
 *
 * Invariants
 *   1. A DUP entry is only made for a page whose bytes were compared with those it names.
 *   2. It names them by sequence number, which an entry keeps when it moves and no other entry ever
 *      has: either these bytes are found, or none.
 *   3. It never names a DUP entry, so a get follows one step.
 *
 * The marks are hints: one may lead to another page, or nowhere. They are lost in a restart. Their
 * table takes 13 to 26 bytes for each page the pool ever held at once, charged to the pool.
 *
 * Locking: none of its own; marks are read and written whole.
 */
#include <errno.h>
#include <string.h>

#include "core/entry.h"
#include "core/store_private.h"
#include "core/util.h"

#define MARKS        7u
#define MARKS_USUAL  5u /* the table grows then: with 7, a sixth of the marks would be lost */
#define CONTENT_BITS (64 - TM_CLUE_BITS)

/* mark = content:26 clue:38; of the hash of the content the low bits, which choose the line, too.
 */
struct line {
	_Atomic uint64_t mark[MARKS]; /* 0: none */
	_Atomic uint64_t filled;
};

_Static_assert(sizeof(struct line) == TM_LINE_BYTES, "marks fill a line");

static uint32_t kept(uint64_t content)
{
	uint32_t bits = (uint32_t)content & ((1u << CONTENT_BITS) - 1);

	return bits ? bits : 1;
}

static uint64_t mark_at(const struct line *line, uint32_t i)
{
	return atomic_load_explicit(&line->mark[i], memory_order_relaxed);
}

static uint32_t content_of(uint64_t mark)
{
	return (uint32_t)(mark >> TM_CLUE_BITS);
}

static void set_mark(struct line *line, uint32_t i, uint64_t mark)
{
	atomic_store_explicit(&line->mark[i], mark, memory_order_relaxed);
}

/* Line `n`. Before it came its marks were in the line with the number that is `n` without its top
 * bit; the first to ask copies them from there. */
static struct line *line_at(struct tm_lines *t, uint32_t n)
{
	struct line *line = tm_lines_at(t, n), *parent;
	uint32_t top, to = 0;

	if (n < TM_LINES_FIRST || atomic_exchange_explicit(&line->filled, 1, memory_order_relaxed))
		return line;
	top = 1u << (31 - __builtin_clz(n));
	parent = line_at(t, n - top);
	for (uint32_t i = 0; i < MARKS; i++)
		if ((content_of(mark_at(parent, i)) & (2 * top - 1)) == n)
			set_mark(line, to++, mark_at(parent, i));
	return line;
}

/* Is the pinned entry the page of `h`, and these bytes? */
static bool is_equal(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	uint64_t slot, const void *page, void *scratch, struct tm_original *ret_original)
{
	struct tm_entry_view e;

	if (tm_log_view(s->arena, slot, &e) < 0 || e.codec == TM_CODEC_DUP ||
		!tm_entry_is(&e, &h->oid, h->index) || tm_entry_decode(s, p, &e, scratch) < 0 ||
		memcmp(page, scratch, p->page_bytes) != 0)
		return false;
	*ret_original = (struct tm_original){.oid = e.oid, .seq = e.seq, .index = e.index};
	return true;
}

static bool same_handle(const struct tm_handle *a, const struct tm_handle *b)
{
	return a->index == b->index && tm_oid_equal(&a->oid, &b->oid);
}

/* Does the clue lead to a page that is equal? */
static bool follow(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	const void *page, uint64_t clue, void *scratch, struct tm_original *ret_original)
{
	uint64_t slot = TM_SLOT_NONE;
	struct tm_handle other;
	struct tm_cursor c;
	bool equal;

	if (tm_index_lock_clue(s->index, p->objects, clue, &other, &c))
		slot = tm_page_pin_locked(s, &c, true);
	if (slot == TM_SLOT_NONE)
		return false;
	/* What is being replaced is no original: it is about to go. */
	equal = !same_handle(&other, h) &&
		is_equal(s, p, &other, slot, page, scratch, ret_original);
	tm_segment_unref(s->arena, tm_slot_segment(slot));
	return equal;
}

bool tm_dedup_find(struct tm_store *s, struct tm_pool *p, const struct tm_handle *h,
	const void *page, uint64_t content, void *scratch, struct tm_original *ret_original)
{
	uint32_t lines = tm_lines_count(&p->contents);
	struct line *line = lines ? line_at(&p->contents, kept(content) & (lines - 1)) : NULL;

	for (uint32_t i = 0; line && i < MARKS; i++) {
		uint64_t mark = mark_at(line, i);

		if (content_of(mark) != kept(content))
			continue;
		if (follow(s, p, h, page, mark & TM_CLUE_MASK, scratch, ret_original))
			return true;
		set_mark(line, i, 0);
	}
	return false;
}

/* Where in the line a mark may be: where nothing is, or the same, or one that belongs to another
 * line since the table grew, which is made to have it; else anywhere. */
static uint32_t place_in(
	struct tm_lines *t, const struct line *line, uint32_t lines, uint32_t content)
{
	for (uint32_t i = 0; i < MARKS; i++) {
		uint32_t there = content_of(mark_at(line, i));

		if (there == 0 || there == content)
			return i;
		if (((there ^ content) & (lines - 1)) != 0) {
			line_at(t, there & (lines - 1));
			return i;
		}
	}
	return content % MARKS;
}

void tm_dedup_remember(
	struct tm_store *s, struct tm_pool *p, const struct tm_handle *h, uint64_t content)
{
	uint64_t pages = atomic_load_explicit(&p->stat[TM_STAT_PAGES], memory_order_relaxed);
	uint64_t dups = atomic_load_explicit(&p->stat[TM_STAT_DEDUPED], memory_order_relaxed);
	struct line *line;
	uint32_t lines;

	tm_lines_grow(&p->contents, &s->budget, &p->stat[TM_STAT_USED_BYTES],
		pages - TM_MIN(pages, dups), MARKS_USUAL);
	lines = tm_lines_count(&p->contents);
	if (lines == 0)
		return;
	line = line_at(&p->contents, kept(content) & (lines - 1));
	set_mark(line, place_in(&p->contents, line, lines, kept(content)),
		(uint64_t)kept(content) << TM_CLUE_BITS | tm_index_clue(h));
}

int tm_dedup_pin(struct tm_store *s, const struct tm_pool *p, const struct tm_entry_view *dup,
	bool hit, struct tm_entry_view *ret_original, uint64_t *ret_slot)
{
	struct tm_original original;
	struct tm_entry_view e;
	struct tm_handle h;
	uint64_t slot;

	if (dup->bytes != sizeof(original))
		return -EIO;
	memcpy(&original, dup->payload, sizeof(original));
	h = (struct tm_handle){p->objects, original.oid, original.index};
	slot = tm_page_pin(s, &h, hit);
	if (slot == TM_SLOT_NONE)
		return -ENOENT;
	if (tm_log_view(s->arena, slot, &e) < 0 || e.seq != original.seq ||
		e.codec == TM_CODEC_DUP || !tm_entry_is(&e, &h.oid, h.index)) {
		tm_segment_unref(s->arena, tm_slot_segment(slot));
		return -ENOENT;
	}
	*ret_original = e;
	*ret_slot = slot;
	return 0;
}

int tm_dedup_decode(struct tm_store *s, const struct tm_pool *p, const struct tm_entry_view *dup,
	void *ret_page)
{
	struct tm_entry_view original;
	uint64_t slot;
	int rc = tm_dedup_pin(s, p, dup, true, &original, &slot);

	if (rc < 0)
		return rc;
	rc = tm_entry_decode(s, p, &original, ret_page);
	tm_segment_unref(s->arena, tm_slot_segment(slot));
	return rc;
}
