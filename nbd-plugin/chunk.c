/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/chunk.h"

#include <errno.h>
#include <string.h>

#include "core/util.h"

static const struct tm_oid device_oid = TM_DEVICE_OID;

/* The part of page i that a chunk covers. */
struct slice {
	uint32_t at;     /* from the chunk's first byte */
	uint32_t offset; /* in the page */
	uint32_t length;
	bool whole; /* all of the page, or all that the device has of its last one */
};

static struct slice slice_of(const struct tm_chunk *c, unsigned int i)
{
	uint32_t head = (uint32_t)(c->offset % TM_DEVICE_PAGE);
	struct slice s = {0};
	uint64_t end;

	if (i == 0)
		s.offset = head;
	else
		s.at = i * TM_DEVICE_PAGE - head;
	s.length = TM_MIN(TM_DEVICE_PAGE - s.offset, c->length - s.at);
	end = c->offset + s.at + s.length;
	s.whole = s.offset == 0 && (s.length == TM_DEVICE_PAGE || end == c->device->bytes);
	return s;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

static uint8_t *buffer_page(struct tm_chunk *c, unsigned int i)
{
	if (!c->buffer)
		c->buffer = tm_buffers_get(c->device->buffers);
	return c->buffer + (size_t)i * TM_DEVICE_PAGE;
}

static enum tm_place place_of(const struct tm_chunk *c, unsigned int i)
{
	return tm_place_of(c->device, c->first + i);
}

/* How many pages from i on are all on the fallback. */
static unsigned int fallback_span(const struct tm_chunk *c, unsigned int i)
{
	unsigned int n = 0;

	while (i + n < c->pages && place_of(c, i + n) == TM_ON_FALLBACK)
		n++;
	return n;
}

unsigned int tm_mask_span(uint32_t mask, unsigned int i)
{
	unsigned int n = 0;

	while (i + n < TM_RUN_PAGES && mask >> (i + n) & 1)
		n++;
	return n;
}

/* --- a page leaves one place for another ------------------------------------------------------ */

/* A save that is under way looks again at a page that is or was on the fallback. */
static void note_change(struct tm_chunk *c, unsigned int i)
{
	struct tm_device *d = c->device;

	d->tmem->ops->changed(d->tmem, d->pool, &device_oid, (uint32_t)(c->first + i));
}

/* A restore that is under way takes the device for one that nobody writes to. */
static void spoil(struct tm_device *d)
{
	if (atomic_load(&d->staging))
		atomic_store(&d->spoiled, true);
}

/* The page is at `to` from now on, where it has been stored already. */
static void set_place_locked(struct tm_chunk *c, unsigned int i, enum tm_place to, uint8_t hints)
{
	struct tm_device *d = c->device;
	uint8_t old = tm_page_byte(d, c->first + i);
	enum tm_place from = old & TM_PLACE_MASK;

	if (old == (to | hints))
		return;
	atomic_store_explicit(&d->map[c->first + i], to | hints, memory_order_release);
	spoil(d);
	if (from == to)
		return;
	if (from == TM_ON_FALLBACK)
		c->left |= 1u << i;
	if (from == TM_ON_FALLBACK || to == TM_ON_FALLBACK)
		tm_device_count(d, TM_STAT_FALLBACK_PAGES, to == TM_ON_FALLBACK ? 1 : -1);
	if (from == TM_ON_FALLBACK)
		atomic_fetch_sub(&d->on_fallback, 1);
	if (to == TM_ON_FALLBACK)
		atomic_fetch_add(&d->on_fallback, 1);
	if (to == TM_IN_TMEM)
		tm_writeback_grew(d->writeback, atomic_fetch_add(&d->in_tmem, 1) + 1);
	if (from == TM_IN_TMEM) {
		atomic_fetch_sub(&d->in_tmem, 1);
		d->tmem->ops->flush_page(d->tmem, d->pool, &device_oid, (uint32_t)(c->first + i));
	}
	if (from == TM_ON_FALLBACK || to == TM_ON_FALLBACK)
		note_change(c, i);
}

static void forget_locked(struct tm_chunk *c, unsigned int i)
{
	set_place_locked(c, i, TM_NOWHERE, 0);
}

/* True if it was touched already. */
static bool touch(struct tm_chunk *c, unsigned int i)
{
	_Atomic uint8_t *byte = &c->device->map[c->first + i];

	if (atomic_load_explicit(byte, memory_order_relaxed) & TM_PAGE_TOUCHED)
		return true;
	atomic_fetch_or_explicit(byte, TM_PAGE_TOUCHED, memory_order_relaxed);
	return false;
}

/* Offer a whole page to tmem. `write` keeps the old page when it refuses, `put` would not: so a
 * page in tmem is written, any other is put. 0, or refused for whatever reason. */
static int store_locked(struct tm_chunk *c, unsigned int i, const uint8_t *page, uint8_t hints)
{
	struct tm_device *d = c->device;
	const struct tmem_ops *ops = d->tmem->ops;
	uint32_t index = (uint32_t)(c->first + i);
	int rc;

	if (place_of(c, i) == TM_IN_TMEM)
		rc = ops->write(d->tmem, d->pool, &device_oid, index, 0, TM_DEVICE_PAGE, page);
	else
		rc = ops->put(d->tmem, d->pool, &device_oid, index, page);
	if (rc == 0)
		set_place_locked(c, i, TM_IN_TMEM, hints);
	return rc;
}

/* Write the pages that are to go to the fallback, neighbours together. They count as not touched
 * there: it takes reads to bring them back. */
static int spill_locked(struct tm_chunk *c)
{
	struct tm_device *d = c->device;

	for (unsigned int i = 0, n; i < c->pages; i += n) {
		int rc;

		n = tm_mask_span(c->spill, i);
		if (n == 0) {
			n = 1;
			continue;
		}
		spoil(d);
		rc = tm_fallback_write(d->fallback, c->first + i, n, buffer_page(c, i));
		if (rc < 0) {
			tm_device_count(d, TM_STAT_FALLBACK_ERRORS, 1);
			c->left |= c->spill; /* what got there before the error goes again */
			return rc;
		}
		tm_device_count(d, TM_STAT_FALLBACK_WRITES, n);
		for (unsigned int k = i; k < i + n; k++) {
			if (place_of(c, k) == TM_ON_FALLBACK)
				note_change(c, k); /* it stays, and is another */
			set_place_locked(c, k, TM_ON_FALLBACK, c->raw >> k & 1 ? TM_PAGE_RAW : 0);
		}
	}
	return 0;
}

/* --- what is on a page ------------------------------------------------------------------------ */

/* Read `n` neighbours on the fallback into their places in the buffer. */
static int load_locked(struct tm_chunk *c, unsigned int i, unsigned int n)
{
	struct tm_device *d = c->device;
	int rc = tm_fallback_read(d->fallback, c->first + i, n, buffer_page(c, i));

	if (rc == 0)
		tm_device_count(d, TM_STAT_FALLBACK_READS, n);
	else
		tm_device_count(d, TM_STAT_FALLBACK_ERRORS, 1);
	if (rc == -EBADMSG)
		tm_device_count(d, TM_STAT_CORRUPT, 1);
	return rc;
}

/* From tmem. A page that should be there and is not, or not whole, is an error, never zeros. */
static int fetch_locked(
	struct tm_chunk *c, unsigned int i, uint32_t offset, uint32_t length, uint8_t *ret_bytes)
{
	struct tmem *t = c->device->tmem;
	uint32_t index = (uint32_t)(c->first + i);
	int rc;

