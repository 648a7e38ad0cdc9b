/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cache_warm.c - pages that nobody reads just now
 *
 * Somebody wants a file to be in tmem, not its bytes: they go from the backing into tmem, and from
 * the kernel's cache of the backing they are dropped. Whether a page is there is asked by reading a
 * byte of it, so it counts as used, and eviction takes others first.
 *
 * Invariants: those of cache_read.c.
 *
 * Locking: the stripe lock, only to copy the version out.
 */
#include "tmemfs/cache_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS   1000000ll
#define WAIT_MAX_MS 3000 /* longer than any stamp is young */
#define WRITING_MS  20   /* somebody writes just now: when to look again */

/* Of this part of the room, a cache counts as full: near the limit whole segments are evicted. */
#define FULL_NUM 7
#define FULL_DEN 8

/* One call. */
struct warming {
	struct tm_cache *cache;
	struct tm_inode *inode;
	struct tm_source *source;
	struct tm_version version;
	char *buf; /* as long as the range, in whole pages */
	struct tm_warmed done;
};

size_t tm_cache_page_size(const struct tm_cache *cache)
{
	return cache->page_size;
}

struct tm_usage tm_cache_usage(struct tm_cache *cache)
{
	struct tm_usage usage;

	cache->tm->ops->usage(cache->tm, &usage);
	return usage;
}

static uint32_t wait_of(const struct tm_version *v)
{
	int64_t ms = (v->trust_ns - tm_wall_ns()) / NS_PER_MS + 1;

	if (v->writers > 0)
		return WRITING_MS;
	return (uint32_t)TM_MIN(TM_MAX(ms, (int64_t)1), (int64_t)WAIT_MAX_MS);
}

/* The version to fill. 0, with `done.warmth` saying whether there is one; or -errno. */
static int find_version(struct warming *w)
{
	struct tm_cache *cache = w->cache;
	struct tm_version *v = &w->version;
	int fd;

	w->done.warmth = TM_WARMTH_NEVER;
	if (w->inode->type != S_IFREG || atomic_load(&w->inode->excluded) ||
		atomic_load(&cache->destroyed))
		return 0;
	*v = tm_cache_snapshot(cache, w->inode);
	if (!v->cacheable || v->written) {
		fd = w->source->fd(w->source->opaque);
		if (fd < 0)
			return fd;
		(void)tm_cache_renew(cache, w->inode, fd);
		*v = tm_cache_snapshot(cache, w->inode);
	}
	w->done.size = (uint64_t)v->size;
	if ((uint64_t)v->size > cache->file_max ||
		(v->size > 0 && (uint64_t)(v->size - 1) >> cache->page_shift > UINT32_MAX))
		return 0;
	w->done.warmth = v->cacheable && !v->written ? TM_WARMTH_KEEPS : TM_WARMTH_YOUNG;
	if (w->done.warmth == TM_WARMTH_YOUNG)
		w->done.wait_ms = wait_of(v);
	else
		w->done.oid = v->oid;
	return 0;
}

static bool page_is_there(const struct warming *w, uint64_t page)
{
	struct tmem *tm = w->cache->tm;
	char byte;

	return tm->ops->read(tm, w->cache->pool, &w->version.oid, (uint32_t)page, 0, 1, &byte) == 0;
}

/* Bytes of the file that pages [first, last) have. */
static uint64_t bytes_of(const struct warming *w, uint64_t first, uint64_t last)
{
	return TM_MIN(last << w->cache->page_shift, w->done.size) - (first << w->cache->page_shift);
}

/* Read pages [first, last), with zeros behind the file's end. 0; -EAGAIN the file ends elsewhere by
 * now; or the errno of pread. */
