/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_link.c - the client's side against a host played by the test
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/ledger.h"
#include "core/link.h"
#include "core/proto.h"
#include "core/util.h"

#define PATIENCE_MS 10000

struct fixture {
	char dir[32], path[64];
	int listen_fd, ledger_fd;
	struct tm_ledger *ledger;
	struct tm_link *link;
	_Atomic uint64_t released;
	atomic_int shrinks, destroys;
};

static uint64_t on_release(void *opaque, uint64_t bytes)
{
	struct fixture *f = opaque;

	atomic_fetch_add(&f->released, bytes);
	return bytes / 2;
}

static void on_shrink(void *opaque)
{
	atomic_fetch_add(&((struct fixture *)opaque)->shrinks, 1);
}

static void on_destroy(void *opaque)
{
	atomic_fetch_add(&((struct fixture *)opaque)->destroys, 1);
}

static void host_listen(struct fixture *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	strcpy(address.sun_path, f->path);
	unlink(f->path);
	f->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(f->listen_fd, 4), 0);
}

static void link_start(struct fixture *f)
{
	struct tm_link_params params = {.name = "mount",
		.type = "tmemfs",
		.socket = f->path,
		.ledger_fd = f->ledger_fd,
		.store_fd = -1,
		.state_fd = -1,
		.ops = {.release = on_release,
			.shrink = on_shrink,
			.destroy = on_destroy,
			.opaque = f}};

	assert_int_equal(tm_link_start(&params, &f->link), 0);
}

static int fixture_open(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	strcpy(f->dir, "/tmp/tmem-link.XXXXXX");
	if (!mkdtemp(f->dir) || tm_ledger_create(&f->ledger, &f->ledger_fd) < 0)
		return -1;
	snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	f->listen_fd = -1;
	*state = f;
	return 0;
}

static int fixture_close(void **state)
{
	struct fixture *f = *state;

	tm_link_stop(f->link);
	if (f->listen_fd >= 0)
		close(f->listen_fd);
	unlink(f->path);
	rmdir(f->dir);
	tm_ledger_unmap(f->ledger);
	close(f->ledger_fd);
	free(f);
	return 0;
}

static struct tm_conn *host_accept(struct fixture *f, json_t *greeting)
{
	struct tm_conn *conn;
	int fd = accept(f->listen_fd, NULL, NULL);

	assert_true(fd >= 0);
	assert_int_equal(tm_conn_open(fd, TM_PROTO_LINE_MAX, TM_PROTO_LINE_MAX, &conn), 0);
	assert_int_equal(tm_conn_send(conn, greeting, -1), 0);
	return conn;
}

/* Accept, take the join, and say yes. */
static struct tm_conn *host_welcome(struct fixture *f)
{
	struct tm_conn *conn = host_accept(f, tm_proto_greeting());
	struct tm_ledger *seen;
	json_t *message, *arguments;
	int fd;

	assert_int_equal(tm_conn_receive(conn, -1, PATIENCE_MS, &message), 0);
	arguments = json_object_get(message, "arguments");
	assert_string_equal(json_string_value(json_object_get(message, "execute")), "join");
	assert_string_equal(json_string_value(json_object_get(arguments, "name")), "mount");
	assert_string_equal(json_string_value(json_object_get(arguments, "type")), "tmemfs");
	assert_int_equal(json_integer_value(json_object_get(arguments, "pid")), getpid());
	json_decref(message);
	fd = tm_conn_take_fd(conn);
	assert_int_equal(tm_ledger_map(fd, &seen), 0);
	tm_ledger_unmap(seen);
	close(fd);
	assert_int_equal(tm_conn_send(conn, tm_proto_return(NULL, NULL), -1), 0);
	return conn;
}

/* Ask for 1000 bytes: the answer proves that all events before it were handled. */
static void host_release(struct tm_conn *conn, int ticket)
{
	json_t *message, *arguments;

	assert_int_equal(tm_conn_send(conn,
				 tm_proto_event("release",
					 json_pack("{s:i,s:i}", "bytes", 1000, "ticket", ticket)),
				 -1),
		0);
	assert_int_equal(tm_conn_receive(conn, -1, PATIENCE_MS, &message), 0);
	arguments = json_object_get(message, "arguments");
	assert_string_equal(json_string_value(json_object_get(message, "execute")), "released");
	assert_int_equal(json_integer_value(json_object_get(arguments, "ticket")), ticket);
	assert_int_equal(json_integer_value(json_object_get(arguments, "bytes")), 500);
	json_decref(message);
}

static void joins_and_serves(void **state)
{
	struct fixture *f = *state;
	struct tm_conn *conn;

	host_listen(f);
	link_start(f);
	conn = host_welcome(f);
	tm_conn_send(conn, tm_proto_event("shrink", NULL), -1);
	tm_conn_send(conn, tm_proto_event("news of a later version", NULL), -1);
	host_release(conn, 41);
	assert_int_equal(atomic_load(&f->shrinks), 1);
	assert_int_equal(atomic_load(&f->released), 1000);
	tm_conn_close(conn);
}

