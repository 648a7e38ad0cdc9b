/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * restore.c - a store's pools from a stream; how is in move.h
 *
 *      record --append--> entry in the pool's segments --> slot in the staged index
 *                                                           | a later record: replaced, or gone
 *                                                           v
 *      publish: the staged leaf becomes the pool's          dead
 *
 * To everybody else a staged entry is one that is just being put: reclaim leaves it alone. After a
 * kill, recovery finds it; the front end, which has heard nothing of it, then flushes it. What has
 * no room is staged with the front end instead (stage.c).
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/entry.h"
#include "core/restore_private.h"
#include "core/util.h"

int tm_restore_fail(struct tm_restore *v, int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(v->result->why, sizeof(v->result->why), format, args);
	va_end(args);
	return rc;
}

/* --- does it fit? ----------------------------------------------------------------------------- */

static int take_head(struct tm_restore *v, const struct tm_stream_head *head)
{
	const struct tm_move_ops *ops = v->who->ops;

	if (strcmp(head->type, v->who->type) != 0)
		return tm_restore_fail(v, -EINVAL,
			"a client of type %s was saved, this is one of type %s", head->type,
			v->who->type);
	v->count = head->pools;
	if (ops && ops->accept) {
		int rc =
			ops->accept(v->who->opaque, head->front, head->front_bytes, v->result->why);

		v->accepted = rc == 0;
		return rc;
	}
	return 0;
}

/* What else a pool does with puts is its own matter. */
static bool is_like(const struct tm_owner *owner, const struct tm_stream_pool *pool)
{
	return owner->flags == pool->flags &&
		(owner->attrs & TM_POOL_RETAIN) == (pool->attrs & TM_POOL_RETAIN);
}

/* The first pool not taken yet that is like `pool`, entered. */
static struct tm_pool *find_pool(struct tm_restore *v, const struct tm_stream_pool *pool)
{
	for (int id = 0; id < TM_POOLS_MAX; id++) {
		struct tm_pool *p = tm_pool_enter(v->s, id);
		bool taken = false;

		if (!p)
			continue;
		for (uint32_t i = 0; i < v->known; i++)
			taken |= v->targets[i].pool == p;
		if (!taken && is_like(p->log.owner, pool))
			return p;
		tm_pool_leave(p);
	}
	return NULL;
}

static int misfit(struct tm_restore *v, const struct tm_stream_pool *pool)
{
	const char *kind = pool->flags & TM_POOL_PERSIST ? "persistent" : "ephemeral";
	unsigned int order = (pool->flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT;

	return tm_restore_fail(v, -EINVAL,
		"it has no %spool like the saved one: %s, pages of %u KiB",
		v->known > 0 ? "further " : "", kind, 4u << order);
}

static int take_pool(struct tm_restore *v, const struct tm_stream_pool *pool)
{
	struct tm_pool *p = find_pool(v, pool);
	struct tm_target *t = &v->targets[v->known];

	if (!p)
		return misfit(v, pool);
	t->pool = p;
	v->known++;
	if (tm_pool_is_persistent(t->pool) && atomic_load(&p->stat[TM_STAT_PAGES]) > 0)
		return tm_restore_fail(v, -EEXIST, "it is not empty");
	return tm_objects_create(
		v->s->index, p->id, true, &p->stat[TM_STAT_USED_BYTES], &t->objects, &t->staged);
}

/* --- publishing ------------------------------------------------------------------------------- */

/* Under the shard's lock: the pages of the leaf, which was just published, count as the pool's. */
static void count_run_locked(struct tm_restore *v, struct tm_target *t, const struct tm_cursor *c)
{
	for (unsigned int n = 0; n < TM_LEAF_SLOTS; n++) {
		uint64_t slot = tm_cursor_page(c, n);

		if (slot != TM_SLOT_NONE) {
			tm_page_live_locked(t->pool, slot);
			v->result->pages++;
		}
	}
}

static void mark_later_locked(struct tm_restore *v, struct tm_cursor *c)
{
	if (v->published_count == v->published_room) {
		size_t room = v->published_room * 2 + 1024;
		uint64_t *more = realloc(v->published, room * sizeof(*more));

		if (!more) {
			tm_index_mark_locked(c); /* at worst others are not restored */
			return;
		}
		v->published = more;
		v->published_room = room;
	}
	v->published[v->published_count++] = c->hash;
}

/* One staged run becomes the pool's. 0; -ESTALE this life knows better; -ENOMEM. */
static int publish_run(
	struct tm_restore *v, struct tm_target *t, const struct tm_oid *oid, uint32_t run)
{
	struct tm_handle h = {t->staged, *oid, run << TM_LEAF_SHIFT};
	struct tm_cursor c;
	int rc;

	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(v->s->arena);

		rc = -ESTALE;
		tm_index_lock(v->s->index, &h, &c);
		if (tm_pool_is_persistent(t->pool) || !tm_index_is_marked_locked(&c))
			rc = tm_index_publish_locked(&c, t->pool->objects);
		if (rc == 0) {
			count_run_locked(v, t, &c);
			if (!tm_pool_is_persistent(t->pool))
				mark_later_locked(v, &c);
		}
		tm_index_unlock(&c);
		if (rc == 0 || !tm_restore_make_room(v, t, TM_ROOM_NODE, rc, tries, seen))
			return rc;
	}
}

