/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_recover.c - a store found in the mapping of a process that is gone
 *
 * The crash test: a child process works on a store with several threads (puts, overwrites, ranges,
 * flushes, cleaning, recompression and eviction under way) and is killed at a random moment. Before
 * each operation it notes in memory shared with the parent what it is about to do, after it what
 * was answered. The parent then opens the mapping and compares: what was answered is there,
 * byte-exact; nothing that was flushed or replaced comes back; an operation that was not answered
 * has happened whole or not at all.
 */
#include "core/store_private.h"
#include "tests/unit/pages.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <xxhash.h>

#define LIMIT   (4u << 20)
#define SEGMENT (256u << 10)

static const struct tm_oid oid = {{1, 2, 3}};
static uint8_t page[65536], got[65536];

/* A second store on the mapping of `t`, as another process would make it. */
static void recover(struct test_store *t, bool ephemeral, struct test_store *ret)
{
	struct tm_store_params params = {.limit = LIMIT, .segment_bytes = SEGMENT};

	assert_int_equal(tm_ledger_create(&ret->ledger, &ret->ledger_fd), 0);
	params.ledger = ret->ledger;
	assert_int_equal(
		tm_store_recover(&params, dup(tm_store_fd(t->store)), ephemeral, &ret->store), 0);
	assert_int_equal(tm_store_check(ret->store), 0);
}

static void answered_pages_are_found_again(void **state)
{
	struct test_store t, again;
	int swap, cache;

	(void)state;
	test_store_open(&t, LIMIT, SEGMENT);
	swap = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	cache = test_pool(&t, 0, 1, TM_POOL_RETAIN);
	for (uint32_t i = 0; i < 400; i++) {
		struct tm_oid other = {{i, 0, 0}};

		test_page(i, page, sizeof(page));
		assert_int_equal(tm_store_put(t.store, swap, &oid, i * 77, page), 0);
		assert_int_equal(tm_store_put(t.store, cache, &other, i, page), 0);
	}
	for (uint32_t i = 0; i < 400; i += 2) { /* versions, and flushes of versions */
		test_page(i + 1000, page, sizeof(page));
		assert_int_equal(tm_store_put(t.store, swap, &oid, i * 77, page), 0);
		if (i % 8 == 0)
			assert_int_equal(tm_store_flush_page(t.store, swap, &oid, i * 77), 0);
	}

	recover(&t, true, &again);
	assert_int_equal(
		test_pool(&again, 0, 1, TM_POOL_RETAIN), cache); /* found by what they are */
	assert_int_equal(test_pool(&again, TM_POOL_PERSIST, 0, 0), swap);
	for (uint32_t i = 0; i < 400; i++) {
		struct tm_oid other = {{i, 0, 0}};

		test_page(i, page, sizeof(page));
		assert_int_equal(tm_store_get(again.store, cache, &other, i, got), 0);
		assert_memory_equal(got, page, 8192);
		if (i % 8 == 0) {
			assert_int_equal(
				tm_store_get(again.store, swap, &oid, i * 77, got), -ENOENT);
			continue;
		}
		test_page(i % 2 ? i : i + 1000, page, sizeof(page));
		assert_int_equal(tm_store_get(again.store, swap, &oid, i * 77, got), 0);
		assert_memory_equal(got, page, TM_PAGE_SIZE);
	}
	/* It can be worked with as any other. */
	for (uint32_t i = 0; i < 400; i++)
		assert_int_equal(tm_store_put(again.store, swap, &oid, i, page), 0);
	assert_int_equal(tm_store_check(again.store), 0);
	test_store_close(&again);
	tm_store_destroy(t.store);
	tm_ledger_unmap(t.ledger);
	close(t.ledger_fd);
}

static void ephemeral_pages_come_back_only_when_asked_for(void **state)
{
	struct test_store t, again;

	(void)state;
	test_store_open(&t, LIMIT, SEGMENT);
	assert_int_equal(test_pool(&t, 0, 0, TM_POOL_RETAIN), 0);
	test_page(3, page, sizeof(page));
	assert_int_equal(tm_store_put(t.store, 0, &oid, 0, page), 0);
	recover(&t, false, &again);
	assert_int_equal(test_pool(&again, 0, 0, TM_POOL_RETAIN), 0);
	assert_int_equal(tm_store_get(again.store, 0, &oid, 0, got), -ENOENT);
	assert_int_equal(again.ledger->freeable_bytes, 0);
	test_store_close(&again);
	tm_store_destroy(t.store);
	tm_ledger_unmap(t.ledger);
	close(t.ledger_fd);
}

