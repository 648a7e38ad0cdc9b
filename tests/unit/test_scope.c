/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_scope.c - which names of file systems are equal, and which must not be
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tmemfs/scope.h"
#include "tmemfs/version.h"

static const char mountinfo[] = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
				"122 22 0:40 / /srv/a\\040b rw,relatime shared:2 master:3 - nfs4 "
				"server:/export/a rw,vers=4.2\n"
				"123 22 0:41 / /srv/c rw - nfs4 [fe80::1]:/ rw\n"
				"1234 22 0:42 / /odd rw";

static void assert_source(int mount_id, const char *want)
{
	const char *source;
	size_t len = tm_scope_source(mountinfo, mount_id, &source);

	assert_int_equal(len, strlen(want));
	if (len)
		assert_memory_equal(source, want, len);
}

static void a_mount_is_found_by_its_id(void **data)
{
	(void)data;
	assert_source(22, "/dev/sda1");
	assert_source(122, "server:/export/a");
	assert_source(123, "[fe80::1]:/");
	assert_source(12, "");
	assert_source(1234, ""); /* cut short */
	assert_int_equal(tm_scope_source("", 22, NULL), 0);
}

static struct tm_scope scope_of(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY);
	struct tm_scope scope;

	assert_true(fd >= 0);
	assert_int_equal(tm_scope_of(fd, &scope), 0);
	close(fd);
	return scope;
}

static void two_looks_agree_on_what_lasts(void **data)
{
	struct tm_scope one = scope_of("/"), two = scope_of("/"), proc = scope_of("/proc");

	(void)data;
	assert_int_equal(one.lasting, two.lasting);
	assert_int_equal(one.booted, two.booted);
	assert_int_equal(one.own, two.own);
	assert_int_not_equal(one.other, two.other);
	assert_int_not_equal(one.lasting, proc.lasting);
	assert_int_not_equal(one.mounted, proc.mounted);
	assert_int_not_equal(one.own, proc.own);
	/* On no device and without a UUID: nothing of it lasts. */
	assert_int_equal(proc.lasting, proc.mounted);
}

static void what_is_uncertain_lasts_only_as_mounted(void **data)
{
	const struct tm_scope scope = {
		.dev = 1, .own = 2, .other = 0x300, .lasting = 4, .mounted = 5, .booted = 0x600};

	(void)data;
	assert_int_equal(tm_scope_own(&scope, 1, true), 4);
	assert_int_equal(tm_scope_own(&scope, 1, false), 5);
	assert_int_equal(tm_scope_own(&scope, 7, true), 0x607);
	assert_int_equal(tm_scope_shared(&scope, 1), 2);
	assert_int_equal(tm_scope_shared(&scope, 7), 0x307);
}

static void only_a_clock_makes_fractions(void **data)
{
	const int64_t second = 1000000000;

	(void)data;
	assert_false(tm_validator_clocked(&(struct tm_validator){.ctime_ns = 5 * second}));
	/* Everybody may set mtime. */
	assert_false(tm_validator_clocked(
		&(struct tm_validator){.mtime_ns = 1, .ctime_ns = 5 * second}));
	assert_true(tm_validator_clocked(&(struct tm_validator){.ctime_ns = 5 * second + 1}));
	assert_true(tm_validator_clocked(&(struct tm_validator){.ctime_ns = -1}));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_mount_is_found_by_its_id),
		cmocka_unit_test(two_looks_agree_on_what_lasts),
		cmocka_unit_test(what_is_uncertain_lasts_only_as_mounted),
		cmocka_unit_test(only_a_clock_makes_fractions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
