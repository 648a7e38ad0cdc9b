/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pieces.h - the segments that a save sends, in the order of the stream
 *
 * The list pins nothing: a segment may lose its last page before its turn comes, and be another
 * one's by then.
 *
 * Locking: tm_pieces_list takes TM_LOCK_RECLAIM.
 */
#ifndef TM_PIECES_H
#define TM_PIECES_H

#include "core/store_private.h"

/* A sealed segment that is to be sent. */
struct tm_piece {
	uint32_t id;
	uint32_t pool;
	bool fresh;     /* of the new queue, which comes after the main one */
	uint64_t place; /* in its queue: tm_victims_place() */
};

/* The sealed segments of the pools, which the caller has entered (by id; NULL: not this one). The
 * list is the caller's, to be freed. 0; -ENOMEM. */
int tm_pieces_list(struct tm_store *s, struct tm_pool *const pools[static TM_POOLS_MAX],
	struct tm_piece **ret_pieces, size_t *ret_count);

/* A reference on the piece's segment, whose entries do not change then. False when it is no more.
 */
bool tm_piece_pin(struct tm_store *s, const struct tm_piece *piece);

#endif
