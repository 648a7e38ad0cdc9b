/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_remote.c - shared pools: the sharer's side and the pool's server, in one process
 */
#include "tests/unit/pages.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "core/remote.h"
#include "tests/helpers/sharefuzz.h"
#include "tools/tmemd/pool.h"

#define ORDER       2
#define PAGE        (TM_PAGE_SIZE << ORDER)
#define PATIENCE_MS 60000
#define UID         1000

static const struct tm_uuid uuid = {1, 2};
static const struct tm_oid oid = {{3, 4, 5}};

/* A pool's server and the way to it. */
struct host {
	pthread_mutex_t lock;
	struct tm_pool_server *server; /* lock; NULL: there is none now */
	bool refuses;                  /* lock */
	struct tmem *tm;
	atomic_int joins, destroyed;
};

/* --- the host --------------------------------------------------------------------------------- */

static void start_server(struct host *h)
{
	struct tm_open_params params = {
		.name = "test", .type = "test", .socket = "none", .limit = 64 << 20};
	struct tm_pool_server *server;

	assert_int_equal(tm_open(&params, &h->tm), 0);
	assert_int_equal(tm_pool_server_new(h->tm, &uuid, &server), 0);
	pthread_mutex_lock(&h->lock);
	h->server = server;
	pthread_mutex_unlock(&h->lock);
}

/* As far as a sharer can tell, it was killed: connections end, memory is gone. */
static void kill_server(struct host *h)
{
	struct tm_pool_server *server;

	pthread_mutex_lock(&h->lock);
	server = h->server;
	h->server = NULL;
	pthread_mutex_unlock(&h->lock);
	tm_pool_server_free(server);
	h->tm->ops->close(h->tm);
}

static int host_join(void *opaque, const struct tm_uuid *wanted, int stop_fd, int *ret_fd)
{
	struct host *h = opaque;
	int ends[2], rc = -ECONNREFUSED;

	(void)wanted, (void)stop_fd;
	pthread_mutex_lock(&h->lock);
	if (h->server && !h->refuses) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
		rc = tm_pool_server_add(h->server, ends[1], UID);
		if (rc < 0)
			close(ends[0]);
		else
			*ret_fd = ends[0];
		atomic_fetch_add(&h->joins, 1);
	}
	pthread_mutex_unlock(&h->lock);
	return rc;
}

static void on_destroyed(void *opaque)
{
	atomic_fetch_add(&((struct host *)opaque)->destroyed, 1);
}

static void set_refuses(struct host *h, bool refuses)
{
	pthread_mutex_lock(&h->lock);
	h->refuses = refuses;
	pthread_mutex_unlock(&h->lock);
}

static struct tmem *open_remote(struct host *h)
{
	struct tm_remote_params params = {
		.join = host_join,
		.opaque = h,
		.patience_ms = PATIENCE_MS,
		.on_destroyed = on_destroyed,
		.destroyed_opaque = h,
	};
	struct tmem *t;

	assert_int_equal(tm_remote_open(&params, &t), 0);
	return t;
}

static int join_as(struct tmem *t, uint32_t kind, unsigned int order, const struct tm_uuid *which)
{
	struct tm_pool_params params = {
		.uuid = *which, .flags = tm_pool_flags(kind, order), .name = "test"};

	return t->ops->new_pool(t, &params);
}

static struct tmem *sharer(struct host *h)
{
	struct tmem *t = open_remote(h);

	assert_int_equal(join_as(t, TM_POOL_SHARED, ORDER, &uuid), 0);
	return t;
}

static int setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	pthread_mutex_init(&h->lock, NULL);
	start_server(h);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	struct host *h = *state;

	if (h->server)
		kill_server(h);
	pthread_mutex_destroy(&h->lock);
	free(h);
	return 0;
}

/* --- what is in the pool ---------------------------------------------------------------------- */

static int put(struct tmem *t, const struct tm_oid *o, uint32_t index, uint64_t seed)
{
	char page[PAGE];

	test_page(seed, page, PAGE);
	return t->ops->put(t, 0, o, index, page);
}

