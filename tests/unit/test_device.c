/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_device.c - the swap device's pages, wherever write-back moves them meanwhile
 *
 * The device on a store so small that pages go to the fallback and come back all the time. First
 * what write-back is for, case by case; then a model: threads that share runs but no page do random
 * requests and compare every byte with what they wrote, while the memory is frozen, shrunk to
 * nothing and given back under them.
 */
#include "tests/unit/box.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nbd-plugin/chunk.h"

#define LIMIT    TM_LIMIT_MIN
#define PAGES    1500u
#define BYTES    (PAGES * (uint64_t)TM_DEVICE_PAGE - 1000) /* the last page is not a whole one */
#define FULL     UINT64_MAX                                /* rate: as fast as it goes */
#define THREADS  4
#define GROUP    5u /* neighbours that belong to one thread: no divisor of a run */
#define PATIENCE 20 /* seconds */

struct fixture {
	struct box box; /* the store, as the device sees it */
	int file;       /* the fallback: in memory, which is quick and gone with the process */
	struct tm_device *d;
	uint8_t *ref; /* [PAGES] pages: what the device must hold */
};

/* --- the device ------------------------------------------------------------------------------- */

static struct fixture *open_device(uint64_t rate)
{
	char reason[TM_FALLBACK_REASON_MAX];
	struct tm_fallback *fallback;
	struct fixture *f = calloc(1, sizeof(*f));
	char path[32];
	int fd;

	assert_non_null(f);
	f->ref = calloc(PAGES, TM_DEVICE_PAGE);
	assert_non_null(f->ref);
	box_open(&f->box, LIMIT);
	f->file = memfd_create("fallback", MFD_CLOEXEC);
	assert_true(f->file >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->file);
	assert_int_equal(tm_fallback_open(path, PAGES, true, &fallback, reason), 0);
	assert_int_equal(tm_device_create(BYTES, fallback, &f->d), 0);
	assert_int_equal(tm_device_begin(f->d, &fd), 0);
	assert_int_equal(tm_device_attach(f->d, &f->box.tmem, "test", rate), 0);
	return f;
}

static uint64_t stat_of(const struct fixture *f, enum tm_stat stat)
{
	return f->box.t.ledger->pools[f->d->pool].stat[stat];
}

static unsigned int count_pages(
	const struct fixture *f, uint64_t first, unsigned int n, enum tm_place place)
{
	unsigned int found = 0;

	for (uint64_t i = first; i < first + n; i++)
		found += tm_place_of(f->d, i) == place;
	return found;
}

static uint32_t bytes_of(uint64_t page)
{
	return (uint32_t)TM_MIN((uint64_t)TM_DEVICE_PAGE, BYTES - page * TM_DEVICE_PAGE);
}

/* Every byte is right, every page in exactly one place, and the counters say so. */
static void check_device(struct fixture *f)
{
	static uint8_t got[TM_DEVICE_PAGE];

	atomic_store(&f->box.t.ledger->granted_bytes, UINT64_MAX);
	tm_writeback_stop(f->d->writeback);
	f->d->writeback = NULL;
	assert_int_equal(tm_store_check(f->box.t.store), 0);
	assert_int_equal(stat_of(f, TM_STAT_PAGES), count_pages(f, 0, PAGES, TM_IN_TMEM));
	assert_int_equal(stat_of(f, TM_STAT_PAGES), f->d->in_tmem);
	assert_int_equal(
		stat_of(f, TM_STAT_FALLBACK_PAGES), count_pages(f, 0, PAGES, TM_ON_FALLBACK));
	for (uint64_t n = 0; n < PAGES; n++) {
		assert_int_equal(tm_device_read(f->d, got, bytes_of(n), n * TM_DEVICE_PAGE), 0);
		assert_memory_equal(got, f->ref + n * TM_DEVICE_PAGE, bytes_of(n));
	}
}

static void close_device(struct fixture *f)
{
	check_device(f);
	tm_device_destroy(f->d);
	close(f->file);
	free(f->ref);
	free(f);
}

/* A page of which test_page makes about a third (kind 3) or nothing at all (kind 2). */
static void write_page(struct fixture *f, uint64_t n, uint64_t seed, unsigned int kind)
{
	uint8_t *page = f->ref + n * TM_DEVICE_PAGE;

	test_page(seed * 8 + kind, page, TM_DEVICE_PAGE);
	assert_int_equal(tm_device_write(f->d, page, bytes_of(n), n * TM_DEVICE_PAGE), 0);
}

