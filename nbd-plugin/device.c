/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/device.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "core/util.h"

#define LOCKS 1024u

enum place {
	NOWHERE, /* zeros */
	TMEM,
	FALLBACK,
};

struct tm_device {
	uint64_t bytes, pages;
	struct tm_fallback *fallback; /* may be NULL */
	struct tmem *tmem;
	int pool;
	_Atomic uint8_t *map; /* [pages]: enum place, each under its page's lock */
	pthread_mutex_t locks[LOCKS];
};

/* The device is one object; page n is index n. */
static const struct tm_oid device_oid = {{0, 0, 0}};

/* A page-aligned buffer on the stack, for O_DIRECT. */
struct page {
	_Alignas(TM_DEVICE_PAGE) uint8_t bytes[TM_DEVICE_PAGE];
};

/* --- life ------------------------------------------------------------------------------------- */

int tm_device_create(uint64_t bytes, struct tm_fallback *fallback, struct tm_device **ret_device)
{
	struct tm_device *d = calloc(1, sizeof(*d));
	void *map;

	if (!d)
		return -ENOMEM;
	d->bytes = bytes;
	d->pages = (bytes + TM_DEVICE_PAGE - 1) / TM_DEVICE_PAGE;
	map = mmap(NULL, d->pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED) {
		free(d);
		return -ENOMEM;
	}
	d->map = map;
	d->fallback = fallback;
	d->tmem = tm_none();
	for (unsigned int i = 0; i < LOCKS; i++)
		pthread_mutex_init(&d->locks[i], NULL);
	*ret_device = d;
	return 0;
}

int tm_device_attach(struct tm_device *d, struct tmem *tmem, const char *pool_name)
{
	struct tm_pool_params params = {
		.flags = tm_pool_flags(TM_POOL_PERSIST, 0),
		/* What does not compress is no use in RAM when there is a disk for it. */
		.attrs = d->fallback ? TM_POOL_REFUSE_RAW : 0,
		.name = pool_name,
	};

	d->tmem = tmem;
	d->pool = tmem->ops->new_pool(tmem, &params);
	return TM_MIN(d->pool, 0);
}

void tm_device_destroy(struct tm_device *d)
{
	if (!d)
		return;
	d->tmem->ops->close(d->tmem);
	tm_fallback_close(d->fallback);
	munmap((void *)d->map, d->pages);
	for (unsigned int i = 0; i < LOCKS; i++)
		pthread_mutex_destroy(&d->locks[i]);
	free(d);
}

/* --- one page, locked ---------------------------------------------------------------------------
 */

static void count(struct tm_device *d, enum tm_stat stat, int64_t delta)
{
	d->tmem->ops->count(d->tmem, d->pool, stat, delta);
}

static enum place place_of(const struct tm_device *d, uint64_t n)
{
	return atomic_load_explicit(&d->map[n], memory_order_relaxed);
}

static void set_place_locked(struct tm_device *d, uint64_t n, enum place to)
{
	enum place from = place_of(d, n);

	if (from == to)
		return;
	atomic_store_explicit(&d->map[n], to, memory_order_relaxed);
	count(d, TM_STAT_FALLBACK_PAGES, (to == FALLBACK) - (from == FALLBACK));
}

/* A page that should be in tmem is not there, or not whole: an error, never zeros. */
static int tmem_error(int rc)
{
	return rc == -ENOENT || rc == -ENOSYS ? -EIO : rc;
}

/* Its place does not hold the page any more. */
static void leave_locked(struct tm_device *d, uint64_t n, enum place from)
{
	if (from == TMEM)
		d->tmem->ops->flush_page(d->tmem, d->pool, &device_oid, (uint32_t)n);
	else if (from == FALLBACK)
		tm_fallback_discard(d->fallback, n);
}

static void forget_locked(struct tm_device *d, uint64_t n)
{
	enum place from = place_of(d, n);

	set_place_locked(d, n, NOWHERE);
	leave_locked(d, n, from);
}

