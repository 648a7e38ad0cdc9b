/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/move.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "nbd-plugin/chunk.h"
#include "nbd-plugin/exports.h"

#define VERSION 1u

/* What a stream carries of the device; little-endian. */
struct front {
	uint32_t version, page_bytes;
	uint64_t bytes;
};

static struct tm_device *device_of(void *opaque)
{
	return ((struct tm_export *)opaque)->device;
}

static int move_describe(
	void *opaque, void *ret_front, uint32_t *ret_bytes, char ret_why[static TM_WHY_MAX])
{
	struct tm_device *d = device_of(opaque);
	struct front front = {htole32(VERSION), htole32(TM_DEVICE_PAGE), htole64(d->bytes)};

	(void)ret_why;
	memcpy(ret_front, &front, sizeof(front));
	*ret_bytes = sizeof(front);
	return 0;
}

static bool is_empty(const struct tm_device *d)
{
	return atomic_load(&d->in_tmem) == 0 && atomic_load(&d->on_fallback) == 0;
}

static int not_empty(char ret_why[static TM_WHY_MAX])
{
	snprintf(ret_why, TM_WHY_MAX, "the device is not empty");
	return -EEXIST;
}

static int move_accept(
	void *opaque, const void *data, uint32_t bytes, char ret_why[static TM_WHY_MAX])
{
	struct tm_device *d = device_of(opaque);
	struct front front;
	bool empty;

	if (bytes != sizeof(front)) {
		snprintf(ret_why, TM_WHY_MAX, "it was saved by another version of the plugin");
		return -EINVAL;
	}
	memcpy(&front, data, sizeof(front));
	if (le32toh(front.version) != VERSION || le32toh(front.page_bytes) != TM_DEVICE_PAGE) {
		snprintf(ret_why, TM_WHY_MAX, "it was saved by another version of the plugin");
		return -EINVAL;
	}
	if (le64toh(front.bytes) != d->bytes) {
		snprintf(ret_why, TM_WHY_MAX,
			"a device of %" PRIu64 " bytes was saved, this one has %" PRIu64,
			(uint64_t)le64toh(front.bytes), d->bytes);
		return -EINVAL;
	}
	/* With no write half done: whichever comes next is noted. */
	tm_device_lock_all(d);
	empty = is_empty(d);
	atomic_store(&d->spoiled, false);
	atomic_store(&d->staging, empty);
	tm_device_unlock_all(d);
	return empty ? 0 : not_empty(ret_why);
}

static int move_begin(void *opaque, char ret_why[static TM_WHY_MAX])
{
	struct tm_device *d = device_of(opaque);

	tm_device_lock_all(d);
	if (!is_empty(d) || atomic_load(&d->spoiled)) {
		tm_device_unlock_all(d);
		return not_empty(ret_why);
	}
	tm_state_set_torn(d->state, true);
	return 0;
}

static void move_restored(void *opaque, int pool, const struct tm_oid *oid, uint32_t index)
{
	struct tm_device *d = device_of(opaque);

	(void)pool, (void)oid;
	if (index >= d->pages)
		return; /* no stream that we wrote has such a page; nobody can reach it here */
	atomic_store_explicit(&d->map[index], TM_IN_TMEM, memory_order_release);
	atomic_fetch_add(&d->in_tmem, 1);
}

static bool is_staged(const struct tm_device *d, uint64_t n)
{
	return tm_page_byte(d, n) & TM_PAGE_STAGED;
}

/* What was staged is there from now on. */
static void show_staged(struct tm_device *d)
{
	uint64_t pages = 0;

	for (uint64_t n = 0; n < d->pages; n++)
		if (is_staged(d, n)) {
			uint8_t hints = tm_page_byte(d, n) & TM_PAGE_RAW;

			atomic_store_explicit(
				&d->map[n], TM_ON_FALLBACK | hints, memory_order_release);
			pages++;
		}
	atomic_store(&d->on_fallback, pages);
	tm_device_count(d, TM_STAT_FALLBACK_PAGES, (int64_t)pages);
}

static void move_end(void *opaque, bool whole)
{
	struct tm_device *d = device_of(opaque);

	if (whole && d->fallback)
		show_staged(d);
	if (whole)
		atomic_store(&d->staging, false);
	tm_state_set_torn(d->state, false);
	tm_device_unlock_all(d);
}

/* Under the page's lock. */
static void unstage_locked(struct tm_device *d, uint64_t n)
{
	atomic_store_explicit(&d->map[n], TM_NOWHERE, memory_order_release);
	tm_fallback_discard(d->fallback, n, 1);
}

static void move_abandon(void *opaque)
{
	struct tm_device *d = device_of(opaque);

	for (uint64_t n = 0; d->fallback && n < d->pages; n++) {
		pthread_mutex_t *lock = &d->locks[n % TM_LOCKS];

		if (!is_staged(d, n))
			continue;
		pthread_mutex_lock(lock);
		if (is_staged(d, n))
			unstage_locked(d, n);
		pthread_mutex_unlock(lock);
	}
	atomic_store(&d->staging, false);
}

/* --- pages on the fallback -------------------------------------------------------------------- */