static int fetch(struct warming *w, uint64_t first, uint64_t last)
{
	size_t room = (size_t)(last - first) << w->cache->page_shift, done = 0;
	size_t expect = (size_t)bytes_of(w, first, last);
	off_t start = (off_t)(first << w->cache->page_shift);
	int fd = w->source->fd(w->source->opaque);
	ssize_t n;

	if (fd < 0)
		return fd;
	do {
		n = pread(fd, w->buf + done, room - done, start + (off_t)done);
		if (n < 0 && errno != EINTR)
			return -errno;
		done += (size_t)TM_MAX(n, (ssize_t)0);
	} while (n != 0 && done < expect);
	tm_cache_count(w->cache, TM_STAT_BACKING_READS, 1);
	tm_cache_count(w->cache, TM_STAT_BACKING_READ_BYTES, (int64_t)done);
	if (done != expect)
		return -EAGAIN;
	memset(w->buf + done, 0, room - done);
	return 0;
}

/* Bring pages [first, last), which tmem lacks. 0 or -errno. */
static int bring(struct warming *w, uint64_t first, uint64_t last)
{
	int rc = fetch(w, first, last);

	for (uint64_t page = first; rc == 0 && page < last; page++) {
		struct tm_put put = {.inode = w->inode,
			.epoch = w->version.epoch,
			.index = (uint32_t)page,
			.page = w->buf + ((page - first) << w->cache->page_shift)};

		rc = tm_cache_put_now(w->cache, &put);
		if (rc == 0) {
			w->done.stored += bytes_of(w, page, page + 1);
			tm_cache_count(w->cache, TM_STAT_WARMED, 1);
		} else if (rc != -EAGAIN) {
			w->done.refused += bytes_of(w, page, page + 1);
			rc = 0;
		}
	}
	if (w->done.refused == 0)
		posix_fadvise(w->source->fd(w->source->opaque),
			(off_t)(first << w->cache->page_shift),
			(off_t)((last - first) << w->cache->page_shift), POSIX_FADV_DONTNEED);
	if (rc == -EAGAIN) {
		w->done.warmth = TM_WARMTH_CHANGED;
		rc = 0;
	}
	return rc;
}

/* Look at pages [first, last), and bring those that are missing. 0 or -errno. */
static int warm_pages(struct warming *w, uint64_t first, uint64_t last, bool reads)
{
	uint64_t page = first, end;
	int rc = 0;

	while (page < last && rc == 0 && w->done.warmth == TM_WARMTH_KEEPS) {
		for (end = page; end < last && !page_is_there(w, end);)
			end++;
		if (end > page && reads)
			rc = bring(w, page, end);
		if (end < last)
			w->done.found += bytes_of(w, end, end + 1);
		page = end + 1;
	}
	if (w->done.found > 0)
		atomic_store(&w->inode->filled, true);
	return rc;
}

int tm_cache_warm(struct tm_cache *cache, struct tm_inode *inode, struct tm_source *source,
	int64_t off, size_t len, bool reads, struct tm_warmed *ret_warmed)
{
	struct warming w = {.cache = cache, .inode = inode, .source = source};
	TM_AUTO_FREE char *buf = NULL;
	uint64_t first, last, end;
	struct tm_usage usage;
	int rc = find_version(&w);

	len = TM_MIN(len, (size_t)TM_READ_MAX);
	if (rc == 0 && w.done.warmth == TM_WARMTH_KEEPS && (uint64_t)off < w.done.size && len > 0) {
		end = TM_MIN((uint64_t)off + len, w.done.size);
		first = (uint64_t)off >> cache->page_shift;
		last = ((end - 1) >> cache->page_shift) + 1;
		w.buf = buf = reads ? malloc((size_t)(last - first) << cache->page_shift) : NULL;
		rc = reads && !buf ? -ENOMEM : warm_pages(&w, first, last, reads);
	}
	if (rc < 0)
		return rc;
	usage = tm_cache_usage(cache);
	w.done.full = usage.live_bytes >= usage.limit_bytes / FULL_DEN * FULL_NUM;
	*ret_warmed = w.done;
	return 0;
}