static void what_is_no_store_is_refused_or_empty(void **state)
{
	struct tm_store_params params = {.limit = LIMIT, .segment_bytes = SEGMENT};
	struct test_store t;
	int fd = memfd_create("test", 0);

	(void)state;
	assert_int_equal(tm_ledger_create(&t.ledger, &t.ledger_fd), 0);
	params.ledger = t.ledger;
	assert_int_equal(tm_store_recover(&params, fd, false, &t.store), -EINVAL); /* empty */
	assert_int_equal(ftruncate(fd, SEGMENT + 4096), 0);
	assert_int_equal(tm_store_recover(&params, fd, false, &t.store), -EINVAL);
	assert_int_equal(t.ledger->used_bytes, 0);

	/* Garbage of the right size holds no segment: everything of it is given back. */
	assert_int_equal(ftruncate(fd, LIMIT), 0);
	memset(page, 0x5a, sizeof(page));
	for (off_t at = 0; at < LIMIT; at += SEGMENT)
		assert_int_equal(pwrite(fd, page, sizeof(page), at), sizeof(page));
	assert_int_equal(tm_store_recover(&params, fd, true, &t.store), 0);
	assert_int_equal(tm_store_check(t.store), 0);
	assert_int_equal(test_pool(&t, TM_POOL_PERSIST, 0, 0), 0);
	assert_int_equal(tm_store_put(t.store, 0, &oid, 0, page), 0);
	test_store_close(&t);
}

/* Another segment size or version: refused, and everything is still there for who knows better. */
static void another_layout_is_refused_and_left_alone(void **state)
{
	static const uint32_t wrong[] = {1, 3, 128u << 10, 512u << 10, 2u << 20, 1u << 31};
	struct tm_store_params params = {.limit = LIMIT};
	struct tm_segment_header *header;
	struct test_store t, again;

	(void)state;
	test_store_open(&t, LIMIT, SEGMENT);
	assert_int_equal(test_pool(&t, TM_POOL_PERSIST, 0, 0), 0);
	test_page(3, page, sizeof(page));
	assert_int_equal(tm_store_put(t.store, 0, &oid, 0, page), 0);

	assert_int_equal(tm_ledger_create(&again.ledger, &again.ledger_fd), 0);
	params.ledger = again.ledger;
	for (size_t i = 0; i < TM_ARRAY_SIZE(wrong); i++) {
		params.segment_bytes = wrong[i];
		assert_int_equal(
			tm_store_recover(&params, tm_store_fd(t.store), false, &again.store),
			-EINVAL);
	}
	header = (struct tm_segment_header *)tm_segment_data(t.store->arena, 0);
	header->version++;
	header->check = XXH3_64bits(header, offsetof(struct tm_segment_header, check));
	params.segment_bytes = SEGMENT;
	assert_int_equal(
		tm_store_recover(&params, tm_store_fd(t.store), false, &again.store), -EPROTO);
	header->version--;
	header->check = XXH3_64bits(header, offsetof(struct tm_segment_header, check));
	assert_int_equal(again.ledger->used_bytes, 0);
	tm_ledger_unmap(again.ledger);
	close(again.ledger_fd);

	recover(&t, false, &again);
	assert_int_equal(test_pool(&again, TM_POOL_PERSIST, 0, 0), 0);
	assert_int_equal(tm_store_get(again.store, 0, &oid, 0, got), 0);
	assert_memory_equal(got, page, TM_PAGE_SIZE);
	test_store_close(&again);
	tm_store_destroy(t.store);
	tm_ledger_unmap(t.ledger);
	close(t.ledger_fd);
}

