/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_ledger.c - a ledger is shared, of fixed size, and mapped only when it is one; what it calls
 * the cap is never exceeded
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/budget.h"
#include "core/ledger.h"
#include "core/util.h"

static void both_sides_see_one_memory(void **state)
{
	struct tm_ledger *client, *host;
	int fd;

	(void)state;
	assert_int_equal(tm_ledger_create(&client, &fd), 0);
	assert_int_equal(tm_ledger_map(fd, &host), 0);
	assert_true(client->granted_bytes == UINT64_MAX);
	atomic_store(&host->granted_bytes, 4096);
	atomic_store(&client->used_bytes, 512);
	assert_int_equal(atomic_load(&client->granted_bytes), 4096);
	assert_int_equal(atomic_load(&host->used_bytes), 512);
	tm_ledger_unmap(host);
	tm_ledger_unmap(client);
	close(fd);
}

static void its_size_cannot_change(void **state)
{
	struct tm_ledger *ledger;
	int fd;

	(void)state;
	assert_int_equal(tm_ledger_create(&ledger, &fd), 0);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 1 << 20), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	tm_ledger_unmap(ledger);
	close(fd);
}

/* A sealed memfd of `size` bytes that starts with these words. */
static int forge(size_t size, uint32_t magic, uint32_t version, int seals)
{
	uint32_t words[] = {magic, version};
	int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	if (size >= sizeof(words))
		assert_int_equal(pwrite(fd, words, sizeof(words), 0), sizeof(words));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void what_is_none_is_refused(void **state)
{
	const size_t size = TM_ALIGN(sizeof(struct tm_ledger), TM_PAGE_SIZE);
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	const struct {
		size_t size;
		uint32_t magic, version;
		int seals, error;
	} cases[] = {
		{size, TM_LEDGER_MAGIC, TM_LEDGER_VERSION, F_SEAL_GROW, -EPERM},
		{size - TM_PAGE_SIZE, TM_LEDGER_MAGIC, TM_LEDGER_VERSION, seals, -EINVAL},
		{0, 0, 0, seals, -EINVAL},
		{size, 1, TM_LEDGER_VERSION, seals, -EINVAL},
		{size, TM_LEDGER_MAGIC, TM_LEDGER_VERSION + 1, seals, -EPROTO},
		{size, TM_LEDGER_MAGIC, TM_LEDGER_VERSION, seals, 0},
	};

	(void)state;
	for (size_t i = 0; i < TM_ARRAY_SIZE(cases); i++) {
		struct tm_ledger *ledger = NULL;
		int fd = forge(cases[i].size, cases[i].magic, cases[i].version, cases[i].seals);

		assert_int_equal(tm_ledger_map(fd, &ledger), cases[i].error);
		assert_true((ledger != NULL) == (cases[i].error == 0));
		tm_ledger_unmap(ledger);
		close(fd);
	}
}

static void other_descriptors_are_refused(void **state)
{
	struct tm_ledger *ledger;
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(tm_ledger_map(fds[0], &ledger), -EPERM);
	assert_int_equal(tm_ledger_map(-1, &ledger), -EPERM);
	close(fds[0]);
	close(fds[1]);
}

/* --- a cap that is changed while threads charge, by the rules of core/ledger.h -----------------
 */

#define CHUNK  (1u << 20)
#define LOW    (4u * CHUNK)
#define HIGH   (64u * CHUNK)
#define ROUNDS 100

/* The worst moment for a grant to fall: it was read, and nothing is taken yet. */
static bool grant_falls(void *opaque)
{
	struct tm_ledger *ledger = opaque;

	atomic_store(&ledger->granted_bytes, LOW);
	assert_int_equal(atomic_load(&ledger->charging), 1);
	return false;
}

static void a_charge_by_an_older_grant_shows(void **state)
{
	struct tm_budget budget = {.refuse = grant_falls};
	int fd;

	(void)state;
	assert_int_equal(tm_ledger_create(&budget.ledger, &fd), 0);
	atomic_store(&budget.ledger->limit_bytes, 1ull << 40);
	atomic_store(&budget.ledger->granted_bytes, HIGH);
	budget.opaque = budget.ledger;
	assert_int_equal(tm_budget_charge(&budget, HIGH, false), 0);
	assert_int_equal(atomic_load(&budget.ledger->charging), 0);
	assert_int_equal(tm_budget_charge(&budget, CHUNK, false), -ENOMEM);
	assert_int_equal(atomic_load(&budget.ledger->charging), 0);
	tm_ledger_unmap(budget.ledger);
	close(fd);
}

struct charger {
	struct tm_ledger *ledger;
	_Atomic bool stop;
	_Atomic uint64_t rises; /* of the cap */
	_Atomic uint64_t over;
};

/* Takes all it gets, and gives all back when it gets no more. */
static void *charge(void *opaque)
{
	struct charger *c = opaque;
	struct tm_budget budget = {.ledger = c->ledger};
	uint64_t mine = 0;

	while (!atomic_load(&c->stop)) {
		uint64_t rises = atomic_load(&c->rises), now;
		uint64_t cap = atomic_load(&c->ledger->cap_bytes);
		uint64_t used = atomic_load(&c->ledger->used_bytes);

		if (tm_budget_charge(&budget, CHUNK, false) == 0) {
			now = atomic_load(&c->ledger->used_bytes);
			if (rises == atomic_load(&c->rises))
				atomic_fetch_add(&c->over, now > TM_MAX(used, cap));
			mine += CHUNK;
		} else {
			tm_budget_credit(&budget, mine);
			mine = 0;
		}
	}
	tm_budget_credit(&budget, mine);
	return NULL;
}

static void a_cap_is_never_exceeded(void **state)
{
	struct charger c = {0};
	pthread_t threads[3];
	int fd;

	(void)state;
	assert_int_equal(tm_ledger_create(&c.ledger, &fd), 0);
	atomic_store(&c.ledger->limit_bytes, 1ull << 40);
	atomic_store(&c.ledger->granted_bytes, HIGH);
	for (size_t i = 0; i < TM_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, charge, &c), 0);
	for (int round = 0; round < ROUNDS; round++) {
		while (atomic_load(&c.ledger->used_bytes) <= LOW)
			;
		atomic_store(&c.ledger->granted_bytes, LOW);
		while (atomic_load(&c.ledger->charging) > 0)
			;
		atomic_store(&c.ledger->cap_bytes, LOW);
		while (atomic_load(&c.ledger->used_bytes) > LOW)
			;
		for (int i = 0; i < 1000; i++)
			assert_true(atomic_load(&c.ledger->used_bytes) <= LOW);
		atomic_store(&c.ledger->cap_bytes, HIGH);
		atomic_fetch_add(&c.rises, 1); /* before anybody can go by it */
		atomic_store(&c.ledger->granted_bytes, HIGH);
	}
	atomic_store(&c.stop, true);
	for (size_t i = 0; i < TM_ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(c.over, 0);
	assert_int_equal(atomic_load(&c.ledger->used_bytes), 0);
	assert_int_equal(atomic_load(&c.ledger->charging), 0);
	tm_ledger_unmap(c.ledger);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_see_one_memory),
		cmocka_unit_test(its_size_cannot_change),
		cmocka_unit_test(what_is_none_is_refused),
		cmocka_unit_test(other_descriptors_are_refused),
		cmocka_unit_test(a_charge_by_an_older_grant_shows),
		cmocka_unit_test(a_cap_is_never_exceeded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