static void read_pages(struct fixture *f, uint64_t first, unsigned int n)
{
	static uint8_t got[TM_DEVICE_PAGE];

	for (uint64_t i = first; i < first + n; i++) {
		assert_int_equal(tm_device_read(f->d, got, bytes_of(i), i * TM_DEVICE_PAGE), 0);
		assert_memory_equal(got, f->ref + i * TM_DEVICE_PAGE, bytes_of(i));
	}
}

/* Wait for what the thread does. */
#define eventually(condition)                                                                      \
	do {                                                                                       \
		for (int tries = 0; !(condition) && tries < PATIENCE * 1000; tries++)              \
			usleep(1000);                                                              \
		assert_true(condition);                                                            \
	} while (0)

/* --- what write-back is for ------------------------------------------------------------------- */

/* Write-back has nothing more to do. */
static bool is_calm(struct fixture *f)
{
	struct tm_usage u;

	tm_store_usage(f->box.t.store, &u);
	return u.live_bytes <= u.limit_bytes / 16 * 15;
}

static void hot_pages_end_in_memory_and_cold_ones_on_the_fallback(void **state)
{
	struct fixture *f = open_device(FULL);
	const unsigned int hot = 64, at = PAGES - 64;
	int rounds = 0;

	(void)state;
	/* The worst that can have come about: what will be hot on disk, memory full of the rest. */
	atomic_store(&f->box.t.ledger->frozen, 1);
	for (uint64_t n = at; n < PAGES; n++)
		write_page(f, n, n, 3);
	assert_int_equal(count_pages(f, at, hot, TM_ON_FALLBACK), hot);
	atomic_store(&f->box.t.ledger->frozen, 0);
	for (uint64_t n = 0; n < at; n++)
		write_page(f, n, n, 3);
	do {
		read_pages(f, at, hot);
		usleep(1000);
	} while (count_pages(f, at, hot, TM_IN_TMEM) < hot && ++rounds < PATIENCE * 1000);
	assert_int_equal(count_pages(f, at, hot, TM_IN_TMEM), hot);
	/* And they stay there while cold ones come and go. */
	for (uint64_t n = 0; n < at; n += 8) {
		for (uint64_t k = n; k < TM_MIN(n + 8, (uint64_t)at); k++)
			write_page(f, k, k + 1, 3);
		eventually(is_calm(f));
		read_pages(f, at, hot);
	}
	assert_in_range(count_pages(f, at, hot, TM_IN_TMEM), hot - 4, hot);
	assert_true(stat_of(f, TM_STAT_WRITTEN_BACK) > PAGES / 4);
	assert_true(stat_of(f, TM_STAT_BROUGHT_BACK) >= hot);
	close_device(f);
}

static void a_memory_that_fills_up_has_room_again(void **state)
{
	struct fixture *f = open_device(FULL);
	uint64_t refused;

	(void)state;
	for (uint64_t n = 0; n < PAGES; n++)
		write_page(f, n, n, 3);
	eventually(is_calm(f));
	/* Next to nothing that memory could take went to the disk for want of a moment's patience.
	 * Where the thread gets no processor, pages may come while it is still above its lower
	 * mark, and the store promises room for all only below 90%. */
	refused = f->box.refused;
	for (uint64_t n = 0; n < PAGES; n++) {
		eventually(is_calm(f));
		write_page(f, n, n + 7, 3);
	}
	assert_in_range(f->box.refused, refused, refused + PAGES / 16);
	close_device(f);
}

static void without_write_back_pages_stay_where_they_are(void **state)
{
	struct fixture *f = open_device(0);
	uint64_t in_tmem;

	(void)state;
	for (uint64_t n = 0; n < PAGES; n++)
		write_page(f, n, n, 3);
	in_tmem = stat_of(f, TM_STAT_PAGES);
	for (int i = 0; i < 3; i++)
		read_pages(f, 0, PAGES);
	assert_int_equal(stat_of(f, TM_STAT_PAGES), in_tmem);
	assert_int_equal(stat_of(f, TM_STAT_WRITTEN_BACK), 0);
	assert_int_equal(stat_of(f, TM_STAT_BROUGHT_BACK), 0);
	close_device(f);
}

static void a_read_brings_its_run_back_when_there_is_room(void **state)
{
	struct fixture *f = open_device(FULL);

	(void)state;
	atomic_store(&f->box.t.ledger->frozen, 1);
	for (uint64_t n = 0; n < 96; n++)
		write_page(f, n, n, 3);
	assert_int_equal(count_pages(f, 0, 96, TM_ON_FALLBACK), 96);
	read_pages(f, 0, 96); /* frozen: at disk speed, and nothing moves */
	atomic_store(&f->box.t.ledger->frozen, 0);
	read_pages(f, 40, 1);
	eventually(count_pages(f, 32, 32, TM_IN_TMEM) == 32);
	assert_int_equal(count_pages(f, 0, 32, TM_ON_FALLBACK), 32);
	assert_int_equal(count_pages(f, 64, 32, TM_ON_FALLBACK), 32);
	assert_int_equal(stat_of(f, TM_STAT_BROUGHT_BACK), 32);
	close_device(f);
}