static void joins_again_and_again(void **state)
{
	struct fixture *f = *state;
	struct tm_link_counters counters;

	link_start(f); /* before there is a host */
	host_listen(f);
	for (int i = 0; i < 3; i++) {
		struct tm_conn *conn = host_welcome(f);

		host_release(conn, i);
		tm_conn_close(conn);
	}
	tm_link_count(f->link, &counters);
	assert_int_equal(counters.joins, 3);
	assert_int_equal(counters.version_mismatches, 0);
}

static void events_may_come_before_the_answer(void **state)
{
	struct fixture *f = *state;
	struct tm_conn *conn;
	json_t *message;

	host_listen(f);
	link_start(f);
	conn = host_accept(f, tm_proto_greeting());
	assert_int_equal(tm_conn_receive(conn, -1, PATIENCE_MS, &message), 0);
	json_decref(message);
	tm_conn_send(conn, tm_proto_event("shrink", NULL), -1);
	host_release(conn, 1);
	tm_conn_send(conn, tm_proto_return(NULL, NULL), -1);
	host_release(conn, 2);
	assert_int_equal(atomic_load(&f->shrinks), 1);
	tm_conn_close(conn);
}

static void destroyed_ends_for_good(void **state)
{
	struct fixture *f = *state;
	struct tm_conn *conn;
	json_t *message;

	host_listen(f);
	link_start(f);
	conn = host_welcome(f);
	tm_conn_send(conn, tm_proto_event("destroy", NULL), -1);
	assert_int_equal(tm_conn_receive(conn, -1, PATIENCE_MS, &message), 0);
	assert_string_equal(json_string_value(json_object_get(message, "execute")), "leave");
	json_decref(message);
	assert_int_equal(tm_conn_receive(conn, -1, PATIENCE_MS, &message), -EPIPE);
	assert_int_equal(atomic_load(&f->destroys), 1);
	tm_conn_close(conn);
	tm_link_stop(f->link); /* returns: the thread has ended or is about to */
	f->link = NULL;
}

/* Greet with this; the link has to hang up without a join. */
static void hangs_up_on(struct fixture *f, json_t *greeting)
{
	struct tm_conn *conn = host_accept(f, greeting);
	json_t *message;

	assert_int_equal(tm_conn_receive(conn, -1, PATIENCE_MS, &message), -EPIPE);
	tm_conn_close(conn);
}

static void other_versions_are_left_alone(void **state)
{
	struct fixture *f = *state;
	struct tm_link_counters counters;

	host_listen(f);
	link_start(f);
	hangs_up_on(f, json_pack("{s:{s:s,s:i}}", "tmem", "version", "9", "protocol", 2));
	tm_link_stop(f->link); /* at once, though the next attempt is 10 s away */
	f->link = NULL;
	link_start(f);
	hangs_up_on(f, json_pack("{s:s}", "ssh", "2.0"));
	do
		tm_link_count(f->link, &counters);
	while (counters.version_mismatches < 1);
	assert_int_equal(counters.joins, 0);
}

static void refusals_are_counted(void **state)
{
	struct fixture *f = *state;
	struct tm_error error = {TM_ERROR_BUSY, "full"};
	struct tm_link_counters counters;
	struct tm_conn *conn;
	json_t *message;

	host_listen(f);
	link_start(f);
	conn = host_accept(f, tm_proto_greeting());
	assert_int_equal(tm_conn_receive(conn, -1, PATIENCE_MS, &message), 0);
	json_decref(message);
	tm_conn_send(conn, tm_proto_error(&error, NULL), -1);
	tm_conn_close(conn);
	conn = host_welcome(f); /* it comes back */
	host_release(conn, 5);
	tm_link_count(f->link, &counters);
	assert_int_equal(counters.refusals, 1);
	tm_conn_close(conn);
}

static void stops_while_alone(void **state)
{
	struct fixture *f = *state;

	link_start(f);
	tm_link_stop(f->link);
	f->link = NULL;
}

static void long_paths_are_refused(void **state)
{
	struct fixture *f = *state;
	char path[200];
	struct tm_link_params params = {
		.name = "a", .type = "b", .socket = path, .ledger_fd = f->ledger_fd};

	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(tm_link_start(&params, &f->link), -ENAMETOOLONG);
}

#define with_fixture(t) cmocka_unit_test_setup_teardown(t, fixture_open, fixture_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_fixture(joins_and_serves),
		with_fixture(joins_again_and_again),
		with_fixture(events_may_come_before_the_answer),
		with_fixture(destroyed_ends_for_good),
		with_fixture(other_versions_are_left_alone),
		with_fixture(refusals_are_counted),
		with_fixture(stops_while_alone),
		with_fixture(long_paths_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