/* 0: it is this page; -ENOENT; anything else fails the test. */
static int get(struct tmem *t, const struct tm_oid *o, uint32_t index, uint64_t seed)
{
	char page[PAGE], expected[PAGE];
	int rc = t->ops->get(t, 0, o, index, page);

	test_page(seed, expected, PAGE);
	if (rc == 0)
		assert_memory_equal(page, expected, PAGE);
	else
		assert_int_equal(rc, -ENOENT);
	return rc;
}

/* Until the remote has a connection again: a put goes through. */
static void wait_connected(struct tmem *t)
{
	const struct tm_oid probe = {{9, 9, 9}};

	for (int i = 0; put(t, &probe, 0, 3) < 0; i++) {
		assert_true(i < 60000);
		usleep(1000);
	}
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_calls(void **state)
{
	struct tmem *t = sharer(*state);
	const struct tmem_ops *ops = t->ops;
	const struct tm_oid invalid = {{UINT64_MAX, UINT64_MAX, UINT64_MAX}};
	char page[PAGE], found[PAGE], bytes[100], before[100];
	struct tm_usage usage;

	assert_int_equal(get(t, &oid, 7, 0), -ENOENT);
	assert_int_equal(put(t, &oid, 7, 11), 0);
	assert_int_equal(get(t, &oid, 7, 11), 0);
	assert_int_equal(get(t, &oid, 7, 11), 0); /* it was kept */
	assert_int_equal(put(t, &oid, 7, 12), 0);
	assert_int_equal(get(t, &oid, 7, 12), 0);

	test_page(12, page, PAGE);
	assert_int_equal(ops->read(t, 0, &oid, 7, 1000, 100, bytes), 0);
	assert_memory_equal(bytes, page + 1000, 100);
	memset(bytes, 'x', 100);
	assert_int_equal(ops->write(t, 0, &oid, 7, PAGE - 100, 100, bytes), 0);
	memcpy(page + PAGE - 100, bytes, 100);
	memcpy(before, page + 500, 100);
	memset(bytes, 'y', 100);
	assert_int_equal(ops->xchg(t, 0, &oid, 7, 500, 100, bytes), 0);
	assert_memory_equal(bytes, before, 100);
	memset(page + 500, 'y', 100);
	assert_int_equal(ops->get(t, 0, &oid, 7, found), 0);
	assert_memory_equal(found, page, PAGE);

	assert_int_equal(ops->read(t, 0, &oid, 7, PAGE - 99, 100, bytes), -EINVAL);
	assert_int_equal(ops->write(t, 0, &oid, 7, UINT32_MAX, 2, bytes), -EINVAL);
	assert_int_equal(ops->read(t, 0, &oid, 8, 0, 100, bytes), -ENOENT);
	assert_int_equal(ops->write(t, 0, &oid, 8, 0, 100, bytes), -ENOENT);
	assert_int_equal(ops->get(t, 0, &invalid, 0, page), -EINVAL);
	assert_int_equal(ops->put(t, 0, &invalid, 0, page), -EINVAL);
	assert_int_equal(ops->get(t, 1, &oid, 7, page), -ENOENT);

	assert_int_equal(ops->flush_page(t, 0, &oid, 7), 0);
	assert_int_equal(get(t, &oid, 7, 0), -ENOENT);
	assert_int_equal(put(t, &oid, 1, 13), 0);
	assert_int_equal(put(t, &oid, UINT32_MAX, 14), 0);
	assert_int_equal(get(t, &oid, UINT32_MAX, 14), 0);
	assert_int_equal(ops->flush_object(t, 0, &oid), 0);
	assert_int_equal(get(t, &oid, 1, 0), -ENOENT);
	assert_int_equal(get(t, &oid, UINT32_MAX, 0), -ENOENT);

	ops->usage(t, &usage);
	assert_true(usage.limit_bytes > 0 && usage.live_bytes < usage.limit_bytes);
	assert_false(usage.frozen);
	ops->close(t);
}

/* More than one message's worth, with holes. */
static void test_many(void **state)
{
	struct tmem *t = sharer(*state);
	const uint32_t count = TM_SHARE_SLOT / PAGE * 2 + 5;
	char *pages = malloc((size_t)count * PAGE), expected[PAGE];
	bool *missed = calloc(count, sizeof(*missed));
	int stored = 0;

	for (uint32_t i = 0; i < count; i++)
		if (i % 3)
			stored += put(t, &oid, 100 + i, i) == 0;
	assert_int_equal(t->ops->get_many(t, 0, &oid, 100, count, pages, missed), stored);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(missed[i], i % 3 == 0);
		test_page(i, expected, PAGE);
		if (!missed[i])
			assert_memory_equal(pages + (size_t)i * PAGE, expected, PAGE);
	}
	/* A run that goes beyond the last index is no run. */
	assert_int_equal(t->ops->get_many(t, 0, &oid, UINT32_MAX, 2, pages, missed), -EINVAL);
	assert_true(missed[0] && missed[1]);
	free(missed);
	free(pages);
	t->ops->close(t);
}

