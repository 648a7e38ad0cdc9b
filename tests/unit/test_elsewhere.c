/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_elsewhere.c - saved and restored: devices of which pages are on the fallback
 *
 * First what must come back, between devices with and without a fallback; then what must not; then
 * threads that write while the device is saved again and again: what is restored is what a reader
 * sees while the changes wait.
 */
#include "tests/unit/box.h"
#include "tests/unit/tape.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nbd-plugin/chunk.h"
#include "nbd-plugin/exports.h"
#include "nbd-plugin/move.h"

#define PAGES   1500u
#define BYTES   (PAGES * (uint64_t)TM_DEVICE_PAGE - 1000)
#define FULL    UINT64_MAX /* rate of write-back */
#define LARGE   (32u << 20)
#define THREADS 3

/* A restore holds every page lock of a device, 1024 of them: more than TSan's search for deadlocks
 * can count. Not static: TSan looks for it. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "detect_deadlocks=0";
}

enum fallback {
	NONE,
	PLAIN,
	SEALED,
};

struct device {
	struct box box;
	struct tm_export export; /* what move.c knows a device by */
	struct tm_move_params who;
	struct tm_device *d;
	int file; /* the fallback's; -1: none */
};

static uint8_t image[PAGES * TM_DEVICE_PAGE], got[PAGES * TM_DEVICE_PAGE];

