/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_fallback.c - the fallback and the sums it is read against: what a disk may bring back, and
 * where a server may be killed
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "core/util.h"
#include "nbd-plugin/fallback.h"

#define PAGE  TM_FALLBACK_PAGE
#define PAGES 4096u
#define FAR   TM_STATE_EXPECTED /* pages this far apart share a place in expected[] */

struct env {
	char path[64];
	struct tm_fallback *fallback;
	struct tm_state *state, *dead[8]; /* dead: killed servers' */
	unsigned int deaths;
	bool encrypted;
	_Alignas(PAGE) uint8_t page[PAGE], other[PAGE];
};

static void fill(uint8_t *page, unsigned int seed)
{
	for (unsigned int i = 0; i < PAGE; i++)
		page[i] = (uint8_t)(i * seed + seed + i / 64);
}

static void open_fallback(struct env *e)
{
	char reason[TM_FALLBACK_REASON_MAX];

	assert_int_equal(tm_fallback_open(e->path, PAGES, e->encrypted, &e->fallback, reason), 0);
}

static struct tm_state_kind kind_of(const struct env *e)
{
	struct tm_state_kind kind = {.pages = PAGES, .encrypted = e->encrypted};

	memcpy(kind.fallback, tm_fallback_id(e->fallback), sizeof(kind.fallback));
	return kind;
}

static int start(void **state, bool encrypted)
{
	struct env *e = aligned_alloc(PAGE, TM_ALIGN(sizeof(*e), (size_t)PAGE));
	struct tm_state_kind kind;
	int fd;

	assert_non_null(e);
	memset(e, 0, sizeof(*e));
	e->encrypted = encrypted;
	strcpy(e->path, "/tmp/tmem-fallback-XXXXXX");
	fd = mkstemp(e->path);
	assert_true(fd >= 0);
	close(fd);
	open_fallback(e);
	kind = kind_of(e);
	assert_int_equal(tm_state_create(&kind, &e->state), 0);
	assert_int_equal(tm_fallback_bind(e->fallback, e->state), 0);
	*state = e;
	return 0;
}

static int start_plain(void **state)
{
	return start(state, false);
}

static int start_encrypted(void **state)
{
	return start(state, true);
}

static int stop(void **state)
{
	struct env *e = *state;

	tm_fallback_close(e->fallback);
	tm_state_destroy(e->state);
	while (e->deaths > 0)
		tm_state_destroy(e->dead[--e->deaths]);
	unlink(e->path);
	free(e);
	return 0;
}

static int write_page(struct env *e, uint64_t n, unsigned int seed)
{
	fill(e->page, seed);
	return tm_fallback_write(e->fallback, n, 1, e->page);
}

static void reads_as(struct env *e, uint64_t n, unsigned int seed)
{
	fill(e->page, seed);
	assert_int_equal(tm_fallback_read(e->fallback, n, 1, e->other), 0);
	assert_memory_equal(e->page, e->other, PAGE);
}

/* The blocks of a page as they are on the disk, behind the fallback's back. */
static void disk(const struct env *e, uint64_t n, uint8_t *page, bool write)
{
	int fd = open(e->path, write ? O_WRONLY : O_RDONLY);
	off_t at = (off_t)((n + 1) * PAGE);

	assert_true(fd >= 0);
	assert_int_equal(write ? pwrite(fd, page, PAGE, at) : pread(fd, page, PAGE, at), PAGE);
	close(fd);
}

/* Write page `n` as a server does that is killed just before it confirms. */
static void die_writing(struct env *e, uint64_t n, unsigned int seed)
{
	uint32_t before;

	assert_int_equal(write_page(e, n, seed + 1), 0);
	fill(e->page, seed + 1);
	before = (uint32_t)XXH3_64bits(e->page, PAGE);
	assert_int_equal(write_page(e, n, seed), 0);
	tm_state_settle(e->state, n, before);
}

