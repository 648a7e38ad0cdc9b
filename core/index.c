/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/index.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "core/entry.h"
#include "core/locks.h"
#include "core/slot.h"
#include "core/util.h"

#define SHARDS        256u
#define BUCKETS_FIRST 8u

/* No node that a put cannot do without is larger, with what malloc adds. */
#define NODE_BYTES_MAX (TM_LEAF_SLOTS * sizeof(uint64_t) + 64)

/* What hangs in a bucket: the first member of leaves and objects. */
struct item {
	struct item *next;
	uint64_t hash;
};

struct table {
	struct item **bucket;
	uint32_t buckets; /* a power of two */
	uint32_t items;
};

struct tm_leaf {
	struct item item;              /* shard's lock */
	struct tm_object *object;      /* constant */
	struct tm_leaf *older, *newer; /* in its object; objects' lock */
	uint64_t birth;                /* constant */
	uint64_t *slots;               /* shard's lock, as all that follows */
	uint32_t run;
	uint16_t present;  /* slots in use */
	uint16_t capacity; /* slots there are: 2, 8 or 64 */
};

struct tm_object {
	struct item item; /* objects' lock, as all that is not constant */
	struct tm_objects *objects;
	struct tm_oid oid;
	struct tm_leaf *oldest, *newest;
};

struct tm_shard {
	struct tm_lock lock;
	struct table leaves;
};

struct tm_objects {
	struct tm_index *ix;
	uint32_t pool;
	bool staged;
	_Atomic uint64_t *used_bytes, *object_count;
	struct tm_lock lock; /* of what follows, and of every object and list in it */
	struct table table;
	uint64_t next_birth;
};

struct tm_index {
	struct tm_budget *budget;
	struct tm_changes *_Atomic changes; /* NULL: nobody wants to know */
	struct tm_marks *marks; /* NULL: none; constant once a pool that needs it lives */
	struct tm_shard shards[SHARDS];
};

/* --- hash table ----------------------------------------------------------------------------- */

static int table_init(struct tm_budget *b, struct table *t)
{
	t->bucket = tm_node_alloc(b, NULL, BUCKETS_FIRST * sizeof(*t->bucket));
	t->buckets = BUCKETS_FIRST;
	return t->bucket ? 0 : -ENOMEM;
}

static void table_fini(struct tm_budget *b, struct table *t)
{
	tm_node_free(b, NULL, t->bucket, t->buckets * sizeof(*t->bucket));
}

/* Low bits of the hash choose the shard, the ones above 16 the bucket. */
static struct item **table_bucket(const struct table *t, uint64_t hash)
{
	return &t->bucket[hash >> 16 & (t->buckets - 1)];
}

static void table_link(struct table *t, struct item *item)
{
	struct item **bucket = table_bucket(t, item->hash);

	item->next = *bucket;
	*bucket = item;
}

/* Double the buckets at two items each. Without memory the chains just grow longer. */
static void table_grow(struct tm_budget *b, struct table *t)
{
	struct table bigger = {.buckets = t->buckets * 2, .items = t->items};
	struct item *item, *next;

	if (t->items < t->buckets * 2)
		return;
	bigger.bucket = tm_node_alloc(b, NULL, bigger.buckets * sizeof(*bigger.bucket));
	if (!bigger.bucket)
		return;
	for (uint32_t i = 0; i < t->buckets; i++) {
		for (item = t->bucket[i]; item; item = next) {
			next = item->next;
			table_link(&bigger, item);
		}
	}
	table_fini(b, t);
	*t = bigger;
}

static void table_add(struct tm_budget *b, struct table *t, struct item *item)
{
	table_link(t, item);
	t->items++;
	table_grow(b, t);
}

static void table_remove(struct table *t, struct item *item)
{
	struct item **link = table_bucket(t, item->hash);

	while (*link != item)
		link = &(*link)->next;
	*link = item->next;
	t->items--;
}

/* --- objects -------------------------------------------------------------------------------- */

