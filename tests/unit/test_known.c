/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_known.c - what tmemfs remembers of an inode, and when it must not
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tmemfs/inode.h"
#include "tmemfs/known.h"

#define TTL_NS   (3600 * 1000000000ull)
#define FACT_MAX 4096

struct state {
	struct tm_meta *meta;
	struct tm_inode inode;
};

static int setup(void **data)
{
	struct state *s = calloc(1, sizeof(*s));

	s->meta = tm_meta_new(TTL_NS, FACT_MAX);
	*data = s;
	return s->meta ? 0 : -1;
}

static int teardown(void **data)
{
	struct state *s = *data;

	tm_meta_drop(s->meta, &s->inode);
	tm_meta_free(s->meta);
	free(s);
	return 0;
}

/* A stat whose ctime is `age_ns` ago. */
static struct stat stat_of(int64_t age_ns, off_t size)
{
	int64_t ctime = tm_wall_ns() - age_ns;

	return (struct stat){.st_size = size,
		.st_nlink = 1,
		.st_ctim = {ctime / 1000000000, ctime % 1000000000 | 1}};
}

#define OLD (10 * 1000000000ll)

static void learn(struct state *s, const struct stat *st)
{
	struct tm_asked asked = tm_meta_ask(s->meta);

	assert_true(tm_meta_learn(s->meta, &s->inode, &asked, st));
}

static void remember(struct state *s, const char *key, const char *value)
{
	struct tm_asked asked = tm_meta_ask(s->meta);

	tm_meta_remember(s->meta, &s->inode, &asked, key, (int)strlen(value), value);
}

static bool recalls(struct state *s, const char *key, const char *value)
{
	void *known = NULL;
	bool same;
	int rc;

	if (!tm_meta_recall(s->meta, &s->inode, key, &rc, &known))
		return false;
	same = rc == (int)strlen(value) && (rc == 0 || memcmp(known, value, (size_t)rc) == 0);
	free(known);
	return same;
}

static bool knows_stat(struct state *s, off_t size)
{
	struct stat st;
	uint64_t left;

	return tm_meta_stat(s->meta, &s->inode, &st, &left) && st.st_size == size && left <= TTL_NS;
}

static void test_attributes(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(OLD, 1);

	assert_false(knows_stat(s, 1));
	learn(s, &st);
	assert_true(knows_stat(s, 1));
	tm_meta_forget(s->meta, &s->inode);
	assert_false(knows_stat(s, 1));
}

static void test_change_refuses_what_was_asked_before(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(OLD, 1);
	struct tm_asked before = tm_meta_ask(s->meta), during;

	tm_meta_change_begin(s->meta, &s->inode);
	during = tm_meta_ask(s->meta);
	assert_false(tm_meta_learn(s->meta, &s->inode, &before, &st));
	assert_false(tm_meta_learn(s->meta, &s->inode, &during, &st));
	tm_meta_change_end(s->meta, &s->inode);
	assert_false(tm_meta_learn(s->meta, &s->inode, &before, &st));
	assert_false(tm_meta_learn(s->meta, &s->inode, &during, &st));
	assert_false(knows_stat(s, 1));
	learn(s, &st);
	assert_true(knows_stat(s, 1));
}

static void test_older_answer_does_not_replace_newer(void **data)
{
	struct state *s = *data;
	struct stat old = stat_of(OLD, 1), new = stat_of(OLD / 2, 2);
	struct tm_asked first = tm_meta_ask(s->meta);

	first.mono_ns--;
	learn(s, &new);
	tm_meta_learn(s->meta, &s->inode, &first, &old);
	assert_true(knows_stat(s, 2));
}

static void test_facts_go_with_their_ctime(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(OLD, 1), later = stat_of(OLD / 2, 1);

	remember(s, "a", "too early"); /* no ctime was seen */
	assert_false(recalls(s, "a", "too early"));
	learn(s, &st);
	remember(s, "a", "value");
	assert_true(recalls(s, "a", "value"));
	learn(s, &st);
	assert_true(recalls(s, "a", "value"));
	learn(s, &later);
	assert_false(recalls(s, "a", "value"));
	remember(s, "a", "");
	assert_true(recalls(s, "a", ""));
}

static void test_young_ctime_keeps_no_facts(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(0, 1);
	struct tm_asked asked = tm_meta_ask(s->meta);

	asked.wall_ns = tm_wall_ns();
	tm_meta_learn(s->meta, &s->inode, &asked, &st);
	remember(s, "a", "value");
	assert_false(recalls(s, "a", "value"));
	/* The same ctime, seen again when it is old enough: from then on. */
	asked = tm_meta_ask(s->meta);
	asked.wall_ns += OLD;
	tm_meta_learn(s->meta, &s->inode, &asked, &st);
	assert_false(recalls(s, "a", "value"));
	remember(s, "a", "value");
	assert_true(recalls(s, "a", "value"));
}

