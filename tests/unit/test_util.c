/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_util.c - sizes as people write and read them; where the control socket is
 */
#include "tests/unit/pages.h"

static void sizes_are_parsed(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"4096", 4096}, {"64k", 65536}, {"64K", 65536}, {"1.5G", 3ull << 29},
		{"2GiB", 2ull << 30}, {"2gb", 2ull << 30}, {"3M", 3 << 20}, {"1T", 1ull << 40},
		{"512B", 512}, {"1P", 1ull << 50}, {"4E", 4ull << 60}};
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < TM_ARRAY_SIZE(good); i++) {
		assert_int_equal(tm_size_parse(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void what_is_no_size_is_refused(void **state)
{
	static const char *const bad[] = {"", " ", "12Q", "-1", "+1", " 1", "1 ", "k", "0x10",
		"1e9", "1.", ".5", "1.5.5", "nan", "inf", "1KK", "1iB", "12 M", "1Gi B", "\n"};
	uint64_t bytes = 77;

	(void)state;
	for (size_t i = 0; i < TM_ARRAY_SIZE(bad); i++)
		assert_int_equal(tm_size_parse(bad[i], &bytes), -EINVAL);
	assert_int_equal(tm_size_parse("8E", &bytes), -ERANGE);
	assert_int_equal(tm_size_parse("99999999999999999999", &bytes), -ERANGE);
	assert_int_equal(bytes, 77);
}

static void sizes_are_printed_in_three_digits(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {{0, "0"}, {999, "999"}, {1000, "0.98K"}, {1024, "1.00K"}, {1536, "1.50K"},
		{10239, "10.0K"}, {102400, "100K"}, {1 << 20, "1.00M"}, {1ull << 30, "1.00G"},
		{3ull << 40, "3.00T"}, {UINT64_MAX, "16.0E"}};
	char buf[TM_SIZE_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < TM_ARRAY_SIZE(cases); i++)
		assert_string_equal(tm_size_format(cases[i].bytes, buf), cases[i].text);
	/* No number overflows the buffer or shows four digits. */
	for (uint64_t n = 1; n < UINT64_MAX / 3; n = n * 3 / 2 + 1) {
		size_t length = strlen(tm_size_format(n, buf));

		assert_true(length >= 1 && length <= 5);
	}
}

static void the_socket_is_found(void **state)
{
	char *path;

	(void)state;
	setenv("TMEM_SOCKET", "/somewhere/else", 1);
	path = tm_socket_path(NULL);
	assert_string_equal(path, "/somewhere/else");
	free(path);
	path = tm_socket_path("/by/option");
	assert_string_equal(path, "/by/option");
	free(path);
	unsetenv("TMEM_SOCKET");
	path = tm_socket_path(NULL);
	assert_non_null(strstr(path, "/control.sock"));
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_parsed),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(sizes_are_printed_in_three_digits),
		cmocka_unit_test(the_socket_is_found),
	};

	return cmocka_run_group_tests_name("util", tests, NULL, NULL);
}
