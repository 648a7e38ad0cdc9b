/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * unsent.h - the pages that a save has still to send, as they were at its pause
 *
 *      add (gate shut) ... offer (before it opens) --next--> the saver's own, one after the other
 *                                                  \-give_way--> all gone, next says no
 *
 * A page is pinned by a reference on its segment, and may be the only one of its segment that is
 * still wanted: a few thousand of them can keep a whole store from being cleaned, for as long as
 * the stream's reader likes. So whoever would have to refuse a put may take them away; the save
 * fails, the put does not.
 *
 * Locking: one lock (TM_LOCK_UNSENT). Before `offer` the list is the saver's alone.
 */
#ifndef TM_UNSENT_H
#define TM_UNSENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/index.h"
#include "core/locks.h"
#include "core/segment.h"

#define TM_NO_COPY UINT32_MAX

/* A page as it was at the moment of the pause: its segment is pinned, or it was elsewhere. */
struct tm_unsent_page {
	struct tm_handle handle;
	uint32_t pool;
	uint32_t copy; /* its number in tm_elsewhere, or TM_NO_COPY; only without a slot */
	uint64_t slot; /* TM_SLOT_NONE, and no copy: gone */
};

/* A store's; empty, and zeros but for the first two, while there is no save. */
struct tm_unsent {
	struct tm_lock lock;
	struct tm_arena *arena;

	struct tm_unsent_page *list;
	size_t count, next; /* next: only the saver moves it, under lock, as is what follows */
	bool offered, given_up;
};

void tm_unsent_init(struct tm_unsent *p, struct tm_arena *a);
void tm_unsent_destroy(struct tm_unsent *p);

/* Room for `max` pages, all of it touched. 0; -ENOMEM. */
int tm_unsent_open(struct tm_unsent *p, size_t max);

/* Unpin what is left, and forget the list. */
void tm_unsent_close(struct tm_unsent *p);

/* The page's pin, if it has one, becomes the list's. Not once they are offered. */
void tm_unsent_add(struct tm_unsent *p, const struct tm_unsent_page *page);

/* Unpin all, keeping the list: the caller may look at handles and pools of list[0 .. count). Not
 * once they are offered. */
void tm_unsent_release(struct tm_unsent *p);

/* From here on others may take them away. */
void tm_unsent_offer(struct tm_unsent *p);

/* list[next], whose pin is the caller's from here on. False: it was taken away. Handles and pools
 * of the list stay what they are. */
bool tm_unsent_next(struct tm_unsent *p, struct tm_unsent_page *ret_page);

/* Memory is needed more than the save: unpin all that is left. False when nothing was offered. The
 * caller holds no lock from TM_LOCK_UNSENT on. */
bool tm_unsent_give_way(struct tm_unsent *p);

#endif
