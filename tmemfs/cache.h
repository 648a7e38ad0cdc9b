/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cache.h - between a file's bytes and the pages of tmem
 *
 * One ephemeral pool a mount. The operations tell the cache what stat showed and when the backing
 * is about to change; they ask it for bytes. Nothing here fails for want of memory or of tmem: the
 * worst case is that everything is read from the backing.
 */
#ifndef TMEMFS_CACHE_H
#define TMEMFS_CACHE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "core/tmem.h"
#include "tmemfs/inode.h"
#include "tmemfs/readahead.h"
#include "tmemfs/scope.h"

#define TM_READ_MAX (1u << 20) /* longest read of one call */

struct tm_cache;

struct tm_cache_params {
	bool shared;           /* in a pool of the host that others use, too: */
	struct tm_uuid share;  /* this one; of `open` only socket and start_host matter */
	struct tm_scope scope; /* tells our backing from others */

	struct tm_open_params open; /* opaque and on_destroyed are set by the cache */
	unsigned int order;         /* pages of 4 KiB << order */
	bool dedup;                 /* equal ones are kept once */
	uint64_t file_max;          /* files longer than this are not cached */
	uint64_t queue_bytes;       /* most bytes that wait to be put */
	unsigned int workers;       /* threads that put */
};

/* Starts threads: call after the last fork. 0, or the errors of tm_open or tm_open_shared, of
 * new_pool, and -ENOMEM. */
int tm_cache_open(const struct tm_cache_params *params, struct tm_cache **ret_cache);

/* Drop the puts that wait, and wait for those under way: from here on the cache refers to no inode.
 * No read may be under way. */
void tm_cache_quiesce(struct tm_cache *cache);

/* After the last inode is gone. No other call may be under way. NULL is fine. */
void tm_cache_close(struct tm_cache *cache);

/* --- what stat says ----------------------------------------------------------------------- */

/* When a stat was made, in the two clocks that matter: take it before the stat itself. */
struct tm_moment {
	uint64_t epoch;  /* the inode's; 0: it was not known yet */
	int64_t wall_ns; /* tm_wall_ns() */
};
struct tm_moment tm_cache_moment(struct tm_cache *cache, struct tm_inode *inode);

/* Somebody looked: take note if the file changed. False if the stat may be older than a change of
 * our own, so that nothing can be learned from it. Regular files only; others are ignored. */
bool tm_cache_observe(struct tm_cache *cache, struct tm_inode *inode, const struct stat *st,
	const struct tm_moment *moment);

enum tm_verdict {
	TM_VERDICT_SAME,    /* what the kernel has cached is right */
	TM_VERDICT_UNSURE,  /* drop the pages; size and times are right */
	TM_VERDICT_CHANGED, /* drop the pages; size and times are not what the kernel was told */
};

/* A file is being opened: from here on it must not show anything older than `st`. *ret_epoch is for
 * tm_cache_dropped(). */
enum tm_verdict tm_cache_verify(struct tm_cache *cache, struct tm_inode *inode,
	const struct stat *st, const struct tm_moment *moment, uint64_t *ret_epoch);

/* The kernel has dropped its pages since that verdict, so that the next open may keep them. It does
 * so after it got the answer to the open: the proof is the first read of that very open file. */
void tm_cache_dropped(struct tm_cache *cache, struct tm_inode *inode, uint64_t epoch);

/* Look at the file, for ourselves: whoever opens it next is told. True if pages can be kept of what
 * it is now. */
bool tm_cache_renew(struct tm_cache *cache, struct tm_inode *inode, int fd);

/* The same as an open if nothing has to be learned from `st`: true, and pages and attributes that
 * the kernel has are right; else false, and nothing has happened. */
bool tm_cache_current(struct tm_cache *cache, struct tm_inode *inode, const struct stat *st,
	const struct tm_moment *moment);

/* --- changes of our own -------------------------------------------------------------------- */

#define TM_WHOLE_FILE UINT64_MAX

/* Before the backing changes in [off, off + len): forget the pages, keep new ones out. */
void tm_cache_change_begin(
	struct tm_cache *cache, struct tm_inode *inode, uint64_t off, uint64_t len);

/* After: the file now ends at `size`, or (extend) at least there. Call it after a failure too, with
 * `extend` and 0. */
void tm_cache_change_end(struct tm_cache *cache, struct tm_inode *inode, int64_t size, bool extend);

/* Forget everything known of the inode's content. */
void tm_cache_invalidate(struct tm_cache *cache, struct tm_inode *inode);

/* --- bytes --------------------------------------------------------------------------------- */

/* What a read returned, in a buffer of this thread that lives until its next read. */
struct tm_reply {
	const char *data;
	size_t len;
	bool fills; /* some pages came from the backing: call tm_cache_fill() after the reply */
};

/* Read up to `size` (<= TM_READ_MAX) bytes at `off` from tmem, and what it lacks from `source`,
 * whose descriptor is only asked for when it is needed.
 * 0 and *ret_reply; -ENOMEM; the errno of source->fd and pread. May block on the backing. */
int tm_cache_read(struct tm_cache *cache, struct tm_inode *inode, struct tm_source *source,
	int64_t off, size_t size, struct tm_reply *ret_reply);

/* Queue the pages of this thread's last read that tmem lacked. Call it once the user has the reply.
 * `fd` is what they were read from. */
void tm_cache_fill(struct tm_cache *cache, struct tm_inode *inode, int fd);

/* The backing keeps its readers waiting longer than that would take. */
bool tm_cache_slow(struct tm_cache *cache);

/* This thread will not read for a while: give its buffer back. */
void tm_cache_rest(struct tm_cache *cache);

/* --- by request ------------------------------------------------------------------------------ */

enum tm_warmth {
	TM_WARMTH_KEEPS,   /* the file's pages can be kept */
	TM_WARMTH_YOUNG,   /* not yet: again in wait_ms */
	TM_WARMTH_NEVER,   /* not at all */
	TM_WARMTH_CHANGED, /* it changed meanwhile, and what was read before is not kept */
};

struct tm_warmed {
	enum tm_warmth warmth;
	uint32_t wait_ms;
	struct tm_oid oid;               /* of the version, if it is kept */
	uint64_t size;                   /* the file's */
	uint64_t found, stored, refused; /* bytes */
	bool full;                       /* what is put takes the place of something else */
};

/*
 * See what tmem has of the pages of [off, off + len), at most TM_READ_MAX bytes, and with `reads`
 * bring the others. 0 and *ret_warmed; -ENOMEM; the errno of source->fd and pread. May block on the
 * backing.
 */
int tm_cache_warm(struct tm_cache *cache, struct tm_inode *inode, struct tm_source *source,
	int64_t off, size_t len, bool reads, struct tm_warmed *ret_warmed);

/* How full it is, for all its users. */
struct tm_usage tm_cache_usage(struct tm_cache *cache);

/* Bytes of a page. */
size_t tm_cache_page_size(const struct tm_cache *cache);

void tm_cache_count(struct tm_cache *cache, enum tm_stat stat, int64_t delta);

#endif