static void test_young_attributes_are_asked_for_again(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(0, 1), seen;
	struct tm_asked asked = tm_meta_ask(s->meta);
	uint64_t left;

	asked.wall_ns = tm_wall_ns();
	assert_true(tm_meta_learn(s->meta, &s->inode, &asked, &st));
	assert_true(tm_meta_young(s->meta, &s->inode));
	assert_true(tm_meta_stat(s->meta, &s->inode, &seen, &left));
	assert_true(left <= TM_YOUNG_NS);
	/* A second later. */
	tm_meta_forget(s->meta, &s->inode);
	asked = tm_meta_ask(s->meta);
	asked.wall_ns = tm_wall_ns();
	asked.mono_ns -= TM_YOUNG_NS;
	assert_true(tm_meta_learn(s->meta, &s->inode, &asked, &st));
	assert_false(tm_meta_stat(s->meta, &s->inode, &seen, &left));
	/* Then they are as good as any. */
	asked = tm_meta_ask(s->meta);
	asked.wall_ns += OLD;
	assert_true(tm_meta_learn(s->meta, &s->inode, &asked, &st));
	assert_false(tm_meta_young(s->meta, &s->inode));
	assert_true(tm_meta_stat(s->meta, &s->inode, &seen, &left));
	assert_true(left > TM_YOUNG_NS);
}

static void test_fact_asked_before_the_ctime_was_seen(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(OLD, 1);
	struct tm_asked asked = tm_meta_ask(s->meta);

	learn(s, &st);
	tm_meta_remember(s->meta, &s->inode, &asked, "a", 1, "x");
	assert_false(recalls(s, "a", "x"));
}

static void test_facts_are_bounded(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(OLD, 1);
	char value[1001] = {0}, key[16];

	memset(value, 'v', sizeof(value) - 1);
	learn(s, &st);
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof(key), "%d", i);
		remember(s, key, value);
		assert_true(recalls(s, key, value));
	}
	assert_false(recalls(s, "0", value));
	assert_false(recalls(s, "90", value));
	assert_true(recalls(s, "98", value));
}

static void test_one_inode_has_a_few(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(OLD, 1);
	char key[16];
	int known = 0;

	learn(s, &st);
	for (int i = 0; i < 40; i++) {
		snprintf(key, sizeof(key), "%d", i);
		remember(s, key, "");
		assert_true(recalls(s, key, ""));
	}
	for (int i = 0; i < 40; i++) {
		snprintf(key, sizeof(key), "%d", i);
		known += recalls(s, key, "");
	}
	assert_int_equal(known, 32);
	assert_false(recalls(s, "0", ""));
}

static void test_errors_are_facts_too(void **data)
{
	struct state *s = *data;
	struct stat st = stat_of(OLD, 1);
	struct tm_asked asked;
	void *value = NULL;
	int rc;

	learn(s, &st);
	asked = tm_meta_ask(s->meta);
	tm_meta_remember(s->meta, &s->inode, &asked, "a", -ENODATA, NULL);
	assert_true(tm_meta_recall(s->meta, &s->inode, "a", &rc, &value));
	assert_int_equal(rc, -ENODATA);
	assert_null(value);
}

static void test_unreachable_makes_age_not_count(void **data)
{
	struct state *s = *data;
	struct tm_meta *hasty = tm_meta_new(1, FACT_MAX);
	struct tm_asked asked = tm_meta_ask(hasty);
	struct stat st = stat_of(OLD, 1), seen;
	uint64_t left;

	tm_meta_learn(hasty, &s->inode, &asked, &st);
	assert_false(tm_meta_stat(hasty, &s->inode, &seen, &left));
	tm_meta_unreachable(hasty);
	assert_true(tm_meta_stat(hasty, &s->inode, &seen, &left));
	assert_true(left <= TM_STALE_NS);
	/* What was forgotten stays so. */
	tm_meta_forget(hasty, &s->inode);
	assert_false(tm_meta_stat(hasty, &s->inode, &seen, &left));
	tm_meta_free(hasty);
}

static void test_no_capabilities_outlive_our_own_writes(void **data)
{
	struct state *s = *data;
	struct tm_asked asked = tm_meta_ask(s->meta);

	assert_false(tm_meta_plain(s->meta, &s->inode));
	tm_meta_learn_plain(s->meta, &s->inode, &asked);
	assert_true(tm_meta_plain(s->meta, &s->inode));
	tm_meta_change_begin(s->meta, &s->inode);
	tm_meta_change_end(s->meta, &s->inode);
	assert_true(tm_meta_plain(s->meta, &s->inode));
	/* But not a change of attributes, nor an answer from before that. */
	tm_meta_xattrs_changed(s->meta, &s->inode);
	assert_false(tm_meta_plain(s->meta, &s->inode));
	tm_meta_learn_plain(s->meta, &s->inode, &asked);
	assert_false(tm_meta_plain(s->meta, &s->inode));
	asked = tm_meta_ask(s->meta);
	tm_meta_learn_plain(s->meta, &s->inode, &asked);
	assert_true(tm_meta_plain(s->meta, &s->inode));
	/* Nor others. */
	tm_meta_forget(s->meta, &s->inode);
	assert_false(tm_meta_plain(s->meta, &s->inode));
	tm_meta_learn_plain(s->meta, &s->inode, &asked);
	assert_false(tm_meta_plain(s->meta, &s->inode));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_attributes),
		TEST(test_no_capabilities_outlive_our_own_writes),
		TEST(test_change_refuses_what_was_asked_before),
		TEST(test_older_answer_does_not_replace_newer),
		TEST(test_facts_go_with_their_ctime),
		TEST(test_young_ctime_keeps_no_facts),
		TEST(test_young_attributes_are_asked_for_again),
		TEST(test_fact_asked_before_the_ctime_was_seen),
		TEST(test_facts_are_bounded),
		TEST(test_one_inode_has_a_few),
		TEST(test_errors_are_facts_too),
		TEST(test_unreachable_makes_age_not_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
