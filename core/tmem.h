/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tmem.h - the one header that front ends know
 *
 * Glossary
 *   page        4 KiB << order of its pool; only ever copied in and out, never mapped.
 *   index       u32 number of a page inside its object.
 *   object      192-bit id chosen by the front end, usually one file or one device.
 *   handle      (pool, object, index): the name of one page.
 *   pool        a set of objects with fixed attributes; a small id, lowest free first.
 *   ephemeral   such a page may vanish at any moment.
 *   persistent  a put that succeeded is found, byte-exact, until flush, overwrite or destroy.
 *   client      one front end: one `struct tmem`, one byte limit, up to TM_POOLS_MAX pools.
 *   host        tmemd, which grants bytes to clients; a client works without it too.
 *
 * Promises (the numbers are those of docs/semantics.md)
 *   1. Any put may be rejected, at any time.
 *   2. After put(D1), put(D2) on one handle a get returns D2 or misses, even when the second
 *      put failed, whatever it failed on.
 *   3. A miss stays a miss until the next put of that handle.
 *   4. Get from a private ephemeral pool is exclusive (get + flush) unless the pool was made with
 *      TM_POOL_RETAIN; get from a persistent or shared pool retains.
 *   5. Persistent: never lost, never wrong; damage is -EIO.
 *   6. Ephemeral: damage is a miss.
 *   7. After a flush returned no get sees the page.
 *   8. Frozen: a put is refused and flushes its handle; get and flush work.
 *   9. Any thread may call anything at any time; calls on one handle have some serial order.
 *
 * After Dan Magenheimer's tmem (Linux RFC 2009, Xen 4.0-4.11); flags as in Xen's public/tmem.h.
 */
#ifndef TMEM_H
#define TMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/stats.h"

#define TM_PAGE_SHIFT 12
#define TM_PAGE_SIZE  (1u << TM_PAGE_SHIFT)
#define TM_ORDER_MAX  4 /* 64 KiB */
#define TM_POOLS_MAX  16
#define TM_NAME_MAX   63 /* bytes of a client's or pool's name, without the NUL */

/* Flags word of new_pool, bit for bit Xen's. */
#define TM_POOL_PERSIST       (1u << 0)
#define TM_POOL_SHARED        (1u << 1)
#define TM_POOL_PRECOMPRESSED (1u << 2)
#define TM_POOL_ORDER_SHIFT   4
#define TM_POOL_ORDER_MASK    0x000000f0u
#define TM_POOL_RESERVED      0x00ffff08u
#define TM_POOL_VERSION_SHIFT 24
#define TM_SPEC_VERSION       1u

/* The flags word of a pool of this spec version with pages of 4 KiB << order. */
static inline uint32_t tm_pool_flags(uint32_t kind, unsigned int order)
{
	return kind | order << TM_POOL_ORDER_SHIFT | TM_SPEC_VERSION << TM_POOL_VERSION_SHIFT;
}

/* Attributes that Xen's word has no room for. */
#define TM_POOL_RETAIN     (1u << 0) /* ephemeral, but a get leaves the page (a file cache) */
#define TM_POOL_REFUSE_RAW (1u << 1) /* an incompressible page is refused, not stored raw */
#define TM_POOL_DEDUP      (1u << 2) /* equal pages are stored once; RETAIN pools only */
#define TM_POOL_ATTRS      (TM_POOL_RETAIN | TM_POOL_REFUSE_RAW | TM_POOL_DEDUP)

struct tm_uuid {
	uint64_t lo, hi;
};

/* "c9e1a2f0-....": 32 hexadecimal digits in groups of 8-4-4-4-12, of any case. 0; -EINVAL for
 * anything else, and for the one that is all zeros. */
#define TM_UUID_TEXT_MAX 37 /* with the NUL */
int tm_uuid_parse(const char *text, struct tm_uuid *ret_uuid);
const char *tm_uuid_format(const struct tm_uuid *uuid, char buf[static TM_UUID_TEXT_MAX]);

/* All ones is no object: every call refuses it with -EINVAL. */
struct tm_oid {
	uint64_t w[3];
};

struct tm_pool_params {
	struct tm_uuid uuid; /* names a shared pool; ignored for a private one */
	uint32_t flags;      /* tm_pool_flags() */
	uint32_t attrs;      /* TM_POOL_RETAIN | ... */
	const char *name;    /* for people and scripts; copied; at most TM_NAME_MAX bytes */
};

struct tmem;

/* How full a tmem is, at some recent moment. */
struct tm_usage {
	uint64_t live_bytes;  /* what the stored pages need; space of dead ones is had back */
	uint64_t limit_bytes; /* what live_bytes can come to: the limit or grant of now, less what
			       * is kept free for moving pages and appending them */
	bool frozen;          /* every put is refused */
};

