/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * index.h - handle -> slot
 *
 *      hash(pool, object, index / 64) -> shard -> bucket -> leaf -> slot[index % 64]
 *                                                            |
 *      hash(object) -> objects of a pool -> object -- list of its leaves, oldest first
 *
 * A leaf covers a run of 64 pages of one object: 8 bytes a page when the run is full, and its slot
 * array is cut to 2 or 8 for small files. Hashing runs, not objects, spreads one huge object (a
 * swap device) over every lock; the radix tree per object that we planned first would have needed
 * locks inside the tree for the same.
 *
 * Invariants
 *   1. A leaf is in its bucket and in its object's list, or in neither; it has at least one slot.
 *   2. An object exists as long as it has a leaf.
 *   3. Slots change only under their shard's lock.
 *
 * Locking: a shard's lock (TM_LOCK_SHARD) for its leaves, then the pool's objects' lock
 * (TM_LOCK_OBJECTS) to link or unlink one.
 */
#ifndef TM_INDEX_H
#define TM_INDEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/budget.h"
#include "core/changes.h"
#include "core/tmem.h"

#define TM_LEAF_SHIFT 6
#define TM_LEAF_SLOTS (1u << TM_LEAF_SHIFT)

struct tm_index;
struct tm_objects;

/* The name of a page, with its pool resolved. */
struct tm_handle {
	struct tm_objects *objects;
	struct tm_oid oid;
	uint32_t index;
};

/* A locked place in the index. `slot` is NULL where no leaf has room for the handle. */
struct tm_cursor {
	struct tm_index *ix;
	struct tm_shard *shard;
	struct tm_leaf *leaf;
	uint64_t hash;
	uint64_t *slot;
};

/* 0; -ENOMEM. `b` outlives the index. */
int tm_index_create(struct tm_budget *b, struct tm_index **ret_ix);
/* Every pool's objects are gone already. */
void tm_index_destroy(struct tm_index *ix);

/* The objects of one pool. `pool` distinguishes pools in the hash; the gauges are the pool's.
 * `staged`: of a pool's pages that are not published yet, in an index of their own beside it;
 * nobody is told of changes in there. */
int tm_objects_create(struct tm_index *ix, uint32_t pool, bool staged, _Atomic uint64_t *used_bytes,
	_Atomic uint64_t *object_count, struct tm_objects **ret_objects);
void tm_objects_destroy(struct tm_objects *objects); /* empty already */

/* Lock the handle's region and look it up. Always succeeds; cursor->slot may be NULL. */
void tm_index_lock(struct tm_index *ix, const struct tm_handle *h, struct tm_cursor *ret_cursor);

/*
 * A handle's clue: a few bits that lead back to it as long as its run has pages; or, one time in
 * very many, to another one. Locks the place it leads to; false, and nothing locked, where there is
 * none in `objects`.
 */
#define TM_CLUE_BITS 38
#define TM_CLUE_MASK ((1ull << TM_CLUE_BITS) - 1)
uint64_t tm_index_clue(const struct tm_handle *h);
bool tm_index_lock_clue(struct tm_index *ix, struct tm_objects *objects, uint64_t clue,
	struct tm_handle *ret_handle, struct tm_cursor *ret_cursor);

/* Make cursor->slot exist. 0; -ENOMEM, or -ENOBUFS when the nodes set aside in a resident store are
 * used up; nothing changed then. */
int tm_index_make_locked(struct tm_cursor *cursor, const struct tm_handle *h);

/* The slot's value (TM_SLOT_NONE without one), and its change. */
uint64_t tm_cursor_get(const struct tm_cursor *cursor);
void tm_cursor_set(struct tm_cursor *cursor, uint64_t slot);

/* What the leaf under the cursor has for the n-th page of its run. */
uint64_t tm_cursor_page(const struct tm_cursor *cursor, unsigned int n);

/* The leaf of a staged object, with all its pages, becomes one of `to`: the same pool's objects,
 * which have none for this run. 0; -ENOMEM, nothing changed then. */
int tm_index_publish_locked(struct tm_cursor *cursor, struct tm_objects *to);

/* Unlock, and free the leaf if it lost its last slot. */
void tm_index_unlock(struct tm_cursor *cursor);

/*
 * The runs of an object, as they were when the walk began; runs made later may be left out.
 *      struct tm_walk walk = {0};
 *      while ((n = tm_objects_walk(objects, oid, &walk, runs, TM_ARRAY_SIZE(runs)))) ...
 * A run number r names indexes r * 64 to r * 64 + 63.
 */
struct tm_walk {
	uint64_t after, until; /* births of leaves */
};
size_t tm_objects_walk(struct tm_objects *objects, const struct tm_oid *oid, struct tm_walk *walk,
	uint32_t *ret_runs, size_t max);

/* Any one object of the pool. False when there is none. */
bool tm_objects_any(struct tm_objects *objects, struct tm_oid *ret_oid);

/* From when this returns, tell `changes` of every page that is put, moved or removed; NULL: no
 * longer, and nobody is in the middle of telling. */
void tm_index_tell(struct tm_index *ix, struct tm_changes *changes);

/* Tell it of a page that changed elsewhere than here; the cursor is the handle's. */
void tm_index_note_locked(const struct tm_cursor *cursor, const struct tm_handle *h);

/* Mark from now on what is put or flushed (for good; a second call does nothing). 0; -ENOMEM.
 * Before the first ephemeral pool is used. A mark for the cursor's run, for a run by the hash a
 * cursor had there, or for a whole object. */
int tm_index_keep_marks(struct tm_index *ix, uint64_t limit);
void tm_index_mark_locked(struct tm_cursor *cursor);
void tm_index_mark(struct tm_index *ix, uint64_t hash);
bool tm_index_is_marked_locked(const struct tm_cursor *cursor);
void tm_index_mark_object(struct tm_objects *objects, const struct tm_oid *oid);
bool tm_index_is_object_marked(struct tm_objects *objects, const struct tm_oid *oid);

/* Take out every slot for which `drop` says true, each under its shard's lock, in one walk over all
 * there is. */
void tm_index_drop(struct tm_index *ix,
	bool (*drop)(void *opaque, const struct tm_handle *h, uint64_t slot), void *opaque);

/* Call `visit` for every present slot of every pool, each under its shard's lock. For checks. */
void tm_index_each(struct tm_index *ix,
	void (*visit)(void *opaque, const struct tm_handle *h, uint64_t slot), void *opaque);

#endif