static int drop_run(
	struct tm_restore *v, struct tm_target *t, const struct tm_oid *oid, uint32_t run)
{
	int rc = 0;

	for (uint32_t n = 0; n < TM_LEAF_SLOTS && rc == 0; n++) {
		struct tm_handle h = {t->staged, *oid, run << TM_LEAF_SHIFT | n};

		rc = tm_restore_stage(v, t, &h, TM_SLOT_NONE);
	}
	return rc;
}

/* Do something with every staged run of a pool, which takes it out of there. */
static int each_staged(struct tm_restore *v, struct tm_target *t,
	int (*each)(
		struct tm_restore *v, struct tm_target *t, const struct tm_oid *oid, uint32_t run))
{
	struct tm_oid oid;
	int rc = 0;

	while (rc == 0 && tm_objects_any(t->staged, &oid)) {
		struct tm_walk walk = {0, 0};
		uint32_t runs[64];
		size_t n;

		while (rc == 0 &&
			(n = tm_objects_walk(t->staged, &oid, &walk, runs, TM_ARRAY_SIZE(runs))) >
				0)
			for (size_t i = 0; i < n && rc == 0; i++)
				rc = each(v, t, &oid, runs[i]);
	}
	return rc;
}

/* A cache takes what it can. Whoever flushed the object while its runs appeared meant them too. */
static int publish_or_drop(
	struct tm_restore *v, struct tm_target *t, const struct tm_oid *oid, uint32_t run)
{
	uint64_t before = t->pages;
	bool marked = tm_index_is_object_marked(t->pool->objects, oid);

	if (!marked && publish_run(v, t, oid, run) == 0) {
		if (tm_index_is_object_marked(t->pool->objects, oid))
			tm_pool_flush_object(v->s, t->pool, oid);
		return 0;
	}
	drop_run(v, t, oid, run);
	v->result->skipped += before - t->pages;
	return 0;
}

/* The pool was empty, and is again. */
static void take_back(struct tm_restore *v, struct tm_target *t)
{
	struct tm_oid oid;

	while (tm_objects_any(t->pool->objects, &oid))
		tm_pool_flush_object(v->s, t->pool, &oid);
}

static int publish_persistent(struct tm_restore *v)
{
	int rc = 0;
	uint32_t i;

	for (i = 0; i < v->known; i++)
		if (tm_pool_is_persistent(v->targets[i].pool) &&
			atomic_load(&v->targets[i].pool->stat[TM_STAT_PAGES]) > 0)
			return tm_restore_fail(v, -EEXIST, "it was written to meanwhile");
	for (i = 0; i < v->known && rc == 0; i++)
		if (tm_pool_is_persistent(v->targets[i].pool))
			rc = each_staged(v, &v->targets[i], publish_run);
	if (rc == 0)
		return 0;
	while (i-- > 0)
		if (tm_pool_is_persistent(v->targets[i].pool))
			take_back(v, &v->targets[i]);
	return tm_restore_no_room(v);
}

struct telling {
	struct tm_restore *v;
	const struct tm_target *target;
};

static void tell_page(void *opaque, const struct tm_handle *h, uint64_t slot)
{
	const struct telling *t = opaque;
	const struct tm_move_params *who = t->v->who;

	(void)slot;
	if (h->objects == t->target->pool->objects)
		who->ops->restored(who->opaque, (int)t->target->pool->id, &h->oid, h->index);
}

static void tell_front(struct tm_restore *v)
{
	if (!v->who->ops || !v->who->ops->restored)
		return;
	for (uint32_t i = 0; i < v->known; i++)
		if (tm_pool_is_persistent(v->targets[i].pool))
			tm_index_each(v->s->index, tell_page, &(struct telling){v, &v->targets[i]});
}

