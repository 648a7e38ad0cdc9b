/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_machine.c - what tmemd reads of the machine, on trees of files made here
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "core/util.h"
#include "tools/tmemd/machine.h"

#define M (1ull << 20)

static char root[] = "/tmp/tm-machine-XXXXXX";

/* Write a file below the root, its directories included. */
static void put(const char *name, const char *text)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s%s", root, name);
	for (char *slash = strchr(path + strlen(root) + 1, '/'); slash;
		slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(path, 0700);
		*slash = '/';
	}
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void put_number(const char *name, uint64_t number)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)number);
	put(name, text);
}

static int set_up(void **state)
{
	(void)state;
	strcpy(root + strlen(root) - 6, "XXXXXX");
	assert_non_null(mkdtemp(root));
	put("/proc/meminfo",
		"MemTotal:       24684012 kB\nMemFree:        23000000 kB\n"
		"MemAvailable:     819200 kB\nBuffers:           10000 kB\n");
	return 0;
}

static int tear_down(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", root);
	return system(command); /* a name of our own */
}

static struct tm_machine_memory look(struct tm_machine *machine)
{
	struct tm_machine_memory memory;

	tm_machine_read(machine, &memory);
	return memory;
}

/* Limits are read only now and then. */
static struct tm_machine_memory look_later(struct tm_machine *machine)
{
	for (int i = 0; i < 20; i++)
		look(machine);
	return look(machine);
}

static void put_mounts(const char *v2_group)
{
	char text[512];

	snprintf(text, sizeof(text),
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
		"41 31 0:38 %s /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n",
		v2_group);
	put("/proc/self/mountinfo", text);
}

static void without_any_cgroup(void **state)
{
	struct tm_machine *machine;
	struct tm_machine_memory memory;

	(void)state;
	assert_int_equal(tm_machine_open(root, &machine), 0);
	memory = look(machine);
	assert_int_equal(memory.available, 800 * M);
	assert_int_equal(memory.total, tm_ram_bytes());
	assert_true(memory.cgroup == UINT64_MAX);
	assert_int_equal(tm_machine_pressure_fd(machine), -1);
	/* It is read again each time. */
	put("/proc/meminfo", "MemTotal: 1 kB\nMemAvailable:     1024 kB\n");
	assert_int_equal(look(machine).available, M);
	put("/proc/meminfo", "nonsense");
	assert_int_equal(look(machine).available, 0);
	tm_machine_close(machine);
	tm_machine_close(NULL);
}

static void nothing_can_be_read(void **state)
{
	struct tm_machine *machine;

	(void)state;
	assert_int_equal(tm_machine_open("/nowhere", &machine), 0);
	assert_int_equal(look(machine).available, 0);
	tm_machine_close(machine);
}

static void put_v2(
	const char *group, const char *max, const char *high, uint64_t current, uint64_t file)
{
	char name[256], text[128];

	snprintf(name, sizeof(name), "/sys/fs/cgroup/unified%s/memory.max", group);
	put(name, max);
	snprintf(name, sizeof(name), "/sys/fs/cgroup/unified%s/memory.high", group);
	put(name, high);
	snprintf(name, sizeof(name), "/sys/fs/cgroup/unified%s/memory.current", group);
	put_number(name, current);
	snprintf(name, sizeof(name), "/sys/fs/cgroup/unified%s/memory.stat", group);
	snprintf(text, sizeof(text), "anon 5\nactive_file 7\ninactive_file %llu\nslab 9\n",
		(unsigned long long)file);
	put(name, text);
}