static void test_refusals(void **state)
{
	struct host *h = *state;
	struct tmem *first = sharer(h), *t = open_remote(h);
	const struct tm_uuid other = {1, 3};

	assert_int_equal(join_as(t, 0, ORDER, &uuid), -EOPNOTSUPP);
	assert_int_equal(join_as(t, TM_POOL_SHARED | TM_POOL_PERSIST, ORDER, &uuid), -EOPNOTSUPP);
	assert_int_equal(join_as(t, TM_POOL_SHARED, TM_ORDER_MAX + 1, &uuid), -EINVAL);
	assert_int_equal(join_as(t, TM_POOL_SHARED, ORDER + 1, &uuid), -EEXIST);
	assert_int_equal(join_as(t, TM_POOL_SHARED, ORDER, &other), -EACCES);
	assert_int_equal(put(t, &oid, 0, 1), -ENOENT);
	assert_int_equal(join_as(t, TM_POOL_SHARED, ORDER, &uuid), 0);
	assert_int_equal(join_as(t, TM_POOL_SHARED, ORDER, &uuid), -ENFILE);
	assert_int_equal(t->ops->destroy_pool(t, 0), 0);
	assert_int_equal(t->ops->destroy_pool(t, 0), -ENOENT);
	assert_int_equal(join_as(t, TM_POOL_SHARED, ORDER, &uuid), 0);
	t->ops->close(t);
	first->ops->close(first);
}

static void test_full(void **state)
{
	struct host *h = *state;
	struct tmem *all[TM_SHARERS_MAX], *t = open_remote(h);

	for (int i = 0; i < TM_SHARERS_MAX; i++)
		all[i] = sharer(h);
	assert_int_equal(join_as(t, TM_POOL_SHARED, ORDER, &uuid), -EUSERS);
	assert_int_equal(put(all[0], &oid, 0, 5), 0);
	for (int i = 0; i < TM_SHARERS_MAX - 1; i++)
		all[i]->ops->close(all[i]);
	assert_int_equal(get(all[TM_SHARERS_MAX - 1], &oid, 0, 5), 0);
	all[TM_SHARERS_MAX - 1]->ops->close(all[TM_SHARERS_MAX - 1]);
	t->ops->close(t);
}

/* What one puts or flushes the other sees; who leaves takes nothing along. */
static void test_two(void **state)
{
	struct tmem *a = sharer(*state), *b = sharer(*state);

	assert_int_equal(put(a, &oid, 1, 21), 0);
	assert_int_equal(get(b, &oid, 1, 21), 0);
	assert_int_equal(put(b, &oid, 1, 22), 0);
	assert_int_equal(get(a, &oid, 1, 22), 0);
	assert_int_equal(b->ops->flush_page(b, 0, &oid, 1), 0);
	assert_int_equal(get(a, &oid, 1, 0), -ENOENT);
	assert_int_equal(put(a, &oid, 2, 23), 0);
	a->ops->close(a);
	assert_int_equal(get(b, &oid, 2, 23), 0);
	b->ops->close(b);
}

