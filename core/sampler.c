/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sampler.c - the LRU list of a sample of a client's handles
 *
 *      hash of a handle -> heads -> entry, entry ...    (by_handle: chained)
 *      its object       -> heads -> entry, entry ...    (by_object: doubly linked, for object
 * flushes) place            -> entry                        (a place for each use, in the order of
 * uses) tree             : Fenwick tree of the bytes at each place
 *
 * A use takes the next place. The bytes used since an entry's last use are the sum from its place
 * on, found in the tree in a dozen steps. When all places are taken the entries move down to the
 * first ones, in order.
 *
 * Invariants
 *   1. places[e.place] is e for every entry in the list, and NONE elsewhere.
 *   2. The tree has e.bytes at e.place and nothing elsewhere; `bytes` is the sum of all.
 *   3. Every entry's hash is in the sample of now.
 *
 * An entry's bytes stand for all the handles that it represents, at the rate of its last use; when
 * the rate is halved the entries that stay stand for those that go. When it is doubled, because
 * most of the table lies idle, each entry stands for its unsampled neighbours until it is used
 * again.
 */
#include "core/sampler.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "core/budget.h"
#include "core/curve.h"
#include "core/locks.h"
#include "core/util.h"

#define SHIFT_MIN     4u /* of the rate: one in 16 */
#define SHIFT_MAX     24u
#define ENTRIES_MAX   4096u
#define ENTRIES_MIN   256u
#define LIMIT_SHARE   32u
#define PAGE_MIN      32u /* no page takes less: an entry's header and its slot */
#define NONE          UINT16_MAX
#define BYTES_AT_MOST (1ull << 40) /* of one entry, so that no sum overflows */

enum kind {
	NOT_SAMPLED,
	RETAINS,
	EXCLUSIVE,
};

struct entry {
	uint64_t hash;
	uint64_t bytes;
	uint32_t object;
	uint32_t place;
	uint16_t next;         /* by handle, or of the free ones */
	uint16_t newer, older; /* by object */
	uint16_t pool;
};

struct tm_sampler {
	/* Read without the lock. */
	_Atomic uint32_t mask; /* sampled: hash & mask is 0 */
	_Atomic uint8_t kind[TM_POOLS_MAX];
	uint32_t page_bytes[TM_POOLS_MAX]; /* published by `kind` */
	struct tm_ledger *ledger;
	struct tm_budget budget; /* the store's has the same ledger */
	size_t size;

	struct tm_lock lock; /* everything below */
	uint32_t shift;
	uint32_t entries_max, count;
	uint32_t places, next_place, first_place; /* used: from the first to before the next */
	uint32_t idle;                            /* uses since the rate was last looked at */
	uint64_t bytes;
	uint16_t free;
	struct entry *entries;
	uint64_t *tree;      /* [places + 1], from 1 on */
	uint16_t *by_place;  /* [places] */
	uint16_t *by_handle; /* [entries_max] */
	uint16_t *by_object; /* [entries_max] */
};

static uint32_t object_hash(int pool, const struct tm_oid *oid)
{
	return (uint32_t)XXH3_64bits_withSeed(oid, sizeof(*oid), (uint32_t)pool);
}

/* --- the tree --------------------------------------------------------------------------------- */

static void tree_add(struct tm_sampler *s, uint32_t place, uint64_t bytes)
{
	for (uint32_t i = place + 1; i <= s->places; i += i & -i)
		s->tree[i] += bytes; /* modulo 2^64, also to subtract */
}

/* The bytes at the places before `place`. */
static uint64_t tree_before(const struct tm_sampler *s, uint32_t place)
{
	uint64_t sum = 0;

	for (uint32_t i = place; i > 0; i &= i - 1)
		sum += s->tree[i];
	return sum;
}

/* --- entries; all under the lock -------------------------------------------------------------- */

static uint16_t *handle_head(struct tm_sampler *s, uint64_t hash)
{
	return &s->by_handle[hash >> 32 & (s->entries_max - 1)];
}

static uint16_t *object_head(struct tm_sampler *s, uint32_t object)
{
	return &s->by_object[object & (s->entries_max - 1)];
}

static uint16_t find_locked(struct tm_sampler *s, uint64_t hash)
{
	uint16_t e = *handle_head(s, hash);

	while (e != NONE && s->entries[e].hash != hash)
		e = s->entries[e].next;
	return e;
}

/* Take an entry out of the order of uses. */
static void unplace_locked(struct tm_sampler *s, struct entry *e)
{
	tree_add(s, e->place, -e->bytes);
	s->bytes -= e->bytes;
	s->by_place[e->place] = NONE;
}

