/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reference.h - a store beside a trivial reference, and random operations on both
 *
 * A few handles of pools of every kind, in a store so small that it evicts and cleans all the time,
 * and an array that says what each handle must hold. The store is alone, or has a thread that works
 * ahead, recompresses what is a millisecond old and closes up holes all the time, or is a resident
 * one that does.
 */
#ifndef TM_TEST_REFERENCE_H
#define TM_TEST_REFERENCE_H

#include "core/store_private.h"
#include "tests/unit/pages.h"

#define LIMIT   (4u << 20)
#define SEGMENT (256u << 10)
#define OBJECTS 3
#define INDEXES 96

/* Pools of every kind that behaves differently. */
static const struct kind {
	uint32_t flags;
	unsigned int order;
	uint32_t attrs;
	bool persistent, exclusive;
} kinds[] = {
	{TM_POOL_PERSIST, 0, 0, true, false},
	{0, 1, 0, false, true},
	{0, 0, TM_POOL_RETAIN, false, false},
	{TM_POOL_PERSIST, 2, TM_POOL_REFUSE_RAW, true, false},
	{0, 4, TM_POOL_RETAIN, false, false},
	{0, 0, TM_POOL_RETAIN | TM_POOL_DEDUP, false, false},
};
#define KINDS TM_ARRAY_SIZE(kinds)

/* What a handle holds: `seed` of its page, and what was written over it. */
struct ref {
	bool present;
	bool maybe; /* ephemeral: may have vanished, but if it is there it is this */
	uint8_t *page;
};

struct model {
	struct test_store t;
	int pool[KINDS];
	struct ref ref[KINDS][OBJECTS][INDEXES];
	uint64_t random;
	uint8_t page[65536], got[65536];

	/* Fault injection: the n-th charge from now is refused; -1 none. */
	_Atomic long refuse_in;
	_Atomic bool refused;
};

static inline bool refuse(void *opaque)
{
	struct model *m = opaque;

	if (m->refuse_in < 0 || m->refuse_in-- != 0)
		return false;
	m->refused = true;
	return true;
}

static inline struct tm_oid oid_of(unsigned int object)
{
	return (struct tm_oid){{7, object == 1, object == 2}};
}

/* Dense runs, sparse ones and the last page there is. */
static inline uint32_t index_of(unsigned int i)
{
	return i < 70 ? i : i < 90 ? i * 1000 : UINT32_MAX - (INDEXES - 1 - i);
}

static inline uint32_t bytes_of(unsigned int k)
{
	return TM_PAGE_SIZE << kinds[k].order;
}

enum mode {
	ALONE,
	AHEAD,
	RESIDENT,
};

static inline struct model *model_open(void **state)
{
	enum mode mode = *state ? *(enum mode *)*state : ALONE;
	struct model *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	m->refuse_in = -1;
	test_store_open_as(&m->t,
		(struct tm_store_params){
			.limit = LIMIT,
			.segment_bytes = SEGMENT,
			.keeper = mode != ALONE,
			.resident = mode == RESIDENT,
			.patience_ms = 2,
			.recompress = true,
			.upkeep_percent = 100,
			.cold_ms = 1,
			.refuse = refuse,
			.opaque = m,
		});
	for (unsigned int k = 0; k < KINDS; k++)
		m->pool[k] = test_pool(&m->t, kinds[k].flags, kinds[k].order, kinds[k].attrs);
	return m;
}

static inline void forget(struct ref *r)
{
	free(r->page);
	memset(r, 0, sizeof(*r));
}

/* Lowered grants may leave more in use than granted; everything else holds at any time that nobody
 * is working: the keeper rests until it was done. */
static inline void check(struct model *m)
{
	atomic_store(&m->t.ledger->granted_bytes, UINT64_MAX);
	tm_keeper_pause(m->t.store->keeper, true);
	assert_int_equal(tm_store_check(m->t.store), 0);
	tm_keeper_pause(m->t.store->keeper, false);
}

static inline void model_close(struct model *m)
{
	check(m);
	for (unsigned int k = 0; k < KINDS; k++)
		for (unsigned int o = 0; o < OBJECTS; o++)
			for (unsigned int i = 0; i < INDEXES; i++)
				forget(&m->ref[k][o][i]);
	test_store_close(&m->t);
	free(m);
}

static inline void remember(struct ref *r, unsigned int k, const uint8_t *page)
{
	if (!r->page)
		r->page = malloc(bytes_of(k));
	memcpy(r->page, page, bytes_of(k));
	r->present = true;
	r->maybe = !kinds[k].persistent;
}

/* A get, read or write missed: right only where the page was never promised. */
static inline void check_miss(struct ref *r)
{
	assert_true(!r->present || r->maybe);
	forget(r); /* and a miss stays a miss */
}

static inline void check_hit(
	const struct ref *r, const uint8_t *got, uint32_t offset, uint32_t length)
{
	assert_true(r->present);
	assert_memory_equal(got, r->page + offset, length);
}

static inline void do_put(struct model *m, unsigned int k, unsigned int o, unsigned int i)
{
	uint64_t seed = test_random(&m->random);
	struct tm_oid oid = oid_of(o);
	int rc;

	if (kinds[k].attrs & TM_POOL_DEDUP)
		seed %= 100; /* so that many are equal */
	test_page(seed, m->page, bytes_of(k));
	rc = tm_store_put(m->t.store, m->pool[k], &oid, index_of(i), m->page);
	assert_true(rc == 0 || rc == -ENOMEM || rc == -EBUSY || rc == -E2BIG);
	if (rc == 0)
		remember(&m->ref[k][o][i], k, m->page);
	else
		forget(&m->ref[k][o][i]);
}