/* The connection ends, the server and its pages stay: what could not be said is made up for. */
static void test_lost(void **state)
{
	struct host *h = *state;
	struct tmem *a = sharer(h), *b = sharer(h);
	struct tm_oid o = {{1, 0, 0}};
	const int objects = 1500; /* more than are remembered one by one, the second time */

	for (int round = 0; round < 2; round++) {
		int count = round == 0 ? 20 : objects;

		for (o.w[1] = 0; o.w[1] < (uint64_t)count; o.w[1]++) {
			assert_int_equal(put(a, &o, 0, o.w[1]), 0);
			assert_int_equal(put(a, &oid, (uint32_t)o.w[1], o.w[1]), 0);
		}
		set_refuses(h, true);
		tm_pool_server_drop(h->server, UID);
		while (put(a, &(struct tm_oid){{8, 8, 8}}, 0, 1) == 0)
			usleep(1000);
		for (o.w[1] = 0; o.w[1] < (uint64_t)count; o.w[1]++) {
			if (o.w[1] % 2)
				assert_int_equal(a->ops->flush_page(a, 0, &o, 0), 0);
			else
				assert_int_equal(put(a, &o, 0, 77), -ENOMEM);
			assert_int_equal(get(a, &o, 0, 0), -ENOENT);
		}
		set_refuses(h, false);
		wait_connected(a);
		wait_connected(b);
		for (o.w[1] = 0; o.w[1] < (uint64_t)count; o.w[1]++) {
			assert_int_equal(get(a, &o, 0, 0), -ENOENT);
			assert_int_equal(get(b, &o, 0, 0), -ENOENT);
		}
		if (round == 0) /* others are untouched */
			assert_int_equal(get(b, &oid, 3, 3), 0);
	}
	assert_int_equal(put(a, &oid, 3, 33), 0);
	assert_int_equal(get(b, &oid, 3, 33), 0);
	a->ops->close(a);
	b->ops->close(b);
}

static void test_killed(void **state)
{
	struct host *h = *state;
	struct tmem *t = sharer(h);

	assert_int_equal(put(t, &oid, 1, 31), 0);
	kill_server(h);
	assert_int_equal(get(t, &oid, 1, 0), -ENOENT);
	assert_int_equal(put(t, &oid, 1, 32), -ENOMEM);
	assert_int_equal(t->ops->flush_page(t, 0, &oid, 1), 0);
	start_server(h);
	wait_connected(t);
	assert_int_equal(get(t, &oid, 1, 0), -ENOENT);
	assert_int_equal(put(t, &oid, 1, 33), 0);
	assert_int_equal(get(t, &oid, 1, 33), 0);
	kill_server(h);
	t->ops->close(t); /* with nobody there */
}

static void test_destroyed(void **state)
{
	struct host *h = *state;
	struct tmem *a = sharer(h), *b = sharer(h);

	tm_pool_server_gone(h->server);
	while (atomic_load(&h->destroyed) < 2)
		usleep(1000);
	tm_pool_server_wait(h->server, 0);
	assert_int_equal(put(a, &oid, 1, 1), -ENOENT);
	assert_int_equal(get(b, &oid, 1, 1), -ENOENT);
	assert_int_equal(a->ops->flush_object(a, 0, &oid), -ENOENT);
	a->ops->close(a);
	b->ops->close(b);
}

/* --- many at once ----------------------------------------------------------------------------- */

#define WORKERS 4
#define HANDLES 64

struct worker {
	pthread_t thread;
	struct tmem *t;
	unsigned int number;
	int operations, hits;
	atomic_bool *stop;
};

