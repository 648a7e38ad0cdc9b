/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/table.h"

#include <errno.h>

#define BUCKETS_FIRST 8u

int tm_table_init(struct tm_budget *b, struct tm_table *t)
{
	t->bucket = tm_node_alloc(b, NULL, BUCKETS_FIRST * sizeof(*t->bucket));
	t->buckets = BUCKETS_FIRST;
	return t->bucket ? 0 : -ENOMEM;
}

void tm_table_fini(struct tm_budget *b, struct tm_table *t)
{
	tm_node_free(b, NULL, t->bucket, t->buckets * sizeof(*t->bucket));
}

static void table_link(struct tm_table *t, struct tm_item *item)
{
	struct tm_item **bucket = tm_table_bucket(t, item->hash);

	item->next = *bucket;
	*bucket = item;
}

/* Double the buckets at two items each. Without memory the chains just grow longer. */
static void table_grow(struct tm_budget *b, struct tm_table *t)
{
	struct tm_table bigger = {.buckets = t->buckets * 2, .items = t->items};
	struct tm_item *item, *next;

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
	tm_table_fini(b, t);
	*t = bigger;
}

void tm_table_add(struct tm_budget *b, struct tm_table *t, struct tm_item *item)
{
	table_link(t, item);
	t->items++;
	table_grow(b, t);
}

void tm_table_remove(struct tm_table *t, struct tm_item *item)
{
	struct tm_item **link = tm_table_bucket(t, item->hash);

	while (*link != item)
		link = &(*link)->next;
	*link = item->next;
	t->items--;
}
