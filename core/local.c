/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * local.c - tm_open(): a store in this process, its ledger, and its link to the host
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "core/heap.h"
#include "core/ledger.h"
#include "core/link.h"
#include "core/move.h"
#include "core/sampler.h"
#include "core/store.h"
#include "core/tmem.h"
#include "core/transfer.h"
#include "core/util.h"

struct local {
	struct tmem tmem; /* first: what callers see */
	struct tm_store *store;
	struct tm_ledger *ledger;
	int ledger_fd;
	char name[TM_NAME_MAX + 1], type[TM_NAME_MAX + 1];
	struct tm_move_params who; /* with these names, for the transfer */
	struct tm_transfer *transfer;
	struct tm_link *link; /* NULL: no host wanted */
	bool resident;
	struct tm_sampler *_Atomic sampler; /* NULL: no ephemeral pool yet, or no memory for it */
	_Atomic bool destroyed;
	void (*on_destroyed)(void *opaque);
	void (*on_sharer)(void *opaque, int fd, uid_t uid);
	void *opaque;
};

static struct tm_store *store_of(struct tmem *t)
{
	return ((struct local *)t)->store;
}

static struct tm_sampler *sampler_of(struct tmem *t)
{
	return atomic_load_explicit(&((struct local *)t)->sampler, memory_order_acquire);
}

/* Whoever swaps to a store has no memory to spare for one; nobody asks for its curve either. */
static void sample_pool(struct local *l, int pool, const struct tm_pool_params *params)
{
	struct tm_sampler *expected = NULL, *s = sampler_of(&l->tmem);

	if (l->resident || params->flags & TM_POOL_PERSIST)
		return;
	if (!s && tm_sampler_create(l->ledger, &s) == 0 &&
		!atomic_compare_exchange_strong(&l->sampler, &expected, s)) {
		tm_sampler_destroy(s);
		s = expected;
	}
	tm_sampler_add_pool(s, pool, params);
}

static int local_new_pool(struct tmem *t, const struct tm_pool_params *params)
{
	struct local *l = (struct local *)t;
	int pool = l->destroyed ? -ENOENT : tm_store_new_pool(l->store, params);

	if (pool >= 0)
		sample_pool(l, pool, params);
	return pool;
}

static int local_destroy_pool(struct tmem *t, int pool)
{
	tm_sampler_remove_pool(sampler_of(t), pool);
	return tm_store_destroy_pool(store_of(t), pool);
}

static int local_put(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, const void *page)
{
	int rc = tm_store_put(store_of(t), pool, oid, index, page);

	/* What was refused for want of memory would be there with more of it. */
	if (rc == 0 || rc == -ENOMEM)
		tm_sampler_put(sampler_of(t), pool, oid, index);
	else
		tm_sampler_flush(sampler_of(t), pool, oid, index);
	return rc;
}

static int local_get(
	struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, void *ret_page)
{
	tm_sampler_get(sampler_of(t), pool, oid, index, true);
	return tm_store_get(store_of(t), pool, oid, index, ret_page);
}