static void drop_locked(struct tm_sampler *s, uint16_t id)
{
	struct entry *e = &s->entries[id];
	uint16_t *at = handle_head(s, e->hash);

	unplace_locked(s, e);
	while (*at != id)
		at = &s->entries[*at].next;
	*at = e->next;
	if (e->newer != NONE)
		s->entries[e->newer].older = e->older;
	else
		*object_head(s, e->object) = e->older;
	if (e->older != NONE)
		s->entries[e->older].newer = e->newer;
	e->next = s->free;
	s->free = id;
	s->count--;
}

static void drop_oldest_locked(struct tm_sampler *s)
{
	while (s->by_place[s->first_place] == NONE)
		s->first_place++;
	drop_locked(s, s->by_place[s->first_place]);
}

/* Move all entries down to the first places, and build the tree anew. */
static void renumber_locked(struct tm_sampler *s)
{
	uint32_t n = 0;

	memset(s->tree, 0, (s->places + 1ull) * sizeof(*s->tree));
	for (uint32_t place = s->first_place; place < s->next_place; place++) {
		uint16_t id = s->by_place[place];

		if (id == NONE)
			continue;
		s->by_place[place] = NONE;
		s->by_place[n] = id;
		s->entries[id].place = n;
		tree_add(s, n, s->entries[id].bytes);
		n++;
	}
	s->first_place = 0;
	s->next_place = n;
}

/* Of half the entries the others stand for, from now on. */
static void halve_rate_locked(struct tm_sampler *s)
{
	s->shift++;
	atomic_store(&s->mask, (1u << s->shift) - 1);
	for (uint32_t place = s->first_place; place < s->next_place; place++) {
		uint16_t id = s->by_place[place];

		if (id != NONE && s->entries[id].hash >> (s->shift - 1) & 1)
			drop_locked(s, id);
	}
	s->bytes = 0;
	for (uint32_t place = s->first_place; place < s->next_place; place++) {
		uint16_t id = s->by_place[place];
		struct entry *e;

		if (id == NONE)
			continue;
		e = &s->entries[id];
		e->bytes = TM_MIN(e->bytes * 2, BYTES_AT_MOST);
		s->bytes += e->bytes;
	}
	renumber_locked(s);
}

/* So few handles that more of them can be looked at? */
static void consider_rate_locked(struct tm_sampler *s)
{
	if (++s->idle < s->entries_max)
		return;
	s->idle = 0;
	if (s->shift > SHIFT_MIN && s->count < s->entries_max / 8) {
		s->shift--;
		atomic_store(&s->mask, (1u << s->shift) - 1);
	}
}

/* Make an entry the most recent one. */
static void place_locked(struct tm_sampler *s, uint16_t id, uint64_t bytes)
{
	struct entry *e = &s->entries[id];

	if (s->next_place == s->places)
		renumber_locked(s);
	e->bytes = bytes;
	e->place = s->next_place++;
	s->by_place[e->place] = id;
	tree_add(s, e->place, bytes);
	s->bytes += bytes;
}

static void add_locked(
	struct tm_sampler *s, int pool, const struct tm_oid *oid, uint64_t hash, uint64_t bytes)
{
	uint16_t id = s->free, *head;
	struct entry *e = &s->entries[id];

	s->free = e->next;
	s->count++;
	*e = (struct entry){.hash = hash,
		.object = object_hash(pool, oid),
		.next = *handle_head(s, hash),
		.newer = NONE,
		.pool = (uint16_t)pool};
	*handle_head(s, hash) = id;
	head = object_head(s, e->object);
	e->older = *head;
	if (e->older != NONE)
		s->entries[e->older].newer = id;
	*head = id;
	place_locked(s, id, bytes);
}

/* --- references ------------------------------------------------------------------------------- */

/* The fast way out: is the handle in the sample? */
static enum kind sampled(struct tm_sampler *s, int pool, const struct tm_oid *oid, uint32_t index,
	uint64_t *ret_hash)
{
	enum kind kind;
	uint64_t hash;

	if (!s || pool < 0 || pool >= TM_POOLS_MAX)
		return NOT_SAMPLED;
	kind = atomic_load_explicit(&s->kind[pool], memory_order_acquire);
	if (kind == NOT_SAMPLED)
		return NOT_SAMPLED;
	hash = XXH3_64bits_withSeed(oid, sizeof(*oid), (uint64_t)pool << 32 | index);
	if (hash & atomic_load_explicit(&s->mask, memory_order_relaxed))
		return NOT_SAMPLED;
	*ret_hash = hash;
	return kind;
}

