/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/move.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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
	uint64_t pages = atomic_load(&d->on_fallback);

	if (pages > 0) {
		snprintf(ret_why, TM_WHY_MAX,
			"%" PRIu64 " of its pages are on the fallback, which a stream cannot take",
			pages);
		return -EXDEV;
	}
	memcpy(ret_front, &front, sizeof(front));
	*ret_bytes = sizeof(front);
	return 0;
}

static int move_accept(
	void *opaque, const void *data, uint32_t bytes, char ret_why[static TM_WHY_MAX])
{
	const struct tm_device *d = device_of(opaque);
	struct front front;

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
	return 0;
}

/* In the order in which requests take them. */
static void lock_all(struct tm_device *d)
{
	for (unsigned int i = 0; i < TM_LOCKS; i++)
		pthread_mutex_lock(&d->locks[i]);
}

static void unlock_all(struct tm_device *d)
{
	for (unsigned int i = 0; i < TM_LOCKS; i++)
		pthread_mutex_unlock(&d->locks[i]);
}

static int move_begin(void *opaque, char ret_why[static TM_WHY_MAX])
{
	struct tm_device *d = device_of(opaque);

	lock_all(d);
	if (atomic_load(&d->in_tmem) > 0 || atomic_load(&d->on_fallback) > 0) {
		unlock_all(d);
		snprintf(ret_why, TM_WHY_MAX, "the device is not empty");
		return -EEXIST;
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

static void move_end(void *opaque)
{
	struct tm_device *d = device_of(opaque);

	tm_state_set_torn(d->state, false);
	unlock_all(d);
}

const struct tm_move_ops tm_device_move_ops = {
	.describe = move_describe,
	.accept = move_accept,
	.begin = move_begin,
	.restored = move_restored,
	.end = move_end,
};
