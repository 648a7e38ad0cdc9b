/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_ledger.c - a ledger is shared, of fixed size, and mapped only when it is one
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_see_one_memory),
		cmocka_unit_test(its_size_cannot_change),
		cmocka_unit_test(what_is_none_is_refused),
		cmocka_unit_test(other_descriptors_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
