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
 * kill, recovery finds it; the front end, which has heard nothing of it, then flushes it.
 */
#include "core/move.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/entry.h"
#include "core/store_private.h"
#include "core/util.h"

/* How long to wait for a host that may grant more: it looks every 100 ms. */
#define GRANT_TRIES   30
#define GRANT_WAIT_NS 50000000
#define ROOM_TRIES    8

/* And for the keeper of a resident store, which is less patient with puts. */
#define KEEPER_TRIES   300
#define KEEPER_WAIT_NS 10000000

struct target {
	struct tm_pool *pool; /* entered */
	struct tm_objects *staged;
	_Atomic uint64_t objects; /* in there */
	uint64_t pages;           /* staged */
	bool full;                /* ephemeral, and no room for more */
};

struct restore {
	struct tm_store *s;
	const struct tm_move_params *who;
	struct tm_move_result *result;
	struct tm_stream_reader *reader;
	struct target targets[TM_POOLS_MAX]; /* by number in the stream */
	uint32_t count, known;
	bool patient; /* no wait for a grant has been in vain yet */

	/* Ephemeral runs that were published, to be marked when all are: two of them may share a
	 * mark. */
	uint64_t *published;
	size_t published_count, published_room;
};

__attribute__((format(printf, 3, 4))) static int fail(
	struct restore *v, int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(v->result->why, sizeof(v->result->why), format, args);
	va_end(args);
	return rc;
}

static bool is_persistent(const struct target *t)
{
	return tm_pool_is_persistent(t->pool);
}

/* --- does it fit? ----------------------------------------------------------------------------- */

static int take_head(struct restore *v, const struct tm_stream_head *head)
{
	const struct tm_move_ops *ops = v->who->ops;

	if (strcmp(head->type, v->who->type) != 0)
		return fail(v, -EINVAL, "a client of type %s was saved, this is one of type %s",
			head->type, v->who->type);
	v->count = head->pools;
	return ops && ops->accept
		? ops->accept(v->who->opaque, head->front, head->front_bytes, v->result->why)
		: 0;
}

/* What else a pool does with puts is its own matter. */
static bool is_like(const struct tm_owner *owner, const struct tm_stream_pool *pool)
{
	return owner->flags == pool->flags &&
		(owner->attrs & TM_POOL_RETAIN) == (pool->attrs & TM_POOL_RETAIN);
}

/* The first pool not taken yet that is like `pool`, entered. */
static struct tm_pool *find_pool(struct restore *v, const struct tm_stream_pool *pool)
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