static void device_open(struct device *v, uint64_t limit, enum fallback kind, uint64_t rate)
{
	struct tm_fallback *fallback = NULL;
	char reason[TM_FALLBACK_REASON_MAX], path[32];
	int fd;

	memset(v, 0, sizeof(*v));
	box_open(&v->box, limit);
	v->file = -1;
	if (kind != NONE) {
		v->file = memfd_create("fallback", MFD_CLOEXEC);
		assert_true(v->file >= 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", v->file);
		assert_int_equal(
			tm_fallback_open(path, PAGES, kind == SEALED, &fallback, reason), 0);
	}
	assert_int_equal(tm_device_create(BYTES, fallback, &v->d), 0);
	assert_int_equal(tm_device_begin(v->d, &fd), 0);
	assert_int_equal(tm_device_attach(v->d, &v->box.tmem, "test", rate), 0);
	v->export.device = v->d;
	v->who = (struct tm_move_params){"one", "nbd", &tm_device_move_ops, &v->export};
}

static uint64_t stat_of(const struct device *v, enum tm_stat stat)
{
	return v->box.t.ledger->pools[v->d->pool].stat[stat];
}

/* Places, counters and the store agree. */
static void device_check(struct device *v)
{
	uint64_t in_tmem = 0, on_fallback = 0;

	tm_writeback_stop(v->d->writeback);
	v->d->writeback = NULL;
	for (uint64_t n = 0; n < PAGES; n++) {
		in_tmem += tm_place_of(v->d, n) == TM_IN_TMEM;
		on_fallback += tm_place_of(v->d, n) == TM_ON_FALLBACK;
		assert_int_equal(tm_page_byte(v->d, n) & TM_PAGE_STAGED, 0);
	}
	assert_int_equal(stat_of(v, TM_STAT_PAGES), in_tmem);
	assert_int_equal(v->d->in_tmem, in_tmem);
	assert_int_equal(stat_of(v, TM_STAT_FALLBACK_PAGES), on_fallback);
	assert_int_equal(v->d->on_fallback, on_fallback);
	assert_int_equal(tm_store_check(v->box.t.store), 0);
}

static void device_close(struct device *v)
{
	device_check(v);
	tm_device_destroy(v->d);
	if (v->file >= 0)
		close(v->file);
}

/* Pages of every kind: some are zeros, some do not compress, all do not fit. */
static void device_fill(struct device *v)
{
	for (uint64_t n = 0; n < PAGES; n++)
		test_page(n * 8 + (n % 5 == 1 ? 5 : n % 5), image + n * TM_DEVICE_PAGE,
			TM_DEVICE_PAGE);
	assert_int_equal(tm_device_write(v->d, image, (uint32_t)BYTES, 0), 0);
}

static void device_is(struct device *v, const uint8_t *want)
{
	assert_int_equal(tm_device_read(v->d, got, (uint32_t)BYTES, 0), 0);
	assert_memory_equal(got, want, BYTES);
}

static int save(struct device *v, struct tape *tape, bool live, bool hold)
{
	struct tm_save_params params = {
		.live = live, .hold = hold, .write = tape_write, .opaque = tape};
	struct tm_move_result result;
	int rc;

	tape->size = 0;
	rc = tm_store_save(v->box.t.store, &v->who, &params, &result);
	assert_true(rc == 0 || *result.why);
	return rc;
}

static int restore(struct device *v, struct tape *tape)
{
	struct tm_move_result result;
	int rc;

	tape->at = 0;
	rc = tm_store_restore(v->box.t.store, &v->who, tape_read, tape, &result);
	assert_true(rc == 0 || *result.why);
	if (rc == 0)
		assert_int_equal(result.pages, v->d->in_tmem + v->d->on_fallback);
	return rc;
}

/* --- what comes back -------------------------------------------------------------------------- */

static void every_page_comes_back_wherever_it_was_and_is(void **state)
{
	static const struct {
		uint64_t limit;
		enum fallback kind;
	} targets[] = {
		{LARGE, NONE},
		{LARGE, PLAIN},
		{TM_LIMIT_MIN, PLAIN},
		{TM_LIMIT_MIN, SEALED},
	};
	struct device a, b;
	struct tape tape = {.size = 0};

	(void)state;
	for (int kind = PLAIN; kind <= SEALED; kind++) {
		device_open(&a, TM_LIMIT_MIN, kind, kind == PLAIN ? FULL : 0);
		device_fill(&a);
		assert_true(a.d->in_tmem > 100 && a.d->on_fallback > PAGES / 5 + 50);
		for (size_t i = 0; i < TM_ARRAY_SIZE(targets); i++) {
			assert_int_equal(save(&a, &tape, i % 2, false), 0);
			device_open(&b, targets[i].limit, targets[i].kind, FULL);
			assert_int_equal(restore(&b, &tape), 0);
			device_is(&b, image);
			if (targets[i].limit == LARGE && targets[i].kind == NONE)
				assert_int_equal(b.d->on_fallback, 0);
			else /* at least what does not compress */
				assert_true(b.d->on_fallback >= PAGES / 5 - 1);
			assert_int_equal(restore(&b, &tape), -EEXIST);
			/* A device like any other from here on. */
			assert_int_equal(tm_device_trim(b.d, (uint32_t)BYTES, 0), 0);
			assert_int_equal(b.d->in_tmem + b.d->on_fallback, 0);
			device_close(&b);
		}
		device_is(&a, image);
		device_close(&a);
	}
	free(tape.bytes);
}

static void what_does_not_compress_goes_to_a_fallback_that_is_there(void **state)
{
	struct device a, b;
	struct tape tape = {.size = 0};

	(void)state;
	device_open(&a, LARGE, NONE, 0);
	device_fill(&a);
	assert_int_equal(a.d->on_fallback, 0);
	assert_int_equal(save(&a, &tape, true, false), 0);
	device_open(&b, LARGE, SEALED, 0);
	assert_int_equal(restore(&b, &tape), 0);
	device_is(&b, image);
	for (uint64_t n = 0; n < PAGES - 1; n++)
		assert_int_equal(tm_page_byte(b.d, n) & (TM_PLACE_MASK | TM_PAGE_RAW),
			n % 5 == 0           ? TM_NOWHERE
				: n % 5 == 2 ? TM_ON_FALLBACK | TM_PAGE_RAW
					     : TM_IN_TMEM);
	device_close(&a);
	device_close(&b);
	free(tape.bytes);
}

/* --- what does not ---------------------------------------------------------------------------- */

/* Blocks of the fallback beyond its header. */
static uint64_t blocks_of(const struct device *v)
{
	uint64_t used = 0;

	for (off_t at = TM_FALLBACK_PAGE; (at = lseek(v->file, at, SEEK_DATA)) >= 0;
		at += TM_FALLBACK_PAGE)
		used++;
	return used;
}

static void nothing_is_left_of_a_stream_that_is_cut_or_damaged(void **state)
{
	struct device a, b;
	struct tape tape = {.size = 0};
	size_t size;

	(void)state;
	device_open(&a, TM_LIMIT_MIN, SEALED, 0);
	device_fill(&a);
	assert_int_equal(save(&a, &tape, true, false), 0);
	size = tape.size;
	device_open(&b, TM_LIMIT_MIN, SEALED, FULL);
	for (size_t i = 1; i <= 8; i++) {
		tape.size = size * i / 8 - 1;
		assert_int_equal(restore(&b, &tape), -ENODATA);
		tape.size = size;
		tape.bytes[size * i / 8 - 1] ^= 4;
		assert_true(restore(&b, &tape) < 0);
		tape.bytes[size * i / 8 - 1] ^= 4;
		assert_int_equal(b.d->in_tmem + b.d->on_fallback, 0);
		assert_int_equal(stat_of(&b, TM_STAT_PAGES), 0);
		assert_int_equal(blocks_of(&b), 0);
	}
	assert_int_equal(restore(&b, &tape), 0);
	device_is(&b, image);
	device_close(&a);
	device_close(&b);
	free(tape.bytes);
}

/* A reader that writes to the target in the middle of the stream. */
struct meddler {
	struct tape *tape;
	struct device *target;
	size_t at;
	void (*meddle)(struct device *target);
	bool last; /* and that is the end of the stream */
};

static int64_t meddler_read(void *opaque, void *ret_data, size_t bytes)
{
	struct meddler *m = opaque;

	if (m->meddle && m->tape->at >= m->at) {
		m->meddle(m->target);
		m->meddle = NULL;
		if (m->last)
			m->tape->at = m->tape->size;
	}
	return tape_read(m->tape, ret_data, bytes);
}

static void write_and_trim(struct device *v)
{
	uint8_t page[TM_DEVICE_PAGE];

	for (uint64_t n = 0; n < PAGES - 1; n += 3) { /* over staged pages and beside them */
		test_page(n * 8 + 2, page, sizeof(page));
		assert_int_equal(tm_device_write(v->d, page, sizeof(page), n * TM_DEVICE_PAGE), 0);
	}
	assert_int_equal(tm_device_trim(v->d, (uint32_t)BYTES, 0), 0);
}

static void write_one(struct device *v)
{
	uint8_t page[TM_DEVICE_PAGE];

	test_page(2, page, sizeof(page));
	assert_int_equal(tm_device_write(v->d, page, sizeof(page), 7 * TM_DEVICE_PAGE), 0);
}

static void a_device_that_is_written_to_meanwhile_keeps_what_was_written(void **state)
{
	struct device a, b;
	struct tape tape = {.size = 0};
	uint8_t page[TM_DEVICE_PAGE], read[TM_DEVICE_PAGE];

	(void)state;
	device_open(&a, TM_LIMIT_MIN, PLAIN, 0);
	device_fill(&a);
	assert_int_equal(save(&a, &tape, true, false), 0);
	device_open(&b, TM_LIMIT_MIN, PLAIN, 0);
	for (size_t i = 1; i < 16; i++) {
		struct meddler m = {
			&tape, &b, tape.size * i / 16, i % 2 ? write_and_trim : write_one, false};
		struct tm_move_result result;

		tape.at = 0;
		assert_int_equal(tm_store_restore(b.box.t.store, &b.who, meddler_read, &m, &result),
			-EEXIST);
		assert_true(!m.meddle);
		if (i % 2 == 0) {
			test_page(2, page, sizeof(page));
			assert_int_equal(
				tm_device_read(b.d, read, sizeof(read), 7 * TM_DEVICE_PAGE), 0);
			assert_memory_equal(read, page, sizeof(page));
			assert_int_equal(tm_device_trim(b.d, (uint32_t)BYTES, 0), 0);
		}
		assert_int_equal(b.d->in_tmem + b.d->on_fallback, 0);
		assert_int_equal(blocks_of(&b), 0);
	}
	assert_int_equal(restore(&b, &tape), 0);
	device_is(&b, image);
	device_close(&a);
	device_close(&b);
	free(tape.bytes);
}

static void a_page_that_the_fallback_lost_is_not_saved(void **state)
{
	struct device a;
	struct tape tape = {.size = 0};
	uint64_t n = 0;

	(void)state;
	device_open(&a, TM_LIMIT_MIN, PLAIN, 0);
	device_fill(&a);
	while (tm_place_of(a.d, n) != TM_ON_FALLBACK)
		n++;
	assert_int_equal(pwrite(a.file, "x", 1, (off_t)((n + 1) * TM_DEVICE_PAGE)), 1);
	assert_int_equal(save(&a, &tape, true, true), -EBADMSG);
	/* And nothing waits. */
	assert_int_equal(tm_device_write(a.d, image + n * TM_DEVICE_PAGE, TM_DEVICE_PAGE,
				 n * TM_DEVICE_PAGE),
		0);
	assert_int_equal(save(&a, &tape, true, false), 0);
	device_is(&a, image);
	device_close(&a);
	free(tape.bytes);
}

/* The server dies in the middle of a restore; the next one has its state. */
static void die_here(struct device *v)
{
	struct tm_device *heir;
	char reason[TM_STATE_REASON_MAX];
	struct box box = {.refused = 0};
	int fd = dup(tm_state_fd(v->d->state)), kept;
	uint64_t staged = 0;

	for (uint64_t n = 0; n < PAGES; n++)
		staged += tm_page_byte(v->d, n) & TM_PAGE_STAGED ? 1 : 0;
	assert_true(staged > 0);
	box_open(&box, TM_LIMIT_MIN);
	assert_int_equal(tm_device_create(BYTES, NULL, &heir), 0);
	heir->fallback = v->d->fallback; /* lent */
	assert_int_equal(tm_device_resume(heir, fd, &kept, reason), 0);
	assert_int_equal(tm_device_attach(heir, &box.tmem, "heir", 0), 0);
	for (uint64_t n = 0; n < PAGES; n++)
		assert_int_equal(tm_page_byte(heir, n), TM_NOWHERE);
	assert_int_equal(blocks_of(v), 0);
	heir->fallback = NULL;
	tm_device_destroy(heir);
}

static void an_heir_forgets_half_a_restore(void **state)
{
	struct device a, b;
	struct tape tape = {.size = 0};
	struct tm_move_result result;
	struct meddler m = {&tape, &b, 0, die_here, true};

	(void)state;
	device_open(&a, TM_LIMIT_MIN, PLAIN, 0);
	device_fill(&a);
	assert_int_equal(save(&a, &tape, true, false), 0);
	m.at = tape.size * 15 / 16;
	device_open(&b, TM_LIMIT_MIN, PLAIN, 0);
	tape.at = 0;
	assert_int_equal(
		tm_store_restore(b.box.t.store, &b.who, meddler_read, &m, &result), -ENODATA);
	assert_true(!m.meddle);
	tm_device_destroy(b.d);
	close(b.file);
	device_close(&a);
	free(tape.bytes);
}

/* --- while it is written to ------------------------------------------------------------------- */

struct writer {
	struct device *v;
	uint64_t random;
	unsigned int number;
	_Atomic bool *stop;
};

/* A third of the device is each one's; most is text, some noise, some trimmed. */
static void *write_on(void *opaque)
{
	struct writer *w = opaque;
	uint8_t pages[3 * TM_DEVICE_PAGE];

	while (!atomic_load(w->stop)) {
		uint64_t n = test_random(&w->random) % (PAGES / THREADS - 3) +
			w->number * (PAGES / THREADS);
		uint64_t at = n * TM_DEVICE_PAGE;

		for (int i = 0; i < 3; i++)
			test_page(test_random(&w->random), pages + i * TM_DEVICE_PAGE,
				TM_DEVICE_PAGE);
		if (test_random(&w->random) % 8 == 0)
			assert_int_equal(tm_device_trim(w->v->d, sizeof(pages), at), 0);
		else
			assert_int_equal(tm_device_write(w->v->d, pages, sizeof(pages), at), 0);
		if (test_random(&w->random) % 8 == 0)
			assert_int_equal(tm_device_read(w->v->d, pages, sizeof(pages), at), 0);
		usleep(100);
	}
	return NULL;
}

static void what_is_restored_is_what_was_answered_when_the_changes_waited(void **state)
{
	static struct device a, b;
	struct tape tape = {.size = 0};
	struct writer writers[THREADS];
	pthread_t threads[THREADS];
	_Atomic bool stop = false;
	int saved = 0;

	(void)state;
	device_open(&a, TM_LIMIT_MIN, SEALED, FULL);
	device_fill(&a);
	for (unsigned int i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){&a, i + 1, i, &stop};
		pthread_create(&threads[i], NULL, write_on, &writers[i]);
	}
	for (int i = 0; i < test_scale(60); i++) {
		int rc = save(&a, &tape, i % 4, true);

		if (rc == -EBUSY)
			continue; /* they change faster than that: refused, and goes on */
		assert_int_equal(rc, 0);
		saved++;
		/* Nobody changes anything, and reading does not wait. */
		assert_int_equal(tm_device_read(a.d, image, (uint32_t)BYTES, 0), 0);
		if (i % 8 == 3) /* once more, as it is */
			assert_int_equal(save(&a, &tape, i % 16 == 3, true), 0);
		tm_store_resume(a.box.t.store, &a.who);
		device_open(&b, i % 3 ? TM_LIMIT_MIN : LARGE, i % 3, FULL);
		assert_int_equal(restore(&b, &tape), 0);
		device_is(&b, image);
		device_close(&b);
	}
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_true(saved > 0);
	assert_true(stat_of(&a, TM_STAT_WRITTEN_BACK) > 0);
	device_close(&a);
	free(tape.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_page_comes_back_wherever_it_was_and_is),
		cmocka_unit_test(what_does_not_compress_goes_to_a_fallback_that_is_there),
		cmocka_unit_test(nothing_is_left_of_a_stream_that_is_cut_or_damaged),
		cmocka_unit_test(a_device_that_is_written_to_meanwhile_keeps_what_was_written),
		cmocka_unit_test(a_page_that_the_fallback_lost_is_not_saved),
		cmocka_unit_test(an_heir_forgets_half_a_restore),
		cmocka_unit_test(what_is_restored_is_what_was_answered_when_the_changes_waited),
	};

	/* A failed assertion in a thread cannot jump back into the runner. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	return cmocka_run_group_tests_name("elsewhere", tests, NULL, NULL);
}
