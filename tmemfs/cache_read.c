/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cache_read.c - one read: from tmem, and what it lacks from the backing
 *
 *   request         |   off ............ end   |
 *   buffer     | page 0 | page 1 | page 2 | page 3 |     pages of tmem, whole
 *   missed          no      yes      yes      no         pages 1-2: one pread, put after the reply
 *
 * Each thread has one buffer, made at its first read and used for every reply: a malloc a reply of
 * 128 KiB and more is an mmap and its page faults, which halves the rate of large reads.
 *
 * Where the backing is slow, the following pages are read ahead into tmem (readahead.h).
 *
 * Invariants
 *   1. Bytes beyond the file's end are zero in every page that is put.
 *   2. If the backing's end is not where the version has it, nothing of that read is put.
 *
 * Locking: the stripe lock, only to copy the version out.
 */
#include "tmemfs/cache_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A backing whose reads take longer than this on average is worth reading ahead; below, its own
 * kernel does, and a page would only be compressed and decompressed on its way. */
#define SLOW_NS (300 * 1000ull)

/* So long after the last page from the backing its reader is doing something else. */
#define CALM_NS (5 * 1000000ull)

#define PAGES_MAX    (TM_READ_MAX / TM_PAGE_SIZE + 2)
#define BUFFER_BYTES (TM_READ_MAX + 2 * (TM_PAGE_SIZE << TM_ORDER_MAX))

struct tm_buffer {
	char *data; /* BUFFER_BYTES */

	/* What the last read left to put. */
	uint64_t first; /* index of the page at data[0] */
	unsigned int pages;
	uint64_t epoch;
	bool missed[PAGES_MAX];
};

void tm_cache_buffer_free(void *buffer)
{
	struct tm_buffer *b = buffer;

	munmap(b->data, BUFFER_BYTES);
	free(b);
}

void tm_cache_rest(struct tm_cache *cache)
{
	struct tm_buffer *b = pthread_getspecific(cache->buffer_key);

	if (!b)
		return;
	pthread_setspecific(cache->buffer_key, NULL);
	tm_cache_buffer_free(b);
}

static struct tm_buffer *buffer_of_thread(struct tm_cache *cache)
{
	struct tm_buffer *b = pthread_getspecific(cache->buffer_key);

	if (b)
		return b;
	b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->data = mmap(
		NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->data == MAP_FAILED) {
		free(b);
		return NULL;
	}
	pthread_setspecific(cache->buffer_key, b);
	return b;
}

/* A moving average, for whether reading ahead is worth it. Lost updates do not matter. */
static void note_delay(struct tm_cache *cache, uint64_t ns)
{
	uint64_t before = atomic_load(&cache->read_ns);

	atomic_store(&cache->read_ns, before + ns / 8 - before / 8);
}

bool tm_cache_slow(struct tm_cache *cache)
{
	return atomic_load(&cache->read_ns) >= SLOW_NS;
}

/*
 * All there is of `len` bytes at `off`, of which `expect` should be there: a short read of that
 * many is the end, and asking a slow backing once more would double what a small file costs.
 * Returns the number of bytes, less than `expect` only if the file ends sooner, or -errno.
 */
static ssize_t backing_read(
	struct tm_cache *cache, int fd, char *buf, size_t len, int64_t off, size_t expect)
{
	uint64_t start = tm_now_ns();
	size_t done = 0;

	do {
		ssize_t n = pread(fd, buf + done, len - done, off + (int64_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	} while (done < TM_MIN(len, expect));
	note_delay(cache, tm_now_ns() - start);
	tm_cache_count(cache, TM_STAT_BACKING_READS, 1);
	tm_cache_count(cache, TM_STAT_BACKING_READ_BYTES, (int64_t)done);
	return (ssize_t)done;
}

static int read_uncached(struct tm_cache *cache, struct tm_buffer *b, const struct tm_version *v,
	int fd, int64_t off, size_t size, struct tm_reply *ret_reply)
{
	size_t expect = v->known && v->size > off ? (size_t)(v->size - off) : size;
	ssize_t n = fd < 0 ? fd : backing_read(cache, fd, b->data, size, off, expect);

	if (n < 0)
		return (int)n;
	*ret_reply = (struct tm_reply){.data = b->data, .len = (size_t)n};
	return 0;
}

struct tm_version tm_cache_snapshot(struct tm_cache *cache, struct tm_inode *inode)
{
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);
	struct tm_version v;

	pthread_rwlock_rdlock(lock);
	v = inode->version;
	pthread_rwlock_unlock(lock);
	return v;
}

/* The same, after another look at a file that was too young to trust when it was opened. */
static struct tm_version usable_version(
	struct tm_cache *cache, struct tm_inode *inode, struct tm_source *source)
{
	struct tm_version v = tm_cache_snapshot(cache, inode);

