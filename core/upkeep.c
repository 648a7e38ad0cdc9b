/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * upkeep.c - what the keeper does while nobody waits for it: packing cold pages, closing up holes
 *
 *      segment, sealed long ago --pack--> its pages, unless they were used since, are compressed
 *                                         again with zstd and moved together
 *      dead space beyond 1/12  --clean--> the emptiest segment's pages moved together
 *
 * Packing takes a segment at a time, in two steps. The first compresses into a private buffer,
 * holding nothing but a reference on the segment. The second (tm_sweep_packed) moves as cleaning
 * does: a page that is still where it was gets its new entry under its shard's lock, with the
 * sequence number of the old one. So it needs no more room than cleaning, and a kill leaves what it
 * would leave there.
 *
 * What is packed is what eviction would drop next, so a store that is full of ephemeral pages packs
 * ahead of its puts, and evicts what was packed.
 *
 * It runs on at most a share of one processor that nobody else wants, only while puts are few or
 * evict, and ends in the middle of a segment when others come, the keeper is wanted or memory has
 * to be given back.
 */
#include <errno.h>
#include <time.h>

#include "core/store_private.h"
#include "core/util.h"

/* How often to look whether there is something to do; how long to leave a busy store alone. */
#define LOOK_MS 1000u
#define BUSY_MS 100u

/* With more puts than one in so many milliseconds a store is not idle; this many end what is under
 * way. */
#define PUT_MS   4
#define PUTS_MAX 32

/* A store that evicts has less time. */
#define COLD_SHARE 8

/* Where a put would evict, what packing needs beside a segment's buffer, and the part of the limit
 * that it may take with it. */
#define ZSTD_BYTES   (1u << 20)
#define PACKER_SHARE 16
#define PACKER_TRIES 3

/* A payload has to lose a sixteenth, or reading would cost more for next to nothing. */
#define GAIN_SHIFT 4

static bool is_always(const struct tm_store *s)
{
	return s->upkeep.percent == 100;
}

static bool is_busy(struct tm_store *s)
{
	struct tm_upkeep *u = &s->upkeep;
	uint64_t sequence = atomic_load_explicit(&s->sequence, memory_order_relaxed);
	uint64_t now = tm_now_ns(), puts = sequence - u->sequence, ns = now - u->at_ns;

	u->sequence = sequence;
	u->at_ns = now;
	return !is_always(s) && puts > PUTS_MAX && puts > ns / (PUT_MS * 1000000u);
}

bool tm_store_evicts(struct tm_store *s)
{
	uint64_t limit = tm_budget_limit(&s->budget);
	uint64_t freeable = atomic_load_explicit(&s->ledger->freeable_bytes, memory_order_relaxed);

	return tm_budget_used(&s->budget) > limit - limit / 16 && freeable > limit / 4 &&
		limit / PACKER_SHARE >= tm_arena_segment_bytes(s->arena) + ZSTD_BYTES;
}

static bool is_over_limit(struct tm_store *s)
{
	return tm_budget_used(&s->budget) > tm_budget_limit(&s->budget);
}

static bool is_live(const struct tm_pool *p)
{
	return atomic_load(&p->users) & TM_POOL_LIVE_BIT;
}

static bool are_puts_coming(struct tm_store *s)
{
	uint64_t sequence = atomic_load_explicit(&s->sequence, memory_order_relaxed);

	return sequence - s->upkeep.sequence > PUTS_MAX && !tm_store_evicts(s);
}