static int read_fallback_locked(struct tm_device *d, uint64_t n, struct page *ret_page)
{
	int rc = tm_fallback_read(d->fallback, n, ret_page->bytes);

	count(d, rc < 0 ? TM_STAT_FALLBACK_ERRORS : TM_STAT_FALLBACK_READS, 1);
	return rc;
}

static int read_locked(struct tm_device *d, uint64_t n, struct page *ret_page)
{
	switch (place_of(d, n)) {
	case TMEM:
		return tmem_error(d->tmem->ops->get(
			d->tmem, d->pool, &device_oid, (uint32_t)n, ret_page->bytes));
	case FALLBACK:
		return read_fallback_locked(d, n, ret_page);
	case NOWHERE:
		break;
	}
	memset(ret_page->bytes, 0, sizeof(ret_page->bytes));
	return 0;
}

/* tmem refused the page: -ENOSPC, or it is on the fallback now. */
static int write_fallback_locked(struct tm_device *d, uint64_t n, const struct page *page)
{
	enum place from = place_of(d, n);
	int rc;

	if (!d->fallback)
		return -ENOSPC;
	rc = tm_fallback_write(d->fallback, n, page->bytes);
	count(d, rc < 0 ? TM_STAT_FALLBACK_ERRORS : TM_STAT_FALLBACK_WRITES, 1);
	if (rc < 0)
		return rc;
	set_place_locked(d, n, FALLBACK);
	if (from == TMEM)
		leave_locked(d, n, TMEM);
	return 0;
}

static bool is_zero(const struct page *page)
{
	return page->bytes[0] == 0 &&
		memcmp(page->bytes, page->bytes + 1, sizeof(page->bytes) - 1) == 0;
}

/* Replace a whole page. tmem's `write` keeps the old page when it refuses, `put` would not: so a
 * page in tmem is written, any other is put. */
static int write_locked(struct tm_device *d, uint64_t n, const struct page *page)
{
	const struct tmem_ops *ops = d->tmem->ops;
	enum place from = place_of(d, n);
	int rc;

	if (is_zero(page)) {
		forget_locked(d, n);
		return 0;
	}
	if (from == TMEM)
		rc = ops->write(
			d->tmem, d->pool, &device_oid, (uint32_t)n, 0, TM_DEVICE_PAGE, page->bytes);
	else
		rc = ops->put(d->tmem, d->pool, &device_oid, (uint32_t)n, page->bytes);
	if (rc < 0)
		return write_fallback_locked(d, n, page);
	if (from != TMEM) {
		set_place_locked(d, n, TMEM);
		leave_locked(d, n, from);
	}
	return 0;
}

/* Replace part of a page; `buf` NULL is zeros. */
static int write_part_locked(
	struct tm_device *d, uint64_t n, uint32_t offset, uint32_t length, const void *buf)
{
	struct page page;
	int rc = read_locked(d, n, &page);

	if (rc < 0)
		return rc;
	if (buf)
		memcpy(page.bytes + offset, buf, length);
	else
		memset(page.bytes + offset, 0, length);
	return write_locked(d, n, &page);
}

static int cache_locked(struct tm_device *d, uint64_t n)
{
	struct page page;
	int rc;

	if (place_of(d, n) != FALLBACK)
		return 0;
	rc = read_fallback_locked(d, n, &page);
	if (rc < 0)
		return rc;
	if (d->tmem->ops->put(d->tmem, d->pool, &device_oid, (uint32_t)n, page.bytes) == 0) {
		set_place_locked(d, n, TMEM);
		leave_locked(d, n, FALLBACK);
	}
	return 0;
}

/* --- requests: page by page ---------------------------------------------------------------------
 */

/* The part of a request that lies in one page. */
struct piece {
	uint64_t n;
	uint32_t offset, length; /* inside the page */
	bool whole;              /* all of the page, or all that the device has of its last one */
};