/* The next server: another mapping of the same state. */
static void restart(struct env *e)
{
	char reason[TM_STATE_REASON_MAX];
	struct tm_state_kind kind = kind_of(e);
	int fd = dup(tm_state_fd(e->state));
	struct tm_state *next;

	assert_int_equal(tm_state_adopt(fd, &kind, &next, reason), 0);
	assert_int_equal(tm_fallback_bind(e->fallback, next), 0);
	assert_true(e->deaths < TM_ARRAY_SIZE(e->dead));
	e->dead[e->deaths++] = e->state;
	e->state = next;
}

static void what_is_written_is_read(void **state)
{
	struct env *e = *state;
	_Alignas(PAGE) static uint8_t many[4 * PAGE];

	for (unsigned int i = 0; i < 4; i++)
		fill(many + i * PAGE, 10 + i);
	assert_int_equal(tm_fallback_write(e->fallback, 7, 4, many), 0);
	assert_int_equal(write_page(e, PAGES - 1, 3), 0);
	assert_int_equal(tm_fallback_read(e->fallback, 7, 4, many), 0);
	for (unsigned int i = 0; i < 4; i++) {
		fill(e->page, 10 + i);
		assert_memory_equal(many + i * PAGE, e->page, PAGE);
		reads_as(e, 7 + i, 10 + i);
	}
	reads_as(e, PAGES - 1, 3);
}

static void on_the_disk_only_if_plain(void **state)
{
	struct env *e = *state;

	assert_int_equal(write_page(e, 5, 1), 0);
	assert_int_equal(write_page(e, 6, 1), 0);
	fill(e->page, 1);
	disk(e, 5, e->other, false);
	assert_int_equal(memcmp(e->page, e->other, PAGE) != 0, e->encrypted);
	memcpy(e->page, e->other, PAGE);
	disk(e, 6, e->other, false); /* equal pages, each with its own tweak */
	assert_int_equal(memcmp(e->page, e->other, PAGE) != 0, e->encrypted);
}

static void what_the_disk_damages_is_an_error(void **state)
{
	struct env *e = *state;
	uint8_t block[PAGE], stale[PAGE];

	assert_int_equal(write_page(e, 5, 1), 0);
	disk(e, 5, stale, false);
	assert_int_equal(write_page(e, 5, 2), 0);
	disk(e, 5, block, false);

	block[PAGE / 2] ^= 4;
	disk(e, 5, block, true);
	assert_int_equal(tm_fallback_read(e->fallback, 5, 1, e->other), -EBADMSG);
	disk(e, 5, stale, true); /* a write that the disk lost */
	assert_int_equal(tm_fallback_read(e->fallback, 5, 1, e->other), -EBADMSG);
	memset(block, 0, PAGE);
	disk(e, 5, block, true);
	assert_int_equal(tm_fallback_read(e->fallback, 5, 1, e->other), -EBADMSG);
	assert_int_equal(truncate(e->path, 5 * PAGE + 100), 0);
	assert_int_equal(tm_fallback_read(e->fallback, 5, 1, e->other), -EIO);

	assert_int_equal(write_page(e, 5, 3), 0); /* and is healed by the next write */
	reads_as(e, 5, 3);
}

static void a_kill_leaves_the_old_page_or_the_new_one(void **state)
{
	struct env *e = *state;
	uint8_t old[PAGE];

	assert_int_equal(write_page(e, 5, 21), 0);
	disk(e, 5, old, false);
	die_writing(e, 5, 20);
	restart(e);
	reads_as(e, 5, 20);
	disk(e, 5, old, true); /* killed before the disk had it */
	reads_as(e, 5, 21);
}

static void the_next_user_of_its_place_settles_it(void **state)
{
	struct env *e = *state;

	die_writing(e, 5, 20);
	restart(e);
	assert_int_equal(write_page(e, 5 + FAR, 30), 0);
	reads_as(e, 5, 20);
	reads_as(e, 5 + FAR, 30);

	die_writing(e, 5, 40);
	restart(e);
	die_writing(e, 5 + FAR, 50);
	restart(e);
	die_writing(e, 5 + 2 * FAR, 60);
	restart(e);
	reads_as(e, 5, 40);
	reads_as(e, 5 + FAR, 50);
	reads_as(e, 5 + 2 * FAR, 60);

	die_writing(e, 5, 70); /* the same page, killed twice */
	restart(e);
	die_writing(e, 5, 80);
	restart(e);
	reads_as(e, 5, 80);
}

