/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_model.c - the store against a trivial reference, one operation after the other
 *
 * Random operations; then the same with every charge of the budget (segment, leaf, slot array,
 * object, hash table) made to fail in turn.
 */
#include "tests/unit/reference.h"

/* After every step in the build that looks for errors of memory, where no keeper has to be stopped
 * for it. */
static void random_operations_match_the_reference(void **state)
{
	struct model *m = model_open(state);
	const char *variant = getenv("TM_TEST_VARIANT");
	bool thorough = variant && strcmp(variant, "asan") == 0 && !m->t.store->keeper;
	int every = thorough ? 1 : 500;

	for (int i = 0; i < test_scale(200000); i++) {
		one_step(m);
		if (i % every == 0)
			check(m);
	}
	model_close(m);
}

/* Refuse the n-th charge after a random moment, for each n that a few operations can reach. */
static void each_refused_allocation_changes_nothing_else(void **state)
{
	struct model *m = model_open(state);
	long reached = 0;

	for (int round = 0; round < test_scale(3000); round++) {
		m->random = (uint64_t)round;
		m->refused = false;
		m->refuse_in = round % 40;
		for (int i = 0; i < 60; i++)
			one_step(m);
		reached += m->refused;
		m->refuse_in = -1;
		if (round % 20 == 0)
			check(m);
	}
	assert_true(reached > test_scale(3000) / 4); /* the faults were really met */
	model_close(m);
}

/* Every charge from the first on is refused: nothing is stored, nothing breaks. */
static void a_store_without_any_memory_is_empty(void **state)
{
	struct model *m = model_open(state);

	m->t.ledger->granted_bytes = 0;
	for (int i = 0; i < 1000; i++)
		do_put(m, (unsigned int)i % KINDS, 0, (unsigned int)i % INDEXES);
	for (unsigned int k = 0; k < KINDS; k++)
		assert_int_equal(m->t.ledger->pools[m->pool[k]].stat[TM_STAT_PAGES], 0);
	m->t.ledger->granted_bytes = UINT64_MAX;
	model_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations_match_the_reference),
		cmocka_unit_test(each_refused_allocation_changes_nothing_else),
		cmocka_unit_test(a_store_without_any_memory_is_empty),
		ahead(random_operations_match_the_reference),
		ahead(each_refused_allocation_changes_nothing_else),
		resident(random_operations_match_the_reference),
		resident(each_refused_allocation_changes_nothing_else),
	};

	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
