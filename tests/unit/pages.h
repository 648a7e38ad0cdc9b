/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pages.h - test pages whose every byte follows from a seed, and a store to put them in
 */
#ifndef TM_TEST_PAGES_H
#define TM_TEST_PAGES_H

/* cmocka.h wants these four before it. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/store.h"
#include "core/util.h"

/* splitmix64: small, seedable, good enough to defeat LZ4. */
static inline uint64_t test_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* Zero, same-filled, compressible (2 kinds) and incompressible pages, chosen by the seed. */
static inline void test_page(uint64_t seed, void *page, uint32_t bytes)
{
	uint64_t state = seed, *words = page;

	switch (seed % 8) {
	case 0:
		memset(page, 0, bytes);
		return;
	case 1:
		for (uint32_t i = 0; i < bytes / 8; i++)
			words[i] = seed;
		return;
	case 2: /* does not compress */
		for (uint32_t i = 0; i < bytes / 8; i++)
			words[i] = test_random(&state);
		return;
	default: /* a third random, the rest small numbers */
		for (uint32_t i = 0; i < bytes / 8; i++)
			words[i] = i % 3 == 0 ? test_random(&state) : seed % 1000 + i / 16;
	}
}

struct test_store {
	struct tm_ledger *ledger;
	int ledger_fd;
	struct tm_store *store;
};

/* The ledger of `params` is made here. */
static inline void test_store_open_as(struct test_store *t, struct tm_store_params params)
{
	assert_int_equal(tm_ledger_create(&t->ledger, &t->ledger_fd), 0);
	params.ledger = t->ledger;
	assert_int_equal(tm_store_create(&params, &t->store), 0);
}

static inline void test_store_open(struct test_store *t, uint64_t limit, uint32_t segment_bytes)
{
	test_store_open_as(
		t, (struct tm_store_params){.limit = limit, .segment_bytes = segment_bytes});
}

/* Everything must have been given back. */
static inline void test_store_close(struct test_store *t)
{
	tm_store_destroy(t->store);
	assert_int_equal(t->ledger->used_bytes, 0);
	assert_int_equal(t->ledger->freeable_bytes, 0);
	tm_ledger_unmap(t->ledger);
	close(t->ledger_fd);
}

static inline int test_pool(struct test_store *t, uint32_t kind, unsigned int order, uint32_t attrs)
{
	struct tm_pool_params params = {
		.flags = tm_pool_flags(kind, order), .attrs = attrs, .name = "test"};

	return tm_store_new_pool(t->store, &params);
}

/* How much work a test may do: sanitizers are slow, TSan most. */
static inline int test_scale(int plain)
{
	const char *variant = getenv("TM_TEST_VARIANT");

	if (variant && strcmp(variant, "tsan") == 0)
		return plain / 5 + 1;
	return variant && *variant ? plain / 2 + 1 : plain;
}

#endif