int tm_objects_create(struct tm_index *ix, uint32_t pool, bool staged, _Atomic uint64_t *used_bytes,
	_Atomic uint64_t *object_count, struct tm_objects **ret_objects)
{
	struct tm_objects *objects = tm_node_alloc(ix->budget, NULL, sizeof(*objects));

	if (!objects)
		return -ENOMEM;
	if (table_init(ix->budget, &objects->table) < 0) {
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
	table_fini(b, &objects->table);
	tm_node_free(b, NULL, objects, sizeof(*objects));
}

static struct tm_object *object_find_locked(
	const struct tm_objects *objects, const struct tm_oid *oid)
{
	uint64_t hash = XXH3_64bits(oid, sizeof(*oid));

	for (struct item *i = *table_bucket(&objects->table, hash); i; i = i->next) {
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
	table_add(b, &objects->table, &o->item);
	atomic_fetch_add_explicit(objects->object_count, 1, memory_order_relaxed);
	return o;
}

/* Link `leaf` as the newest of its object. -ENOMEM when the object cannot be made, which a `spare`
 * rules out. */
static int object_add_leaf(struct tm_objects *objects, const struct tm_oid *oid,
	struct tm_leaf *leaf, struct tm_object **spare)
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

static void object_remove_leaf(struct tm_leaf *leaf)
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
		table_remove(&objects->table, &o->item);
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
	struct table *t = &objects->table;
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

/* --- leaves --------------------------------------------------------------------------------- */

static uint32_t run_of(const struct tm_handle *h)
{
	return h->index >> TM_LEAF_SHIFT;
}

static uint32_t slot_of(const struct tm_handle *h)
{
	return h->index & (TM_LEAF_SLOTS - 1);
}

static size_t slots_bytes(uint16_t capacity)
{
	return capacity * sizeof(uint64_t);
}

static struct tm_leaf *leaf_find_locked(
	const struct tm_shard *shard, const struct tm_handle *h, uint64_t hash)
{
	for (struct item *i = *table_bucket(&shard->leaves, hash); i; i = i->next) {
		struct tm_leaf *leaf = (struct tm_leaf *)i;

		if (i->hash == hash && leaf->run == run_of(h) &&
			leaf->object->objects == h->objects &&
			tm_oid_equal(&leaf->object->oid, &h->oid))
			return leaf;
	}
	return NULL;
}

static struct tm_handle handle_of(const struct tm_leaf *leaf, uint32_t n)
{
	return (struct tm_handle){
		leaf->object->objects, leaf->object->oid, leaf->run << TM_LEAF_SHIFT | n};
}

/* Make the leaf's slot array reach `slot`. */
static int leaf_reach_locked(
	struct tm_index *ix, struct tm_objects *objects, struct tm_leaf *leaf, uint32_t slot)
{
	uint16_t capacity = slot < 2 ? 2 : slot < 8 ? 8 : TM_LEAF_SLOTS;
	uint64_t *slots;

	if (slot < leaf->capacity)
		return 0;
	slots = tm_node_alloc(ix->budget, objects->used_bytes, slots_bytes(capacity));
	if (!slots)
		return -ENOMEM;
	if (leaf->slots)
		memcpy(slots, leaf->slots, slots_bytes(leaf->capacity));
	tm_node_free(ix->budget, objects->used_bytes, leaf->slots, slots_bytes(leaf->capacity));
	leaf->slots = slots;
	leaf->capacity = capacity;
	return 0;
}

static void leaf_free(struct tm_index *ix, struct tm_objects *objects, struct tm_leaf *leaf)
{
	tm_node_free(ix->budget, objects->used_bytes, leaf->slots, slots_bytes(leaf->capacity));
	tm_node_free(ix->budget, objects->used_bytes, leaf, sizeof(*leaf));
}

static struct tm_leaf *leaf_make_locked(struct tm_cursor *c, const struct tm_handle *h)
{
	struct tm_index *ix = c->ix;
	struct tm_leaf *leaf = tm_node_alloc(ix->budget, h->objects->used_bytes, sizeof(*leaf));

	if (!leaf)
		return NULL;
	leaf->item.hash = c->hash;
	leaf->run = run_of(h);
	if (leaf_reach_locked(ix, h->objects, leaf, slot_of(h)) < 0 ||
		object_add_leaf(h->objects, &h->oid, leaf, NULL) < 0) {
		leaf_free(ix, h->objects, leaf);
		return NULL;
	}
	table_add(ix->budget, &c->shard->leaves, &leaf->item);
	return leaf;
}

/* --- index ---------------------------------------------------------------------------------- */

int tm_index_create(struct tm_budget *b, struct tm_index **ret_ix)
{
	struct tm_index *ix = tm_node_alloc(b, NULL, sizeof(*ix));

	if (!ix)
		return -ENOMEM;
	ix->budget = b;
	for (uint32_t i = 0; i < SHARDS; i++) {
		tm_lock_init(&ix->shards[i].lock, TM_LOCK_SHARD);
		if (table_init(b, &ix->shards[i].leaves) < 0) {
			tm_index_destroy(ix);
			return -ENOMEM;
		}
	}
	*ret_ix = ix;
	return 0;
}

void tm_index_destroy(struct tm_index *ix)
{
	tm_marks_destroy(ix->marks);
	for (uint32_t i = 0; i < SHARDS; i++) {
		tm_lock_destroy(&ix->shards[i].lock);
		table_fini(ix->budget, &ix->shards[i].leaves);
	}
	tm_node_free(ix->budget, NULL, ix, sizeof(*ix));
}

static void cursor_aim(struct tm_cursor *c, const struct tm_handle *h)
{
	c->slot = c->leaf && slot_of(h) < c->leaf->capacity ? &c->leaf->slots[slot_of(h)] : NULL;
}

static uint64_t hash_of(const struct tm_handle *h)
{
	return XXH3_64bits_withSeed(
		&h->oid, sizeof(h->oid), (uint64_t)h->objects->pool << 32 | run_of(h));
}

void tm_index_lock(struct tm_index *ix, const struct tm_handle *h, struct tm_cursor *ret_cursor)
{
	struct tm_cursor *c = ret_cursor;

	c->ix = ix;
	c->hash = hash_of(h);
	c->shard = &ix->shards[c->hash % SHARDS];
	tm_lock(&c->shard->lock);
	c->leaf = leaf_find_locked(c->shard, h, c->hash);
	cursor_aim(c, h);
}

/* Of a run's hash, the bits that choose shard and bucket, as long as those are fewer than 65,536.
 */
static uint64_t clue_hash(uint64_t hash)
{
	return hash & TM_CLUE_MASK >> TM_LEAF_SHIFT;
}

uint64_t tm_index_clue(const struct tm_handle *h)
{
	return clue_hash(hash_of(h)) << TM_LEAF_SHIFT | slot_of(h);
}

bool tm_index_lock_clue(struct tm_index *ix, struct tm_objects *objects, uint64_t clue,
	struct tm_handle *ret_handle, struct tm_cursor *ret_cursor)
{
	uint64_t hash = clue >> TM_LEAF_SHIFT;
	struct tm_shard *shard = &ix->shards[hash % SHARDS];

	tm_lock(&shard->lock);
	for (struct item *i = *table_bucket(&shard->leaves, hash); i; i = i->next) {
		struct tm_leaf *leaf = (struct tm_leaf *)i;

		if (clue_hash(i->hash) != hash || leaf->object->objects != objects)
			continue;
		*ret_handle = handle_of(leaf, clue & (TM_LEAF_SLOTS - 1));
		*ret_cursor =
			(struct tm_cursor){.ix = ix, .shard = shard, .leaf = leaf, .hash = i->hash};
		cursor_aim(ret_cursor, ret_handle);
		return true;
	}
	tm_unlock(&shard->lock);
	return false;
}

int tm_index_make_locked(struct tm_cursor *c, const struct tm_handle *h)
{
	if (!c->leaf)
		c->leaf = leaf_make_locked(c, h);
	if (!c->leaf || leaf_reach_locked(c->ix, h->objects, c->leaf, slot_of(h)) < 0)
		return tm_budget_nodes_low(c->ix->budget, NODE_BYTES_MAX) ? -ENOBUFS : -ENOMEM;
	cursor_aim(c, h);
	return 0;
}

uint64_t tm_cursor_get(const struct tm_cursor *c)
{
	return c->slot ? *c->slot : TM_SLOT_NONE;
}

/* Tell whoever wants to know that the page at the cursor changes. */
static void tell_locked(const struct tm_cursor *c)
{
	struct tm_changes *changes = atomic_load_explicit(&c->ix->changes, memory_order_acquire);
	const struct tm_object *o = c->leaf->object;

	if (o->objects->staged)
		return;
	if (c->ix->marks)
		tm_marks_set(c->ix->marks, c->hash);
	if (changes)
		tm_changes_note(changes,
			&(struct tm_changed_run){.hash = c->hash,
				.oid = o->oid,
				.run = c->leaf->run,
				.pool = o->objects->pool},
			(unsigned int)(c->slot - c->leaf->slots));
}

void tm_index_note_locked(const struct tm_cursor *c, const struct tm_handle *h)
{
	struct tm_changes *changes = atomic_load_explicit(&c->ix->changes, memory_order_acquire);

	if (changes)
		tm_changes_note(changes,
			&(struct tm_changed_run){.hash = c->hash,
				.oid = h->oid,
				.run = h->index >> TM_LEAF_SHIFT,
				.pool = h->objects->pool},
			h->index % TM_LEAF_SLOTS);
}

void tm_cursor_set(struct tm_cursor *c, uint64_t slot)
{
	if (tm_slot_location(slot) != tm_slot_location(*c->slot)) /* more than a hit */
		tell_locked(c);
	c->leaf->present += (slot != TM_SLOT_NONE) - (*c->slot != TM_SLOT_NONE);
	*c->slot = slot;
}

static void leaf_remove_locked(struct tm_index *ix, struct tm_shard *shard, struct tm_leaf *leaf)
{
	struct tm_objects *objects = leaf->object->objects;

	table_remove(&shard->leaves, &leaf->item);
	object_remove_leaf(leaf);
	leaf_free(ix, objects, leaf);
}

void tm_index_unlock(struct tm_cursor *c)
{
	if (c->leaf && c->leaf->present == 0)
		leaf_remove_locked(c->ix, c->shard, c->leaf);
	tm_unlock(&c->shard->lock);
}

uint64_t tm_cursor_page(const struct tm_cursor *c, unsigned int n)
{
	return c->leaf && n < c->leaf->capacity ? c->leaf->slots[n] : TM_SLOT_NONE;
}

int tm_index_publish_locked(struct tm_cursor *c, struct tm_objects *to)
{
	struct tm_objects *from = c->leaf->object->objects;
	struct tm_oid oid = c->leaf->object->oid;
	struct tm_object *spare = tm_node_alloc(c->ix->budget, to->used_bytes, sizeof(*spare));

	if (!spare)
		return -ENOMEM;
	/* Both hash alike, so the leaf stays in its bucket. */
	object_remove_leaf(c->leaf);
	object_add_leaf(to, &oid, c->leaf, &spare);
	tm_node_free(from->ix->budget, to->used_bytes, spare, sizeof(*spare));
	return 0;
}

void tm_index_tell(struct tm_index *ix, struct tm_changes *changes)
{
	atomic_store(&ix->changes, changes);
	for (uint32_t s = 0; s < SHARDS; s++) { /* whoever missed it is out after this */
		tm_lock(&ix->shards[s].lock);
		tm_unlock(&ix->shards[s].lock);
	}
}

/* --- marks ------------------------------------------------------------------------------------ */

int tm_index_keep_marks(struct tm_index *ix, uint64_t limit)
{
	return ix->marks ? 0 : tm_marks_create(ix->budget, limit, &ix->marks);
}

void tm_index_mark(struct tm_index *ix, uint64_t hash)
{
	if (ix->marks)
		tm_marks_set(ix->marks, hash);
}

void tm_index_mark_locked(struct tm_cursor *c)
{
	tm_index_mark(c->ix, c->hash);
}

bool tm_index_is_marked_locked(const struct tm_cursor *c)
{
	return c->ix->marks && tm_marks_has(c->ix->marks, c->hash);
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

/* --- all of it ---------------------------------------------------------------------------------
 */

static void drop_from_leaf_locked(struct tm_cursor *c,
	bool (*drop)(void *opaque, const struct tm_handle *h, uint64_t slot), void *opaque)
{
	struct tm_handle h = handle_of(c->leaf, 0);

	for (uint32_t n = 0; n < c->leaf->capacity; n++) {
		c->slot = &c->leaf->slots[n];
		h.index = c->leaf->run << TM_LEAF_SHIFT | n;
		if (*c->slot != TM_SLOT_NONE && drop(opaque, &h, *c->slot))
			tm_cursor_set(c, TM_SLOT_NONE);
	}
	if (c->leaf->present == 0)
		leaf_remove_locked(c->ix, c->shard, c->leaf);
}

void tm_index_drop(struct tm_index *ix,
	bool (*drop)(void *opaque, const struct tm_handle *h, uint64_t slot), void *opaque)
{
	for (uint32_t s = 0; s < SHARDS; s++) {
		struct tm_shard *shard = &ix->shards[s];
		struct item *item, *next;

		tm_lock(&shard->lock);
		for (uint32_t b = 0; b < shard->leaves.buckets; b++) {
			for (item = shard->leaves.bucket[b]; item; item = next) {
				struct tm_cursor c = {.ix = ix,
					.shard = shard,
					.leaf = (struct tm_leaf *)item,
					.hash = item->hash};

				next = item->next; /* the leaf may go */
				drop_from_leaf_locked(&c, drop, opaque);
			}
		}
		tm_unlock(&shard->lock);
	}
}

void tm_index_each(struct tm_index *ix,
	void (*visit)(void *opaque, const struct tm_handle *h, uint64_t slot), void *opaque)
{
	for (uint32_t s = 0; s < SHARDS; s++) {
		struct table *t = &ix->shards[s].leaves;

		tm_lock(&ix->shards[s].lock);
		for (uint32_t b = 0; b < t->buckets; b++) {
			for (struct item *i = t->bucket[b]; i; i = i->next) {
				struct tm_leaf *leaf = (struct tm_leaf *)i;

				for (uint32_t n = 0; n < leaf->capacity; n++) {
					struct tm_handle h = handle_of(leaf, n);

					if (leaf->slots[n] != TM_SLOT_NONE)
						visit(opaque, &h, leaf->slots[n]);
				}
			}
		}
		tm_unlock(&ix->shards[s].lock);
	}
}