static void move_hold(void *opaque)
{
	struct tm_device *d = device_of(opaque);

	if (d->fallback)
		tm_dev_gate_shut(&d->gate);
}

static void move_release(void *opaque)
{
	struct tm_device *d = device_of(opaque);

	if (d->fallback)
		tm_dev_gate_open(&d->gate);
}

static uint64_t move_count(void *opaque, int pool)
{
	struct tm_device *d = device_of(opaque);

	return pool == d->pool ? atomic_load(&d->on_fallback) : 0;
}

static bool move_next(void *opaque, uint64_t *at, uint32_t most, struct tm_span *ret_span)
{
	struct tm_device *d = device_of(opaque);
	uint64_t n = *at;
	uint32_t count = 0;

	if (!d->fallback)
		return false;
	while (n < d->pages && tm_place_of(d, n) != TM_ON_FALLBACK)
		n++;
	/* A chunk has pages of one run. */
	most = (uint32_t)TM_MIN((uint64_t)most, TM_RUN_PAGES - n % TM_RUN_PAGES);
	while (count < most && n + count < d->pages && tm_place_of(d, n + count) == TM_ON_FALLBACK)
		count++;
	*at = n + count;
	*ret_span = (struct tm_span){d->pool, TM_DEVICE_OID, (uint32_t)n, count};
	return count > 0;
}

/* Read neighbours that are all on the fallback. */
static int fetch_locked(struct tm_device *d, uint64_t n, unsigned int count, uint8_t *ret_pages)
{
	int rc = tm_fallback_read(d->fallback, n, count, ret_pages);

	if (rc == 0)
		tm_device_count(d, TM_STAT_FALLBACK_READS, count);
	else
		tm_device_count(d, TM_STAT_FALLBACK_ERRORS, 1);
	if (rc == -EBADMSG)
		tm_device_count(d, TM_STAT_CORRUPT, 1);
	return rc;
}

static int move_fetch(void *opaque, const struct tm_span *span, void *ret_pages, bool *ret_have)
{
	struct tm_device *d = device_of(opaque);
	struct tm_chunk c;
	int rc = 0;

	if (!d->fallback || span->pool != d->pool || span->index >= d->pages)
		return 0;
	c = tm_chunk_at(d, (uint64_t)span->index * TM_DEVICE_PAGE,
		TM_MIN((uint64_t)span->count, d->pages - span->index) * TM_DEVICE_PAGE);
	tm_chunk_lock(&c);
	for (unsigned int i = 0, n; i < c.pages && rc == 0; i += TM_MAX(n, 1u)) {
		for (n = 0; i + n < c.pages; n++) {
			ret_have[i + n] = tm_place_of(d, c.first + i + n) == TM_ON_FALLBACK;
			if (!ret_have[i + n])
				break;
		}
		if (n > 0)
			rc = fetch_locked(d, c.first + i, n,
				(uint8_t *)ret_pages + (size_t)i * TM_DEVICE_PAGE);
	}
	tm_chunk_unlock(&c);
	return rc;
}

static int move_take(
	void *opaque, int pool, const struct tm_oid *oid, uint32_t index, void *page, bool raw)
{
	struct tm_device *d = device_of(opaque);
	bool again;
	int rc;

	(void)oid;
	if (!d->fallback || pool != d->pool || index >= d->pages)
		return -ENOSPC;
	pthread_mutex_lock(&d->locks[index % TM_LOCKS]);
	again = is_staged(d, index);
	/* Once spoiled the page may be somebody else's. One that fails stays staged if it was: the
	 * restore drops it, or fails. */
	rc = atomic_load(&d->spoiled) ? -EEXIST : tm_fallback_write(d->fallback, index, 1, page);
	if (rc == 0)
		atomic_store_explicit(&d->map[index],
			TM_NOWHERE | TM_PAGE_STAGED | (raw ? TM_PAGE_RAW : 0),
			memory_order_release);
	pthread_mutex_unlock(&d->locks[index % TM_LOCKS]);
	if (rc == 0)
		tm_device_count(d, TM_STAT_FALLBACK_WRITES, 1);
	else if (rc != -EEXIST)
		tm_device_count(d, TM_STAT_FALLBACK_ERRORS, 1);
	return rc < 0 ? rc : !again;
}

static bool move_drop(void *opaque, int pool, const struct tm_oid *oid, uint32_t index)
{
	struct tm_device *d = device_of(opaque);
	bool had;

	(void)oid;
	if (!d->fallback || pool != d->pool || index >= d->pages)
		return false;
	pthread_mutex_lock(&d->locks[index % TM_LOCKS]);
	had = is_staged(d, index);
	if (had)
		unstage_locked(d, index);
	pthread_mutex_unlock(&d->locks[index % TM_LOCKS]);
	return had;
}

static const struct tm_elsewhere_ops elsewhere_ops = {
	.hold = move_hold,
	.release = move_release,
	.count = move_count,
	.next = move_next,
	.fetch = move_fetch,
	.take = move_take,
	.drop = move_drop,
};

const struct tm_move_ops tm_device_move_ops = {
	.describe = move_describe,
	.accept = move_accept,
	.begin = move_begin,
	.restored = move_restored,
	.end = move_end,
	.abandon = move_abandon,
	.elsewhere = &elsewhere_ops,
};
