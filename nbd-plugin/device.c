/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "nbd-plugin/chunk.h"

/* --- life ------------------------------------------------------------------------------------- */

static struct tm_state_kind kind_of(const struct tm_device *d)
{
	struct tm_state_kind kind = {.pages = d->pages};

	if (d->fallback) {
		memcpy(kind.fallback, tm_fallback_id(d->fallback), sizeof(kind.fallback));
		kind.encrypted = tm_fallback_is_encrypted(d->fallback);
	}
	return kind;
}

/* The state is the one to go on with. */
static int use_state(struct tm_device *d, int *ret_state_fd)
{
	d->map = tm_state_map(d->state);
	*ret_state_fd = tm_state_fd(d->state);
	return d->fallback ? tm_fallback_bind(d->fallback, d->state) : 0;
}

int tm_device_create(uint64_t bytes, struct tm_fallback *fallback, struct tm_device **ret_device)
{
	struct tm_device *d = calloc(1, sizeof(*d));
	struct tm_state_kind kind;

	if (!d)
		return -ENOMEM;
	d->bytes = bytes;
	d->pages = (bytes + TM_DEVICE_PAGE - 1) / TM_DEVICE_PAGE;
	if (tm_buffers_create(TM_DEV_BUFFERS, TM_RUN_BYTES, &d->buffers) < 0)
		goto free_device;
	d->fallback = fallback;
	kind = kind_of(d);
	if (tm_state_create(&kind, &d->state) < 0)
		goto free_buffers;
	d->map = tm_state_map(d->state);
	d->tmem = tm_none();
	tm_dev_gate_init(&d->gate);
	for (unsigned int i = 0; i < TM_LOCKS; i++)
		pthread_mutex_init(&d->locks[i], NULL);
	*ret_device = d;
	return 0;

free_buffers:
	tm_buffers_destroy(d->buffers);
free_device:
	free(d);
	return -ENOMEM;
}

int tm_device_begin(struct tm_device *d, int *ret_state_fd)
{
	int rc = d->fallback ? tm_fallback_reset(d->fallback) : 0;
	struct tm_state_kind kind = kind_of(d);

	/* The state names the fallback as it is now. */
	tm_state_destroy(d->state);
	d->state = NULL;
	if (rc == 0)
		rc = tm_state_create(&kind, &d->state);
	return rc < 0 ? rc : use_state(d, ret_state_fd);
}

int tm_device_resume(
	struct tm_device *d, int fd, int *ret_state_fd, char ret_reason[static TM_STATE_REASON_MAX])
{
	struct tm_state_kind kind = kind_of(d);
	struct tm_state *state;
	int rc = tm_state_adopt(fd, &kind, &state, ret_reason);

	if (rc < 0)
		return rc;
	tm_state_destroy(d->state);
	d->state = state;
	d->resumed = true;
	return use_state(d, ret_state_fd);
}

/* After a kill tmem may hold pages that nobody was promised, or that were given up already. */
static void settle_pages(struct tm_device *d)
{
	static const struct tm_oid oid = TM_DEVICE_OID;
	int64_t on_fallback = 0;
	uint64_t in_tmem = 0;

	for (uint64_t n = 0; n < d->pages; n++) {
		enum tm_place place = tm_place_of(d, n);

		if (place == TM_NOWHERE && tm_page_byte(d, n) & TM_PAGE_STAGED) {
			/* By a restore that its server did not live to end. */
			atomic_store(&d->map[n], TM_NOWHERE);
			tm_fallback_discard(d->fallback, n, 1);
		}
		on_fallback += place == TM_ON_FALLBACK;
		in_tmem += place == TM_IN_TMEM;
		if (place != TM_IN_TMEM)
			d->tmem->ops->flush_page(d->tmem, d->pool, &oid, (uint32_t)n);
	}
	tm_device_count(d, TM_STAT_FALLBACK_PAGES, on_fallback);
	atomic_store(&d->in_tmem, in_tmem);
	atomic_store(&d->on_fallback, (uint64_t)on_fallback);
}