	if (length == TM_DEVICE_PAGE)
		rc = t->ops->get(t, c->device->pool, &device_oid, index, ret_bytes);
	else
		rc = t->ops->read(
			t, c->device->pool, &device_oid, index, offset, length, ret_bytes);
	return rc < 0 ? -EIO : 0;
}

/* The pages were read from the fallback: should they come back? */
static void want(struct tm_chunk *c, unsigned int i, unsigned int n)
{
	bool compress = false, again = false;

	for (unsigned int k = i; k < i + n; k++) {
		bool raw = tm_page_byte(c->device, c->first + k) & TM_PAGE_RAW;

		compress |= !raw;
		again |= touch(c, k) && !raw;
	}
	if (compress)
		tm_writeback_want(c->device->writeback, c->first + i, again);
}

int tm_chunk_read_locked(struct tm_chunk *c, uint8_t *ret_buf)
{
	int rc = 0;

	for (unsigned int i = 0, n; i < c->pages && rc == 0; i += n) {
		struct slice s = slice_of(c, i);

		n = 1;
		switch (place_of(c, i)) {
		case TM_NOWHERE:
			memset(ret_buf + s.at, 0, s.length);
			break;
		case TM_IN_TMEM:
			touch(c, i);
			rc = fetch_locked(c, i, s.offset, s.length, ret_buf + s.at);
			break;
		case TM_ON_FALLBACK:
			n = fallback_span(c, i);
			rc = load_locked(c, i, n);
			for (unsigned int k = i; k < i + n && rc == 0; k++) {
				s = slice_of(c, k);
				memcpy(ret_buf + s.at, buffer_page(c, k) + s.offset, s.length);
			}
			want(c, i, n);
			break;
		}
	}
	return rc;
}

/* --- requests that change pages --------------------------------------------------------------- */

/* The whole page in the buffer, as it is to be: what it holds, and the slice on top. */
static int merge_locked(struct tm_chunk *c, unsigned int i, struct slice s, const uint8_t *from)
{
	uint8_t *page = buffer_page(c, i);
	int rc = 0;

	switch (place_of(c, i)) {
	case TM_NOWHERE:
		memset(page, 0, TM_DEVICE_PAGE);
		break;
	case TM_IN_TMEM:
		rc = fetch_locked(c, i, 0, TM_DEVICE_PAGE, page);
		break;
	case TM_ON_FALLBACK:
		rc = load_locked(c, i, 1);
		break;
	}
	if (rc < 0)
		return rc;
	if (from)
		memcpy(page + s.offset, from, s.length);
	else
		memset(page + s.offset, 0, s.length);
	return 0;
}

static int write_page_locked(struct tm_chunk *c, unsigned int i, const uint8_t *buf)
{
	struct slice s = slice_of(c, i);
	const uint8_t *from = buf ? buf + s.at : NULL;
	const uint8_t *page = from;
	int rc;

	if (s.whole && (!from || is_zero(from, s.length))) {
		forget_locked(c, i);
		return 0;
	}
	if (s.length < TM_DEVICE_PAGE) {
		rc = merge_locked(c, i, s, from);
		if (rc < 0)
			return rc;
		page = buffer_page(c, i);
		if (is_zero(page, TM_DEVICE_PAGE)) {
			forget_locked(c, i);
			return 0;
		}
	}
	rc = store_locked(c, i, page, TM_PAGE_TOUCHED);
	if (rc == 0)
		return 0;
	if (!c->device->fallback)
		return -ENOSPC;
	if (rc == -ENOMEM)
		tm_writeback_refused(c->device->writeback);
	if (rc == -E2BIG)
		c->raw |= 1u << i;
	if (page == from)
		memcpy(buffer_page(c, i), page, TM_DEVICE_PAGE);
	c->spill |= 1u << i;
	return 0;
}

int tm_chunk_write_locked(struct tm_chunk *c, const uint8_t *buf)
{
	int rc = 0, spilled;

	for (unsigned int i = 0; i < c->pages && rc == 0; i++)
		rc = write_page_locked(c, i, buf);
	spilled = c->spill ? spill_locked(c) : 0;
	return rc < 0 ? rc : spilled;
}

/* Offer a page that was read from the fallback to tmem. */
static int restore_locked(struct tm_chunk *c, unsigned int i, uint8_t hints)
{
	struct tm_device *d = c->device;
	int rc = store_locked(c, i, buffer_page(c, i), hints);

	if (rc == 0)
		tm_device_count(d, TM_STAT_BROUGHT_BACK, 1);
	if (rc == -E2BIG)
		atomic_fetch_or_explicit(&d->map[c->first + i], TM_PAGE_RAW, memory_order_relaxed);
	return rc;
}

int tm_chunk_cache_locked(struct tm_chunk *c)
{
	int rc = 0;

	for (unsigned int i = 0, n; i < c->pages && rc == 0; i += n) {
		n = fallback_span(c, i);
		if (n == 0) {
			n = 1;
			continue;
		}
		rc = load_locked(c, i, n);
		for (unsigned int k = i; k < i + n && rc == 0; k++)
			(void)restore_locked(c, k, TM_PAGE_TOUCHED);
	}
	return rc;
}

void tm_chunk_trim_locked(struct tm_chunk *c)
{
	for (unsigned int i = 0; i < c->pages; i++)
		if (slice_of(c, i).whole)
			forget_locked(c, i);
	if (c->length == TM_RUN_BYTES)
		return; /* the run's blocks go all at once */
	for (unsigned int i = 0, n; i < c->pages; i += n) {
		n = tm_mask_span(c->left, i);
		if (n > 0)
			tm_fallback_discard(c->device->fallback, c->first + i, n);
		n = TM_MAX(n, 1u);
	}
}

/* --- write-back ------------------------------------------------------------------------------- */

/* The chunk's pages whose byte has `value` in the bits of `mask`. */
static uint32_t pages_with(const struct tm_chunk *c, uint8_t mask, uint8_t value)
{
	uint32_t found = 0;

	for (unsigned int i = 0; i < c->pages; i++)
		if ((tm_page_byte(c->device, c->first + i) & mask) == value)
			found |= 1u << i;
	return found;
}

int tm_chunk_write_back_locked(struct tm_chunk *c)
{
	uint32_t cold = pages_with(c, TM_PLACE_MASK | TM_PAGE_TOUCHED, TM_IN_TMEM);
	int rc;

	for (unsigned int i = 0; i < c->pages; i++)
		if (cold >> i & 1 && fetch_locked(c, i, 0, TM_DEVICE_PAGE, buffer_page(c, i)) == 0)
			c->spill |= 1u << i;
	rc = spill_locked(c);
	cold = c->spill & pages_with(c, TM_PLACE_MASK, TM_ON_FALLBACK);
	tm_device_count(c->device, TM_STAT_WRITTEN_BACK, __builtin_popcount(cold));
	return rc;
}

int tm_chunk_bring_back_locked(struct tm_chunk *c)
{
	uint32_t mask = pages_with(c, TM_PLACE_MASK | TM_PAGE_RAW, TM_ON_FALLBACK);
	int rc = 0;

	for (unsigned int i = 0, n; i < c->pages && rc == 0; i += n) {
		n = tm_mask_span(mask, i);
		if (n == 0) {
			n = 1;
			continue;
		}
		rc = load_locked(c, i, n);
		for (unsigned int k = i; k < i + n && rc == 0; k++) {
			rc = restore_locked(
				c, k, tm_page_byte(c->device, c->first + k) & TM_PAGE_TOUCHED);
			if (rc == -E2BIG)
				rc = 0;
		}
	}
	return rc;
}
