/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_transfer.c - stores saved and restored over sockets, by threads, and broken off
 */
#include "core/transfer.h"
#include "tests/unit/pages.h"

#include <pthread.h>
#include <sys/socket.h>

#define LIMIT   (32u << 20)
#define SEGMENT (256u << 10)
#define PAGES   3000

static const struct tm_move_params who = {.name = "one", .type = "test"};
static const struct tm_oid oid = {{1, 2, 3}};
static uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];

/* How a transfer ended. */
struct ending {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool has;
	int rc;
	struct tm_move_result result;
};

#define ENDING                                                                                     \
	{                                                                                          \
		.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER                \
	}

static void on_done(void *opaque, int rc, const struct tm_move_result *result)
{
	struct ending *e = opaque;

	pthread_mutex_lock(&e->lock);
	e->rc = rc;
	e->result = *result;
	e->has = true;
	pthread_cond_signal(&e->cond);
	pthread_mutex_unlock(&e->lock);
}

static int wait_for(struct ending *e)
{
	pthread_mutex_lock(&e->lock);
	while (!e->has)
		pthread_cond_wait(&e->cond, &e->lock);
	e->has = false;
	pthread_mutex_unlock(&e->lock);
	return e->rc;
}

static void open_filled(struct test_store *t, struct tm_transfer **ret_transfer, int pages)
{
	test_store_open(t, LIMIT, SEGMENT);
	assert_int_equal(test_pool(t, TM_POOL_PERSIST, 0, 0), 0);
	for (int i = 0; i < pages; i++) {
		test_page((uint64_t)i, page, sizeof(page));
		assert_int_equal(tm_store_put(t->store, 0, &oid, (uint32_t)i, page), 0);
	}
	assert_int_equal(tm_transfer_create(t->store, &who, ret_transfer), 0);
}

static void close_filled(struct test_store *t, struct tm_transfer *transfer)
{
	tm_transfer_stop(transfer);
	tm_transfer_destroy(transfer);
	assert_int_equal(tm_store_check(t->store), 0);
	test_store_close(t);
}

static void from_one_store_into_another(void **state)
{
	struct ending saved = ENDING, restored = ENDING;
	struct tm_transfer *ta, *tb;
	struct test_store a, b;

	(void)state;
	open_filled(&a, &ta, PAGES);
	open_filled(&b, &tb, 0);
	for (int round = 0; round < 3; round++) { /* nonblocking sockets too */
		int type = SOCK_STREAM | (round == 1 ? SOCK_NONBLOCK : 0), ends[2];

		assert_int_equal(socketpair(AF_UNIX, type, 0, ends), 0);
		assert_int_equal(tm_transfer_start(ta,
					 &(struct tm_transfer_request){.live = true, .fd = ends[0]},
					 on_done, &saved),
			0);
		assert_int_equal(
			tm_transfer_start(tb,
				&(struct tm_transfer_request){.restore = true, .fd = ends[1]},
				on_done, &restored),
			0);
		assert_int_equal(wait_for(&saved), 0);
		assert_int_equal(wait_for(&restored), 0);
		assert_int_equal(saved.result.pages, PAGES);
		assert_int_equal(restored.result.pages, PAGES);
		for (int i = 0; i < PAGES; i++) {
			test_page((uint64_t)i, page, sizeof(page));
			assert_int_equal(tm_store_get(b.store, 0, &oid, (uint32_t)i, got), 0);
			assert_memory_equal(got, page, sizeof(page));
		}
		assert_int_equal(tm_store_flush_object(b.store, 0, &oid), 0);
	}
	close_filled(&a, ta);
	close_filled(&b, tb);
}

/* Nobody reads: it waits, can be cancelled or stopped, and the store works on. */
static void it_can_be_broken_off(void **state)
{
	struct ending ending = ENDING;
	struct tm_transfer *transfer;
	struct test_store t;
	int ends[2];

	(void)state;
	open_filled(&t, &transfer, PAGES);
	for (int way = 0; way < 4; way++) {
		bool live = way % 2;
		struct tm_transfer_request request = {.live = live, .hold = true};

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
		request.fd = ends[0];
		assert_int_equal(tm_transfer_start(transfer, &request, on_done, &ending), 0);
		request.fd = ends[1];
		assert_int_equal(tm_transfer_start(transfer, &request, on_done, &ending), -EBUSY);
		if (way < 2)
			tm_transfer_cancel(transfer);
		else
			close(ends[1]);
		assert_int_equal(wait_for(&ending), -EPIPE);
		if (way < 2)
			close(ends[1]);
		test_page(7, page, sizeof(page)); /* would wait at a shut gate */
		assert_int_equal(tm_store_put(t.store, 0, &oid, 7, page), 0);
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	assert_int_equal(tm_transfer_start(transfer,
				 &(struct tm_transfer_request){.restore = true, .fd = ends[0]},
				 on_done, &ending),
		0);
	tm_transfer_stop(transfer);
	assert_true(wait_for(&ending) < 0);
	assert_int_equal(tm_transfer_start(transfer,
				 &(struct tm_transfer_request){.restore = true, .fd = ends[1]},
				 on_done, &ending),
		-ESHUTDOWN);
	close(ends[1]);
	close_filled(&t, transfer);
}

static void only_stream_sockets(void **state)
{
	struct tm_transfer_request request = {.restore = true};
	struct ending ending = ENDING;
	struct tm_transfer *transfer;
	struct test_store t;
	int ends[2];

	(void)state;
	open_filled(&t, &transfer, 1);
	request.fd = t.ledger_fd;
	assert_int_equal(tm_transfer_start(transfer, &request, on_done, &ending), -ENOTSOCK);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
	request.fd = ends[0];
	assert_int_equal(tm_transfer_start(transfer, &request, on_done, &ending), -ENOTSOCK);
	close(ends[0]);
	close(ends[1]);
	close_filled(&t, transfer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_one_store_into_another),
		cmocka_unit_test(it_can_be_broken_off),
		cmocka_unit_test(only_stream_sockets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