/* Bits flip in the mapping before it is opened: no crash, no wrong bytes. */
static void damage_before_recovery_gives_no_wrong_bytes(void **state)
{
	uint64_t random = 5;

	(void)state;
	for (int round = 0; round < test_scale(200); round++) {
		struct test_store t, again;
		uint8_t *data;

		test_store_open(&t, LIMIT, SEGMENT);
		assert_int_equal(test_pool(&t, TM_POOL_PERSIST, 0, 0), 0);
		for (uint32_t i = 0; i < 300; i++) {
			test_page(i, page, TM_PAGE_SIZE);
			assert_int_equal(tm_store_put(t.store, 0, &oid, i, page), 0);
		}
		for (int i = 0; i < 20; i++) {
			uint32_t id = (uint32_t)(test_random(&random) % 3);

			data = tm_segment_data(t.store->arena, id);
			data[test_random(&random) % (i < 2 ? 64 : SEGMENT)] ^=
				(uint8_t)(1u << test_random(&random) % 8);
		}
		struct tm_store_params params = {.limit = LIMIT, .segment_bytes = SEGMENT};

		assert_int_equal(tm_ledger_create(&again.ledger, &again.ledger_fd), 0);
		params.ledger = again.ledger;
		assert_int_equal(
			tm_store_recover(&params, dup(tm_store_fd(t.store)), false, &again.store),
			0);
		assert_int_equal(test_pool(&again, TM_POOL_PERSIST, 0, 0), 0);
		for (uint32_t i = 0; i < 300; i++) {
			int rc = tm_store_get(again.store, 0, &oid, i, got);

			test_page(i, page, TM_PAGE_SIZE);
			assert_true(rc == 0 || rc == -ENOENT || rc == -EIO);
			if (rc == 0)
				assert_memory_equal(got, page, TM_PAGE_SIZE);
			tm_store_put(again.store, 0, &oid, i, page);
		}
		tm_store_destroy(again.store);
		tm_ledger_unmap(again.ledger);
		close(again.ledger_fd);
		tm_store_destroy(t.store);
		tm_ledger_unmap(t.ledger);
		close(t.ledger_fd);
	}
}

/* --- the crash test -----------------------------------------------------------------------------
 */

#define THREADS 3
#define HANDLES 240 /* of all threads */

/* What a handle holds. 0 is nothing; else the seed of its page. */
struct note {
	_Atomic uint64_t answered; /* after the last operation that was answered */
	_Atomic uint64_t pending;  /* what it will hold after the one under way */
	_Atomic bool under_way;
};

struct shared {
	struct note notes[HANDLES];
	_Atomic uint64_t operations;
	_Atomic uint64_t moved;  /* pages cleaned or evicted by the process under way */
	_Atomic uint64_t packed; /* and recompressed */
	uint64_t seed;
};

struct worker {
	struct shared *shared;
	struct test_store *t;
	int pool, cache;
	unsigned int number;
	uint64_t random;
};

/* Objects differ too, so that entries with and without ids of their own are met. */
static struct tm_oid oid_of(unsigned int n)
{
	return (struct tm_oid){{n % 5, 0, 9}};
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint8_t buf[TM_PAGE_SIZE];

	for (;;) {
		unsigned int n =
			(unsigned int)(test_random(&w->random) % (HANDLES / THREADS)) * THREADS +
			w->number;
		bool put = test_random(&w->random) % 4 != 0;
		struct note *note = &w->shared->notes[n];
		uint64_t seed = put ? test_random(&w->random) | 1ull << 32 : 0;
		struct tm_oid o = oid_of(n);
		int rc;

		atomic_store(&note->pending, seed);
		atomic_store(&note->under_way, true);
		if (put) {
			test_page(seed, buf, sizeof(buf));
			rc = tm_store_put(w->t->store, w->pool, &o, n, buf);
		} else {
			rc = tm_store_flush_page(w->t->store, w->pool, &o, n);
		}
		atomic_store(&note->answered, rc == 0 ? seed : 0);
		atomic_store(&note->under_way, false);
		atomic_fetch_add(&w->shared->operations, 1);

		/* Something for eviction to do. */
		test_page(seed | 3, buf, sizeof(buf));
		tm_store_put(
			w->t->store, w->cache, &o, (uint32_t)test_random(&w->random) % 4096, buf);
		atomic_store(&w->shared->moved,
			w->t->ledger->pools[w->pool].stat[TM_STAT_CLEANED] +
				w->t->ledger->pools[w->cache].stat[TM_STAT_EVICTED]);
		atomic_store(&w->shared->packed,
			w->t->ledger->pools[w->pool].stat[TM_STAT_RECOMPRESSED]);
	}
	return NULL;
}

/* The child: opens what it finds and works until it is killed. */
static void work_until_killed(struct shared *shared, int fd)
{
	struct tm_store_params params = {.limit = LIMIT,
		.segment_bytes = SEGMENT,
		.keeper = true,
		.resident = shared->seed % 2,
		.patience_ms = 100,
		.recompress = true,
		.upkeep_percent = 100,
		.cold_ms = 1};
	static struct worker w[THREADS];
	static struct test_store t;
	pthread_t id;

	if (tm_ledger_create(&t.ledger, &t.ledger_fd) < 0)
		_exit(1);
	params.ledger = t.ledger;
	if (tm_store_recover(&params, fd, false, &t.store) < 0)
		_exit(2);
	for (unsigned int i = 0; i < THREADS; i++) {
		w[i] = (struct worker){shared, &t, 0, 0, i, shared->seed + i};
		w[i].pool = i ? w[0].pool : test_pool(&t, TM_POOL_PERSIST, 0, 0);
		w[i].cache = i ? w[0].cache : test_pool(&t, 0, 0, TM_POOL_RETAIN);
		if (i && pthread_create(&id, NULL, work, &w[i]) != 0)
			_exit(3);
	}
	work(&w[0]);
}