static void the_least_limit_of_all_levels_counts(void **state)
{
	struct tm_machine *machine;
	struct tm_machine_memory memory;

	(void)state;
	put("/proc/self/cgroup", "5:devices:/x\n0::/system/tmem\n");
	put_mounts("/");
	put_v2("/system/tmem", "max\n", "max\n", 100 * M, 0);
	put_v2("/system", "536870912\n", "max\n", 500 * M, 20 * M);
	assert_int_equal(tm_machine_open(root, &machine), 0);
	memory = look(machine);
	assert_int_equal(memory.cgroup, 512 * M);
	assert_int_equal(memory.total, 512 * M);
	assert_int_equal(memory.available, 32 * M); /* 512 - (500 - 20) */

	/* memory.high is a limit as well; limits change while we run. */
	put_v2("/system/tmem", "max\n", "209715200\n", 190 * M, 0);
	memory = look_later(machine);
	assert_int_equal(memory.total, 200 * M);
	assert_int_equal(memory.available, 10 * M);
	put_v2("/system/tmem", "104857600\n", "max\n", 190 * M, 0); /* above its limit already */
	assert_int_equal(look_later(machine).available, 0);
	put_v2("/system/tmem", "max\n", "max\n", 190 * M, 0);
	put_v2("/system", "max\n", "max\n", 500 * M, 20 * M);
	memory = look_later(machine);
	assert_int_equal(memory.available, 800 * M);
	assert_true(memory.cgroup == UINT64_MAX);
	tm_machine_close(machine);
}

static void a_container_sees_its_part_of_the_tree(void **state)
{
	static const char *const groups[] = {
		"0::/docker/abc/tmem\n", "0::/docker/abc\n", "0::/other\n"};
	struct tm_machine *machine;

	(void)state;
	put_mounts("/docker/abc");
	put_v2("/tmem", "max\n", "max\n", 0, 0);
	put_v2("", "104857600\n", "max\n", 50 * M, 0);
	for (size_t i = 0; i < TM_ARRAY_SIZE(groups); i++) {
		put("/proc/self/cgroup", groups[i]);
		assert_int_equal(tm_machine_open(root, &machine), 0);
		assert_int_equal(look(machine).available, 50 * M);
		tm_machine_close(machine);
	}
}

static void version_1_where_version_2_has_no_memory(void **state)
{
	struct tm_machine *machine;

	(void)state;
	put("/proc/self/cgroup", "9:cpu:/a\n4:memory:/a/b\n0::/\n");
	put_mounts("/");
	put_number("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", 300 * M);
	put_number("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", 250 * M);
	put("/sys/fs/cgroup/memory/a/b/memory.stat",
		"inactive_file 1\ntotal_cache 9\ntotal_inactive_file 104857600\n");
	put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
	put_number("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", 250 * M);
	put("/sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file 0\n");
	assert_int_equal(tm_machine_open(root, &machine), 0);
	assert_int_equal(look(machine).available, 150 * M);
	assert_int_equal(look(machine).cgroup, 300 * M);
	tm_machine_close(machine);
}

/* A file is no PSI: it takes whatever is written, and that has to end in NUL. */
static void the_trigger_ends_in_nul(void **state)
{
	struct tm_machine *machine;
	char path[64], text[64] = "";
	FILE *file;

	(void)state;
	put("/proc/pressure/memory", "");
	assert_int_equal(tm_machine_open(root, &machine), 0);
	assert_true(tm_machine_pressure_fd(machine) >= 0);
	snprintf(path, sizeof(path), "%s/proc/pressure/memory", root);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fread(text, 1, sizeof(text), file), strlen("some 50000 500000") + 1);
	assert_string_equal(text, "some 50000 500000");
	fclose(file);
	tm_machine_pressure_lost(machine);
	assert_int_equal(tm_machine_pressure_fd(machine), -1);
	tm_machine_close(machine);
}

/* /dev/full can be opened for writing, and refuses each write. */
static void where_every_trigger_is_refused_there_is_none(void **state)
{
	struct tm_machine *machine;
	char path[64];

	(void)state;
	put("/proc/pressure/memory", "");
	snprintf(path, sizeof(path), "%s/proc/pressure/memory", root);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/dev/full", path), 0);
	assert_int_equal(tm_machine_open(root, &machine), 0);
	assert_int_equal(tm_machine_pressure_fd(machine), -1);
	tm_machine_close(machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(without_any_cgroup, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nothing_can_be_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_least_limit_of_all_levels_counts, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_container_sees_its_part_of_the_tree, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			version_1_where_version_2_has_no_memory, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_trigger_ends_in_nul, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			where_every_trigger_is_refused_there_is_none, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
