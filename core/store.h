/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store.h - the compressed page store of one client
 *
 *      put:  encode (no lock) -> append to the pool's log -> publish in the index -> kill the old
 * entry get:  look up, pin the segment -> verify and decode (no lock) -> unpin full: evict whole
 * ephemeral segments, clean half-dead ones (reclaim.c), else refuse
 *
 * Invariants (tm_store_check() states them all)
 *   1. A present slot names a live entry of exactly that handle, and each live entry that is not
 * just being put has its slot.
 *   2. A segment's references are its live entries + 1 while open, when nobody is inside.
 *   3. used_bytes = fixed tables + index nodes + segments; it never exceeds the limit.
 *   4. Crash order: payload, header, index, then DEAD on the old entry, then the acknowledgement;
 * all changes of one handle happen under its shard's lock. So after a kill the newest live entry of
 * a handle is its acknowledged page or one whose put was never answered.
 *
 * Locking: see locks.h. No lock is held while a page is encoded or decoded.
 */
#ifndef TM_STORE_H
#define TM_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/ledger.h"
#include "core/tmem.h"

struct tm_store;

struct tm_store_params {
	struct tm_ledger *ledger; /* borrowed; limits are read from it, counters written to it */
	uint64_t limit;           /* written to the ledger; the address space is sized by it */
	uint32_t segment_bytes;   /* 0: chosen by the limit */

	/* Have a thread that works ahead (keeper.h); the next two are those of struct
	 * tm_open_params, and need it. */
	bool keeper;
	bool resident;
	uint32_t patience_ms;

	bool recompress;         /* at first; the ledger says */
	uint32_t upkeep_percent; /* as in struct tm_open_params; 100: even while there are puts */
	uint32_t cold_ms;        /* how long a segment is left alone; 0: the default */

	bool (*refuse)(void *opaque); /* tests: see struct tm_budget */
	void *opaque;
};

/* 0; -EINVAL limit below TM_LIMIT_MIN; -ENOMEM; errno of the mapping. */
int tm_store_create(const struct tm_store_params *params, struct tm_store **ret_store);

/*
 * A store on the mapping of another one, whose process is gone, however it went. Every persistent
 * page whose put was answered is there, nothing that was flushed or replaced comes back; ephemeral
 * pages only where `ephemeral` says so. A pool is found again by the first new_pool with its flags
 * and attributes. params->segment_bytes must be what the other store had; the limit may differ. On
 * success the descriptor is the store's. Errors as tm_store_create and
 * tm_arena_attach; the mapping is then as it was.
 */
int tm_store_recover(
	const struct tm_store_params *params, int fd, bool ephemeral, struct tm_store **ret_store);

/* The mapping's descriptor, for whoever shall keep it beyond this process. Stays the store's. */
int tm_store_fd(const struct tm_store *s);

/* Drops every pool. No other call may be under way. */
void tm_store_destroy(struct tm_store *s);

/* The calls of struct tmem_ops, with the same effects and errors. */
int tm_store_new_pool(struct tm_store *s, const struct tm_pool_params *params);
int tm_store_destroy_pool(struct tm_store *s, int pool);
int tm_store_put(
	struct tm_store *s, int pool, const struct tm_oid *oid, uint32_t index, const void *page);
int tm_store_get(
	struct tm_store *s, int pool, const struct tm_oid *oid, uint32_t index, void *ret_page);
int tm_store_flush_page(struct tm_store *s, int pool, const struct tm_oid *oid, uint32_t index);
int tm_store_flush_object(struct tm_store *s, int pool, const struct tm_oid *oid);
int tm_store_read(struct tm_store *s, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *ret_buf);
int tm_store_write(struct tm_store *s, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, const void *buf);
int tm_store_xchg(struct tm_store *s, int pool, const struct tm_oid *oid, uint32_t index,
	uint32_t offset, uint32_t length, void *buf);
void tm_store_count(struct tm_store *s, int pool, enum tm_stat stat, int64_t delta);
void tm_store_changed(struct tm_store *s, int pool, const struct tm_oid *oid, uint32_t index);
void tm_store_usage(struct tm_store *s, struct tm_usage *ret_usage);

/* Give at least `bytes` of ephemeral memory back to the operating system, in the order of eviction
 * but keeping nothing, as far as there is that much. Returns the bytes given back, in whole
 * segments. */
uint64_t tm_store_release(struct tm_store *s, uint64_t bytes);

/* Shrink until used_bytes is within the limit, as far as ephemeral pages and dead space allow. */
void tm_store_shrink(struct tm_store *s);

/* Every invariant, on a store that nobody uses meanwhile. 0, or a negative number whose meaning is
 * enum tm_store_fault. */
enum tm_store_fault {
	TM_FAULT_SLOT = 1,   /* a slot names no live entry of its handle */
	TM_FAULT_ENTRY,      /* a live entry has no slot */
	TM_FAULT_REFS,       /* a segment's references do not add up */
	TM_FAULT_LIVE_BYTES, /* a segment's live bytes do not add up */
	TM_FAULT_GAUGE,      /* a pool's pages, orig_bytes, payload_bytes or used_bytes are off */
	TM_FAULT_LIMIT,      /* more used than the limit */
	TM_FAULT_OWNER,      /* a segment is in no queue of its pool */
	TM_FAULT_GHOST,      /* a persistent pool remembers what it evicted */
};
int tm_store_check(struct tm_store *s);

#endif