/* Each has objects of its own, so it knows what may be found; others flush none of them. */
static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t random = w->number, seeds[HANDLES] = {0}; /* 0: nothing may be found */
	struct tm_oid o = {{100 + w->number, 0, 0}};

	for (int i = 0; i < w->operations; i++) {
		uint64_t r = test_random(&random), seed = r >> 32 | 1;
		uint32_t index = r % HANDLES;

		o.w[1] = index % 4;
		switch (r >> 8 & 7) {
		case 0:
			assert_int_equal(w->t->ops->flush_page(w->t, 0, &o, index), 0);
			seeds[index] = 0;
			break;
		case 1:
			assert_int_equal(w->t->ops->flush_object(w->t, 0, &o), 0);
			for (uint32_t n = index % 4; n < HANDLES; n += 4)
				seeds[n] = 0;
			break;
		case 2:
		case 3:
		case 4:
			seeds[index] = put(w->t, &o, index, seed) == 0 ? seed : 0;
			break;
		default:
			if (get(w->t, &o, index, seeds[index]) == 0) {
				assert_int_not_equal(seeds[index], 0);
				w->hits++;
			}
		}
	}
	return NULL;
}

/* Two remotes, four threads, and a server that is killed or loses them meanwhile. */
static void run_workers(struct host *h, int operations, int kills, int drops)
{
	struct tmem *t[2] = {sharer(h), sharer(h)};
	struct worker workers[WORKERS];
	int hits = 0;

	for (unsigned int i = 0; i < WORKERS; i++) {
		workers[i] =
			(struct worker){.t = t[i % 2], .number = i + 1, .operations = operations};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < kills + drops; i++) {
		usleep(50000);
		if (i < kills) {
			kill_server(h);
			start_server(h);
		} else {
			tm_pool_server_drop(h->server, UID);
		}
		wait_connected(t[0]);
		wait_connected(t[1]);
	}
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(workers[i].thread, NULL);
		hits += workers[i].hits;
	}
	assert_true(hits > 0);
	t[0]->ops->close(t[0]);
	t[1]->ops->close(t[1]);
}

static void test_threads(void **state)
{
	run_workers(*state, test_scale(10000), 0, 0);
}

static void test_threads_killed(void **state)
{
	run_workers(*state, test_scale(20000), 5, 0);
}

static void test_threads_dropped(void **state)
{
	run_workers(*state, test_scale(20000), 0, 5);
}

/* --- whatever it likes ------------------------------------------------------------------------ */

static void test_fuzz(void **state)
{
	struct host *h = *state;
	struct tmem *t = sharer(h);
	const struct tm_share_hello right = {.magic = TM_SHARE_MAGIC,
		.version = TM_SHARE_VERSION,
		.uuid = uuid,
		.flags = tm_pool_flags(TM_POOL_SHARED, ORDER)};
	uint64_t random = 42;

	for (int i = 0; i < test_scale(300); i++) {
		int fd;

		assert_int_equal(host_join(h, &uuid, -1, &fd), 0);
		fuzz_connection(&random, fd, &right, 100);
		(void)put(t, &oid, 1,
			(uint64_t)i); /* another one's flush of everything may be between */
		(void)get(t, &oid, 1, (uint64_t)i);
	}
	wait_connected(t);
	assert_int_equal(put(t, &oid, 1, 5), 0);
	assert_int_equal(get(t, &oid, 1, 5), 0);
	t->ops->close(t);
}

static void test_uuid(void **state)
{
	static const char *const bad[] = {"", "1", "00000000-0000-0000-0000-000000000000",
		"6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b1", "6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b100",
		"6f1d0c1e03e0b-4b51-9d40-3e1f2a7c5b10", "6f1d0c1g-3e0b-4b51-9d40-3e1f2a7c5b10",
		"-f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b10"};
	struct tm_uuid parsed;
	char text[TM_UUID_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < TM_ARRAY_SIZE(bad); i++)
		assert_int_equal(tm_uuid_parse(bad[i], &parsed), -EINVAL);
	assert_int_equal(tm_uuid_parse("6F1D0c1e-3e0b-4b51-9d40-3e1f2a7c5b10", &parsed), 0);
	assert_string_equal(tm_uuid_format(&parsed, text), "6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b10");
	assert_int_equal(parsed.hi, 0x6f1d0c1e3e0b4b51ull);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_uuid),
		cmocka_unit_test_setup_teardown(test_calls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_destroyed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fuzz, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
