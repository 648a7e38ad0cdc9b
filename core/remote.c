/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remote.c - struct tmem_ops over a connection to a shared pool's server
 *
 *      call: take a lane -> [pages into its slot] -> request, reply -> [pages out] -> give it back
 *
 * A call whose request or reply is lost is a miss, a refusal, or done, as its promise has it:
 * lanes.c sees to it that the pages it was to remove are gone before the server is talked to again.
 * Counters are sent along now and then, not one by one.
 *
 * Locking: none here; pools are made and destroyed by one thread at a time.
 */
#include "core/remote.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/lanes.h"
#include "core/util.h"

#define NOT_DELIVERED (-EAGAIN) /* of a call, before it is translated */

struct remote {
	struct tmem tmem; /* first: what callers see */
	struct tm_remote_params params;
	_Atomic(struct tm_lanes *) lanes;      /* NULL: there is no pool */
	uint32_t page_bytes;                   /* constant while there is one */
	_Atomic int64_t counts[TM_STAT_COUNT]; /* not sent yet */
};

struct call {
	struct tm_share_request request;
	struct tm_share_reply reply;
	const void *in; /* `in_bytes` go to the slot first */
	size_t in_bytes;
	void *out; /* `out_bytes` come from it after a success */
	size_t out_bytes;
	bool *missed; /* GET: only the pages that are there, and this says which */
	const struct tm_oid *lose;
};

/* Copy the pages that were found out of the slot. Returns how many. */
static int take_pages(const struct remote *r, struct call *call, const uint8_t *slot)
{
	int hits = 0;

	for (uint32_t i = 0; i < call->request.count; i++) {
		call->missed[i] = !(call->reply.pages[i / 64] >> i % 64 & 1);
		if (call->missed[i])
			continue;
		memcpy((uint8_t *)call->out + (size_t)i * r->page_bytes,
			slot + (size_t)i * r->page_bytes, r->page_bytes);
		hits++;
	}
	return hits;
}

/* The status of the reply, of GET the number of hits, or what tm_lanes_take() says. */
static int run_call(struct remote *r, int pool, struct call *call)
{
	const uint64_t *w = call->request.oid.w;
	struct tm_lanes *lanes = r->lanes;
	uint8_t *slot;
	int lane, rc;

	if (pool != 0 || !lanes)
		return -ENOENT;
	if ((w[0] & w[1] & w[2]) == UINT64_MAX)
		return -EINVAL;
	lane = tm_lanes_take(lanes, call->lose);
	if (lane < 0)
		return lane;
	slot = tm_lanes_slot(lanes, lane);
	if (call->in)
		memcpy(slot, call->in, call->in_bytes);
	rc = tm_lanes_exchange(lanes, lane, &call->request, &call->reply);
	if (rc < 0) {
		tm_lanes_give(lanes, lane, true, call->lose);
		return rc;
	}
	rc = call->reply.status;
	if (rc == 0 && call->missed)
		rc = take_pages(r, call, slot);
	else if (rc == 0 && call->out)
		memcpy(call->out, slot, call->out_bytes);
	tm_lanes_give(lanes, lane, false, NULL);
	return rc;
}

/* --- the calls -------------------------------------------------------------------------------- */

static int or_else(int rc, int undelivered)
{
	return rc == NOT_DELIVERED ? undelivered : rc;
}

static int remote_put(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, const void *page)
{
	struct remote *r = (struct remote *)t;
	struct call call = {
		.request = {.op = TM_SHARE_PUT, .index = index, .count = 1, .oid = *oid},
		.in = page,
		.in_bytes = r->page_bytes,
		.lose = oid,
	};

	return or_else(run_call(r, pool, &call), -ENOMEM);
}

