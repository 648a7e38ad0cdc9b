/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/victims.h"

/* The new queue's share of the ephemeral segments, open ones included. What others cost is in
 * docs/store.md. */
#define NEW_SHARE 9

struct tm_queued *tm_victims_queue(
	struct tm_victims *v, const struct tm_store *s, const struct tm_segment *seg)
{
	const struct tm_pool *p = &s->pools[seg->owner->pool];

	return tm_queue_is_new(tm_log_queue(&p->log, seg)) ? &v->fresh[p->id] : &v->main;
}

uint64_t tm_victims_place(const struct tm_store *s, const struct tm_segment *seg)
{
	const struct tm_pool *p = &s->pools[seg->owner->pool];

	return seg->birth | (tm_queue_is_packed(tm_log_queue(&p->log, seg)) ? 0 : 1ull << 63);
}

static void count_ephemeral(
	struct tm_victims *v, const struct tm_store *s, uint32_t id, bool victim)
{
	const struct tm_segment *seg = tm_segment(s->arena, id);
	struct tm_queued *q = tm_victims_queue(v, s, seg);

	v->ephemeral++;
	v->putting += q != &v->main && q->segments == 0;
	q->segments++;
	if (victim && tm_victims_place(s, seg) < q->oldest_place) {
		q->oldest = id;
		q->oldest_place = tm_victims_place(s, seg);
	}
}

void tm_victims_find(struct tm_store *s, struct tm_victims *ret_v)
{
	struct tm_victims *v = ret_v;

	*v = (struct tm_victims){.emptiest = TM_SEGMENT_NONE,
		.emptiest_live = UINT32_MAX,
		.main = {0, TM_SEGMENT_NONE, UINT64_MAX}};
	for (int i = 0; i < TM_POOLS_MAX; i++)
		v->fresh[i] = v->main;
	for (uint32_t id = 0; id < tm_arena_segments(s->arena); id++) {
		struct tm_segment *seg = tm_segment(s->arena, id);
		uint32_t live;
		bool victim;

		if (!tm_segment_try_ref(s->arena, id))
			continue;
		/* The reference keeps owner and birth from changing. */
		live = atomic_load(&seg->live_bytes);
		victim = atomic_load(&seg->state) == TM_SEGMENT_SEALED &&
			seg->swept != s->reclaim_pass;
		/* One without a live page is only kept by whoever reads there. */
		if (victim && live > 0 && live < v->emptiest_live) {
			v->emptiest = id;
			v->emptiest_live = live;
		}
		if (!(seg->owner->flags & TM_POOL_PERSIST))
			count_ephemeral(v, s, id, victim);
		tm_segment_unref(s->arena, id);
	}
}

/* Of two queues the one with the older victim, if it has more segments than `part`. */
static const struct tm_queued *older(
	const struct tm_queued *a, const struct tm_queued *b, uint32_t part)
{
	if (b->oldest == TM_SEGMENT_NONE || b->segments <= part)
		return a;
	return a && a->oldest_place < b->oldest_place ? a : b;
}

const struct tm_queued *tm_victims_choose(const struct tm_victims *v)
{
	const struct tm_queued *first = NULL;
	uint32_t fresh = v->ephemeral - v->main.segments;
	uint32_t share = TM_MAX(v->ephemeral / NEW_SHARE, 1u);
	uint32_t part = v->putting > 1 ? share / v->putting : share;

	if (fresh > share || v->main.oldest == TM_SEGMENT_NONE) {
		for (int i = 0; i < TM_POOLS_MAX; i++)
			first = older(first, &v->fresh[i], TM_MAX(part, 1u));
		for (int i = 0; i < TM_POOLS_MAX && !first; i++)
			first = older(first, &v->fresh[i], 0);
	}
	if (!first && v->main.oldest != TM_SEGMENT_NONE)
		first = &v->main;
	return first;
}