static void check_note(struct shared *shared, struct test_store *t, int pool, unsigned int n)
{
	struct note *note = &shared->notes[n];
	uint64_t answered = atomic_load(&note->answered), may[3] = {answered, answered, answered};
	struct tm_oid o = oid_of(n);
	int rc = tm_store_get(t->store, pool, &o, n, got);
	bool right = false;

	if (atomic_load(&note->under_way)) {
		may[1] = atomic_load(&note->pending);
		/* A resident store may be refusing the put: the handle is empty then. */
		may[2] = shared->seed % 2 ? 0 : may[1];
	}
	assert_true(rc == 0 || rc == -ENOENT);
	for (size_t i = 0; i < TM_ARRAY_SIZE(may) && !right; i++) {
		test_page(may[i], page, TM_PAGE_SIZE);
		right = may[i] ? rc == 0 && memcmp(page, got, TM_PAGE_SIZE) == 0 : rc == -ENOENT;
		if (right) /* from here on this is what it holds */
			atomic_store(&note->answered, may[i]);
	}
	assert_true(right);
	atomic_store(&note->under_way, false);
}

/* The verifying child: opens what the killed one left, compares, and exits without tidying up, so
 * that the next one finds the mapping as another crash would leave it. */
static void verify(struct shared *shared, int fd)
{
	struct tm_store_params params = {.limit = LIMIT, .segment_bytes = SEGMENT};
	struct test_store t;
	int pool;

	assert_int_equal(tm_ledger_create(&t.ledger, &t.ledger_fd), 0);
	params.ledger = t.ledger;
	assert_int_equal(tm_store_recover(&params, fd, false, &t.store), 0);
	assert_int_equal(tm_store_check(t.store), 0);
	pool = test_pool(&t, TM_POOL_PERSIST, 0, 0);
	for (unsigned int n = 0; n < HANDLES; n++)
		check_note(shared, &t, pool, n);
	_exit(0);
}

static pid_t start(void (*run)(struct shared *shared, int fd), struct shared *shared, int fd)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		run(shared, dup(fd));
	return pid;
}

static void nothing_answered_is_lost_by_a_kill(void **state)
{
	struct shared *shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t random = 42, moved = 0, packed = 0, operations = 0;
	int fd = memfd_create("test-store", 0), status;

	(void)state;
	assert_true(shared != MAP_FAILED);
	assert_int_equal(ftruncate(fd, LIMIT), 0);
	for (int i = 0; i < test_scale(1000); i++) {
		uint64_t enough = test_random(&random) % 3000;
		pid_t pid;

		atomic_store(&shared->operations, 0);
		atomic_store(&shared->packed, 0);
		shared->seed = test_random(&random);
		pid = start(work_until_killed, shared, fd);
		while (atomic_load(&shared->operations) < enough &&
			waitpid(pid, &status, WNOHANG) == 0)
			sched_yield();
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		moved += atomic_load(&shared->moved);
		packed += atomic_load(&shared->packed);
		operations += atomic_load(&shared->operations);

		pid = start(verify, shared, fd);
		waitpid(pid, &status, 0);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	assert_true(moved > 0 && packed > 0); /* that happened meanwhile */
	print_message(
		"# %d kills, %llu operations, %llu pages moved or evicted, %llu recompressed\n",
		test_scale(1000), (unsigned long long)operations, (unsigned long long)moved,
		(unsigned long long)packed);
	munmap(shared, sizeof(*shared));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answered_pages_are_found_again),
		cmocka_unit_test(ephemeral_pages_come_back_only_when_asked_for),
		cmocka_unit_test(what_is_no_store_is_refused_or_empty),
		cmocka_unit_test(another_layout_is_refused_and_left_alone),
		cmocka_unit_test(damage_before_recovery_gives_no_wrong_bytes),
		cmocka_unit_test(nothing_answered_is_lost_by_a_kill),
	};

	/* An assertion that fails in a child process must end it, not the test of a copy. */
	setenv("CMOCKA_TEST_ABORT", "1", 1);
	return cmocka_run_group_tests_name("recover", tests, NULL, NULL);
}