static void what_does_not_compress_is_read_once_for_each_read(void **state)
{
	struct fixture *f = open_device(FULL);

	(void)state;
	for (uint64_t n = 0; n < 64; n++)
		write_page(f, n, n, n < 63 ? 2 : 3);
	assert_int_equal(count_pages(f, 0, 64, TM_ON_FALLBACK), 63);
	for (int i = 0; i < 5; i++)
		read_pages(f, 0, 64);
	/* The same after something else was there. */
	write_page(f, 0, 1, 3);
	assert_int_equal(tm_place_of(f->d, 0), TM_IN_TMEM);
	write_page(f, 0, 2, 2);
	read_pages(f, 0, 1);
	read_pages(f, 0, 1);
	tm_writeback_stop(f->d->writeback); /* whatever it had to do is done */
	f->d->writeback = NULL;
	assert_int_equal(stat_of(f, TM_STAT_FALLBACK_READS), 5 * 63 + 2);
	assert_int_equal(stat_of(f, TM_STAT_BROUGHT_BACK), 0);
	close_device(f);
}

static void shrunk_to_nothing_everything_goes_and_comes_again(void **state)
{
	struct fixture *f = open_device(FULL);

	(void)state;
	for (uint64_t n = 0; n < 300; n++)
		write_page(f, n, n, 3);
	atomic_store(&f->box.t.ledger->granted_bytes, 0);
	eventually(f->d->in_tmem == 0);
	read_pages(f, 0, 300);
	write_page(f, 7, 1000, 3);
	assert_int_equal(tm_place_of(f->d, 7), TM_ON_FALLBACK);
	atomic_store(&f->box.t.ledger->granted_bytes, UINT64_MAX);
	for (uint64_t n = 0; n < 300; n += 32)
		read_pages(f, n, 1);
	eventually(f->d->in_tmem == 300);
	read_pages(f, 0, 300);
	close_device(f);
}

static void frozen_it_makes_room_and_no_more(void **state)
{
	struct fixture *f = open_device(FULL);
	struct tm_usage u;

	(void)state;
	for (uint64_t n = 0; n < PAGES; n++)
		write_page(f, n, n, 3);
	eventually(is_calm(f));
	atomic_store(&f->box.t.ledger->frozen, 1);
	read_pages(f, 0, PAGES);
	write_page(f, 0, 1, 3); /* replaces a page of a frozen memory: goes to the fallback */
	assert_int_equal(tm_place_of(f->d, 0), TM_ON_FALLBACK);
	tm_store_usage(f->box.t.store, &u);
	assert_in_range(u.live_bytes, u.limit_bytes / 2, u.limit_bytes);
	close_device(f);
}

/* --- the model -------------------------------------------------------------------------------- */

struct actor {
	struct fixture *f;
	unsigned int number;
	uint64_t random;
	int operations;
	_Alignas(TM_DEVICE_PAGE) uint8_t buf[TM_RUN_BYTES];
};

static uint64_t draw(struct actor *a, uint64_t n)
{
	return test_random(&a->random) % n;
}

/* A range inside a group of this thread's; half of the requests go to an eighth of the device. */
static void draw_range(struct actor *a, uint64_t *ret_offset, uint32_t *ret_length)
{
	uint64_t turns = PAGES / (GROUP * THREADS), turn = draw(a, draw(a, 2) ? turns : turns / 8);
	uint64_t first = (turn * THREADS + a->number) * GROUP * TM_DEVICE_PAGE;
	uint64_t bytes = TM_MIN((uint64_t)GROUP * TM_DEVICE_PAGE, BYTES - first);
	uint64_t at = draw(a, bytes), length = draw(a, bytes - at) + 1;

	if (draw(a, 2)) { /* whole pages */
		at = at / TM_DEVICE_PAGE * TM_DEVICE_PAGE;
		length = TM_MIN(TM_ALIGN(length, TM_DEVICE_PAGE), bytes - at);
	}
	*ret_offset = first + at;
	*ret_length = (uint32_t)length;
}