static int local_get_many(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t count, void *ret_pages, bool *ret_missed)
{
	struct local *l = (struct local *)t;
	uint32_t flags = pool >= 0 && pool < TM_POOLS_MAX ? l->ledger->pools[pool].flags : 0;
	size_t page_bytes = (size_t)TM_PAGE_SIZE
		<< ((flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT);
	int hits = 0, rc = 0;

	for (uint32_t i = 0; i < count; i++) {
		rc = local_get(t, pool, oid, index + i, (char *)ret_pages + i * page_bytes);
		ret_missed[i] = rc < 0;
		hits += rc == 0;
	}
	return hits == 0 && rc < 0 && rc != -ENOENT && rc != -EIO ? rc : hits;
}

static int local_flush_page(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	tm_sampler_flush(sampler_of(t), pool, oid, index);
	return tm_store_flush_page(store_of(t), pool, oid, index);
}

static int local_flush_object(struct tmem *t, int pool, const struct tm_oid *oid)
{
	tm_sampler_flush_object(sampler_of(t), pool, oid);
	return tm_store_flush_object(store_of(t), pool, oid);
}

static int local_read(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *ret_buf)
{
	tm_sampler_get(sampler_of(t), pool, oid, index, false);
	return tm_store_read(store_of(t), pool, oid, index, offset, length, ret_buf);
}

static int local_write(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, const void *buf)
{
	return tm_store_write(store_of(t), pool, oid, index, offset, length, buf);
}

static int local_xchg(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *buf)
{
	return tm_store_xchg(store_of(t), pool, oid, index, offset, length, buf);
}

static void local_count(struct tmem *t, int pool, enum tm_stat stat, int64_t delta)
{
	tm_store_count(store_of(t), pool, stat, delta);
}

static void local_changed(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index)
{
	tm_store_changed(store_of(t), pool, oid, index);
}

static void local_usage(struct tmem *t, struct tm_usage *ret_usage)
{
	tm_store_usage(store_of(t), ret_usage);
}

static void local_close(struct tmem *t)
{
	struct local *l = (struct local *)t;

	tm_transfer_stop(l->transfer); /* while it can still answer */
	if (l->link)
		tm_link_stop(l->link);
	tm_transfer_destroy(l->transfer);
	tm_store_resume(l->store, &l->who);
	tm_sampler_destroy(l->sampler);
	tm_store_destroy(l->store);
	tm_ledger_unmap(l->ledger);
	close(l->ledger_fd);
	free(l);
}

static const struct tmem_ops local_ops = {
	.name = "local",
	.new_pool = local_new_pool,
	.destroy_pool = local_destroy_pool,
	.put = local_put,
	.get = local_get,
	.get_many = local_get_many,
	.flush_page = local_flush_page,
	.flush_object = local_flush_object,
	.read = local_read,
	.write = local_write,
	.xchg = local_xchg,
	.count = local_count,
	.changed = local_changed,
	.usage = local_usage,
	.close = local_close,
};

/* --- what the host asks for; from the link's thread ------------------------------------------ */

static uint64_t on_release(void *opaque, uint64_t bytes)
{
	struct local *l = opaque;

	return tm_store_release(l->store, bytes);
}

static void on_shrink(void *opaque)
{
	struct local *l = opaque;

	tm_store_shrink(l->store);
}

static void on_destroy(void *opaque)
{
	struct local *l = opaque;

	l->destroyed = true;
	tm_transfer_cancel(l->transfer); /* it keeps pools from going */
	for (int pool = 0; pool < TM_POOLS_MAX; pool++)
		local_destroy_pool(&l->tmem, pool);
	if (l->on_destroyed)
		l->on_destroyed(l->opaque);
}

/* Who waits for the end of a transfer. */
struct waiting {
	struct tm_link *link;
	uint64_t ticket;
};

/* From the transfer's thread. */
static void on_transferred(void *opaque, int rc, const struct tm_move_result *result)
{
	struct waiting *w = opaque;
	struct tm_link_answer answer = {.ticket = w->ticket,
		.failed = rc < 0,
		.pages = result->pages,
		.skipped = result->skipped,
		.bytes = result->bytes,
		.pause_ns = result->pause_ns};

	memcpy(answer.why, result->why, sizeof(answer.why));
	tm_link_answer(w->link, &answer);
	free(w);
}

static int on_transfer(void *opaque, struct tm_link *link, const struct tm_link_transfer *transfer)
{
	struct local *l = opaque;
	struct tm_transfer_request request = {
		.restore = transfer->restore,
		.live = transfer->live,
		.hold = transfer->hold,
		.fd = transfer->fd,
	};
	struct waiting *w;
	int rc;

	if (l->destroyed)
		return -ENOENT;
	w = malloc(sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct waiting){link, transfer->ticket};
	rc = tm_transfer_start(l->transfer, &request, on_transferred, w);
	if (rc < 0)
		free(w);
	return rc;
}

static void on_resume(void *opaque)
{
	struct local *l = opaque;

	tm_store_resume(l->store, &l->who);
}

static void on_sharer(void *opaque, int fd, uid_t uid)
{
	struct local *l = opaque;

	l->on_sharer(l->opaque, fd, uid);
}

/* --- opening ---------------------------------------------------------------------------------- */

uint64_t tm_limit_default(void)
{
	return TM_MAX(tm_ram_bytes() / 4, TM_LIMIT_MIN);
}

static bool is_good_name(const char *name)
{
	size_t n = name ? strlen(name) : 0;

	if (n == 0 || n > TM_NAME_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isprint((unsigned char)name[i]))
			return false;
	return true;
}

static bool wants_host(const char *socket)
{
	if (!socket)
		socket = getenv("TMEM_SOCKET");
	return !socket || strcmp(socket, "none") != 0;
}

/* Two processes that reclaim one store would write over each other. The lock goes with the process.
 */
static int lock_store(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_SETLK, &lock) == 0)
		return 0;
	return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
}

static int create_store(struct local *l, const struct tm_store_params *params)
{
	int rc = tm_store_create(params, &l->store);

	if (rc < 0)
		return rc;
	rc = lock_store(tm_store_fd(l->store));
	if (rc < 0)
		tm_store_destroy(l->store);
	return rc;
}

static void close_legacy(struct tm_legacy *legacy)
{
	if (legacy->store_fd >= 0)
		close(legacy->store_fd);
	if (legacy->state_fd >= 0)
		close(legacy->state_fd);
	*legacy = (struct tm_legacy){-1, -1, 0};
}

