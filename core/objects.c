/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "core/entry.h"
#include "core/index_private.h"
#include "core/util.h"

int tm_objects_create(struct tm_index *ix, uint32_t pool, bool staged, _Atomic uint64_t *used_bytes,
	_Atomic uint64_t *object_count, struct tm_objects **ret_objects)
{
	struct tm_objects *objects = tm_node_alloc(ix->budget, NULL, sizeof(*objects));

	if (!objects)
		return -ENOMEM;
	if (tm_table_init(ix->budget, &objects->table) < 0) {
		tm_node_free(ix->budget, NULL, objects, sizeof(*objects));
		return -ENOMEM;
	}
	objects->ix = ix;
	objects->pool = pool;
	objects->staged = staged;
	objects->used_bytes = used_bytes;
	objects->object_count = object_count;
	tm_lock_init(&objects->lock, TM_LOCK_OBJECTS);
	*ret_objects = objects;
	return 0;
}

void tm_objects_destroy(struct tm_objects *objects)
{
	struct tm_budget *b = objects->ix->budget;

	tm_lock_destroy(&objects->lock);
	tm_table_fini(b, &objects->table);
	tm_node_free(b, NULL, objects, sizeof(*objects));
}

static struct tm_object *object_find_locked(
	const struct tm_objects *objects, const struct tm_oid *oid)
{
	uint64_t hash = XXH3_64bits(oid, sizeof(*oid));

	for (struct tm_item *i = *tm_table_bucket(&objects->table, hash); i; i = i->next) {
		struct tm_object *o = (struct tm_object *)i;

		if (i->hash == hash && tm_oid_equal(&o->oid, oid))
			return o;
	}
	return NULL;
}

/* A new object becomes *spare, which is NULL then, or is allocated where there is no `spare`. */
static struct tm_object *object_make_locked(
	struct tm_objects *objects, const struct tm_oid *oid, struct tm_object **spare)
{
	struct tm_budget *b = objects->ix->budget;
	struct tm_object *o = object_find_locked(objects, oid);

	if (o)
		return o;
	o = spare ? *spare : tm_node_alloc(b, objects->used_bytes, sizeof(*o));
	if (!o)
		return NULL;
	if (spare)
		*spare = NULL;
	o->item.hash = XXH3_64bits(oid, sizeof(*oid));
	o->objects = objects;
	o->oid = *oid;
	tm_table_add(b, &objects->table, &o->item);
	atomic_fetch_add_explicit(objects->object_count, 1, memory_order_relaxed);
	return o;
}

int tm_objects_add_leaf(struct tm_objects *objects, const struct tm_oid *oid, struct tm_leaf *leaf,
	struct tm_object **spare)
{
	struct tm_object *o;

	tm_lock(&objects->lock);
	o = object_make_locked(objects, oid, spare);
	if (o) {
		leaf->object = o;
		leaf->birth = ++objects->next_birth;
		leaf->newer = NULL;
		leaf->older = o->newest;
		if (o->newest)
			o->newest->newer = leaf;
		else
			o->oldest = leaf;
		o->newest = leaf;
	}
	tm_unlock(&objects->lock);
	return o ? 0 : -ENOMEM;
}

void tm_objects_remove_leaf(struct tm_leaf *leaf)
{
	struct tm_object *o = leaf->object;
	struct tm_objects *objects = o->objects;

	tm_lock(&objects->lock);
	if (leaf->older)
		leaf->older->newer = leaf->newer;
	else
		o->oldest = leaf->newer;
	if (leaf->newer)
		leaf->newer->older = leaf->older;
	else
		o->newest = leaf->older;
	if (!o->oldest) {
		tm_table_remove(&objects->table, &o->item);
		tm_node_free(objects->ix->budget, objects->used_bytes, o, sizeof(*o));
		atomic_fetch_sub_explicit(objects->object_count, 1, memory_order_relaxed);
	}
	tm_unlock(&objects->lock);
}

size_t tm_objects_walk(struct tm_objects *objects, const struct tm_oid *oid, struct tm_walk *walk,
	uint32_t *ret_runs, size_t max)
{
	struct tm_leaf *leaf = NULL;
	struct tm_object *o;
	size_t n = 0;

	tm_lock(&objects->lock);
	if (walk->until == 0)
		walk->until = objects->next_birth;
	o = object_find_locked(objects, oid);
	for (leaf = o ? o->oldest : NULL; leaf && leaf->birth <= walk->until && n < max;
		leaf = leaf->newer) {
		if (leaf->birth <= walk->after)
			continue;
		ret_runs[n++] = leaf->run;
		walk->after = leaf->birth;
	}
	tm_unlock(&objects->lock);
	return n;
}

bool tm_objects_any(struct tm_objects *objects, struct tm_oid *ret_oid)
{
	struct tm_table *t = &objects->table;
	bool found = false;

	tm_lock(&objects->lock);
	for (uint32_t i = 0; i < t->buckets && !found; i++) {
		if (t->bucket[i]) {
			*ret_oid = ((struct tm_object *)t->bucket[i])->oid;
			found = true;
		}
	}
	tm_unlock(&objects->lock);
	return found;
}

/* No run has this number. */
static uint64_t object_mark(const struct tm_objects *objects, const struct tm_oid *oid)
{
	return XXH3_64bits_withSeed(oid, sizeof(*oid), (uint64_t)objects->pool << 32 | UINT32_MAX);
}

void tm_index_mark_object(struct tm_objects *objects, const struct tm_oid *oid)
{
	if (objects->ix->marks)
		tm_marks_set(objects->ix->marks, object_mark(objects, oid));
}

bool tm_index_is_object_marked(struct tm_objects *objects, const struct tm_oid *oid)
{
	return objects->ix->marks && tm_marks_has(objects->ix->marks, object_mark(objects, oid));
}
