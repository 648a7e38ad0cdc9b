/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * writeback.h - which pages are in memory and which on the fallback, when not all fit
 *
 * A write goes to memory, whatever is there already; only when memory refuses it does it go to the
 * fallback at once. So that memory seldom does, and so that it is not the oldest pages that stay
 * there while new ones go to disk, one thread moves pages in the background:
 *
 *      live bytes
 *   limit +----------  puts are refused
 *    high +----------  15/16: write-back begins            (or a put was refused, or a freeze)
 *     low +----------  7/8: it ends; below this there is room
 *       0 +
 *
 * The low mark is where the store can always make room by cleaning; the gap keeps the two
 * directions apart. A put that is refused all the same (writes came faster than write-back, or room
 * is in pieces) lowers the goal by the gap, each time.
 *
 * Out: a second-chance clock. The hand goes round the map. A page that was touched since it came by
 * loses the mark and stays; one that was not is cold, and goes. The cold neighbours of a run of 32
 * go in one transfer, runs in rising order: pages that were swapped out together lie together, on
 * the disk and in the store's segments.
 *
 * In: only what is read comes back, and no request waits for it. A read from the fallback names its
 * run to the thread
 *   - when there is room (below the low mark): all of the run comes, which is the read-ahead. Its
 *     unread pages come untouched, so they are the first to go again;
 *   - when there is none, but a page of it was read before since the hand came by: those of its
 *     pages that were read come. What is hot on the fallback thereby pushes the hand on, and what
 *     is cold in memory makes way for it.
 * A page that does not compress stays on the fallback until it is written again.
 *
 * Why it does not move pages to and fro: what goes out was not touched for a turn of the hand, what
 * comes into a full memory was read twice in less than one, comes marked, and so stays for a turn
 * at least. And whatever is read how, both directions together move at most `rate` bytes a second.
 *
 * Locking: the thread works like a request, on one span of neighbours at a time, and holds no lock
 * and no buffer while it waits. Its own lock is the last of all and held for a few instructions.
 */
#ifndef TM_WRITEBACK_H
#define TM_WRITEBACK_H

#include <stdbool.h>
#include <stdint.h>

struct tm_device;
struct tm_writeback;

/* Start the thread of a device that has its memory and a fallback. 0 and *ret_writeback; -ENOMEM;
 * errno of pthread_create. */
int tm_writeback_start(struct tm_device *d, uint64_t rate, struct tm_writeback **ret_writeback);

/* End it, after the transfer that is under way. NULL: nothing, here and below. */
void tm_writeback_stop(struct tm_writeback *w);

/* What requests tell it; any thread, page locks held or not. */
void tm_writeback_grew(struct tm_writeback *w, uint64_t pages); /* so many are in memory now */
void tm_writeback_refused(struct tm_writeback *w);              /* a put, for want of room */
void tm_writeback_want(struct tm_writeback *w, uint64_t page, bool again); /* read from fallback */

#endif