/* Something more urgent came while a segment is under way. */
static bool is_called_off(struct tm_store *s, const struct tm_pool *p, const struct tm_keeper *k)
{
	return tm_keeper_is_wanted(k) || !is_live(p) || is_over_limit(s) ||
		(!is_always(s) && (are_puts_coming(s) || !tm_idle(&s->upkeep.idle)));
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- packing ---------------------------------------------------------------------------------- */

int tm_upkeep_unpacker(struct tm_store *s)
{
	struct tm_unpacker *u, *none = NULL;
	int rc;

	if (atomic_load(&s->unpacker))
		return 0;
	rc = tm_unpacker_create(&s->budget, tm_log_heads_for(s->arena), &u);
	if (rc == 0 && !atomic_compare_exchange_strong(&s->unpacker, &none, u))
		tm_unpacker_destroy(u); /* the keeper and a restore at once */
	return rc;
}

/* Its memory, a segment and more, is somebody else's from here on. False when there was none. */
static bool drop_packer(struct tm_store *s)
{
	bool dropped = s->upkeep.packer != NULL;

	tm_packer_destroy(s->upkeep.packer);
	s->upkeep.packer = NULL;
	return dropped;
}

/* Without it there is nothing to unpack, so readers come second. */
static int make_packer(struct tm_store *s)
{
	uint32_t bytes = tm_arena_segment_bytes(s->arena);
	int rc = 0;

	for (int tries = 0; !s->upkeep.packer && tries < PACKER_TRIES; tries++) {
		uint64_t seen = tm_arena_released(s->arena);

		rc = tm_packer_create(&s->budget, bytes, &s->upkeep.packer);
		if (rc < 0 && !(tm_store_evicts(s) && tm_make_room(s, TM_ROOM_NODE, rc, seen)))
			return rc;
	}
	if (rc == 0)
		rc = tm_upkeep_unpacker(s);
	if (rc < 0)
		drop_packer(s);
	return rc;
}

static bool is_packing(const struct tm_store *s)
{
	return atomic_load_explicit(&s->ledger->recompress, memory_order_relaxed) &&
		atomic_load_explicit(&s->ledger->compress, memory_order_relaxed) == TM_COMPRESS_LZ4;
}

/* Could the segment be packed? The caller holds a reference on it. */
static bool is_packable(struct tm_store *s, const struct tm_segment *seg)
{
	const struct tm_pool *p = &s->pools[seg->owner->pool];

	return atomic_load(&seg->state) == TM_SEGMENT_SEALED && is_live(p) &&
		!tm_queue_is_packed(tm_log_queue(&p->log, seg));
}

/* The segment that has been sealed for longest, if that is long enough, with a reference; else
 * TM_SEGMENT_NONE. */
static uint32_t find_cold_locked(struct tm_store *s)
{
	uint64_t cold_ns = s->upkeep.cold_ms * 1000000ull / (tm_store_evicts(s) ? COLD_SHARE : 1);
	uint64_t oldest = tm_now_ns() - cold_ns;
	uint32_t cold = TM_SEGMENT_NONE;

	for (uint32_t id = 0; id < tm_arena_segments(s->arena); id++) {
		struct tm_segment *seg = tm_segment(s->arena, id);
		uint64_t sealed;

		if (!tm_segment_try_ref(s->arena, id))
			continue;
		sealed = atomic_load(&seg->sealed_ns);
		if (sealed <= oldest && is_packable(s, seg)) {
			if (cold != TM_SEGMENT_NONE)
				tm_segment_unref(s->arena, cold);
			cold = id;
			oldest = sealed;
		} else {
			tm_segment_unref(s->arena, id);
		}
	}
	return cold;
}

/* The same, with its pool entered. Without that, or the lock that keeps pools from being torn down,
 * a reference could outlive the pool that the segment is accounted to. */
static uint32_t enter_cold(struct tm_store *s, struct tm_pool **ret_pool)
{
	struct tm_pool *p = NULL;
	uint32_t id;

	tm_lock(&s->reclaim_lock);
	id = find_cold_locked(s);
	if (id != TM_SEGMENT_NONE) {
		p = tm_pool_enter(s, (int)tm_segment(s->arena, id)->owner->pool);
		if (!p) { /* just being destroyed */
			tm_segment_unref(s->arena, id);
			id = TM_SEGMENT_NONE;
		}
	}
	tm_unlock(&s->reclaim_lock);
	*ret_pool = p;
	return id;
}

/* Is this entry a page that was not used since it came here, and that was not packed yet? */
static bool is_cold(
	struct tm_store *s, struct tm_pool *p, const struct tm_entry_view *e, uint64_t at)
{
	const struct tm_segment *seg = tm_segment(s->arena, tm_slot_segment(at));
	struct tm_handle h = {p->objects, e->oid, e->index};
	struct tm_cursor c;
	uint64_t slot;

	if (e->dead || (e->codec != TM_CODEC_LZ4 && e->codec != TM_CODEC_RAW))
		return false;
	tm_index_lock(s->index, &h, &c);
	slot = tm_cursor_get(&c);
	tm_index_unlock(&c);
	return tm_slot_location(slot) == at &&
		!tm_page_is_used(p, tm_log_queue(&p->log, seg), tm_slot_hits(slot)) &&
		tm_entry_is(e, &e->oid, e->index);
}

/* Write the new payload of an entry. False when it is not worth having. */
static bool pack_entry(struct tm_store *s, struct tm_pool *p, const struct tm_entry_view *e,
	struct tm_packed *ret_packed)
{
	uint8_t page[TM_PAGE_SIZE << TM_ORDER_MAX];
	struct tm_entry_view new = *e;

	if (tm_entry_decode(s, p, e, page) < 0)
		return false;
	new.codec = TM_CODEC_ZSTD;
	new.payload = ret_packed->payload;
	new.bytes = tm_pack(s->upkeep.packer, page, p->page_bytes, ret_packed->payload,
		e->bytes - (e->bytes >> GAIN_SHIFT));
	if (new.bytes == 0)
		return false;
	ret_packed->bytes = new.bytes;
	ret_packed->check = tm_entry_check(&new);
	return true;
}

/* The first step. False when it was called off. */
static bool pack_entries(struct tm_store *s, struct tm_pool *p, uint32_t id,
	const struct tm_keeper *k, struct tm_packed *packed)
{
	const struct tm_segment *seg = tm_segment(s->arena, id);
	const uint8_t *data = tm_segment_data(s->arena, id);
	uint32_t offset = sizeof(struct tm_segment_header);
	struct tm_entry_view e;

	/* Each record is smaller than the entry that it stands for, so all of them fit. */
	while (offset < seg->tail &&
		tm_entry_view(data + offset, seg->tail - offset, &seg->oid, &e) == 0) {
		if (is_called_off(s, p, k))
			return false;
		if (is_cold(s, p, &e, tm_location(id, offset)) && pack_entry(s, p, &e, packed)) {
			packed->offset = offset;
			packed = tm_packed_next(packed);
		}
		offset += e.total;
	}
	*packed = (struct tm_packed){.offset = UINT32_MAX};
	return true;
}

/* Pack the pages of a segment that the caller holds a reference on, of a pool it has entered. False
 * when it was called off. */
static bool pack_segment(
	struct tm_store *s, struct tm_pool *p, uint32_t id, const struct tm_keeper *k)
{
	struct tm_packed *packed = (struct tm_packed *)tm_packer_buffer(s->upkeep.packer);
	uint64_t start = cpu_ns();
	bool done = pack_entries(s, p, id, k, packed);

	if (done) {
		tm_sweep_packed(s, id, packed);
		/* If a page keeps it from going, it is looked at again like any other. */
		atomic_store(&tm_segment(s->arena, id)->sealed_ns, tm_now_ns());
	}
	tm_stat_add(p, TM_STAT_RECOMPRESS_CPU_US, (cpu_ns() - start) / 1000);
	return done;
}

/* Pack one segment. False when there is none to pack, or that is not wanted. */
static bool pack_one(struct tm_store *s, const struct tm_keeper *k)
{
	struct tm_pool *p;
	uint32_t id = is_packing(s) ? enter_cold(s, &p) : TM_SEGMENT_NONE;
	bool done;

	if (id == TM_SEGMENT_NONE) {
		drop_packer(s);
		return false;
	}
	done = make_packer(s) == 0 && pack_segment(s, p, id, k);
	tm_segment_unref(s->arena, id);
	tm_pool_leave(p);
	return done;
}

/* --- cleaning --------------------------------------------------------------------------------- */

/* For a put that is to come. */
bool tm_upkeep_clean(void *store)
{
	struct tm_store *s = store;

	return (!tm_store_evicts(s) && drop_packer(s)) || tm_clean(s, tm_clean_max(s)) ||
		tm_save_gives_way(s);
}

static bool has_holes(struct tm_store *s)
{
	uint64_t live = 0, used = 0;

	for (int id = 0; id < TM_POOLS_MAX; id++) {
		struct tm_pool *p = tm_pool_enter(s, id);

		if (!p)
			continue;
		live += atomic_load_explicit(&p->stat[TM_STAT_PAYLOAD_BYTES], memory_order_relaxed);
		used += atomic_load_explicit(&p->stat[TM_STAT_USED_BYTES], memory_order_relaxed);
		tm_pool_leave(p);
	}
	return used - TM_MIN(used, live) > used / 12;
}

/* For the memory alone. */
static bool close_holes(struct tm_store *s)
{
	uint32_t bytes = tm_arena_segment_bytes(s->arena);

	return has_holes(s) && tm_clean(s, bytes - bytes / 10);
}

/* --- the keeper's spare time ------------------------------------------------------------------ */

uint32_t tm_upkeep_work(void *store, const struct tm_keeper *k)
{
	struct tm_store *s = store;
	uint64_t start = cpu_ns(), rest;
	uint32_t least = 0;

	if ((is_busy(s) && !tm_store_evicts(s)) || is_over_limit(s)) {
		drop_packer(s);
		return BUSY_MS;
	}
	tm_arena_trim_surplus(s->arena);
	if (!is_always(s) && !tm_idle(&s->upkeep.idle))
		return BUSY_MS;
	if (!pack_one(s, k) && !close_holes(s))
		least = TM_MIN(s->upkeep.packer ? BUSY_MS : LOOK_MS, s->upkeep.cold_ms);
	rest = (cpu_ns() - start) * (100 - s->upkeep.percent) / s->upkeep.percent;
	return TM_MAX((uint32_t)(rest / 1000000), least);
}

void tm_upkeep_end(struct tm_store *s)
{
	drop_packer(s);
	tm_idle_close(&s->upkeep.idle);
	tm_unpacker_destroy(atomic_load(&s->unpacker));
}
