/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * none.c - the tmem that has no memory
 *
 * What a front end runs on when it cannot or must not keep anything: every call is -ENOSYS, which
 * every caller has to survive anyway, since any put may be refused and any get may miss.
 */
#include <errno.h>

#include "core/tmem.h"

static int none_new_pool(struct tmem *t, const struct tm_pool_params *params)
{
	(void)t, (void)params;
	return -ENOSYS;
}

static int none_destroy_pool(struct tmem *t, int pool)
{
	(void)t, (void)pool;
	return -ENOSYS;
}

static int none_put(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, const void *page)
{
	(void)t, (void)pool, (void)oid, (void)index, (void)page;
	return -ENOSYS;
}

static int none_get(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, void *ret_page)
{
	(void)t, (void)pool, (void)oid, (void)index, (void)ret_page;
	return -ENOSYS;
}

static int none_get_many(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t count, void *ret_pages, bool *ret_missed)
{
	(void)t, (void)pool, (void)oid, (void)index, (void)ret_pages;
	for (uint32_t i = 0; i < count; i++)
		ret_missed[i] = true;
	return -ENOSYS;
}

static int none_flush_page(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	(void)t, (void)pool, (void)oid, (void)index;
	return -ENOSYS;
}

static int none_flush_object(struct tmem *t, int pool, const struct tm_oid *oid)
{
	(void)t, (void)pool, (void)oid;
	return -ENOSYS;
}

static int none_read(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *ret_buf)
{
	(void)t, (void)pool, (void)oid, (void)index, (void)offset, (void)length, (void)ret_buf;
	return -ENOSYS;
}

static int none_write(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, const void *buf)
{
	(void)t, (void)pool, (void)oid, (void)index, (void)offset, (void)length, (void)buf;
	return -ENOSYS;
}

static int none_xchg(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *buf)
{
	(void)t, (void)pool, (void)oid, (void)index, (void)offset, (void)length, (void)buf;
	return -ENOSYS;
}

static void none_count(struct tmem *t, int pool, enum tm_stat stat, int64_t delta)
{
	(void)t, (void)pool, (void)stat, (void)delta;
}

static void none_changed(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	(void)t, (void)pool, (void)oid, (void)index;
}

static void none_usage(struct tmem *t, struct tm_usage *ret_usage)
{
	(void)t;
	*ret_usage = (struct tm_usage){0};
}

static void none_close(struct tmem *t)
{
	(void)t;
}

static const struct tmem_ops none_ops = {
	.name = "none",
	.new_pool = none_new_pool,
	.destroy_pool = none_destroy_pool,
	.put = none_put,
	.get = none_get,
	.get_many = none_get_many,
	.flush_page = none_flush_page,
	.flush_object = none_flush_object,
	.read = none_read,
	.write = none_write,
	.xchg = none_xchg,
	.count = none_count,
	.changed = none_changed,
	.usage = none_usage,
	.close = none_close,
};

struct tmem *tm_none(void)
{
	static struct tmem none = {&none_ops};

	return &none;
}