/* Take over what was left here; it stays the caller's after a failure. */
static int take_over(struct local *l, const struct tm_open_params *params, struct tm_legacy *legacy,
	const struct tm_store_params *store)
{
	struct tm_store_params like_it = *store;
	int rc = lock_store(legacy->store_fd);

	like_it.segment_bytes = legacy->segment_bytes;
	return rc < 0 ? rc : tm_store_recover(&like_it, legacy->store_fd, params->warm, &l->store);
}

/* The same of a cache, or begin anew, whatever is in the way. */
static int open_warm(struct local *l, const struct tm_open_params *params,
	const struct tm_store_params *store, struct tm_legacy *ret_legacy)
{
	struct tm_legacy legacy = {-1, -1, 0};

	if (wants_host(params->socket) &&
		tm_link_reclaim(params->socket, params->name, params->type, false, &legacy) == 0) {
		if (take_over(l, params, &legacy, store) == 0) {
			*ret_legacy = legacy;
			return 0;
		}
		close_legacy(&legacy);
	}
	return create_store(l, store);
}

/* Take over what a predecessor left, else begin anew and leave *ret_legacy alone. */
static int open_store(
	struct local *l, const struct tm_open_params *params, struct tm_legacy *ret_legacy)
{
	struct tm_store_params store = {
		.ledger = l->ledger,
		.limit = params->limit ? params->limit : tm_limit_default(),
		.keeper = true,
		.resident = params->resident,
		.patience_ms = params->patience_ms,
		.recompress = params->recompress == TM_RECOMPRESS_ON ||
			(params->recompress == TM_RECOMPRESS_AUTO && !params->resident),
		.upkeep_percent = params->upkeep_percent,
	};
	struct tm_legacy legacy = {-1, -1, 0};
	int rc = -ENOENT;

	if (params->warm)
		return open_warm(l, params, &store, ret_legacy);
	if (params->survive && wants_host(params->socket))
		rc = tm_link_reclaim(params->socket, params->name, params->type, true, &legacy);
	/* Not knowing is no reason to begin anew. */
	if (rc == -EBUSY || rc == -ETIMEDOUT || rc == -EAGAIN)
		return rc;
	rc = rc < 0 ? create_store(l, &store) : take_over(l, params, &legacy, &store);
	if (rc == 0)
		*ret_legacy = legacy;
	else
		close_legacy(&legacy);
	return rc;
}

static int start_link(
	struct local *l, const struct tm_open_params *params, bool successor, int state_fd)
{
	struct tm_link_params link = {
		.name = params->name,
		.type = params->type,
		.socket = params->socket,
		.weight = params->weight,
		.ledger_fd = l->ledger_fd,
		.start_host = params->start_host,
		.store_fd = params->survive || params->warm ? tm_store_fd(l->store) : -1,
		.cache = params->warm,
		.state_fd = state_fd,
		.successor = successor,
		.sharer = params->on_sharer ? on_sharer : NULL,
		.listen_fd = params->listen_fd,
		.ops = {on_release, on_shrink, on_destroy, on_transfer, on_resume, l},
	};

	return link.sharer || wants_host(params->socket) ? tm_link_start(&link, &l->link) : 0;
}

int tm_open(const struct tm_open_params *params, struct tmem **ret_tmem)
{
	struct local *l;
	struct tm_legacy legacy = {-1, -1, 0};
	int rc, state_fd;

	if (!is_good_name(params->name) || !is_good_name(params->type) ||
		params->weight > TM_WEIGHT_MAX || params->upkeep_percent > 100)
		return -EINVAL;
	if (params->resident)
		tm_heap_settle();
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->tmem.ops = &local_ops;
	l->resident = params->resident;
	l->on_destroyed = params->on_destroyed;
	l->on_sharer = params->on_sharer;
	l->opaque = params->opaque;
	rc = tm_ledger_create(&l->ledger, &l->ledger_fd);
	if (rc < 0)
		goto free_local;
	rc = open_store(l, params, &legacy);
	if (rc < 0)
		goto close_ledger;
	strcpy(l->name, params->name);
	strcpy(l->type, params->type);
	l->who = (struct tm_move_params){l->name, l->type, params->move, params->opaque};
	rc = tm_transfer_create(l->store, &l->who, &l->transfer);
	if (rc < 0)
		goto destroy_store;
	state_fd = legacy.state_fd;
	if (params->state) {
		state_fd = params->state(params->opaque, state_fd);
		/* The store is left open: closing it would empty the mapping for everybody. */
		if (state_fd < -1)
			return state_fd;
	}
	rc = start_link(l, params, legacy.store_fd >= 0, state_fd);
	if (rc < 0)
		goto destroy_store;
	*ret_tmem = &l->tmem;
	return 0;

destroy_store:
	tm_transfer_destroy(l->transfer);
	tm_store_destroy(l->store);
close_ledger:
	tm_ledger_unmap(l->ledger);
	close(l->ledger_fd);
free_local:
	free(l);
	return rc;
}