	if (v.cacheable || v.writers > 0 || tm_wall_ns() < v.trust_ns)
		return v;
	(void)tm_cache_renew(cache, inode, source->fd(source->opaque));
	return tm_cache_snapshot(cache, inode);
}

/* Does the request want all there is of page `i`? */
static bool is_whole(const struct tm_cache *cache, const struct tm_version *v,
	const struct tm_buffer *b, unsigned int i, int64_t off, int64_t end)
{
	int64_t start = (int64_t)(b->first + i) << cache->page_shift;

	return start >= off && (start + (int64_t)cache->page_size <= end || end == v->size);
}

/* Copy what the request wants of page `i` of the buffer out of tmem, which is not all of it. */
static bool part_get(struct tm_cache *cache, const struct tm_version *v, struct tm_buffer *b,
	unsigned int i, int64_t off, int64_t end)
{
	struct tmem *tm = cache->tm;
	int64_t start = (int64_t)(b->first + i) << cache->page_shift;
	int64_t stop = start + (int64_t)cache->page_size;
	uint32_t index = (uint32_t)(b->first + i), skip;
	char *page = b->data + ((size_t)i << cache->page_shift);

	start = TM_MAX(start, off);
	stop = TM_MIN(stop, end);
	skip = (uint32_t)(start & (int64_t)(cache->page_size - 1));
	return tm->ops->read(tm, cache->pool, &v->oid, index, skip, (uint32_t)(stop - start),
		       page + skip) == 0;
}

/* Copy what tmem has of the first `count` pages out of it, whole pages in one call, and note what
 * it lacks. */
static void pages_get(struct tm_cache *cache, const struct tm_version *v, struct tm_buffer *b,
	unsigned int count, int64_t off, int64_t end)
{
	for (unsigned int i = 0, n; i < count; i = n) {
		for (n = i; n < count && is_whole(cache, v, b, n, off, end);)
			n++;
		if (n > i)
			(void)cache->tm->ops->get_many(cache->tm, cache->pool, &v->oid,
				(uint32_t)(b->first + i), n - i,
				b->data + ((size_t)i << cache->page_shift), b->missed + i);
		else
			b->missed[n++] = !part_get(cache, v, b, i, off, end);
	}
}

/*
 * Read the missing pages [i, n) from the backing. Returns 0, with *ret_whole telling whether the
 * file ends where the version says, and *ret_end where these bytes end; or -errno.
 */
static int pages_fetch(struct tm_cache *cache, const struct tm_version *v, struct tm_buffer *b,
	unsigned int i, unsigned int n, int fd, int64_t *ret_end, bool *ret_whole)
{
	int64_t start = (int64_t)(b->first + i) << cache->page_shift;
	size_t want = (size_t)(n - i) << cache->page_shift;
	size_t expect = (size_t)TM_MIN((int64_t)want, v->size - start);
	char *data = b->data + ((size_t)i << cache->page_shift);
	ssize_t got = fd < 0 ? fd : backing_read(cache, fd, data, want, start, expect);

	if (got < 0)
		return (int)got;
	*ret_end = start + got;
	*ret_whole = (size_t)got == expect;
	if (*ret_whole)
		memset(data + got, 0, want - (size_t)got);
	return 0;
}

int tm_cache_read(struct tm_cache *cache, struct tm_inode *inode, struct tm_source *source,
	int64_t off, size_t size, struct tm_reply *ret_reply)
{
	struct tm_buffer *b = buffer_of_thread(cache);
	struct tm_version v;
	int64_t end;
	bool fills = false, hits = false, misses = false, ahead;

	if (!b)
		return -ENOMEM;
	size = TM_MIN(size, (size_t)TM_READ_MAX);
	b->pages = 0;
	v = usable_version(cache, inode, source);
	if (!v.cacheable || atomic_load(&inode->excluded) || (uint64_t)v.size > cache->file_max ||
		off >= v.size || size == 0 || atomic_load(&cache->destroyed) ||
		(uint64_t)(v.size - 1) >> cache->page_shift > UINT32_MAX)
		return read_uncached(
			cache, b, &v, source->fd(source->opaque), off, size, ret_reply);

	end = TM_MIN(off + (int64_t)size, v.size);
	b->first = (uint64_t)off >> cache->page_shift;
	b->pages = (unsigned int)(((uint64_t)(end - 1) >> cache->page_shift) - b->first + 1);
	b->epoch = v.epoch;
	ahead = tm_cache_slow(cache);
	if (ahead)
		tm_readahead_meet(cache->ahead, inode, off, (size_t)(end - off));
	pages_get(cache, &v, b, b->pages, off, end);
	for (unsigned int i = 0; i < b->pages; i++) {
		hits |= !b->missed[i];
		misses |= b->missed[i];
	}
	/* Before we wait for our own bytes, so that all come at once. */
	if (ahead && !atomic_load(&cache->refusing))
		tm_readahead_note(
			cache->ahead, inode, source, off, (size_t)(end - off), v.size, misses);
	/* After a restart, say: the next open can do without the backing. */
	if (hits && !atomic_load(&inode->filled))
		atomic_store(&inode->filled, true);

	for (unsigned int i = 0, n; i < b->pages; i = n) {
		int64_t stop = 0;
		bool whole = false;

		for (n = i; n < b->pages && b->missed[n];)
			n++;
		if (n == i) {
			n++;
			continue;
		}
		/* An error may lie in bytes that nobody asked for: then read just the others. */
		if (pages_fetch(cache, &v, b, i, n, source->fd(source->opaque), &stop, &whole) <
			0) {
			b->pages = 0;
			return read_uncached(
				cache, b, &v, source->fd(source->opaque), off, size, ret_reply);
		}
		fills = true;
		if (!whole) { /* changed by others: as far as it goes, and nothing of it is kept */
			b->pages = 0;
			end = TM_MIN(off + (int64_t)size, stop);
			fills = false;
			break;
		}
	}
	*ret_reply = (struct tm_reply){
		.data = b->data + (off - ((int64_t)b->first << cache->page_shift)),
		.len = end > off ? (size_t)(end - off) : 0,
		.fills = fills,
	};
	return 0;
}

/*
 * While pages come in from a backing that is faster than compression, its readers need the
 * processors more than the queue does: it gets what they leave idle. A slow one leaves enough.
 */
bool tm_cache_hold(void *opaque)
{
	struct tm_cache *cache = opaque;

	return !tm_cache_slow(cache) && tm_now_ns() - atomic_load(&cache->fill_ns) < CALM_NS &&
		!tm_idle(&cache->idle);
}

/*
 * Pages [i, n) of the buffer, once the user has them. A full queue means that the backing is faster
 * than compression. The first to read a file shall not wait for it, so the rest is not put; if the
 * file is opened again, it is worth it: then whoever brought the pages compresses them, and brings
 * the next ones later. The number of pages that were put or will be, the first ones.
 */
static unsigned int queue_or_put(struct tm_cache *cache, struct tm_inode *inode,
	const struct tm_buffer *b, unsigned int i, unsigned int n)
{
	uint32_t first = (uint32_t)(b->first + i);
	const char *pages = b->data + ((size_t)i << cache->page_shift);
	unsigned int queued = tm_putq_add(cache->queue, inode, b->epoch, first, n - i, pages);

	if (queued < n - i && !atomic_load(&inode->again)) {
		atomic_store(&inode->lost, true);
		tm_cache_count(cache, TM_STAT_PUTS_DROPPED, n - i - queued);
		return queued;
	}
	for (; queued < n - i; queued++) {
		struct tm_put put = {.inode = inode,
			.epoch = b->epoch,
			.index = first + queued,
			.page = pages + ((size_t)queued << cache->page_shift)};

		tm_cache_put(cache, &put);
	}
	return n - i;
}

bool tm_cache_ahead(
	void *opaque, struct tm_inode *inode, struct tm_source *source, int64_t off, size_t len)
{
	struct tm_cache *cache = opaque;
	struct tm_buffer *b = buffer_of_thread(cache);
	struct tm_version v = tm_cache_snapshot(cache, inode);
	int64_t end = TM_MIN(off + (int64_t)len, v.size), stop;
	bool whole;
	int fd;

	if (!b || !v.cacheable || end <= off || atomic_load(&cache->refusing))
		return false;
	b->first = (uint64_t)off >> cache->page_shift;
	b->pages = (unsigned int)(((uint64_t)(end - 1) >> cache->page_shift) - b->first + 1);
	for (; b->pages > 0; b->pages--) {
		pages_get(cache, &v, b, 1, off, end);
		if (b->missed[0])
			break;
		b->first++;
		off = (int64_t)b->first << cache->page_shift;
	}
	if (b->pages == 0)
		return false;
	fd = source->fd(source->opaque);
	if (pages_fetch(cache, &v, b, 0, b->pages, fd, &stop, &whole) < 0 || !whole)
		return false;
	for (unsigned int i = 0; i < b->pages; i++) {
		struct tm_put put = {.inode = inode,
			.epoch = v.epoch,
			.index = (uint32_t)(b->first + i),
			.page = b->data + ((size_t)i << cache->page_shift)};

		tm_cache_put(cache, &put);
	}
	posix_fadvise(fd, (off_t)(b->first << cache->page_shift),
		(off_t)b->pages << cache->page_shift, POSIX_FADV_DONTNEED);
	return true;
}

void tm_cache_fill(struct tm_cache *cache, struct tm_inode *inode, int fd)
{
	struct tm_buffer *b = buffer_of_thread(cache);

	if (!b)
		return;
	atomic_store(&cache->fill_ns, tm_now_ns());
	for (unsigned int i = 0, n; i < b->pages; i = n + 1) {
		unsigned int taken = 0;

		for (n = i; n < b->pages && b->missed[n];)
			n++;
		if (n > i)
			taken = queue_or_put(cache, inode, b, i, n);
		/* Once it is here it need not take memory below as well. */
		if (taken > 0 && !atomic_load(&cache->refusing))
			posix_fadvise(fd, (off_t)((b->first + i) << cache->page_shift),
				(off_t)taken << cache->page_shift, POSIX_FADV_DONTNEED);
	}
	b->pages = 0;
}