static int misfit(struct restore *v, const struct tm_stream_pool *pool)
{
	const char *kind = pool->flags & TM_POOL_PERSIST ? "persistent" : "ephemeral";
	unsigned int order = (pool->flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT;

	return fail(v, -EINVAL, "it has no %spool like the saved one: %s, pages of %u KiB",
		v->known > 0 ? "further " : "", kind, 4u << order);
}

static int take_pool(struct restore *v, const struct tm_stream_pool *pool)
{
	struct tm_pool *p = find_pool(v, pool);
	struct target *t = &v->targets[v->known];

	if (!p)
		return misfit(v, pool);
	t->pool = p;
	v->known++;
	if (is_persistent(t) && atomic_load(&p->stat[TM_STAT_PAGES]) > 0)
		return fail(v, -EEXIST, "it is not empty");
	return tm_objects_create(
		v->s->index, p->id, true, &p->stat[TM_STAT_USED_BYTES], &t->objects, &t->staged);
}

/* --- staging ---------------------------------------------------------------------------------- */

/* The host grants ahead of need, but not this much at once. */
static bool wait_for_grant(struct restore *v)
{
	const struct tm_ledger *l = v->s->ledger;
	uint64_t granted = atomic_load(&l->granted_bytes);

	if (!v->patient || granted >= atomic_load(&l->limit_bytes))
		return false;
	for (int i = 0; i < GRANT_TRIES; i++) {
		struct timespec pause = {.tv_nsec = GRANT_WAIT_NS};

		tm_budget_report(&v->s->budget);
		nanosleep(&pause, NULL);
		if (atomic_load(&l->granted_bytes) > granted)
			return true;
	}
	v->patient = false;
	return false;
}

static bool wait_for_keeper(struct restore *v, enum tm_room room, int tries, uint64_t seen)
{
	struct timespec pause = {.tv_nsec = KEEPER_WAIT_NS};

	if (!tm_make_room(v->s, room, -ENOBUFS, seen))
		nanosleep(&pause, NULL);
	return tries < KEEPER_TRIES;
}

/* After `rc`: is it worth another try? Other pages make way for persistent ones only. */
static bool make_room(struct restore *v, const struct target *t, enum tm_room room, int rc,
	int tries, uint64_t seen)
{
	if (rc == -ENOBUFS)
		return wait_for_keeper(v, room, tries, seen);
	if (rc != -ENOMEM)
		return false;
	return (is_persistent(t) && tries < ROOM_TRIES && tm_make_room(v->s, room, rc, seen)) ||
		wait_for_grant(v);
}

static int append(
	struct restore *v, struct target *t, const struct tm_stream_page *page, uint64_t *ret_slot)
{
	enum tm_queue queue = page->codec == TM_CODEC_ZSTD ? TM_QUEUE_PACKED
		: page->main                               ? TM_QUEUE_MAIN
							   : TM_QUEUE_NEW;
	struct tm_entry_view e = {
		.oid = page->oid,
		.seq = atomic_fetch_add(&v->s->sequence, 1) + 1,
		.index = page->index,
		.bytes = page->bytes,
		.codec = page->codec,
		.payload = page->payload,
	};
	if (queue == TM_QUEUE_PACKED) {
		int rc = tm_upkeep_unpacker(v->s);

		if (rc < 0)
			return rc;
	}
	e.check = tm_entry_check(&e);

	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(v->s->arena);
		int rc = tm_log_append(&t->pool->log, queue, false, &e, ret_slot);

		if (rc == 0 || !make_room(v, t, TM_ROOM_SEGMENT, rc, tries, seen))
			return rc;
	}
}

static void drop_entry(struct restore *v, uint64_t slot)
{
	tm_log_kill(v->s->arena, slot);
	tm_segment_unref(v->s->arena, tm_slot_segment(slot));
}

/* Make `slot` the staged page of the handle, or with TM_SLOT_NONE there is none. */
static int stage(struct restore *v, struct target *t, const struct tm_handle *h, uint64_t slot)
{
	struct tm_cursor c;
	uint64_t old;
	int rc = 0;

	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(v->s->arena);

		tm_index_lock(v->s->index, h, &c);
		old = tm_cursor_get(&c);
		if (slot != TM_SLOT_NONE)
			rc = tm_index_make_locked(&c, h);
		if (rc == 0 && (slot != TM_SLOT_NONE || old != TM_SLOT_NONE))
			tm_cursor_set(&c, slot);
		tm_index_unlock(&c);
		if (rc == 0 || !make_room(v, t, TM_ROOM_NODE, rc, tries, seen))
			break;
	}
	if (rc < 0)
		return rc;
	t->pages += slot != TM_SLOT_NONE;
	t->pages -= old != TM_SLOT_NONE;
	if (old != TM_SLOT_NONE)
		drop_entry(v, old);
	return 0;
}

static int no_room(struct restore *v)
{
	char need[TM_SIZE_TEXT_MAX], limit[TM_SIZE_TEXT_MAX];

	tm_size_format(tm_budget_used(&v->s->budget), need);
	tm_size_format(tm_budget_limit(&v->s->budget), limit);
	return fail(
		v, -ENOSPC, "no room: %s of %s were in use before all of it was read", need, limit);
}

