/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "core/entry.h"
#include "core/index_private.h"
#include "core/slot.h"
#include "core/util.h"

/* No node that a put cannot do without is larger, with what malloc adds. */
#define NODE_BYTES_MAX (TM_LEAF_SLOTS * sizeof(uint64_t) + 64)

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
	for (struct tm_item *i = *tm_table_bucket(&shard->leaves, hash); i; i = i->next) {
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
		tm_objects_add_leaf(h->objects, &h->oid, leaf, NULL) < 0) {
		leaf_free(ix, h->objects, leaf);
		return NULL;
	}
	tm_table_add(ix->budget, &c->shard->leaves, &leaf->item);
	return leaf;
}

/* --- index ---------------------------------------------------------------------------------- */

int tm_index_create(struct tm_budget *b, struct tm_index **ret_ix)
{
	struct tm_index *ix = tm_node_alloc(b, NULL, sizeof(*ix));

	if (!ix)
		return -ENOMEM;
	ix->budget = b;
	for (uint32_t i = 0; i < TM_SHARDS; i++) {
		tm_lock_init(&ix->shards[i].lock, TM_LOCK_SHARD);
		if (tm_table_init(b, &ix->shards[i].leaves) < 0) {
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
	for (uint32_t i = 0; i < TM_SHARDS; i++) {
		tm_lock_destroy(&ix->shards[i].lock);
		tm_table_fini(ix->budget, &ix->shards[i].leaves);
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
	c->shard = &ix->shards[c->hash % TM_SHARDS];
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
	struct tm_shard *shard = &ix->shards[hash % TM_SHARDS];

	tm_lock(&shard->lock);
	for (struct tm_item *i = *tm_table_bucket(&shard->leaves, hash); i; i = i->next) {
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

	tm_table_remove(&shard->leaves, &leaf->item);
	tm_objects_remove_leaf(leaf);
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
	tm_objects_remove_leaf(c->leaf);
	tm_objects_add_leaf(to, &oid, c->leaf, &spare);
	tm_node_free(from->ix->budget, to->used_bytes, spare, sizeof(*spare));
	return 0;
}

void tm_index_tell(struct tm_index *ix, struct tm_changes *changes)
{
	atomic_store(&ix->changes, changes);
	for (uint32_t s = 0; s < TM_SHARDS; s++) { /* whoever missed it is out after this */
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
	for (uint32_t s = 0; s < TM_SHARDS; s++) {
		struct tm_shard *shard = &ix->shards[s];
		struct tm_item *item, *next;

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
	for (uint32_t s = 0; s < TM_SHARDS; s++) {
		struct tm_table *t = &ix->shards[s].leaves;

		tm_lock(&ix->shards[s].lock);
		for (uint32_t b = 0; b < t->buckets; b++) {
			for (struct tm_item *i = t->bucket[b]; i; i = i->next) {
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