static int publish(struct tm_restore *v)
{
	const struct tm_move_ops *ops = v->who->ops;
	uint64_t start;
	int rc = ops && ops->begin ? ops->begin(v->who->opaque, v->result->why) : 0;

	if (rc < 0)
		return rc;
	start = tm_now_ns();
	tm_gate_shut(v->s);
	rc = publish_persistent(v);
	if (rc == 0)
		tell_front(v);
	tm_gate_open(v->s);
	v->result->pause_ns = tm_now_ns() - start;
	if (ops && ops->end)
		ops->end(v->who->opaque, rc == 0);
	for (uint32_t i = 0; i < v->known && rc == 0; i++)
		v->result->pages += v->targets[i].elsewhere;
	for (uint32_t i = 0; i < v->known && rc == 0; i++)
		if (!tm_pool_is_persistent(v->targets[i].pool))
			rc = each_staged(v, &v->targets[i], publish_or_drop);
	for (size_t i = 0; i < v->published_count; i++)
		tm_index_mark(v->s->index, v->published[i]);
	return rc;
}

/* --- the whole -------------------------------------------------------------------------------- */

/* Say what is wrong with the stream. */
static int unreadable(struct tm_restore *v, int rc)
{
	unsigned long long at = tm_stream_position(v->reader);

	switch (rc) {
	case -ENOMSG:
		return tm_restore_fail(v, rc, "this is nothing that tmemctl save wrote");
	case -EPROTO:
		return tm_restore_fail(v, rc, "the stream is of another version of tmem");
	case -ENODATA:
		return tm_restore_fail(v, rc, "the stream ends too early, after %llu bytes", at);
	case -EBADMSG:
		return tm_restore_fail(v, rc, "the stream is damaged, before byte %llu", at);
	default:
		return tm_restore_fail(v, rc, "the stream cannot be read: %s", strerror(-rc));
	}
}

static int take_end(struct tm_restore *v, const struct tm_stream_end *end)
{
	for (uint32_t i = 0; i < v->known; i++)
		if (tm_pool_is_persistent(v->targets[i].pool) &&
			v->targets[i].pages != end->pages[i])
			return tm_restore_fail(v, -EBADMSG, "the stream has %llu pages of %llu",
				(unsigned long long)v->targets[i].pages,
				(unsigned long long)end->pages[i]);
	return publish(v);
}

static int restore(struct tm_restore *v)
{
	bool done = false;
	int rc = 0;

	while (rc == 0 && !done) {
		struct tm_stream_item item;

		rc = tm_stream_next(v->reader, &item);
		if (rc < 0)
			return unreadable(v, rc);
		switch (item.kind) {
		case TM_STREAM_HEAD:
			rc = take_head(v, &item.head);
			break;
		case TM_STREAM_POOL:
			rc = take_pool(v, &item.pool);
			break;
		case TM_STREAM_PAGES:
			rc = tm_restore_page(v, &item.page);
			break;
		case TM_STREAM_END:
			rc = take_end(v, &item.end);
			done = true;
			break;
		}
	}
	return rc;
}

static void clean_up(struct tm_restore *v)
{
	for (uint32_t i = 0; i < v->known; i++) {
		struct tm_target *t = &v->targets[i];

		if (t->staged) {
			each_staged(v, t, drop_run);
			tm_objects_destroy(t->staged);
		}
		tm_pool_leave(t->pool);
	}
	tm_stream_reader_close(v->reader);
	tm_elsewhere_close(&v->elsewhere);
	free(v->published);
}

int tm_store_restore(struct tm_store *s, const struct tm_move_params *who, tm_stream_read_fn *read,
	void *opaque, struct tm_move_result *ret_result)
{
	struct tm_restore v = {.s = s, .who = who, .result = ret_result, .patient = true};
	int rc;

	*ret_result = (struct tm_move_result){.pages = 0};
	if (atomic_load(&s->gate.shut))
		return tm_restore_fail(
			&v, -EBUSY, "its changes wait since it was saved with --hold");
	rc = tm_elsewhere_open(who, 1, &v.elsewhere);
	if (rc == 0)
		rc = tm_stream_reader_open(read, opaque, &v.reader);
	if (rc == 0)
		rc = restore(&v);
	if (v.reader)
		ret_result->bytes = tm_stream_position(v.reader);
	clean_up(&v);
	if (rc < 0 && v.accepted && who->ops->abandon)
		who->ops->abandon(who->opaque);
	if (rc < 0 && !*ret_result->why)
		tm_restore_fail(&v, rc, "%s", strerror(-rc));
	if (rc < 0)
		ret_result->pages = ret_result->skipped = 0;
	return rc;
}
