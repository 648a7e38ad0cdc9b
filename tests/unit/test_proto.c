/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_proto.c - framing and messages, over a socket pair; and a parser fed with mutated lines
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/proto.h"
#include "core/util.h"

#define LINE_MAX_TEST 4096u
#define MUTATIONS     20000

struct pair {
	int raw;              /* the test's end */
	struct tm_conn *conn; /* the end under test */
};

static int pair_open(void **state)
{
	struct pair *p = malloc(sizeof(*p));
	int fds[2];

	if (!p || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	p->raw = fds[0];
	*state = p;
	return tm_conn_open(fds[1], LINE_MAX_TEST, 1 << 20, &p->conn);
}

static int pair_close(void **state)
{
	struct pair *p = *state;

	tm_conn_close(p->conn);
	if (p->raw >= 0)
		close(p->raw);
	free(p);
	return 0;
}

static void put(struct pair *p, const char *text)
{
	size_t length = strlen(text);

	assert_int_equal(send(p->raw, text, length, MSG_NOSIGNAL), length);
}

/* The next message must be this text. */
static void expect(struct pair *p, const char *text)
{
	json_t *message, *wanted = json_loads(text, 0, NULL);

	assert_int_equal(tm_conn_next(p->conn, &message), 0);
	assert_true(json_equal(message, wanted));
	json_decref(message);
	json_decref(wanted);
}

static void lines_come_in_pieces(void **state)
{
	struct pair *p = *state;
	json_t *message;

	assert_int_equal(tm_conn_fill(p->conn), -EAGAIN);
	put(p, "{\"execute\":");
	assert_int_equal(tm_conn_fill(p->conn), 0);
	assert_int_equal(tm_conn_next(p->conn, &message), -EAGAIN);
	put(p, "\"list\"}\n{\"id\":2}\n{\"half\"");
	assert_int_equal(tm_conn_fill(p->conn), 0);
	expect(p, "{\"execute\":\"list\"}");
	expect(p, "{\"id\":2}");
	assert_int_equal(tm_conn_next(p->conn, &message), -EAGAIN);
	put(p, ":1}\n");
	assert_int_equal(tm_conn_fill(p->conn), 0);
	expect(p, "{\"half\":1}");
}

static void garbage_costs_one_line(void **state)
{
	static const char *const garbage[] = {"\n", "nonsense\n", "[1,2]\n", "\"text\"\n",
		"{\"a\":1\n", "{\"a\":1}}\n", "{\"a\":1,\"a\":2}\n", "{\"a\":\"\xff\xfe\"}\n",
		"{\"a\":1e999}\n", "{\"a\":99999999999999999999}\n", "null\n"};
	struct pair *p = *state;
	json_t *message;

	for (size_t i = 0; i < TM_ARRAY_SIZE(garbage); i++) {
		put(p, garbage[i]);
		put(p, "{\"ok\":1}\n");
		assert_int_equal(tm_conn_fill(p->conn), 0);
		assert_int_equal(tm_conn_next(p->conn, &message), -EBADMSG);
		expect(p, "{\"ok\":1}");
	}
}

static void long_lines_are_refused(void **state)
{
	struct pair *p = *state;
	char chunk[512];
	json_t *message;
	size_t sent = 0;
	int rc;

	memset(chunk, 'x', sizeof(chunk));
	do {
		sent += (size_t)send(p->raw, chunk, sizeof(chunk), MSG_NOSIGNAL);
		assert_int_equal(tm_conn_fill(p->conn), 0);
		rc = tm_conn_next(p->conn, &message);
	} while (rc == -EAGAIN);
	assert_int_equal(rc, -EMSGSIZE);
	assert_in_range(sent, LINE_MAX_TEST, LINE_MAX_TEST + 2 * sizeof(chunk));
	/* And it stays so, however much more is read. */
	assert_int_equal(tm_conn_fill(p->conn), 0);
	assert_int_equal(tm_conn_next(p->conn, &message), -EMSGSIZE);
}

static void longest_line_is_taken(void **state)
{
	struct pair *p = *state;
	char *line = malloc(LINE_MAX_TEST + 2);
	json_t *message;

	memset(line, ' ', LINE_MAX_TEST);
	line[0] = '{';
	line[LINE_MAX_TEST - 1] = '}';
	strcpy(line + LINE_MAX_TEST, "\n");
	put(p, line);
	free(line);
	assert_int_equal(tm_conn_fill(p->conn), 0);
	while (tm_conn_next(p->conn, &message) == -EAGAIN)
		assert_int_equal(tm_conn_fill(p->conn), 0);
	json_decref(message);
}

static void end_is_seen(void **state)
{
	struct pair *p = *state;
	json_t *message;

	put(p, "{\"last\":1}\n{\"half");
	close(p->raw);
	p->raw = -1;
	assert_int_equal(tm_conn_fill(p->conn), 0);
	assert_int_equal(tm_conn_fill(p->conn), -EPIPE);
	expect(p, "{\"last\":1}");
	assert_int_equal(tm_conn_next(p->conn, &message), -EAGAIN);
	assert_int_equal(tm_conn_send(p->conn, json_object(), -1), -EPIPE);
}

static void queue_is_bounded_and_drains(void **state)
{
	struct pair *p = *state;
	char *text = calloc(1, 65536);
	size_t sent = 0, got = 0;
	int rc;

	memset(text, 'y', 65535);
	while ((rc = tm_conn_send(p->conn, json_pack("{s:s}", "t", text), -1)) == 0)
		sent++;
	assert_int_equal(rc, -ENOBUFS);
	assert_in_range(tm_conn_queued(p->conn), 1, 1 << 20);
	assert_int_equal(fcntl(p->raw, F_SETFL, O_NONBLOCK), 0);
	while (tm_conn_queued(p->conn) > 0 || got < sent) {
		ssize_t n = read(p->raw, text, 65536);

		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++)
			got += text[i] == '\n';
		assert_int_equal(tm_conn_flush(p->conn), 0);
	}
	assert_int_equal(got, sent);
	free(text);
}