int tm_device_attach(
	struct tm_device *d, struct tmem *tmem, const char *pool_name, uint64_t writeback)
{
	struct tm_pool_params params = {
		.flags = tm_pool_flags(TM_POOL_PERSIST, 0),
		/* What does not compress is no use in RAM when there is a disk for it. */
		.attrs = d->fallback ? TM_POOL_REFUSE_RAW : 0,
		.name = pool_name,
	};

	d->tmem = tmem;
	d->pool = tmem->ops->new_pool(tmem, &params);
	if (d->pool < 0)
		return d->pool;
	if (d->resumed)
		settle_pages(d);
	return d->fallback && writeback ? tm_writeback_start(d, writeback, &d->writeback) : 0;
}

void tm_device_destroy(struct tm_device *d)
{
	if (!d)
		return;
	tm_writeback_stop(d->writeback);
	d->tmem->ops->close(d->tmem);
	tm_fallback_close(d->fallback);
	tm_state_destroy(d->state);
	tm_buffers_destroy(d->buffers);
	for (unsigned int i = 0; i < TM_LOCKS; i++)
		pthread_mutex_destroy(&d->locks[i]);
	tm_dev_gate_destroy(&d->gate);
	free(d);
}

/* --- chunks ----------------------------------------------------------------------------------- */

static void lock_pages(struct tm_device *d, uint64_t first, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		pthread_mutex_lock(&d->locks[(first + i) % TM_LOCKS]);
}

static void unlock_pages(struct tm_device *d, uint64_t first, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		pthread_mutex_unlock(&d->locks[(first + i) % TM_LOCKS]);
}

struct tm_chunk tm_chunk_at(struct tm_device *d, uint64_t offset, uint64_t count)
{
	uint64_t to_end = TM_RUN_BYTES - offset % TM_RUN_BYTES;
	uint64_t length = TM_MIN(count, to_end);
	uint64_t first = offset / TM_DEVICE_PAGE, last = (offset + length - 1) / TM_DEVICE_PAGE;

	return (struct tm_chunk){
		.device = d,
		.offset = offset,
		.length = (uint32_t)length,
		.first = first,
		.pages = (unsigned int)(last - first + 1),
	};
}

static bool run_has(const struct tm_device *d, uint64_t first, unsigned int count, uint8_t places)
{
	for (unsigned int i = 0; i < count; i++)
		if (places >> tm_place_of(d, first + i) & 1)
			return true;
	return false;
}

static bool run_is_staged(const struct tm_device *d, uint64_t first, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		if (tm_page_byte(d, first + i) & TM_PAGE_STAGED)
			return true;
	return false;
}

/* Invariant 4: the last page of a run has left the fallback, so all of the run's blocks go. The run
 * is locked again, all of it now, since a page may have come back meanwhile. */
static void empty_run(struct tm_device *d, uint64_t page)
{
	uint64_t first = page / TM_RUN_PAGES * TM_RUN_PAGES;
	unsigned int count = (unsigned int)TM_MIN((uint64_t)TM_RUN_PAGES, d->pages - first);

	if (run_has(d, first, count, 1u << TM_ON_FALLBACK))
		return;
	lock_pages(d, first, count);
	if (!run_has(d, first, count, 1u << TM_ON_FALLBACK) && !run_is_staged(d, first, count))
		tm_fallback_discard(d->fallback, first, count);
	unlock_pages(d, first, count);
}

void tm_chunk_lock(struct tm_chunk *c)
{
	lock_pages(c->device, c->first, c->pages);
}

void tm_chunk_unlock(struct tm_chunk *c)
{
	if (c->buffer)
		tm_buffers_put(c->device->buffers, c->buffer);
	unlock_pages(c->device, c->first, c->pages);
	if (c->left)
		empty_run(c->device, c->first);
}

/* A device that is all in tmem needs no gate of its own: nothing changes elsewhere. */
void tm_chunk_lock_to_change(struct tm_chunk *c)
{
	if (c->device->fallback)
		tm_dev_gate_enter(&c->device->gate);
	tm_chunk_lock(c);
}

