/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * index_private.h - what index.c (runs and their slots) and objects.c (a pool's objects, and the
 * list of runs that each has) share
 */
#ifndef TM_INDEX_PRIVATE_H
#define TM_INDEX_PRIVATE_H

#include "core/index.h"
#include "core/locks.h"
#include "core/table.h"

#define TM_SHARDS 256u

struct tm_leaf {
	struct tm_item item;           /* shard's lock */
	struct tm_object *object;      /* constant */
	struct tm_leaf *older, *newer; /* in its object; objects' lock */
	uint64_t birth;                /* constant */
	uint64_t *slots;               /* shard's lock, as all that follows */
	uint32_t run;
	uint16_t present;  /* slots in use */
	uint16_t capacity; /* slots there are: 2, 8 or 64 */
};

struct tm_object {
	struct tm_item item; /* objects' lock, as all that is not constant */
	struct tm_objects *objects;
	struct tm_oid oid;
	struct tm_leaf *oldest, *newest;
};

struct tm_shard {
	struct tm_lock lock;
	struct tm_table leaves;
};

struct tm_objects {
	struct tm_index *ix;
	uint32_t pool;
	bool staged;
	_Atomic uint64_t *used_bytes, *object_count;
	struct tm_lock lock; /* of what follows, and of every object and list in it */
	struct tm_table table;
	uint64_t next_birth;
};

struct tm_index {
	struct tm_budget *budget;
	struct tm_changes *_Atomic changes; /* NULL: nobody wants to know */
	struct tm_marks *marks; /* NULL: none; constant once a pool that needs it lives */
	struct tm_shard shards[TM_SHARDS];
};

/* Link `leaf` as the newest of its object. -ENOMEM when the object cannot be made, which a `spare`
 * rules out: *spare becomes it, and NULL. Both take the objects' lock. */
int tm_objects_add_leaf(struct tm_objects *objects, const struct tm_oid *oid, struct tm_leaf *leaf,
	struct tm_object **spare);
void tm_objects_remove_leaf(struct tm_leaf *leaf);

#endif