static int remote_get_many(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t count, void *ret_pages, bool *ret_missed)
{
	struct remote *r = (struct remote *)t;
	uint32_t most = r->lanes ? TM_SHARE_SLOT / r->page_bytes : 1;
	int hits = 0, rc = 0;

	memset(ret_missed, true, count * sizeof(*ret_missed));
	for (uint32_t done = 0; rc >= 0 && done < count; done += most) {
		struct call call = {
			.request = {.op = TM_SHARE_GET,
				.index = index + done,
				.count = TM_MIN(count - done, most),
				.oid = *oid},
			.out = (uint8_t *)ret_pages + (size_t)done * r->page_bytes,
			.missed = ret_missed + done,
		};

		rc = run_call(r, pool, &call);
		hits += TM_MAX(rc, 0);
	}
	return rc < 0 && hits == 0 ? or_else(rc, 0) : hits;
}

static int remote_get(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, void *ret_page)
{
	bool missed;
	int rc = remote_get_many(t, pool, oid, index, 1, ret_page, &missed);

	return rc == 1 ? 0 : rc == 0 ? -ENOENT : rc;
}

static int flush(
	struct tmem *t, int pool, enum tm_share_op op, const struct tm_oid *oid, uint32_t index)
{
	struct call call = {
		.request = {.op = op, .index = index, .oid = *oid},
		.lose = oid,
	};

	return or_else(run_call((struct remote *)t, pool, &call), 0);
}

static int remote_flush_page(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	return flush(t, pool, TM_SHARE_FLUSH_PAGE, oid, index);
}

static int remote_flush_object(struct tmem *t, int pool, const struct tm_oid *oid)
{
	return flush(t, pool, TM_SHARE_FLUSH_OBJECT, oid, 0);
}

/* Bytes that do not fit a page never go to the slot. */
static int range_call(struct tmem *t, int pool, struct call *call)
{
	struct remote *r = (struct remote *)t;
	uint32_t offset = call->request.offset, length = call->request.length;

	if (r->lanes && (offset > r->page_bytes || length > r->page_bytes - offset))
		return -EINVAL;
	return run_call(r, pool, call);
}

static int remote_read(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *ret_buf)
{
	struct call call = {
		.request = {.op = TM_SHARE_READ,
			.index = index,
			.offset = offset,
			.length = length,
			.oid = *oid},
		.out = ret_buf,
		.out_bytes = length,
	};

	return or_else(range_call(t, pool, &call), -ENOENT);
}

static int remote_write(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, const void *buf)
{
	struct call call = {
		.request = {.op = TM_SHARE_WRITE,
			.index = index,
			.offset = offset,
			.length = length,
			.oid = *oid},
		.in = buf,
		.in_bytes = length,
		.lose = oid,
	};

	return or_else(range_call(t, pool, &call), -ENOMEM);
}

static int remote_xchg(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *buf)
{
	struct call call = {
		.request = {.op = TM_SHARE_XCHG,
			.index = index,
			.offset = offset,
			.length = length,
			.oid = *oid},
		.in = buf,
		.in_bytes = length,
		.out = buf,
		.out_bytes = length,
		.lose = oid,
	};

	return or_else(range_call(t, pool, &call), -ENOMEM);
}

static void remote_count(struct tmem *t, int pool, enum tm_stat stat, int64_t delta)
{
	struct remote *r = (struct remote *)t;

	if (pool == 0 && r->lanes && tm_share_counts(stat))
		atomic_fetch_add_explicit(&r->counts[stat], delta, memory_order_relaxed);
}

static void remote_usage(struct tmem *t, struct tm_usage *ret_usage)
{
	struct call call = {.request = {.op = TM_SHARE_USAGE}};
	int rc = run_call((struct remote *)t, 0, &call);

	*ret_usage = (struct tm_usage){0};
	if (rc == 0) {
		*ret_usage = (struct tm_usage){
			.live_bytes = call.reply.live_bytes,
			.limit_bytes = call.reply.limit_bytes,
			.frozen = call.reply.frozen,
		};
	}
}

