/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * box.h - a tmem over a store whose ledger is ours, for what needs struct tmem_ops
 */
#ifndef TM_TEST_BOX_H
#define TM_TEST_BOX_H

#include "tests/unit/pages.h"

struct box {
	struct tmem tmem; /* first */
	struct test_store t;
	_Atomic uint64_t refused; /* puts and writes, for want of room */
};

static inline struct tm_store *store_of(struct tmem *t)
{
	return ((struct box *)t)->t.store;
}

static inline int box_new_pool(struct tmem *t, const struct tm_pool_params *params)
{
	return tm_store_new_pool(store_of(t), params);
}

static inline int note_refusal(struct tmem *t, int rc)
{
	if (rc == -ENOMEM)
		atomic_fetch_add(&((struct box *)t)->refused, 1);
	return rc;
}

static inline int box_put(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, const void *page)
{
	return note_refusal(t, tm_store_put(store_of(t), pool, oid, index, page));
}

static inline int box_get(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, void *ret_page)
{
	return tm_store_get(store_of(t), pool, oid, index, ret_page);
}

static inline int box_flush_page(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	return tm_store_flush_page(store_of(t), pool, oid, index);
}

static inline int box_read(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *ret_buf)
{
	return tm_store_read(store_of(t), pool, oid, index, offset, length, ret_buf);
}

static inline int box_write(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, const void *buf)
{
	return note_refusal(t, tm_store_write(store_of(t), pool, oid, index, offset, length, buf));
}

static inline void box_count(struct tmem *t, int pool, enum tm_stat stat, int64_t delta)
{
	tm_store_count(store_of(t), pool, stat, delta);
}

static inline void box_changed(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	tm_store_changed(store_of(t), pool, oid, index);
}

static inline void box_usage(struct tmem *t, struct tm_usage *ret_usage)
{
	tm_store_usage(store_of(t), ret_usage);
}

static inline void box_close(struct tmem *t)
{
	test_store_close(&((struct box *)t)->t);
}

static const struct tmem_ops box_ops = {
	.name = "box",
	.new_pool = box_new_pool,
	.put = box_put,
	.get = box_get,
	.flush_page = box_flush_page,
	.read = box_read,
	.write = box_write,
	.count = box_count,
	.changed = box_changed,
	.usage = box_usage,
	.close = box_close,
};

static inline void box_open(struct box *b, uint64_t limit)
{
	b->tmem.ops = &box_ops;
	test_store_open(&b->t, limit, 0);
}

#endif
