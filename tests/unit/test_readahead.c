/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_readahead.c - which patterns tmemfs foresees, and that a reader meets what is on its way
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/util.h"
#include "tmemfs/inode.h"
#include "tmemfs/readahead.h"

#define SIZE   (16 << 20)
#define UNIT   4096
#define WINDOW (1 << 20)

/* Stand-ins: nothing here is ever freed. */
static atomic_int held;

struct tm_inode *tm_inode_ref(struct tm_inode *inode)
{
	atomic_fetch_add(&held, 1);
	return inode;
}

void tm_inode_unref(struct tm_inode *inode)
{
	(void)inode;
	atomic_fetch_sub(&held, 1);
}

static void source_ref(void *opaque)
{
	(void)opaque;
	atomic_fetch_add(&held, 1);
}

static void source_unref(void *opaque)
{
	(void)opaque;
	atomic_fetch_sub(&held, 1);
}

static int source_fd(void *opaque)
{
	(void)opaque;
	return -1;
}

struct state {
	struct tm_readahead *ahead;
	struct tm_inode inode;
	struct tm_source source;
	atomic_bool all_there;
	atomic_uint read[SIZE / UNIT]; /* how often */
};

static bool work(
	void *opaque, struct tm_inode *inode, struct tm_source *source, int64_t off, size_t len)
{
	struct state *s = opaque;

	assert_ptr_equal(inode, &s->inode);
	assert_ptr_equal(source, &s->source);
	assert_true(off >= 0 && len > 0 && off + (int64_t)len <= SIZE);
	for (int64_t i = off / UNIT; i <= (off + (int64_t)len - 1) / UNIT; i++)
		atomic_fetch_add(&s->read[i], 1);
	return !atomic_load(&s->all_there);
}

static int setup(void **data)
{
	struct state *s = calloc(1, sizeof(*s));

	s->source = (struct tm_source){source_fd, source_ref, source_unref, NULL, {0}};
	*data = s;
	return tm_readahead_start(4, WINDOW, work, s, &s->ahead);
}

static int teardown(void **data)
{
	struct state *s = *data;

	tm_readahead_stop(s->ahead);
	assert_int_equal(atomic_load(&held), 0);
	free(s);
	return 0;
}

static void reads(struct state *s, int64_t off, size_t len, bool missing)
{
	tm_readahead_meet(s->ahead, &s->inode, off, len);
	tm_readahead_note(s->ahead, &s->inode, &s->source, off, len, SIZE, missing);
}

/* All that was scheduled has been read, or will never be. */
static void settle(struct state *s)
{
	for (int64_t off = 0; off < SIZE; off += WINDOW)
		tm_readahead_meet(s->ahead, &s->inode, off, WINDOW);
}

static unsigned int total(struct state *s)
{
	unsigned int n = 0;

	for (size_t i = 0; i < TM_ARRAY_SIZE(s->read); i++)
		n += atomic_load(&s->read[i]);
	return n;
}

static void test_in_a_row(void **data)
{
	struct state *s = *data;

	for (int64_t off = 0; off < SIZE; off += 131072)
		reads(s, off, 131072, true);
	settle(s);
	for (size_t i = 0; i < TM_ARRAY_SIZE(s->read); i++)
		assert_true(atomic_load(&s->read[i]) <= 1);
}

static void test_nearly_in_a_row(void **data)
{
	struct state *s = *data;

	/* As two threads of the kernel send them. */
	for (int64_t off = 0; off < SIZE; off += 2 * 131072) {
		reads(s, off + 131072, 131072, true);
		reads(s, off, 131072, true);
	}
	settle(s);
	for (size_t i = 0; i < TM_ARRAY_SIZE(s->read); i++)
		assert_true(atomic_load(&s->read[i]) <= 1);
	assert_true(s->source.stream.in_row > 10);
}

static void test_window_is_the_most(void **data)
{
	struct state *s = *data;

	for (int i = 0; i < 20; i++)
		reads(s, (int64_t)i * UNIT, UNIT, true);
	settle(s);
	for (size_t i = (20 * UNIT + WINDOW) / UNIT + 131072 / UNIT; i < TM_ARRAY_SIZE(s->read);
		i++)
		assert_int_equal(atomic_load(&s->read[i]), 0);
}

static void test_at_random(void **data)
{
	struct state *s = *data;
	uint64_t x = 1;

	for (int i = 0; i < 1000; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		reads(s, (int64_t)(x >> 33) % (SIZE / UNIT) * UNIT, UNIT, true);
	}
	settle(s);
	/* Now and then a few are in a row, by chance. */
	assert_true(total(s) < 1000 * 4);
}

static void test_at_a_distance(void **data)
{
	struct state *s = *data;
	const int64_t distance = 300000;
	int64_t off;

	/* The kernel rounds down to its pages. */
	for (off = 0; off + 65536 < SIZE / 2; off += distance)
		reads(s, off / UNIT * UNIT, 65536, true);
	settle(s);
	/* What comes next lies in what was foreseen, unless a reader came first. */
	assert_true(s->source.stream.same > 10);
	assert_true(s->source.stream.foreseen > s->source.stream.same);
	for (size_t i = 0; i < TM_ARRAY_SIZE(s->read); i++)
		assert_true(atomic_load(&s->read[i]) <= 1);
}

static void test_what_is_there_is_not_read_ahead(void **data)
{
	struct state *s = *data;

	for (int64_t off = 0; off < SIZE; off += 131072)
		reads(s, off, 131072, false);
	settle(s);
	assert_int_equal(total(s), 0);
	/* A single miss starts it, and the first piece that was there ends it. */
	atomic_store(&s->all_there, true);
	memset(&s->source.stream, 0, sizeof(s->source.stream));
	for (int64_t off = 0; off < SIZE; off += 131072) {
		reads(s, off, 131072, off == 4 * 131072);
		while (off == 4 * 131072 && total(s) == 0)
			sched_yield();
		settle(s);
	}
	assert_true(total(s) <= 2 * WINDOW / UNIT);
}

static void *reader(void *data)
{
	struct state *s = data;

	for (int round = 0; round < 20; round++)
		for (int64_t off = 0; off < SIZE; off += 131072)
			reads(s, off, 131072, true);
	return NULL;
}

static void test_many_readers(void **data)
{
	pthread_t threads[4];

	for (size_t i = 0; i < TM_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, *data), 0);
	for (size_t i = 0; i < TM_ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_in_a_row),
		TEST(test_nearly_in_a_row),
		TEST(test_window_is_the_most),
		TEST(test_at_random),
		TEST(test_at_a_distance),
		TEST(test_what_is_there_is_not_read_ahead),
		TEST(test_many_readers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