/* --- pools, open and close -------------------------------------------------------------------- */

static void send_counts(void *opaque)
{
	struct remote *r = opaque;

	for (uint32_t stat = 0; stat < TM_STAT_COUNT; stat++) {
		struct call call = {.request = {.op = TM_SHARE_COUNT, .stat = stat}};

		call.request.delta = atomic_exchange(&r->counts[stat], 0);
		if (call.request.delta != 0)
			(void)run_call(r, 0, &call);
	}
}

static void on_gone(void *opaque)
{
	struct remote *r = opaque;

	if (r->params.on_destroyed)
		r->params.on_destroyed(r->params.destroyed_opaque);
}

static int check_params(const struct tm_pool_params *params)
{
	uint32_t flags = params->flags;

	if (flags >> TM_POOL_VERSION_SHIFT != TM_SPEC_VERSION || flags & TM_POOL_RESERVED ||
		(flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT > TM_ORDER_MAX)
		return -EINVAL;
	if (params->attrs & ~TM_POOL_ATTRS || !params->name || strlen(params->name) > TM_NAME_MAX)
		return -EINVAL;
	return flags & (TM_POOL_PRECOMPRESSED | TM_POOL_PERSIST) || !(flags & TM_POOL_SHARED)
		? -EOPNOTSUPP
		: 0;
}

static int remote_new_pool(struct tmem *t, const struct tm_pool_params *params)
{
	struct remote *r = (struct remote *)t;
	struct tm_lanes_params lanes_params = {
		.join = r->params.join,
		.join_opaque = r->params.opaque,
		.patience_ms = r->params.patience_ms,
		.tick = send_counts,
		.gone = on_gone,
		.opaque = r,
	};
	struct tm_share_hello hello = {
		.magic = TM_SHARE_MAGIC,
		.version = TM_SHARE_VERSION,
		.uuid = params->uuid,
		.flags = params->flags,
		.attrs = params->attrs | TM_POOL_RETAIN,
	};
	struct tm_lanes *lanes;
	int rc = check_params(params);

	if (rc == 0 && r->lanes)
		rc = -ENFILE;
	if (rc < 0)
		return rc;
	r->page_bytes = TM_PAGE_SIZE
		<< ((params->flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT);
	rc = tm_lanes_open(&lanes_params, &hello, &lanes);
	if (rc == 0)
		r->lanes = lanes;
	return rc;
}

/* The others go on with what is stored. */
static int remote_destroy_pool(struct tmem *t, int pool)
{
	struct remote *r = (struct remote *)t;
	struct tm_lanes *lanes = r->lanes;

	if (pool != 0 || !lanes)
		return -ENOENT;
	send_counts(r);
	r->lanes = NULL;
	tm_lanes_close(lanes);
	return 0;
}

/* Shared pools are not persistent, so no front end has pages of one elsewhere. */
static void remote_changed(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	(void)t, (void)pool, (void)oid, (void)index;
}

static void remote_close(struct tmem *t)
{
	struct remote *r = (struct remote *)t;

	remote_destroy_pool(t, 0);
	if (r->params.close)
		r->params.close(r->params.opaque);
	free(r);
}

static const struct tmem_ops remote_ops = {
	.name = "remote",
	.new_pool = remote_new_pool,
	.destroy_pool = remote_destroy_pool,
	.put = remote_put,
	.get = remote_get,
	.get_many = remote_get_many,
	.flush_page = remote_flush_page,
	.flush_object = remote_flush_object,
	.read = remote_read,
	.write = remote_write,
	.xchg = remote_xchg,
	.count = remote_count,
	.changed = remote_changed,
	.usage = remote_usage,
	.close = remote_close,
};

int tm_remote_open(const struct tm_remote_params *params, struct tmem **ret_tmem)
{
	struct remote *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->tmem.ops = &remote_ops;
	r->params = *params;
	*ret_tmem = &r->tmem;
	return 0;
}