/* What a page of the pool takes: its part of all that the pool uses, but no more than a quarter
 * above its entry, because the open segments of a small pool are nearly empty. Times the handles
 * that an entry stands for. */
static uint64_t cost_locked(const struct tm_sampler *s, int pool)
{
	const _Atomic uint64_t *stat = s->ledger->pools[pool].stat;
	uint64_t pages = atomic_load_explicit(&stat[TM_STAT_PAGES], memory_order_relaxed);
	uint64_t used = atomic_load_explicit(&stat[TM_STAT_USED_BYTES], memory_order_relaxed);
	uint64_t live = atomic_load_explicit(&stat[TM_STAT_PAYLOAD_BYTES], memory_order_relaxed);
	uint64_t cost = s->page_bytes[pool];

	/* Three numbers of three moments: of a pool that has just been emptied they may be
	 * anything. */
	if (pages > 0) {
		used = TM_MIN(used, live + live / 4) / pages;
		cost = TM_MIN(used, cost * 5 / 4);
	}
	cost = TM_MAX(cost, (uint64_t)PAGE_MIN) << s->shift;
	return TM_MIN(cost, BYTES_AT_MOST);
}

/* Between the look at the mask and the lock the rate may have changed. */
static bool still_sampled_locked(const struct tm_sampler *s, int pool, uint64_t hash)
{
	return !(hash & ((1u << s->shift) - 1)) && atomic_load(&s->kind[pool]) != NOT_SAMPLED;
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Keep to the table, and to what the client may ever have: beyond that no hit is possible. */
static void trim_locked(struct tm_sampler *s)
{
	uint64_t limit = atomic_load_explicit(&s->ledger->limit_bytes, memory_order_relaxed);

	while (s->count > 1 && s->bytes > limit)
		drop_oldest_locked(s);
	if (s->count == s->entries_max && s->shift < SHIFT_MAX)
		halve_rate_locked(s);
	if (s->count == s->entries_max)
		drop_oldest_locked(s);
}

void tm_sampler_put(struct tm_sampler *s, int pool, const struct tm_oid *oid, uint32_t index)
{
	uint64_t hash, bytes;
	uint16_t id;

	if (sampled(s, pool, oid, index, &hash) == NOT_SAMPLED)
		return;
	tm_lock(&s->lock);
	if (still_sampled_locked(s, pool, hash)) {
		count(&s->ledger->samples, 1);
		bytes = cost_locked(s, pool);
		id = find_locked(s, hash);
		if (id != NONE) {
			unplace_locked(s, &s->entries[id]);
			place_locked(s, id, bytes);
		} else {
			add_locked(s, pool, oid, hash, bytes);
		}
		consider_rate_locked(s);
		trim_locked(s);
	}
	tm_unlock(&s->lock);
}

void tm_sampler_get(
	struct tm_sampler *s, int pool, const struct tm_oid *oid, uint32_t index, bool remove)
{
	uint64_t hash, bytes;
	enum kind kind = sampled(s, pool, oid, index, &hash);
	uint16_t id;

	if (kind == NOT_SAMPLED)
		return;
	tm_lock(&s->lock);
	if (still_sampled_locked(s, pool, hash)) {
		count(&s->ledger->samples, 1);
		id = find_locked(s, hash);
		if (id != NONE) {
			struct entry *e = &s->entries[id];

			bytes = s->bytes - tree_before(s, e->place);
			count(&s->ledger->curve[tm_curve_point(bytes)], 1ull << s->shift);
			if (remove && kind == EXCLUSIVE) {
				drop_locked(s, id);
			} else {
				unplace_locked(s, e);
				place_locked(s, id, cost_locked(s, pool));
			}
		}
	}
	tm_unlock(&s->lock);
}

void tm_sampler_flush(struct tm_sampler *s, int pool, const struct tm_oid *oid, uint32_t index)
{
	uint64_t hash;
	uint16_t id;

	if (sampled(s, pool, oid, index, &hash) == NOT_SAMPLED)
		return;
	tm_lock(&s->lock);
	id = find_locked(s, hash);
	if (id != NONE)
		drop_locked(s, id);
	tm_unlock(&s->lock);
}

void tm_sampler_flush_object(struct tm_sampler *s, int pool, const struct tm_oid *oid)
{
	uint32_t object;

	if (!s || pool < 0 || pool >= TM_POOLS_MAX || atomic_load(&s->kind[pool]) == NOT_SAMPLED)
		return;
	object = object_hash(pool, oid);
	tm_lock(&s->lock);
	for (uint16_t id = *object_head(s, object), older; id != NONE; id = older) {
		older = s->entries[id].older;
		if (s->entries[id].object == object)
			drop_locked(s, id);
	}
	tm_unlock(&s->lock);
}

/* --- pools ------------------------------------------------------------------------------------ */

void tm_sampler_add_pool(struct tm_sampler *s, int pool, const struct tm_pool_params *params)
{
	if (!s || pool < 0 || pool >= TM_POOLS_MAX || params->flags & TM_POOL_PERSIST)
		return;
	s->page_bytes[pool] = TM_PAGE_SIZE
		<< ((params->flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT);
	atomic_store(&s->kind[pool], params->attrs & TM_POOL_RETAIN ? RETAINS : EXCLUSIVE);
}

void tm_sampler_remove_pool(struct tm_sampler *s, int pool)
{
	if (!s || pool < 0 || pool >= TM_POOLS_MAX)
		return;
	atomic_store(&s->kind[pool], NOT_SAMPLED);
	tm_lock(&s->lock);
	for (uint32_t place = s->first_place; place < s->next_place; place++)
		if (s->by_place[place] != NONE && s->entries[s->by_place[place]].pool == pool)
			drop_locked(s, s->by_place[place]);
	tm_unlock(&s->lock);
}

/* --- making one ------------------------------------------------------------------------------- */

static size_t sampler_size(uint32_t entries)
{
	return sizeof(struct tm_sampler) + entries * sizeof(struct entry) +
		(2ull * entries + 1) * sizeof(uint64_t) + 4ull * entries * sizeof(uint16_t);
}

int tm_sampler_create(struct tm_ledger *ledger, struct tm_sampler **ret_sampler)
{
	uint64_t limit = atomic_load(&ledger->limit_bytes);
	struct tm_budget budget = {.ledger = ledger};
	uint32_t n = ENTRIES_MAX;
	struct tm_sampler *s;

	while (n > ENTRIES_MIN && sampler_size(n) > limit / LIMIT_SHARE)
		n /= 2;
	s = tm_node_alloc(&budget, NULL, sampler_size(n));
	if (!s)
		return -ENOMEM;
	s->ledger = ledger;
	s->budget = budget;
	s->size = sampler_size(n);
	s->shift = SHIFT_MIN;
	atomic_store(&s->mask, (1u << SHIFT_MIN) - 1);
	s->entries_max = n;
	s->places = 2 * n;
	s->entries = (struct entry *)(s + 1);
	s->tree = (uint64_t *)(s->entries + n);
	s->by_place = (uint16_t *)(s->tree + s->places + 1);
	s->by_handle = s->by_place + s->places;
	s->by_object = s->by_handle + n;
	memset(s->by_place, 0xff, 4ull * n * sizeof(uint16_t));
	for (uint32_t i = 0; i < n; i++)
		s->entries[i].next = i + 1 < n ? (uint16_t)(i + 1) : NONE;
	tm_lock_init(&s->lock, TM_LOCK_SAMPLER);
	*ret_sampler = s;
	return 0;
}

void tm_sampler_destroy(struct tm_sampler *s)
{
	struct tm_budget budget;

	if (!s)
		return;
	budget = s->budget;
	tm_lock_destroy(&s->lock);
	tm_node_free(&budget, NULL, s, s->size);
}

/* --- tests ------------------------------------------------------------------------------------ */

void tm_sampler_look(struct tm_sampler *s, struct tm_sampler_state *ret_state)
{
	tm_lock(&s->lock);
	*ret_state = (struct tm_sampler_state){
		.rate = 1u << s->shift, .entries = s->count, .bytes = s->bytes};
	tm_unlock(&s->lock);
}

static bool check_locked(struct tm_sampler *s)
{
	uint64_t bytes = 0;
	uint32_t found = 0;

	for (uint32_t place = 0; place < s->places; place++) {
		uint16_t id = s->by_place[place];
		const struct entry *e;

		if (tree_before(s, place) != bytes)
			return false;
		if (id == NONE)
			continue;
		e = &s->entries[id];
		if (place < s->first_place || place >= s->next_place || e->place != place ||
			find_locked(s, e->hash) != id || e->hash & ((1u << s->shift) - 1))
			return false;
		bytes += e->bytes;
		found++;
	}
	return bytes == s->bytes && tree_before(s, s->places) == bytes && found == s->count;
}

bool tm_sampler_check(struct tm_sampler *s)
{
	bool good;

	tm_lock(&s->lock);
	good = check_locked(s);
	tm_unlock(&s->lock);
	return good;
}