/*
 * What a tmem can do. Implementations: none (every call -ENOSYS), local (a store in this process)
 * and remote (a shared pool in a process of its own). Every call copies, is thread safe, keeps no
 * pointer, and blocks no longer than one page's codec plus the moving of one segment, a remote one
 * also for TM_SHARE_PATIENCE_MS when its server is stuck. `page` is 4 KiB << order bytes.
 *
 * Errors of every call that takes them: -ENOENT no such pool, -EINVAL the invalid object id.
 */
struct tmem_ops {
	const char *name;

	/* Make a pool. Returns its id (>= 0, the lowest free), or: -EINVAL unknown spec version,
	 * order > TM_ORDER_MAX, reserved bits or attributes, bad name; -EOPNOTSUPP PRECOMPRESSED,
	 * SHARED with PERSIST, DEDUP with PERSIST or without RETAIN; -EACCES SHARED without
	 * authority; -ENFILE all ids taken; -ENOMEM. Those of tm_open_shared() are named there. */
	int (*new_pool)(struct tmem *t, const struct tm_pool_params *params);

	/* Drop the pool and all its pages; the memory is back when this returns, the id is free. */
	int (*destroy_pool)(struct tmem *t, int pool);

	/* Store a copy of `page`. 0; -ENOMEM rejected for want of room; -E2BIG incompressible in a
	 * TM_POOL_REFUSE_RAW pool; -EBUSY frozen. After any failure the handle is empty. */
	int (*put)(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
		const void *page);

	/* Copy the page out. 0 hit; -ENOENT miss; -EIO damaged persistent page. `ret_page` may be
	 * overwritten on a failure too; its content then means nothing. */
	int (*get)(
		struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index, void *ret_page);

	/* Copy `count` pages, from `index` on, out to one after the other; ret_missed[i] tells
	 * which of them are not there, for whatever reason. The number of those that are; or an
	 * error, and then all are missed. */
	int (*get_many)(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
		uint32_t count, void *ret_pages, bool *ret_missed);

	/* Forget one page, or every page of an object. 0 whether or not there was one. */
	int (*flush_page)(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index);
	int (*flush_object)(struct tmem *t, int pool, const struct tm_oid *oid);

	/* Copy `length` bytes at `offset` of a page out. Never removes the page. 0; -ENOENT miss;
	 * -EINVAL offset + length beyond the page; -EIO as get. */
	int (*read)(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
		uint32_t offset, uint32_t length, void *ret_buf);

	/* Replace `length` bytes at `offset` of an existing page, atomically. 0; -ENOENT absent;
	 * -EINVAL bad range; -ENOMEM, -EBUSY, -EIO: refused, the page is as it was. */
	int (*write)(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
		uint32_t offset, uint32_t length, const void *buf);

	/* Exchange `buf` with `length` bytes at `offset` of an existing page, atomically.
	 * Errors as write; `buf` is untouched on failure. */
	int (*xchg)(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index,
		uint32_t offset, uint32_t length, void *buf);

	/* Add `delta` to one of the pool's front-end counters (TM_STAT_BACKING_*,
	 * TM_STAT_FALLBACK_*), which list and tmemstat show beside the store's own. Unknown pool:
	 * nothing. */
	void (*count)(struct tmem *t, int pool, enum tm_stat stat, int64_t delta);

	/* What the front end keeps of this handle elsewhere (struct tm_elsewhere_ops) has changed,
	 * or is there no more: a save that is under way looks again. Called after the fact. */
	void (*changed)(struct tmem *t, int pool, const struct tm_oid *oid, uint32_t index);

	/* How much room there is. Near the limit a put may be refused all the same: room is made in
	 * whole segments, for certain only up to 7/8 of it. */
	void (*usage)(struct tmem *t, struct tm_usage *ret_usage);

	/* Leave the host, drop every pool, free `t`. No other call may be under way. */
	void (*close)(struct tmem *t);
};

/* Implementations embed this as their first member. */
struct tmem {
	const struct tmem_ops *ops;
};

enum tm_recompress {
	TM_RECOMPRESS_AUTO,
	TM_RECOMPRESS_ON,
	TM_RECOMPRESS_OFF,
};

#define TM_WHY_MAX 192 /* bytes of a reason, with the NUL */

/* Pages of one object that follow each other. */
struct tm_span {
	int pool;
	struct tm_oid oid;
	uint32_t index, count;
};

/*
 * For a front end that keeps pages of its persistent pools elsewhere than in tmem, as a swap device
 * does on its fallback. A stream takes those as well, as records like all others; and a restore
 * puts there what has no room in tmem. A page is in tmem or elsewhere, never in both. Whenever a
 * page that is elsewhere, or just was, changes, the front end says so with ops->changed.
 */
