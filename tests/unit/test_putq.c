/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_putq.c - pages on their way into tmem: all that found room come out, once, unless it stops
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
#include "tmemfs/putq.h"

#define PAGE  64
#define SLOTS 48 /* more than are queued at one go, less than twice as many */
#define COUNT 100

/* Stand-ins: nothing here is ever freed. */
static atomic_int referenced;

struct tm_inode *tm_inode_ref(struct tm_inode *inode)
{
	atomic_fetch_add(&referenced, 1);
	return inode;
}

void tm_inode_unref(struct tm_inode *inode)
{
	(void)inode;
	atomic_fetch_sub(&referenced, 1);
}

struct state {
	struct tm_putq *queue;
	struct tm_inode inode;
	char pages[COUNT][PAGE];
	atomic_bool hold;
	atomic_uint asked; /* how often to hold */
	atomic_uint seen[COUNT];
	atomic_uint wrong, done;
};

static void work(void *opaque, const struct tm_put *put)
{
	struct state *s = opaque;

	if (put->inode != &s->inode || put->epoch != 7 || put->index >= COUNT ||
		memcmp(put->page, s->pages[put->index], PAGE) != 0)
		atomic_fetch_add(&s->wrong, 1);
	else
		atomic_fetch_add(&s->seen[put->index], 1);
	atomic_fetch_add(&s->done, 1);
}

static bool hold(void *opaque)
{
	struct state *s = opaque;

	atomic_fetch_add(&s->asked, 1);
	return atomic_load(&s->hold);
}

static const struct tm_putq_ops ops = {.work = work, .hold = hold};

static unsigned int add(struct state *s, uint32_t index, unsigned int count)
{
	return tm_putq_add(s->queue, &s->inode, 7, index, count, s->pages[index]);
}

static void wait_for(atomic_uint *what, unsigned int least)
{
	while (atomic_load(what) < least)
		sched_yield();
}

static int setup(void **data)
{
	struct state *s = calloc(1, sizeof(*s));

	for (unsigned int i = 0; i < COUNT; i++)
		memset(s->pages[i], (int)i + 1, PAGE);
	atomic_store(&referenced, 0);
	*data = s;
	return tm_putq_start(PAGE, SLOTS * PAGE, 2, &ops, s, &s->queue);
}

static int teardown(void **data)
{
	struct state *s = *data;

	tm_putq_stop(s->queue);
	free(s);
	return atomic_load(&referenced);
}

static void test_all_come_out_once(void **data)
{
	struct state *s = *data;
	unsigned int queued = 0;

	while (queued < COUNT)
		queued += add(s, queued, COUNT - queued);
	wait_for(&s->done, COUNT);
	assert_int_equal(atomic_load(&s->wrong), 0);
	for (unsigned int i = 0; i < COUNT; i++)
		assert_int_equal(atomic_load(&s->seen[i]), 1);
}

static void test_held_pages_wait_and_the_rest_finds_no_room(void **data)
{
	struct state *s = *data;

	atomic_store(&s->hold, true);
	assert_int_equal(add(s, 0, COUNT), SLOTS);
	assert_int_equal(add(s, SLOTS, 1), 0);
	wait_for(&s->asked, 3); /* so each thread has been told once, at least */
	assert_int_equal(atomic_load(&s->done), 0);
	atomic_store(&s->hold, false);
	wait_for(&s->done, SLOTS);
	assert_int_equal(atomic_load(&s->wrong), 0);
	for (unsigned int i = 0; i < COUNT; i++)
		assert_int_equal(atomic_load(&s->seen[i]), i < SLOTS);
	/* A slot is free a moment after its page was put. */
	while (add(s, SLOTS, 1) == 0)
		sched_yield();
	wait_for(&s->done, SLOTS + 1);
	assert_int_equal(atomic_load(&s->seen[SLOTS]), 1);
}

/* teardown() sees that nothing is referred to any more. */
static void test_stop_drops_what_is_held(void **data)
{
	struct state *s = *data;

	atomic_store(&s->hold, true);
	assert_int_equal(add(s, 0, 10), 10);
	tm_putq_stop(s->queue);
	s->queue = NULL;
	assert_int_equal(atomic_load(&s->done), 0);
	assert_int_equal(atomic_load(&referenced), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_all_come_out_once),
		TEST(test_held_pages_wait_and_the_rest_finds_no_room),
		TEST(test_stop_drops_what_is_held),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