static inline void do_get(struct model *m, unsigned int k, unsigned int o, unsigned int i)
{
	struct ref *r = &m->ref[k][o][i];
	struct tm_oid oid = oid_of(o);
	int rc = tm_store_get(m->t.store, m->pool[k], &oid, index_of(i), m->got);

	if (rc == 0)
		check_hit(r, m->got, 0, bytes_of(k));
	else
		assert_int_equal(rc, -ENOENT);
	if (rc < 0)
		check_miss(r);
	else if (kinds[k].exclusive)
		forget(r);
}

static inline void do_range(
	struct model *m, unsigned int k, unsigned int o, unsigned int i, unsigned int op)
{
	struct ref *r = &m->ref[k][o][i];
	struct tm_oid oid = oid_of(o);
	uint32_t offset = (uint32_t)(test_random(&m->random) % bytes_of(k));
	uint32_t length = (uint32_t)(test_random(&m->random) % (bytes_of(k) - offset + 1));
	int rc;

	test_page(test_random(&m->random), m->page, bytes_of(k));
	memcpy(m->got, m->page, length);
	if (op == 0)
		rc = tm_store_read(
			m->t.store, m->pool[k], &oid, index_of(i), offset, length, m->got);
	else if (op == 1)
		rc = tm_store_write(
			m->t.store, m->pool[k], &oid, index_of(i), offset, length, m->page);
	else
		rc = tm_store_xchg(
			m->t.store, m->pool[k], &oid, index_of(i), offset, length, m->got);
	if (rc == -ENOENT) {
		check_miss(r);
		return;
	}
	if (rc < 0) { /* refused: the page is as it was */
		assert_true(op != 0 && (rc == -ENOMEM || rc == -EBUSY || rc == -E2BIG));
		assert_memory_equal(m->got, m->page, length);
		assert_true(r->present);
		return;
	}
	if (op != 1)
		check_hit(r, m->got, offset, length);
	assert_true(r->present);
	if (op != 0)
		memcpy(r->page + offset, m->page, length);
}

static inline void do_flush(
	struct model *m, unsigned int k, unsigned int o, unsigned int i, bool object)
{
	struct tm_oid oid = oid_of(o);

	if (!object) {
		assert_int_equal(tm_store_flush_page(m->t.store, m->pool[k], &oid, index_of(i)), 0);
		forget(&m->ref[k][o][i]);
		return;
	}
	assert_int_equal(tm_store_flush_object(m->t.store, m->pool[k], &oid), 0);
	for (i = 0; i < INDEXES; i++)
		forget(&m->ref[k][o][i]);
}

static inline void do_new_pool(struct model *m, unsigned int k)
{
	int rc;

	assert_int_equal(tm_store_destroy_pool(m->t.store, m->pool[k]), 0);
	for (unsigned int o = 0; o < OBJECTS; o++)
		for (unsigned int i = 0; i < INDEXES; i++)
			forget(&m->ref[k][o][i]);
	rc = test_pool(&m->t, kinds[k].flags, kinds[k].order, kinds[k].attrs);
	if (rc == -ENOMEM) { /* injected, or nothing granted */
		m->refuse_in = -1;
		atomic_store(&m->t.ledger->granted_bytes, UINT64_MAX);
		rc = test_pool(&m->t, kinds[k].flags, kinds[k].order, kinds[k].attrs);
	}
	m->pool[k] = rc;
	assert_in_range(rc, 0, TM_POOLS_MAX - 1);
}

static inline void do_policy(struct model *m)
{
	switch (test_random(&m->random) % 6) {
	case 0:
		atomic_store(&m->t.ledger->frozen, 1);
		break;
	case 1:
	case 2:
		atomic_store(&m->t.ledger->frozen, 0);
		break;
	case 3:
		tm_store_release(m->t.store, test_random(&m->random) % LIMIT);
		break;
	case 4:
		atomic_store(&m->t.ledger->granted_bytes, test_random(&m->random) % LIMIT);
		tm_store_shrink(m->t.store);
		break;
	default:
		atomic_store(&m->t.ledger->granted_bytes, UINT64_MAX);
	}
}

static inline void one_step(struct model *m)
{
	unsigned int k = test_random(&m->random) % KINDS, o = test_random(&m->random) % OBJECTS;
	unsigned int i = test_random(&m->random) % INDEXES, op = test_random(&m->random) % 1000;

	if (op < 450)
		do_put(m, k, o, i);
	else if (op < 800)
		do_get(m, k, o, i);
	else if (op < 900)
		do_range(m, k, o, i, op % 3);
	else if (op < 985)
		do_flush(m, k, o, i, false);
	else if (op < 990)
		do_flush(m, k, o, i, true);
	else if (op < 991)
		do_new_pool(m, k);
	else
		do_policy(m);
}

/* A test in another mode than ALONE. */
#define ahead(test)                                                                                \
	{                                                                                          \
#test ", working ahead", test, NULL, NULL, &(enum mode)                            \
		{                                                                                  \
			AHEAD                                                                      \
		}                                                                                  \
	}
#define resident(test)                                                                             \
	{                                                                                          \
#test ", resident", test, NULL, NULL, &(enum mode)                                 \
		{                                                                                  \
			RESIDENT                                                                   \
		}                                                                                  \
	}

#endif
