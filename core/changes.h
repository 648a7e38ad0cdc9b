/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * changes.h - which pages changed, for whoever copies them meanwhile or brings old ones back
 *
 *   tm_changes  the pages put, moved or removed since the last look: a table of runs of 64 pages,
 *               with a bit for each page. There is one while a save runs (save.c). Its room is
 *               fixed, so that noting a change never allocates: what does not fit is an overflow,
 *               which ends that save.
 *   tm_marks    the runs and objects that were ever put to or flushed in this life of a store with
 *               ephemeral pools, as bits that hashes choose. A restore brings nothing back for
 *               those (restore.c). Two runs that share a bit cost a page that could have been
 *               restored, never the other way round.
 *
 * Both are told by the index, at the one place where a slot changes and under the shard's lock, so
 * no change can be forgotten, whoever makes it.
 *
 * Locking: changes have a lock of their own (TM_LOCK_CHANGES), held for one look-up; marks are
 * atomic words.
 */
#ifndef TM_CHANGES_H
#define TM_CHANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/budget.h"
#include "core/tmem.h"

/* Bit n of `pages`: page run * 64 + n of the object changed. */
struct tm_changed_run {
	uint64_t hash; /* of all that names the run */
	struct tm_oid oid;
	uint32_t run, pool;
	uint64_t pages; /* 0: an unused place of the table */
};

struct tm_changes;

/* Room for `runs` runs at least. All of it is touched now: noting a change faults nothing in. 0;
 * -ENOMEM. Not charged to any budget: it is there only while a save runs. */
int tm_changes_create(uint64_t runs, struct tm_changes **ret_changes);
void tm_changes_destroy(struct tm_changes *c); /* NULL is fine */

/* A page changed; the fields of `run` but `pages` say where. */
void tm_changes_note(struct tm_changes *c, const struct tm_changed_run *run, unsigned int page);

/* How many pages are noted, and whether some could not be. */
uint64_t tm_changes_count(struct tm_changes *c, bool *ret_overflow);

/* Take what is noted, and begin anew: *ret_runs places, of which those without pages are unused.
 * They are good until the next call. */
const struct tm_changed_run *tm_changes_take(struct tm_changes *c, uint64_t *ret_places);

struct tm_marks;

/* As many bits as suit a store of `limit` bytes: 128 KiB of them for 1 GiB. Charged to `b`, which
 * outlives them. 0; -ENOMEM. */
int tm_marks_create(struct tm_budget *b, uint64_t limit, struct tm_marks **ret_marks);
void tm_marks_destroy(struct tm_marks *m); /* NULL is fine */
void tm_marks_set(struct tm_marks *m, uint64_t hash);
bool tm_marks_has(struct tm_marks *m, uint64_t hash);

#endif