static int take_page(struct restore *v, const struct tm_stream_page *page)
{
	struct target *t = &v->targets[page->pool];
	struct tm_handle h = {t->staged, page->oid, page->index};
	uint64_t slot = TM_SLOT_NONE;
	int rc = page->gone ? 0 : -ENOMEM;

	if (page->codec == TM_CODEC_ZSTD && !is_persistent(t))
		return fail(v, -EBADMSG, "a page that may vanish is packed");
	if (!page->gone && !t->full)
		rc = append(v, t, page, &slot);
	if (rc == 0) {
		rc = stage(v, t, &h, slot == TM_SLOT_NONE ? slot : slot | page->hits);
		if (rc < 0 && slot != TM_SLOT_NONE)
			drop_entry(v, slot);
	}
	if (rc == 0)
		return 0;
	if (is_persistent(t))
		return no_room(v);
	/* What was there before it is older than what has no room. */
	t->full = true;
	v->result->skipped++;
	return stage(v, t, &h, TM_SLOT_NONE);
}

/* --- publishing ------------------------------------------------------------------------------- */

/* Under the shard's lock: the pages of the leaf, which was just published, count as the pool's. */
static void count_run_locked(struct restore *v, struct target *t, const struct tm_cursor *c)
{
	for (unsigned int n = 0; n < TM_LEAF_SLOTS; n++) {
		uint64_t slot = tm_cursor_page(c, n);

		if (slot != TM_SLOT_NONE) {
			tm_page_live_locked(t->pool, slot);
			v->result->pages++;
		}
	}
}

static void mark_later_locked(struct restore *v, struct tm_cursor *c)
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
static int publish_run(struct restore *v, struct target *t, const struct tm_oid *oid, uint32_t run)
{
	struct tm_handle h = {t->staged, *oid, run << TM_LEAF_SHIFT};
	struct tm_cursor c;
	int rc;

	for (int tries = 0;; tries++) {
		uint64_t seen = tm_arena_released(v->s->arena);

		rc = -ESTALE;
		tm_index_lock(v->s->index, &h, &c);
		if (is_persistent(t) || !tm_index_is_marked_locked(&c))
			rc = tm_index_publish_locked(&c, t->pool->objects);
		if (rc == 0) {
			count_run_locked(v, t, &c);
			if (!is_persistent(t))
				mark_later_locked(v, &c);
		}
		tm_index_unlock(&c);
		if (rc == 0 || !make_room(v, t, TM_ROOM_NODE, rc, tries, seen))
			return rc;
	}
}

static int drop_run(struct restore *v, struct target *t, const struct tm_oid *oid, uint32_t run)
{
	int rc = 0;

	for (uint32_t n = 0; n < TM_LEAF_SLOTS && rc == 0; n++) {
		struct tm_handle h = {t->staged, *oid, run << TM_LEAF_SHIFT | n};

		rc = stage(v, t, &h, TM_SLOT_NONE);
	}
	return rc;
}

/* Do something with every staged run of a pool, which takes it out of there. */
static int each_staged(struct restore *v, struct target *t,
	int (*each)(struct restore *v, struct target *t, const struct tm_oid *oid, uint32_t run))
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
	struct restore *v, struct target *t, const struct tm_oid *oid, uint32_t run)
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
static void take_back(struct restore *v, struct target *t)
{
	struct tm_oid oid;

	while (tm_objects_any(t->pool->objects, &oid))
		tm_pool_flush_object(v->s, t->pool, &oid);
}

static int publish_persistent(struct restore *v)
{
	int rc = 0;
	uint32_t i;

	for (i = 0; i < v->known; i++)
		if (is_persistent(&v->targets[i]) &&
			atomic_load(&v->targets[i].pool->stat[TM_STAT_PAGES]) > 0)
			return fail(v, -EEXIST, "it was written to meanwhile");
	for (i = 0; i < v->known && rc == 0; i++)
		if (is_persistent(&v->targets[i]))
			rc = each_staged(v, &v->targets[i], publish_run);
	if (rc == 0)
		return 0;
	while (i-- > 0)
		if (is_persistent(&v->targets[i]))
			take_back(v, &v->targets[i]);
	return no_room(v);
}

