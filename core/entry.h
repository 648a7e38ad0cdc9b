/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * entry.h - one page in a segment: header, then payload
 *
 *      0        4        8        12       16       20         20 or 44
 *      | check  | index  | seq lo | seq hi | meta   | [object] | payload ... | pad to 4 |
 *                                              |
 *                                     bytes:20 codec:4 flags:8
 *
 * The object id is left out when it is the one in the segment's header, which makes it free for a
 * swap device (one object) and cheap for small files. 20 bytes a page is what zsmalloc and zram
 * spend.
 *
 * Invariants
 *   1. Nothing of an entry changes after it was appended, but the DEAD flag, which is only ever
 * set.
 *   2. `check` covers object, index, sequence, length, codec and payload: a lookup that ends at the
 *      wrong entry fails like a damaged one. It is made once, when the page is put: an entry that
 *      moves takes it along, so what was damaged before stays damaged.
 *   3. Of two live entries for one handle the higher sequence is the newer (for recovery).
 */
#ifndef TM_ENTRY_H
#define TM_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/codec.h"
#include "core/tmem.h"

#define TM_ENTRY_BYTES_MASK  0xfffffu
#define TM_ENTRY_CODEC_SHIFT 20
#define TM_ENTRY_DEAD        (1u << 24)
#define TM_ENTRY_HAS_OID     (1u << 25)

struct tm_entry {
	uint32_t check;
	uint32_t index;
	uint32_t seq_lo, seq_hi; /* in two, for 4-byte alignment */
	uint32_t meta;
};

/* An entry taken apart, or one that is to be written. `payload` points into the segment. */
struct tm_entry_view {
	struct tm_oid oid;
	uint64_t seq;
	uint32_t index;
	uint32_t check;
	uint32_t bytes; /* of the payload */
	uint32_t total; /* of the whole entry, padding included */
	enum tm_codec codec;
	bool dead;
	const uint8_t *payload;
};

/* Bytes an entry takes in a segment. */
uint32_t tm_entry_total(uint32_t payload_bytes, bool has_oid);

/* What `check` has to be for everything else that is in `e`. */
uint32_t tm_entry_check(const struct tm_entry_view *e);

/* Write an entry of tm_entry_total() bytes to `at` (4-byte aligned), with the `check` it has;
 * e->total and e->dead do not matter. */
void tm_entry_write(void *at, const struct tm_entry_view *e, bool has_oid);

/* Take the entry at `at` apart; at most `room` bytes belong to it. `segment_oid` is the object of
 * entries that name none. 0; -EIO when its length does not fit. Verifies nothing else. */
int tm_entry_view(const void *at, uint32_t room, const struct tm_oid *segment_oid,
	struct tm_entry_view *ret_view);

/* The payload and what names it are as they were written, and it is (oid, index). */
bool tm_entry_is(const struct tm_entry_view *e, const struct tm_oid *oid, uint32_t index);

/* Set DEAD. */
void tm_entry_kill(void *at);

static inline bool tm_oid_equal(const struct tm_oid *a, const struct tm_oid *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2];
}

#endif