struct tm_elsewhere_ops {
	/* Save. Between hold and release no call of the front end's changes a page, here or there:
	 * when hold returns the last one is done. Others wait, and hold no lock that fetch needs.
	 */
	void (*hold)(void *opaque);
	void (*release)(void *opaque);

	/* While held: how many pages of this pool are elsewhere. */
	uint64_t (*count)(void *opaque, int pool);

	/* The next neighbours that are elsewhere, `most` at most, at or after *at, which starts at
	 * 0 and is moved on. What was there before the walk began and still is when it ends is
	 * among them. False: no more. */
	bool (*next)(void *opaque, uint64_t *at, uint32_t most, struct tm_span *ret_span);

	/* Those of the span's pages that are elsewhere now, each at its place in ret_pages (aligned
	 * to a page); ret_have[i] says which. 0; -EIO, -EBADMSG one cannot be read. */
	int (*fetch)(void *opaque, const struct tm_span *span, void *ret_pages, bool *ret_have);

	/* Restore. Keep a page elsewhere, seen by nobody until end(); tmem refuses it because it
	 * does not compress (`raw`), or for want of room. `page` is overwritten. 1; 0 there was an
	 * older one, which it replaces; -ENOSPC no room there, or no such place; -EEXIST the handle
	 * has been written to since; -errno. */
	int (*take)(void *opaque, int pool, const struct tm_oid *oid, uint32_t index, void *page,
		bool raw);

	/* Forget what was so taken. True if there was anything. */
	bool (*drop)(void *opaque, int pool, const struct tm_oid *oid, uint32_t index);
};

/*
 * What a front end has to say when its pools are saved to a stream, or restored from one
 * (core/stream.h). For one whose pages mean something only together with what it knows of them; a
 * cache needs none of it. A negative errno refuses, with one line in ret_why. Called from a thread
 * of the client's own.
 */
#define TM_MOVE_FRONT_MAX 256 /* bytes */

struct tm_move_ops {
	/* What `accept` of another process has to know: *ret_bytes bytes, TM_MOVE_FRONT_MAX at
	 * most. Called when a save begins, and again at the moment that it shows, when no change of
	 * a page gets in: quick, and without waiting for one. */
	int (*describe)(void *opaque, void *ret_front, uint32_t *ret_bytes,
		char ret_why[static TM_WHY_MAX]);

	/* A restore begins: does what was so described fit? */
	int (*accept)(
		void *opaque, const void *front, uint32_t bytes, char ret_why[static TM_WHY_MAX]);

	/* All pages have come, and appear now. Between the first of these and the last none of the
	 * front end's own calls may be under way; `restored` names each page of the persistent
	 * pools in tmem, and is called only when nothing can fail any more. `end` says whether
	 * nothing did: then what was taken elsewhere appears as well. */
	int (*begin)(void *opaque, char ret_why[static TM_WHY_MAX]);
	void (*restored)(void *opaque, int pool, const struct tm_oid *oid, uint32_t index);
	void (*end)(void *opaque, bool whole);

	/* A restore that was accepted has failed, before `begin` or after `end`. */
	void (*abandon)(void *opaque);

	const struct tm_elsewhere_ops *elsewhere; /* NULL: all pages are in tmem */
};

struct tm_open_params {
	const char *name; /* the client, as in `tmemctl list`; 1 to TM_NAME_MAX printable bytes */
	const char *type; /* "tmemfs", "nbd", ...: what kind of front end this is */
	const char
		*socket; /* the host's; NULL: $TMEM_SOCKET or the default; either "none": no host */
	uint64_t limit;  /* most bytes this client may ever use, all counted; 0: TM_LIMIT_DEFAULT */
	bool start_host; /* start tmemd when nothing answers on the socket */
	uint32_t weight; /* its part of the memory that is short, as in `tmemctl set`; 0: default */

	/*
	 * Resident: for a device that its own machine swaps to. No call faults or allocates memory:
	 * all live on what the store's thread has made present ahead, and a put that finds nothing
	 * left waits at most `patience_ms` for more and is refused then. The caller locks the
	 * process's memory (mlockall with MCL_FUTURE | MCL_ONFAULT before this). Its malloc is one
	 * heap from here on, which never shrinks.
	 *
	 * Whoever is patient takes a refusal for worse than all else, resident or not: a save that
	 * keeps pages which a put needs the room of fails first.
	 */
	bool resident;
	uint32_t patience_ms;

