/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * restore_private.h - what the files that make up a restore share
 *
 * restore.c (what fits, publishing, the whole), stage.c (records of pages to their staged places).
 *
 * A page of a persistent pool is staged in one of two places, in the target's `staged` index or
 * with the front end, elsewhere; a later record of the same page replaces it in either.
 */
#ifndef TM_RESTORE_PRIVATE_H
#define TM_RESTORE_PRIVATE_H

#include "core/elsewhere.h"

struct tm_target {
	struct tm_pool *pool; /* entered */
	struct tm_objects *staged;
	_Atomic uint64_t objects; /* in there */
	uint64_t pages;           /* staged, here and elsewhere */
	uint64_t elsewhere;       /* of these */
	bool full;                /* ephemeral, and no room for more */
	bool overflows;           /* persistent, and since there is no room they go elsewhere, */
	uint64_t released;        /* until tm_arena_released() is another than this */
};

struct tm_restore {
	struct tm_store *s;
	const struct tm_move_params *who;
	struct tm_move_result *result;
	struct tm_stream_reader *reader;
	struct tm_elsewhere elsewhere;          /* room for one page */
	struct tm_target targets[TM_POOLS_MAX]; /* by number in the stream */
	uint32_t count, known;
	bool accepted; /* the front end waits for the end */
	bool patient;  /* no wait for a grant has been in vain yet */

	/* Ephemeral runs that were published, to be marked when all are: two of them may share a
	 * mark. */
	uint64_t *published;
	size_t published_count, published_room;
};

/* Set the reason, and return `rc`. */
__attribute__((format(printf, 3, 4))) int tm_restore_fail(
	struct tm_restore *v, int rc, const char *format, ...);
int tm_restore_no_room(struct tm_restore *v); /* -ENOSPC */

/* Stage what a record says. 0, also when a page of an ephemeral pool had no room; -ENOSPC and
 * others, with a reason. */
int tm_restore_page(struct tm_restore *v, const struct tm_stream_page *page);

/* Make `slot` the staged page of the handle, or with TM_SLOT_NONE there is none: that cannot fail.
 * 0; -ENOMEM, -ENOBUFS. */
int tm_restore_stage(
	struct tm_restore *v, struct tm_target *t, const struct tm_handle *h, uint64_t slot);

/* After `rc`: is it worth another try? Other pages make way for persistent ones only. */
bool tm_restore_make_room(struct tm_restore *v, const struct tm_target *t, enum tm_room room,
	int rc, int tries, uint64_t seen);

#endif