static void act_write(struct actor *a, uint64_t offset, uint32_t length)
{
	for (uint32_t i = 0; i < GROUP; i++)
		test_page(draw(a, UINT64_MAX), a->buf + i * TM_DEVICE_PAGE, TM_DEVICE_PAGE);
	assert_int_equal(tm_device_write(a->f->d, a->buf, length, offset), 0);
	memcpy(a->f->ref + offset, a->buf, length);
}

static void act_trim(struct actor *a, uint64_t offset, uint32_t length)
{
	uint64_t first = TM_ALIGN(offset, TM_DEVICE_PAGE), end = offset + length;

	assert_int_equal(tm_device_trim(a->f->d, length, offset), 0);
	if (end < BYTES)
		end = end / TM_DEVICE_PAGE * TM_DEVICE_PAGE;
	if (first < end)
		memset(a->f->ref + first, 0, end - first);
}

static void act_read(struct actor *a, uint64_t offset, uint32_t length)
{
	assert_int_equal(tm_device_read(a->f->d, a->buf, length, offset), 0);
	assert_memory_equal(a->buf, a->f->ref + offset, length);
}

/* A page is a hole exactly when it is zeros, wherever it is and whoever moves it. */
static void act_extent(struct actor *a, uint64_t offset)
{
	uint64_t page = offset / TM_DEVICE_PAGE;
	const uint8_t *ref = a->f->ref + page * TM_DEVICE_PAGE;
	bool zeros = true, hole;

	for (uint32_t i = 0; i < bytes_of(page); i++)
		zeros = zeros && ref[i] == 0;
	assert_int_equal(tm_device_extent(a->f->d, bytes_of(page), page * TM_DEVICE_PAGE, &hole),
		bytes_of(page));
	assert_int_equal(hole, zeros);
}

/* What the host does to a client, at the worst of moments. */
static void act_host(struct actor *a)
{
	static const uint64_t grants[] = {UINT64_MAX, LIMIT, LIMIT / 2, 0};
	struct tm_ledger *l = a->f->box.t.ledger;

	atomic_store(&l->granted_bytes, grants[draw(a, TM_ARRAY_SIZE(grants))]);
	atomic_store(&l->frozen, draw(a, 4) == 0);
	tm_store_shrink(a->f->box.t.store);
}

static void act(struct actor *a)
{
	uint64_t offset, what = draw(a, 400);
	struct tm_device *d = a->f->d;
	uint32_t length;

	draw_range(a, &offset, &length);
	if (what < 1) {
		act_host(a);
	} else if (what < 160) {
		act_write(a, offset, length);
	} else if (what < 180) {
		assert_int_equal(tm_device_zero(d, length, offset), 0);
		memset(a->f->ref + offset, 0, length);
	} else if (what < 200) {
		act_trim(a, offset, length);
	} else if (what < 220) {
		assert_int_equal(tm_device_cache(d, length, offset), 0);
	} else if (what < 240) {
		act_extent(a, offset);
	} else if (what < 250) { /* other threads' pages too: only that it can be read */
		offset = draw(a, BYTES - TM_RUN_BYTES);
		assert_int_equal(tm_device_read(d, a->buf, TM_RUN_BYTES, offset), 0);
	} else {
		act_read(a, offset, length);
	}
}

static void *actor_run(void *opaque)
{
	struct actor *a = opaque;

	for (int i = 0; i < a->operations; i++)
		act(a);
	return NULL;
}

static void every_byte_is_right_whatever_moves(void **state)
{
	static struct actor actors[THREADS];
	struct fixture *f = open_device(FULL);
	pthread_t threads[THREADS];

	(void)state;
	for (unsigned int i = 0; i < THREADS; i++) {
		actors[i] = (struct actor){
			.f = f, .number = i, .random = i + 1, .operations = test_scale(100000)};
		pthread_create(&threads[i], NULL, actor_run, &actors[i]);
	}
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&f->box.t.ledger->frozen, 0);
	assert_true(stat_of(f, TM_STAT_WRITTEN_BACK) > 100);
	assert_true(stat_of(f, TM_STAT_BROUGHT_BACK) > 100);
	close_device(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hot_pages_end_in_memory_and_cold_ones_on_the_fallback),
		cmocka_unit_test(a_memory_that_fills_up_has_room_again),
		cmocka_unit_test(without_write_back_pages_stay_where_they_are),
		cmocka_unit_test(a_read_brings_its_run_back_when_there_is_room),
		cmocka_unit_test(what_does_not_compress_is_read_once_for_each_read),
		cmocka_unit_test(shrunk_to_nothing_everything_goes_and_comes_again),
		cmocka_unit_test(frozen_it_makes_room_and_no_more),
		cmocka_unit_test(every_byte_is_right_whatever_moves),
	};

	/* A failed assertion in a thread cannot jump back into the runner. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