static void descriptors_travel(void **state)
{
	struct pair *p = *state;
	struct tm_conn *peer;
	struct stat a, b;
	json_t *message;
	int fd = eventfd(0, EFD_CLOEXEC), got;

	assert_int_equal(tm_conn_open(p->raw, LINE_MAX_TEST, 1 << 20, &peer), 0);
	p->raw = -1;
	assert_int_equal(tm_conn_send(peer, json_pack("{s:i}", "n", 1), -1), 0);
	assert_int_equal(tm_conn_send(peer, json_pack("{s:i}", "n", 2), fd), 0);
	assert_int_equal(tm_conn_receive(p->conn, -1, 1000, &message), 0);
	json_decref(message);
	assert_int_equal(tm_conn_receive(p->conn, -1, 1000, &message), 0);
	json_decref(message);
	got = tm_conn_take_fd(p->conn);
	assert_true(got >= 0 && got != fd);
	assert_int_equal(fcntl(got, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fstat(fd, &a) | fstat(got, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(tm_conn_take_fd(p->conn), -1);
	/* One that nobody takes is closed with the connection (the sanitizer's run would tell). */
	assert_int_equal(tm_conn_send(peer, json_object(), fd), 0);
	assert_int_equal(tm_conn_fill(p->conn), 0);
	close(got);
	close(fd);
	tm_conn_close(peer);
}

static void receive_waits_no_longer_than_told(void **state)
{
	struct pair *p = *state;
	int wake = eventfd(1, EFD_CLOEXEC);
	json_t *message;

	assert_int_equal(tm_conn_receive(p->conn, -1, 10, &message), -ETIMEDOUT);
	assert_int_equal(tm_conn_receive(p->conn, wake, -1, &message), -ECANCELED);
	close(wake);
}

static void dial_says_who_is_not_there(void **state)
{
	char path[200];
	struct tm_conn *conn;

	(void)state;
	assert_int_equal(tm_conn_dial("/nonexistent/socket", &conn), -ENOENT);
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(tm_conn_dial(path, &conn), -ENAMETOOLONG);
}

/* The text of a message, which is freed. */
static void assert_text(json_t *message, const char *wanted)
{
	char *text = json_dumps(message, JSON_COMPACT);

	assert_string_equal(text, wanted);
	free(text);
	json_decref(message);
}

static void messages_look_as_documented(void **state)
{
	struct tm_error error;
	json_t *id = json_string("x");

	(void)state;
	assert_int_equal(tm_error_set(&error, TM_ERROR_NO_CLIENT, "no client '%s'", "a"), -EINVAL);
	assert_text(tm_proto_greeting(),
		"{\"tmem\":{\"version\":\"0.1\",\"protocol\":1,\"capabilities\":[]}}");
	assert_text(tm_proto_request("list", NULL, id), "{\"execute\":\"list\",\"id\":\"x\"}");
	assert_text(tm_proto_return(NULL, NULL), "{\"return\":{}}");
	assert_text(tm_proto_error(&error, id),
		"{\"error\":{\"class\":\"NoSuchClient\",\"desc\":\"no client 'a'\"},\"id\":\"x\"}");
	assert_text(tm_proto_event("shrink", NULL), "{\"event\":\"shrink\",\"data\":{}}");
	json_decref(id);
}

static void requests_are_checked(void **state)
{
	static const struct {
		const char *text, *desc; /* NULL: fine */
	} cases[] = {
		{"{\"execute\":\"list\"}", NULL},
		{"{\"execute\":\"list\",\"arguments\":{},\"id\":[1]}", NULL},
		{"{}", "a request needs a string 'execute'"},
		{"{\"execute\":1}", "a request needs a string 'execute'"},
		{"{\"execute\":\"list\",\"arguments\":[]}", "'arguments' is not an object"},
		{"{\"execute\":\"list\",\"exec\\u0001ute\":1}", "unknown key 'exec?ute'"},
	};

	(void)state;
	for (size_t i = 0; i < TM_ARRAY_SIZE(cases); i++) {
		json_t *message = json_loads(cases[i].text, 0, NULL);
		struct tm_request request;
		struct tm_error error;
		int rc = tm_proto_parse_request(message, &request, &error);

		assert_int_equal(rc, cases[i].desc ? -EINVAL : 0);
		if (cases[i].desc)
			assert_string_equal(error.desc, cases[i].desc);
		json_decref(message);
	}
}

static void text_is_made_printable(void **state)
{
	char text[8];
	const char no_nul[4] = {'a', 'b', 'c', 'd'};

	(void)state;
	assert_string_equal(
		tm_printable(text, sizeof(text), "a\n\x1b\xc3\xa9z", SIZE_MAX), "a????z");
	assert_string_equal(tm_printable(text, sizeof(text), "0123456789", SIZE_MAX), "0123456");
	assert_string_equal(tm_printable(text, sizeof(text), no_nul, sizeof(no_nul)), "abcd");
}

/* Whatever arrives, the reader neither crashes nor stops to find the next whole line. */
static void mutated_lines_do_no_harm(void **state)
{
	static const char seed[] =
		"{\"execute\":\"set\",\"arguments\":{\"client\":\"a\",\"weight\":100},\"id\":7}";
	struct pair *p = *state;

	srand(7);
	for (int round = 0; round < MUTATIONS; round++) {
		char line[sizeof(seed) + 1];
		json_t *message = NULL;
		int rc;

		memcpy(line, seed, sizeof(seed));
		for (int i = rand() % 6; i >= 0; i--)
			line[(size_t)rand() % (sizeof(seed) - 1)] = (char)rand();
		strcpy(line + sizeof(seed) - 1, "\n");
		assert_int_equal(send(p->raw, line, sizeof(seed), MSG_NOSIGNAL), sizeof(seed));
		assert_int_equal(tm_conn_fill(p->conn), 0);
		while ((rc = tm_conn_next(p->conn, &message)) != -EAGAIN) {
			struct tm_request request;
			struct tm_error error;

			assert_true(rc == 0 || rc == -EBADMSG);
			if (rc == 0) {
				tm_proto_parse_request(message, &request, &error);
				json_decref(message);
			}
		}
	}
	put(p, "{\"end\":1}\n");
	assert_int_equal(tm_conn_fill(p->conn), 0);
	expect(p, "{\"end\":1}");
}

#define with_pair(f) cmocka_unit_test_setup_teardown(f, pair_open, pair_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_pair(lines_come_in_pieces),
		with_pair(garbage_costs_one_line),
		with_pair(long_lines_are_refused),
		with_pair(longest_line_is_taken),
		with_pair(end_is_seen),
		with_pair(queue_is_bounded_and_drains),
		with_pair(descriptors_travel),
		with_pair(receive_waits_no_longer_than_told),
		cmocka_unit_test(dial_says_who_is_not_there),
		cmocka_unit_test(messages_look_as_documented),
		cmocka_unit_test(requests_are_checked),
		cmocka_unit_test(text_is_made_printable),
		with_pair(mutated_lines_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