void tm_chunk_unlock_changed(struct tm_chunk *c)
{
	tm_chunk_unlock(c);
	if (c->device->fallback)
		tm_dev_gate_leave(&c->device->gate);
}

void tm_device_lock_all(struct tm_device *d)
{
	lock_pages(d, 0, TM_LOCKS);
}

void tm_device_unlock_all(struct tm_device *d)
{
	unlock_pages(d, 0, TM_LOCKS);
}

/* --- requests --------------------------------------------------------------------------------- */

int tm_device_read(struct tm_device *d, void *ret_buf, uint32_t count, uint64_t offset)
{
	uint8_t *to = ret_buf;
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct tm_chunk c = tm_chunk_at(d, offset, count);

		tm_chunk_lock(&c);
		rc = tm_chunk_read_locked(&c, to);
		tm_chunk_unlock(&c);
		to += c.length, offset += c.length, count -= c.length;
	}
	return rc;
}

int tm_device_write(struct tm_device *d, const void *buf, uint32_t count, uint64_t offset)
{
	const uint8_t *from = buf;
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct tm_chunk c = tm_chunk_at(d, offset, count);

		tm_chunk_lock_to_change(&c);
		rc = tm_chunk_write_locked(&c, from);
		tm_chunk_unlock_changed(&c);
		from += c.length, offset += c.length, count -= c.length;
	}
	return rc;
}

/* Nothing stored in the chunk's pages: what makes zeroing and trimming an empty device cheap. Needs
 * no lock: a write that is under way may be ordered after this. */
static bool is_hole(const struct tm_chunk *c)
{
	return !run_has(c->device, c->first, c->pages, (uint8_t) ~(1u << TM_NOWHERE));
}

int tm_device_zero(struct tm_device *d, uint32_t count, uint64_t offset)
{
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct tm_chunk c = tm_chunk_at(d, offset, count);

		if (!is_hole(&c)) {
			tm_chunk_lock_to_change(&c);
			rc = tm_chunk_write_locked(&c, NULL);
			tm_chunk_unlock_changed(&c);
		}
		offset += c.length, count -= c.length;
	}
	return rc;
}

int tm_device_trim(struct tm_device *d, uint32_t count, uint64_t offset)
{
	while (count > 0) {
		struct tm_chunk c = tm_chunk_at(d, offset, count);

		if (!is_hole(&c)) {
			tm_chunk_lock_to_change(&c);
			tm_chunk_trim_locked(&c);
			tm_chunk_unlock_changed(&c);
		}
		offset += c.length, count -= c.length;
	}
	return 0;
}

int tm_device_cache(struct tm_device *d, uint32_t count, uint64_t offset)
{
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct tm_chunk c = tm_chunk_at(d, offset, count);

		if (run_has(d, c.first, c.pages, 1u << TM_ON_FALLBACK)) {
			tm_chunk_lock_to_change(&c);
			rc = tm_chunk_cache_locked(&c);
			tm_chunk_unlock_changed(&c);
		}
		offset += c.length, count -= c.length;
	}
	return rc;
}

int tm_device_sync(struct tm_device *d)
{
	int rc = d->fallback ? tm_fallback_sync(d->fallback) : 0;

	if (rc < 0)
		tm_device_count(d, TM_STAT_FALLBACK_ERRORS, 1);
	return rc;
}

void tm_device_lost(struct tm_device *d)
{
	tm_dev_gate_break(&d->gate);
}

uint64_t tm_device_extent(struct tm_device *d, uint64_t count, uint64_t offset, bool *ret_hole)
{
	uint64_t n = offset / TM_DEVICE_PAGE, end = offset + count;
	bool hole = tm_place_of(d, n) == TM_NOWHERE;

	while (n * TM_DEVICE_PAGE < end && (tm_place_of(d, n) == TM_NOWHERE) == hole)
		n++;
	*ret_hole = hole;
	return TM_MIN(n * TM_DEVICE_PAGE, end) - offset;
}
