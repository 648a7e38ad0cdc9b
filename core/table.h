/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * table.h - a hash table of items that bring their own links
 *
 * Chained, doubled at two items a bucket; where there is no memory for that the chains just grow
 * longer. Locking: its user's.
 */
#ifndef TM_TABLE_H
#define TM_TABLE_H

#include <stdint.h>

#include "core/budget.h"

/* What hangs in a bucket: the first member of what is kept. */
struct tm_item {
	struct tm_item *next;
	uint64_t hash;
};

struct tm_table {
	struct tm_item **bucket;
	uint32_t buckets; /* a power of two */
	uint32_t items;
};

/* 0; -ENOMEM. `b` is charged for the buckets. */
int tm_table_init(struct tm_budget *b, struct tm_table *ret_t);
void tm_table_fini(struct tm_budget *b, struct tm_table *t); /* empty already */

/* The chain that an item with this hash is in. Its low 16 bits do not matter: they may have chosen
 * the table. */
static inline struct tm_item **tm_table_bucket(const struct tm_table *t, uint64_t hash)
{
	return &t->bucket[hash >> 16 & (t->buckets - 1)];
}

/* item->hash is set; it is in no table. */
void tm_table_add(struct tm_budget *b, struct tm_table *t, struct tm_item *item);
void tm_table_remove(struct tm_table *t, struct tm_item *item);

#endif