	/*
	 * Upkeep: while puts are few or evict, and a processor is idle, the store's thread
	 * compresses cold pages again, with zstd (a third smaller; reading 4 KiB takes 5 us
	 * instead of 1.4), and closes up holes; on at most `upkeep_percent` of one processor (1
	 * to 100; 0: TM_UPKEEP_DEFAULT). `recompress` says whether it does the former from the
	 * start; AUTO: unless resident. `tmemctl set` changes it later.
	 */
	enum tm_recompress recompress;
	uint32_t upkeep_percent;

	/*
	 * Survive: what this client stores outlives its process as long as the host lives, and the
	 * next client of its name, type and user finds it: new_pool with the flags and attributes
	 * of a pool that was left gives that pool. `state` may be NULL; else it is called once,
	 * before tm_open returns, with the descriptor of the predecessor's own state (the callee's
	 * from then on), or -1 when nothing was left. It returns the descriptor of the state to
	 * keep (borrowed), -1 for none, or another negative errno: tm_open then fails with that,
	 * and what the predecessor left stays as it is.
	 */
	bool survive;
	int (*state)(void *opaque, int predecessor_fd);

	/*
	 * Warm: the same for ephemeral pools, as far as that costs nobody anything. What this
	 * client has cached stays with the host when its process dies, until somebody needs the
	 * memory or some minutes have passed; the next client of its name, type and user finds it.
	 * Nothing of that is a reason for tm_open to fail, or to wait for a host. Without
	 * `survive`.
	 */
	bool warm;

	/* For the server of a shared pool. Not NULL: a host calls on `listen_fd` (borrowed), and
	 * none is dialled. A sharer of user `uid` is at the other end of `fd`, the callee's; or,
	 * with -1, that user is no longer let in. From the host link's thread. */
	void (*on_sharer)(void *opaque, int fd, uid_t uid);
	int listen_fd;

	/* An operator destroyed this client (`tmemctl destroy`): its pools are gone for good and
	 * every call says -ENOENT. Called once, from the host link's thread, after the fact. May be
	 * NULL. */
	void (*on_destroyed)(void *opaque);

	const struct tm_move_ops *move; /* NULL: nothing to say */

	void *opaque;
};

#define TM_UPKEEP_DEFAULT 10

#define TM_WEIGHT_DEFAULT 100
#define TM_WEIGHT_MIN     1
#define TM_WEIGHT_MAX     10000

/* A quarter of RAM, and at least TM_LIMIT_MIN. Also the default `limit` of every front end. */
uint64_t tm_limit_default(void);

/* The least limit a client can work with (a few segments); less is refused with -EINVAL. */
#define TM_LIMIT_MIN (2ull << 20)

/*
 * Open the local implementation: reserve address space, create the ledger, join the host in the
 * background (this never waits for it). Starts a thread: call it after the last fork.
 * 0 and *ret_tmem, which the caller closes with ops->close; -EINVAL bad name, limit, weight or
 * share; -ENAMETOOLONG; -ENOMEM; with `survive` also -EBUSY a client of this name is alive,
 * -ETIMEDOUT a host that does not answer (what it may have kept is not given up for that); or the
 * errno of memfd_create, mmap, pthread_create.
 */
int tm_open(const struct tm_open_params *params, struct tmem **ret_tmem);

/* How long a call waits for a shared pool's server that is stuck; then it is a miss or refused. */
#define TM_SHARE_PATIENCE_MS 10000

struct tm_shared_params {
	const char *socket; /* of the host, as in struct tm_open_params; "none" is -EINVAL */
	bool start_host;    /* start tmemd when nothing answers on the socket */

	/* As in struct tm_open_params; from a thread of its own. */
	void (*on_destroyed)(void *opaque);
	void *opaque;
};

/*
 * Open the remote implementation, which has one pool at most: new_pool joins the shared pool that
 * its `uuid` names, for which it needs TM_POOL_SHARED; TM_POOL_RETAIN is implied. It waits for the
 * host, at most some seconds. Its errors, beside those of every new_pool: -EACCES the host does not
 * let this user in; -EEXIST the pool has other flags or attributes; -EUSERS it has as many sharers
 * as it can; -ENOENT, -ECONNREFUSED no host; -EPROTO a host of another version; -ETIMEDOUT, -EAGAIN
 * a host or server too busy to answer; -errno. What is stored belongs to all sharers: it may come
 * from any of them and outlives each.
 *
 * When the server is gone, gets miss and puts are refused until it is back; a thread sees to that.
 * 0 and *ret_tmem, which the caller closes with ops->close; -ENAMETOOLONG; -EINVAL; -ENOMEM;
 * -errno.
 */
int tm_open_shared(const struct tm_shared_params *params, struct tmem **ret_tmem);

/* The implementation that has no memory: every call says -ENOSYS. Static; close does nothing. */
struct tmem *tm_none(void);

#endif
