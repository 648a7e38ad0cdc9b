/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state.h - where each page of a device is, and what it has to be, in memory that outlives the
 * server
 *
 *      | head: what device this is, the key | expected[1024] | map[pages] | sums[pages] |  a memfd
 *
 *      map       one byte a page: see chunk.h
 *      sums      four bytes a page: the checksum of what the fallback holds; of a page that is not
 *                there it means nothing. One damaged page in 2^32 would pass.
 *      expected  page n modulo 1024: the page last written to the fallback and the sum it gets
 *
 * Memory is taken as pages of this are touched: a device that never overflows has a byte a page, a
 * page on the fallback has five.
 *
 * The host keeps its descriptor beside the store's. A server that is started after another one was
 * killed takes both over, and only if they fit: same size, same fallback file, same encryption.
 * The key is nowhere else than here and in the server: it survives the server, and dies with the
 * device.
 *
 * Crash order of the map: a page's byte changes after its new place holds it and before the old one
 * is given up (device.h, invariant 1), so after a kill the byte is right; what lies in tmem for a
 * page whose byte says otherwise was never answered for, or given up already.
 *
 * Crash order of the sums: a write to the fallback is
 *
 *      1. tm_state_expect    the new sum is noted in expected[], the old one stays in sums[]
 *      2. the disk           holds the old page, then the new one (a kill tears no page)
 *      3. tm_state_confirm   the new sum is in sums[] as well
 *      4. the map's byte     when the page was elsewhere
 *
 * and a page is right that fits either sum. A kill before 2 leaves the old page, whose sum is in
 * sums[]; between 2 and 3 the new one, whose sum is in expected[]; after 3 both sums are the new
 * one's and the old page, should the disk bring it back, is known to be stale. A write that fails
 * stops at 2 and is the same case. Between 2 and 3 only expected[] knows the new page, so before
 * 1 takes its place for a page 1024 further on, somebody has to see which of the two pages is on
 * the disk and settle it (tm_state_unsettled): the next writer does, whichever server it is in.
 *
 * Locking: none. Who calls for a page holds its lock, and pages equal modulo 1024 share one
 * (chunk.h), so an expected[] has one user at a time.
 */
#ifndef TM_STATE_H
#define TM_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "nbd-plugin/crypt.h"

#define TM_STATE_REASON_MAX  128
#define TM_STATE_EXPECTED    1024u
#define TM_FALLBACK_ID_BYTES 16

struct tm_state;

/* What a state is made for, and fits later. */
struct tm_state_kind {
	uint64_t pages;
	uint8_t fallback[TM_FALLBACK_ID_BYTES]; /* zeros: none */
	bool encrypted;
};

/* Every page nowhere, a new key. 0; -errno. */
int tm_state_create(const struct tm_state_kind *kind, struct tm_state **ret_state);

/* Take over another server's; `fd` becomes the state's on success. 0; -EINVAL it is not for this
 * device, with one line in ret_reason; -errno. */
int tm_state_adopt(int fd, const struct tm_state_kind *kind, struct tm_state **ret_state,
	char ret_reason[static TM_STATE_REASON_MAX]);

/* Wipes the key: for whoever still has the descriptor too. */
void tm_state_destroy(struct tm_state *s);

/* The map is being changed all over; a state that stays like this is adopted by nobody. */
void tm_state_set_torn(struct tm_state *s, bool torn);

_Atomic uint8_t *tm_state_map(struct tm_state *s); /* [pages] */
const uint8_t *tm_state_key(const struct tm_state *s);
int tm_state_fd(const struct tm_state *s); /* stays the state's */

/* The steps of a write of page `n`, see above. */
void tm_state_expect(struct tm_state *s, uint64_t n, uint32_t sum);
void tm_state_confirm(struct tm_state *s, uint64_t n);

/* Would tm_state_expect of page `n` forget a sum that is nowhere else, another page's or that of an
 * earlier write of this one? Then whose it is; and tell the sum that this page turned out to have.
 */
bool tm_state_unsettled(const struct tm_state *s, uint64_t n, uint64_t *ret_n);
void tm_state_settle(struct tm_state *s, uint64_t n, uint32_t sum);

/* Is this the sum of what page `n` is, or may be, on the fallback? */
bool tm_state_fits(const struct tm_state *s, uint64_t n, uint32_t sum);

#endif
