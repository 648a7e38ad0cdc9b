/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/pieces.h"

#include <errno.h>
#include <stdlib.h>

#include "core/victims.h"

static int piece_order(const void *a, const void *b)
{
	const struct tm_piece *x = a, *y = b;

	if (x->pool != y->pool)
		return x->pool < y->pool ? -1 : 1;
	if (x->fresh != y->fresh)
		return x->fresh ? 1 : -1;
	return x->place < y->place ? -1 : x->place > y->place;
}

int tm_pieces_list(struct tm_store *s, struct tm_pool *const pools[static TM_POOLS_MAX],
	struct tm_piece **ret_pieces, size_t *ret_count)
{
	struct tm_arena *a = s->arena;
	struct tm_piece *pieces = calloc(tm_arena_segments(a), sizeof(*pieces));
	size_t count = 0;

	if (!pieces)
		return -ENOMEM;
	/* No other pool is torn down while we have a reference in it. */
	tm_lock(&s->reclaim_lock);
	for (uint32_t id = 0; id < tm_arena_segments(a); id++) {
		const struct tm_segment *seg = tm_segment(a, id);
		const struct tm_pool *p;

		if (!tm_segment_try_ref(a, id))
			continue;
		p = pools[seg->owner->pool];
		if (p && atomic_load(&seg->state) != TM_SEGMENT_OPEN)
			pieces[count++] = (struct tm_piece){.id = id,
				.pool = seg->owner->pool,
				.fresh = tm_queue_is_new(tm_log_queue(&p->log, seg)),
				.place = tm_victims_place(s, seg)};
		tm_segment_unref(a, id);
	}
	tm_unlock(&s->reclaim_lock);
	qsort(pieces, count, sizeof(*pieces), piece_order);
	*ret_pieces = pieces;
	*ret_count = count;
	return 0;
}

bool tm_piece_pin(struct tm_store *s, const struct tm_piece *piece)
{
	const struct tm_segment *seg = tm_segment(s->arena, piece->id);

	if (!tm_segment_try_ref(s->arena, piece->id))
		return false;
	if (tm_victims_place(s, seg) == piece->place && atomic_load(&seg->state) != TM_SEGMENT_OPEN)
		return true;
	tm_segment_unref(s->arena, piece->id);
	return false;
}