static void settling_does_not_trust_a_damaged_page(void **state)
{
	struct env *e = *state;
	uint8_t block[PAGE];

	die_writing(e, 5, 20);
	memset(block, 7, PAGE);
	disk(e, 5, block, true);
	restart(e);
	assert_int_equal(write_page(e, 5 + FAR, 30), 0);
	assert_int_equal(tm_fallback_read(e->fallback, 5, 1, e->other), -EBADMSG);
}

static void every_state_has_its_own_key_and_wipes_it(void **state)
{
	struct env *e = *state;
	uint8_t first[TM_CRYPT_KEY_BYTES], zeros[TM_CRYPT_KEY_BYTES] = {0};
	struct tm_state_kind kind = kind_of(e);
	int fd = dup(tm_state_fd(e->state));
	char *head = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(head, MAP_FAILED);
	memcpy(first, tm_state_key(e->state), sizeof(first));
	assert_int_equal(memcmp(first, zeros, sizeof(zeros)) != 0, e->encrypted);
	if (e->encrypted)
		assert_non_null(memmem(head, PAGE, first, sizeof(first)));
	tm_state_destroy(e->state);
	if (e->encrypted)
		assert_null(memmem(head, PAGE, first, sizeof(first)));
	assert_int_equal(tm_state_create(&kind, &e->state), 0);
	assert_int_equal(memcmp(first, tm_state_key(e->state), sizeof(first)) != 0, e->encrypted);
	munmap(head, PAGE);
	close(fd);
}

static void only_the_same_device_takes_a_state_over(void **state)
{
	struct env *e = *state;
	char reason[TM_STATE_REASON_MAX];
	struct tm_state_kind kind = kind_of(e);
	struct tm_state *s = NULL;
	int fd = tm_state_fd(e->state);
	uint32_t version = 1;

	kind.pages++;
	assert_int_equal(tm_state_adopt(fd, &kind, &s, reason), -EINVAL);
	assert_string_equal(reason, "it has another size");
	kind = kind_of(e);
	kind.fallback[3] ^= 1;
	assert_int_equal(tm_state_adopt(fd, &kind, &s, reason), -EINVAL);
	assert_string_equal(reason, "it has another fallback");
	kind = kind_of(e);
	kind.encrypted = !kind.encrypted;
	assert_int_equal(tm_state_adopt(fd, &kind, &s, reason), -EINVAL);
	assert_string_equal(reason, e->encrypted ? "it has encrypt=yes" : "it has encrypt=no");
	kind = kind_of(e);
	tm_state_set_torn(e->state, true);
	assert_int_equal(tm_state_adopt(fd, &kind, &s, reason), -EINVAL);
	assert_string_equal(reason, "it was killed in the middle of a restore");
	tm_state_set_torn(e->state, false);
	assert_int_equal(pwrite(fd, &version, sizeof(version), 16), sizeof(version));
	assert_int_equal(tm_state_adopt(fd, &kind, &s, reason), -EINVAL);
	assert_string_equal(reason, "it is of another version of the plugin");
	assert_null(s);
}

#define BOTH(test)                                                                                 \
	cmocka_unit_test_setup_teardown(test, start_plain, stop),                                  \
	{                                                                                          \
#test " (encrypted)", test, start_encrypted, stop, NULL                            \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(what_is_written_is_read),
		BOTH(on_the_disk_only_if_plain),
		BOTH(what_the_disk_damages_is_an_error),
		BOTH(a_kill_leaves_the_old_page_or_the_new_one),
		BOTH(the_next_user_of_its_place_settles_it),
		BOTH(settling_does_not_trust_a_damaged_page),
		BOTH(every_state_has_its_own_key_and_wipes_it),
		BOTH(only_the_same_device_takes_a_state_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