struct telling {
	struct restore *v;
	const struct target *target;
};

static void tell_page(void *opaque, const struct tm_handle *h, uint64_t slot)
{
	const struct telling *t = opaque;
	const struct tm_move_params *who = t->v->who;

	(void)slot;
	if (h->objects == t->target->pool->objects)
		who->ops->restored(who->opaque, (int)t->target->pool->id, &h->oid, h->index);
}

static void tell_front(struct restore *v)
{
	if (!v->who->ops || !v->who->ops->restored)
		return;
	for (uint32_t i = 0; i < v->known; i++)
		if (is_persistent(&v->targets[i]))
			tm_index_each(v->s->index, tell_page, &(struct telling){v, &v->targets[i]});
}

static int publish(struct restore *v)
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
		ops->end(v->who->opaque);
	for (uint32_t i = 0; i < v->known && rc == 0; i++)
		if (!is_persistent(&v->targets[i]))
			rc = each_staged(v, &v->targets[i], publish_or_drop);
	for (size_t i = 0; i < v->published_count; i++)
		tm_index_mark(v->s->index, v->published[i]);
	return rc;
}

/* --- the whole -------------------------------------------------------------------------------- */

/* Say what is wrong with the stream. */
static int unreadable(struct restore *v, int rc)
{
	unsigned long long at = tm_stream_position(v->reader);

	switch (rc) {
	case -ENOMSG:
		return fail(v, rc, "this is nothing that tmemctl save wrote");
	case -EPROTO:
		return fail(v, rc, "the stream is of another version of tmem");
	case -ENODATA:
		return fail(v, rc, "the stream ends too early, after %llu bytes", at);
	case -EBADMSG:
		return fail(v, rc, "the stream is damaged, before byte %llu", at);
	default:
		return fail(v, rc, "the stream cannot be read: %s", strerror(-rc));
	}
}

static int take_end(struct restore *v, const struct tm_stream_end *end)
{
	for (uint32_t i = 0; i < v->known; i++)
		if (is_persistent(&v->targets[i]) && v->targets[i].pages != end->pages[i])
			return fail(v, -EBADMSG, "the stream has %llu pages of %llu",
				(unsigned long long)v->targets[i].pages,
				(unsigned long long)end->pages[i]);
	return publish(v);
}

static int restore(struct restore *v)
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
			rc = take_page(v, &item.page);
			break;
		case TM_STREAM_END:
			rc = take_end(v, &item.end);
			done = true;
			break;
		}
	}
	return rc;
}

static void clean_up(struct restore *v)
{
	for (uint32_t i = 0; i < v->known; i++) {
		struct target *t = &v->targets[i];

		if (t->staged) {
			each_staged(v, t, drop_run);
			tm_objects_destroy(t->staged);
		}
		tm_pool_leave(t->pool);
	}
	tm_stream_reader_close(v->reader);
	free(v->published);
}

int tm_store_restore(struct tm_store *s, const struct tm_move_params *who, tm_stream_read_fn *read,
	void *opaque, struct tm_move_result *ret_result)
{
	struct restore v = {.s = s, .who = who, .result = ret_result, .patient = true};
	int rc;

	*ret_result = (struct tm_move_result){.pages = 0};
	if (atomic_load(&s->gate.shut))
		return fail(&v, -EBUSY, "its changes wait since it was saved with --hold");
	rc = tm_stream_reader_open(read, opaque, &v.reader);
	if (rc == 0)
		rc = restore(&v);
	if (v.reader)
		ret_result->bytes = tm_stream_position(v.reader);
	clean_up(&v);
	if (rc < 0 && !*ret_result->why)
		fail(&v, rc, "%s", strerror(-rc));
	if (rc < 0)
		ret_result->pages = ret_result->skipped = 0;
	return rc;
}