static struct piece next_piece(const struct tm_device *d, uint64_t offset, uint64_t count)
{
	struct piece p = {
		.n = offset / TM_DEVICE_PAGE, .offset = (uint32_t)(offset % TM_DEVICE_PAGE)};

	p.length = (uint32_t)TM_MIN(count, (uint64_t)TM_DEVICE_PAGE - p.offset);
	p.whole = p.offset == 0 && (p.length == TM_DEVICE_PAGE || offset + p.length == d->bytes);
	return p;
}

static pthread_mutex_t *lock_page(struct tm_device *d, uint64_t n)
{
	pthread_mutex_t *lock = &d->locks[n % LOCKS];

	pthread_mutex_lock(lock);
	return lock;
}

int tm_device_read(struct tm_device *d, void *ret_buf, uint32_t count, uint64_t offset)
{
	uint8_t *to = ret_buf;
	struct page page;
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct piece p = next_piece(d, offset, count);
		pthread_mutex_t *lock = lock_page(d, p.n);

		rc = read_locked(d, p.n, &page);
		pthread_mutex_unlock(lock);
		memcpy(to, page.bytes + p.offset, p.length);
		to += p.length, offset += p.length, count -= p.length;
	}
	return rc;
}

int tm_device_write(struct tm_device *d, const void *buf, uint32_t count, uint64_t offset)
{
	const uint8_t *from = buf;
	struct page page;
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct piece p = next_piece(d, offset, count);
		pthread_mutex_t *lock = lock_page(d, p.n);

		if (p.length == TM_DEVICE_PAGE) {
			memcpy(page.bytes, from, TM_DEVICE_PAGE);
			rc = write_locked(d, p.n, &page);
		} else {
			rc = write_part_locked(d, p.n, p.offset, p.length, from);
		}
		pthread_mutex_unlock(lock);
		from += p.length, offset += p.length, count -= p.length;
	}
	return rc;
}

int tm_device_zero(struct tm_device *d, uint32_t count, uint64_t offset)
{
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct piece p = next_piece(d, offset, count);
		pthread_mutex_t *lock = lock_page(d, p.n);

		if (p.whole)
			forget_locked(d, p.n);
		else
			rc = write_part_locked(d, p.n, p.offset, p.length, NULL);
		pthread_mutex_unlock(lock);
		offset += p.length, count -= p.length;
	}
	return rc;
}

int tm_device_trim(struct tm_device *d, uint32_t count, uint64_t offset)
{
	while (count > 0) {
		struct piece p = next_piece(d, offset, count);
		pthread_mutex_t *lock = lock_page(d, p.n);

		if (p.whole)
			forget_locked(d, p.n);
		pthread_mutex_unlock(lock);
		offset += p.length, count -= p.length;
	}
	return 0;
}

int tm_device_cache(struct tm_device *d, uint32_t count, uint64_t offset)
{
	int rc = 0;

	while (count > 0 && rc == 0) {
		struct piece p = next_piece(d, offset, count);
		pthread_mutex_t *lock = lock_page(d, p.n);

		rc = cache_locked(d, p.n);
		pthread_mutex_unlock(lock);
		offset += p.length, count -= p.length;
	}
	return rc;
}

int tm_device_sync(struct tm_device *d)
{
	int rc = d->fallback ? tm_fallback_sync(d->fallback) : 0;

	if (rc < 0)
		count(d, TM_STAT_FALLBACK_ERRORS, 1);
	return rc;
}

uint64_t tm_device_run(struct tm_device *d, uint64_t count, uint64_t offset, bool *ret_hole)
{
	uint64_t first = offset / TM_DEVICE_PAGE, n = first, end = offset + count;
	bool hole = place_of(d, n) == NOWHERE;

	while (n * TM_DEVICE_PAGE < end && (place_of(d, n) == NOWHERE) == hole)
		n++;
	*ret_hole = hole;
	return TM_MIN(n * TM_DEVICE_PAGE, end) - offset;
}
