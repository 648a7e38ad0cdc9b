/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * link.c - a client's connection to its host
 *
 * One thread, one loop; every wait also polls `stop_fd`, so that stopping never waits for the host:
 *
 *      link_run:  dial -> (nobody there) host_start, back off, dial      (or: wait to be called)
 *                  |
 *                 join -> (refused, other version) back off, dial
 *                  |
 *                 serve -> (host gone) back off, dial
 *                  |
 *                 (event destroy) ended
 *
 * Invariants
 *   1. Between attempts at least BACKOFF_MIN_MS pass, but for the one right after a host was
 * started, so a host that dies at once costs little. In the place of one that was lost none is
 * started before the backoff is at its longest: who supervises it (systemd) has what dead clients
 * left, and starts it first.
 *   2. A host that was started is reaped by its own pid: no zombie is left, and no child of the
 * host program is touched.
 *   3. The thread takes no signal: handlers of the host program run in its own threads.
 *
 * Locking: `answer_lock` for an answer that other threads leave. `counters` are atomic; everything
 * else belongs to the thread after the start.
 */
#include "core/link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/host_start.h"
#include "core/ledger.h"
#include "core/proto.h"
#include "core/util.h"

#define BACKOFF_MIN_MS     100
#define BACKOFF_MAX_MS     1000
#define BACKOFF_VERSION_MS 10000
#define REPLY_TIMEOUT_MS   10000
#define RECLAIM_TIMEOUT_MS 2000
#define DYING_MS           500 /* until the host has seen that a client was killed */
#define THREAD_STACK       (256u << 10)
#define HURRY_NICE         (-10)

struct tm_link {
	struct tm_link_params params; /* its strings are the ones below */
	char *name, *type, *socket;
	int stop_fd;    /* readable once the thread has to end */
	bool successor; /* what the host has under our name is ours, also after it lost us */
	pthread_t thread;
	_Atomic uint64_t joins, refusals, version_mismatches, host_starts;

	int call_fd; /* readable when there is an answer, or the thread has to end */
	pthread_mutex_t answer_lock;
	struct tm_link_answer answer; /* its lock's, as has_answer */
	bool has_answer;
};

static void count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* False when the link has to stop. A signal that glibc sends to every thread, for setuid(), ends it
 * sooner. */
static bool link_sleep(struct tm_link *link, int ms)
{
	struct pollfd fd = {link->stop_fd, POLLIN, 0};

	return poll(&fd, 1, ms) <= 0;
}

/* Read the greeting. 0; -EPROTO another version, or no host at all; errors of tm_conn_receive. */
static int link_greet(struct tm_link *link, struct tm_conn *conn)
{
	json_t *message;
	int rc = tm_conn_receive(conn, link->stop_fd, REPLY_TIMEOUT_MS, &message);

	if (rc < 0)
		return rc;
	rc = tm_proto_greeting_version(message);
	json_decref(message);
	return rc == TM_PROTO_VERSION ? 0 : -EPROTO;
}

/* Send the answer that another thread has left, if there is one. */
static int link_send_answer(struct tm_link *link, struct tm_conn *conn)
{
	struct tm_link_answer answer;
	json_t *arguments;
	bool has;

	pthread_mutex_lock(&link->answer_lock);
	answer = link->answer;
	has = link->has_answer;
	link->has_answer = false;
	pthread_mutex_unlock(&link->answer_lock);
	if (!has)
		return 0;
	arguments = json_pack("{s:I,s:I,s:I,s:I,s:I}", "ticket", (json_int_t)answer.ticket, "pages",
		(json_int_t)answer.pages, "skipped", (json_int_t)answer.skipped, "bytes",
		(json_int_t)answer.bytes, "pause_ns", (json_int_t)answer.pause_ns);
	if (answer.failed) {
		char text[TM_WHY_MAX];

		tm_printable(text, sizeof(text), answer.why, sizeof(answer.why));
		json_object_set_new(arguments, "error", json_string(text));
	}
	return arguments ? tm_conn_send(conn, tm_proto_request("transferred", arguments, NULL), -1)
			 : -ENOMEM;
}

void tm_link_answer(struct tm_link *link, const struct tm_link_answer *answer)
{
	pthread_mutex_lock(&link->answer_lock);
	link->answer = *answer;
	link->has_answer = true;
	pthread_mutex_unlock(&link->answer_lock);
	eventfd_write(link->call_fd, 1);
}

/* The event save or restore. */
static void link_transfer(
	struct tm_link *link, struct tm_conn *conn, const json_t *data, bool restore)
{
	const struct tm_link_ops *ops = &link->params.ops;
	struct tm_link_transfer transfer = {
		.ticket = (uint64_t)json_integer_value(json_object_get(data, "ticket")),
		.restore = restore,
		.live = json_is_true(json_object_get(data, "live")),
		.hold = json_is_true(json_object_get(data, "hold")),
		.fd = tm_conn_take_fd(conn),
	};
	struct tm_link_answer answer = {.ticket = transfer.ticket, .failed = true};
	int rc = transfer.fd >= 0 && ops->transfer ? ops->transfer(ops->opaque, link, &transfer)
						   : -EOPNOTSUPP;

	if (rc == 0)
		return;
	if (transfer.fd >= 0)
		close(transfer.fd);
	snprintf(answer.why, sizeof(answer.why), "%s", strerror(-rc));
	tm_link_answer(link, &answer);
}

/* Memory is asked for because somebody waits for it, on a machine that may be busy just then: this
 * thread goes before others until it is done, where it may. It takes 65 ms a GiB. */
static void hurry(bool on)
{
	static __thread int usual;

	if (on)
		usual = getpriority(PRIO_PROCESS, 0);
	(void)setpriority(PRIO_PROCESS, 0, on ? TM_MIN(usual, HURRY_NICE) : usual);
}

/* Do what an event asks for. 0; -ESHUTDOWN the client was destroyed; errors of tm_conn_send. */
static int link_handle(struct tm_link *link, struct tm_conn *conn, const json_t *message)
{
	const struct tm_link_ops *ops = &link->params.ops;
	const char *event = json_string_value(json_object_get(message, "event"));
	const json_t *data = json_object_get(message, "data");

	if (!event) /* the reply to `released` */
		return 0;
	if (strcmp(event, "release") == 0) {
		json_int_t bytes = json_integer_value(json_object_get(data, "bytes"));
		json_int_t ticket = json_integer_value(json_object_get(data, "ticket"));
		uint64_t released = 0;

		hurry(true);
		if (bytes > 0 && ops->release)
			released = ops->release(ops->opaque, (uint64_t)bytes);
		hurry(false);
		json_t *answer = json_pack("{s:I,s:I}", "ticket", ticket, "bytes",
			(json_int_t)TM_MIN(released, (uint64_t)INT64_MAX));

		return answer ? tm_conn_send(conn, tm_proto_request("released", answer, NULL), -1)
			      : -ENOMEM;
	}
	if (strcmp(event, "shrink") == 0 && ops->shrink) {
		hurry(true);
		ops->shrink(ops->opaque);
		hurry(false);
	}
	if (strcmp(event, "save") == 0 || strcmp(event, "restore") == 0)
		link_transfer(link, conn, data, *event == 'r');
	if (strcmp(event, "resume") == 0 && ops->resume)
		ops->resume(ops->opaque);
	if (strcmp(event, "sharer") == 0 && link->params.sharer)
		link->params.sharer(ops->opaque, tm_conn_take_fd(conn),
			(uid_t)json_integer_value(json_object_get(data, "uid")));
	if (strcmp(event, "destroy") == 0) {
		if (ops->destroy)
			ops->destroy(ops->opaque);
		return -ESHUTDOWN;
	}
	return 0; /* an event of a newer host is no business of ours */
}

/* Send a request and wait for its answer; events may come before it. Steals `arguments`. 0; -EACCES
 * refused; as link_greet and link_handle. */
static int link_ask(
	struct tm_link *link, struct tm_conn *conn, const char *execute, json_t *arguments, int fd)
{
	bool answered = false;
	int rc = arguments ? tm_conn_send(conn, tm_proto_request(execute, arguments, NULL), fd)
			   : -ENOMEM;

	while (rc == 0 && !answered) {
		json_t *message;

		rc = tm_conn_receive(conn, link->stop_fd, REPLY_TIMEOUT_MS, &message);
		if (rc < 0)
			return rc;
		answered = !json_object_get(message, "event");
		if (!answered)
			rc = link_handle(link, conn, message);
		else if (!json_object_get(message, "return"))
			rc = -EACCES;
		json_decref(message);
	}
	return rc;
}

static int link_keep(struct tm_link *link, struct tm_conn *conn, const char *what, int fd)
{
	json_t *arguments;
	int rc;

	if (fd < 0)
		return 0;
	arguments = json_pack("{s:s}", "what", what);
	if (link->params.cache)
		json_object_set_new(arguments, "cache", json_true());
	rc = link_ask(link, conn, "keep", arguments, fd);
	/* Another client of this name keeps its own, say. */
	return rc == -EACCES && link->params.cache ? 0 : rc;
}

/* Hand over the ledger, then what shall be kept. */
static int link_join(struct tm_link *link, struct tm_conn *conn)
{
	json_t *arguments = json_pack("{s:s,s:s,s:I,s:i}", "name", link->name, "type", link->type,
		"pid", (json_int_t)getpid(), "protocol", TM_PROTO_VERSION);
	int rc;

	if (link->successor)
		json_object_set_new(arguments, "successor", json_true());
	if (link->params.weight)
		json_object_set_new(arguments, "weight", json_integer(link->params.weight));
	rc = link_ask(link, conn, "join", arguments, link->params.ledger_fd);

	/* The state first: a store is of no use without it. */
	if (rc == 0)
		rc = link_keep(link, conn, "state", link->params.state_fd);
	if (rc == 0)
		rc = link_keep(link, conn, "store", link->params.store_fd);
	if (rc == 0)
		link->successor = link->params.store_fd >= 0;
	return rc;
}

/* Going in peace: nothing is to be kept. A full socket is no reason to wait. */
static void link_leave(struct tm_conn *conn)
{
	(void)tm_conn_send(conn, tm_proto_request("leave", NULL, NULL), -1);
}

/* Serve a host until it goes away. Never 0. */
static int link_serve(struct tm_link *link, struct tm_conn *conn)
{
	for (;;) {
		json_t *message;
		int rc = link_send_answer(link, conn);

		if (rc == 0)
			rc = tm_conn_receive(conn, link->call_fd, -1, &message);
		if (rc == 0) {
			rc = link_handle(link, conn, message);
			json_decref(message);
		} else if (rc == -ECANCELED && link_sleep(link, 0)) {
			eventfd_t calls;

			rc = eventfd_read(link->call_fd, &calls) < 0 ? -errno : 0;
		}
		if (rc < 0)
			return rc;
	}
}

/* Wait for a host to call. Errors of tm_conn_open; -ECANCELED. */
static int link_accept(struct tm_link *link, struct tm_conn **ret_conn)
{
	struct pollfd fds[] = {{link->params.listen_fd, POLLIN, 0}, {link->stop_fd, POLLIN, 0}};
	int fd;

	while (poll(fds, TM_ARRAY_SIZE(fds), -1) < 0)
		if (errno != EINTR)
			return -errno;
	if (fds[1].revents)
		return -ECANCELED;
	fd = accept4(link->params.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return -errno;
	return tm_conn_open(fd, TM_PROTO_REPLY_MAX, TM_PROTO_LINE_MAX, ret_conn);
}

/* One connection from dial to end. Returns why it ended; *ret_joined tells whether it ever worked.
 */
static int link_attempt(struct tm_link *link, bool *ret_joined)
{
	struct tm_conn *conn;
	int rc = link->params.sharer ? link_accept(link, &conn) : tm_conn_dial(link->socket, &conn);

	if (rc < 0)
		return rc;
	rc = link_greet(link, conn);
	if (rc == -EPROTO)
		count(&link->version_mismatches);
	if (rc == 0)
		rc = link_join(link, conn);
	if (rc == -EACCES)
		count(&link->refusals);
	if (rc == 0) {
		count(&link->joins);
		*ret_joined = true;
		rc = link_serve(link, conn);
		if (rc == -ECANCELED || rc == -ESHUTDOWN)
			link_leave(conn);
	}
	tm_conn_close(conn);
	return rc;
}

static void *link_run(void *arg)
{
	struct tm_link *link = arg;
	int backoff = BACKOFF_MIN_MS;
	bool lost = false;

	pthread_setname_np(pthread_self(), "tmem-link");
	for (;;) {
		bool joined = false;
		int rc = link_attempt(link, &joined);

		if (rc == -ECANCELED || rc == -ESHUTDOWN)
			return NULL;
		if (joined) {
			backoff = BACKOFF_MIN_MS;
			lost = true;
		}
		if ((rc == -ENOENT || rc == -ECONNREFUSED) && link->params.start_host &&
			(!lost || backoff == BACKOFF_MAX_MS)) {
			count(&link->host_starts);
			/* Started: it listens by now. */
			if (tm_host_start(link->socket, link->stop_fd) == 0 &&
				(lost || backoff == BACKOFF_MIN_MS))
				rc = 0;
			lost = false;
		}
		if (!link_sleep(link, rc == -EPROTO ? BACKOFF_VERSION_MS : rc == 0 ? 0 : backoff))
			return NULL;
		backoff = TM_MIN(backoff * 2, BACKOFF_MAX_MS);
	}
}

static void link_free(struct tm_link *link)
{
	if (link->stop_fd >= 0)
		close(link->stop_fd);
	if (link->call_fd >= 0)
		close(link->call_fd);
	pthread_mutex_destroy(&link->answer_lock);
	free(link->name);
	free(link->type);
	free(link->socket);
	free(link);
}

/* Start the thread with every signal blocked. */
static int link_start_thread(struct tm_link *link)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return -rc;
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&link->thread, &attr, link_run, link);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -rc;
}

int tm_link_start(const struct tm_link_params *params, struct tm_link **ret_link)
{
	struct tm_link *link = calloc(1, sizeof(*link));
	int rc = -ENOMEM;

	if (!link)
		return -ENOMEM;
	link->params = *params;
	link->successor = params->successor;
	link->name = strdup(params->name);
	link->type = strdup(params->type);
	link->socket = tm_socket_path(params->socket);
	pthread_mutex_init(&link->answer_lock, NULL);
	link->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	link->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (link->stop_fd < 0 || link->call_fd < 0)
		rc = -errno;
	else if (!link->name || !link->type || !link->socket)
		rc = -ENOMEM;
	else if (strlen(link->socket) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		rc = -ENAMETOOLONG;
	else
		rc = link_start_thread(link);
	if (rc < 0)
		link_free(link);
	else
		*ret_link = link;
	return rc;
}

/* What a refusal means. */
static int refusal(const json_t *message)
{
	const char *class =
		json_string_value(json_object_get(json_object_get(message, "error"), "class"));

	return class && strcmp(class, tm_error_descs[TM_ERROR_BUSY].word) == 0 ? -EBUSY : -ENOENT;
}

/* One question to the host. 0, *ret_fd and *ret_reply (the caller's reference); -ENOENT; -EBUSY. */
static int reclaim(struct tm_conn *conn, const char *name, const char *type, const char *what,
	int *ret_fd, json_t **ret_reply)
{
	json_t *arguments = json_pack("{s:s,s:s,s:s}", "name", name, "type", type, "what", what);
	json_t *message;
	int rc, fd;

	if (!arguments)
		return -ENOMEM;
	rc = tm_conn_send(conn, tm_proto_request("reclaim", arguments, NULL), -1);
	if (rc == 0)
		rc = tm_conn_receive(conn, -1, RECLAIM_TIMEOUT_MS, &message);
	if (rc < 0)
		return rc;
	fd = tm_conn_take_fd(conn);
	if (fd < 0 || !json_object_get(message, "return")) {
		rc = refusal(message);
		json_decref(message);
		if (fd >= 0)
			close(fd);
		return rc;
	}
	*ret_fd = fd;
	*ret_reply = message;
	return 0;
}

static int reclaim_all(
	struct tm_conn *conn, const char *name, const char *type, struct tm_legacy *ret_legacy)
{
	struct tm_legacy legacy = {-1, -1, 0};
	json_t *message;
	int rc = tm_conn_receive(conn, -1, RECLAIM_TIMEOUT_MS, &message);

	if (rc < 0)
		return rc;
	rc = tm_proto_greeting_version(message) == TM_PROTO_VERSION ? 0 : -EPROTO;
	json_decref(message);
	if (rc == 0)
		rc = reclaim(conn, name, type, "store", &legacy.store_fd, &message);
	if (rc < 0)
		return rc;
	legacy.segment_bytes = (uint32_t)json_integer_value(
		json_object_get(json_object_get(message, "return"), "segment_bytes"));
	json_decref(message);
	if (reclaim(conn, name, type, "state", &legacy.state_fd, &message) == 0)
		json_decref(message);
	*ret_legacy = legacy;
	return 0;
}

/* Where the socket of a host is that was killed, its successor may be on its way, with all that was
 * left: beginning anew would lose that. */
static int dial_patiently(const char *path, struct tm_conn **ret_conn)
{
	const struct timespec pause = {.tv_nsec = BACKOFF_MIN_MS * 1000000 / 2};
	uint64_t until = tm_now_ns() + RECLAIM_TIMEOUT_MS * 1000000ull;
	int rc;

	while ((rc = tm_conn_dial(path, ret_conn)) == -ECONNREFUSED && tm_now_ns() < until)
		nanosleep(&pause, NULL);
	return rc;
}

static int reclaim_once(const char *path, const char *name, const char *type, bool patient,
	struct tm_legacy *ret_legacy)
{
	struct tm_conn *conn;
	int rc = patient ? dial_patiently(path, &conn) : tm_conn_dial(path, &conn);

	if (rc < 0)
		return rc;
	rc = reclaim_all(conn, name, type, ret_legacy);
	tm_conn_close(conn);
	return rc;
}

int tm_link_reclaim(const char *socket, const char *name, const char *type, bool patient,
	struct tm_legacy *ret_legacy)
{
	const struct timespec pause = {.tv_nsec = BACKOFF_MIN_MS * 1000000 / 2};
	TM_AUTO_FREE char *path = tm_socket_path(socket);
	uint64_t until = tm_now_ns() + DYING_MS * 1000000ull;
	int rc;

	if (!path)
		return -ENOMEM;
	while ((rc = reclaim_once(path, name, type, patient, ret_legacy)) == -EBUSY && !patient &&
		tm_now_ns() < until)
		nanosleep(&pause, NULL);
	return rc;
}

void tm_link_count(struct tm_link *link, struct tm_link_counters *ret_counters)
{
	ret_counters->joins = atomic_load(&link->joins);
	ret_counters->refusals = atomic_load(&link->refusals);
	ret_counters->version_mismatches = atomic_load(&link->version_mismatches);
	ret_counters->host_starts = atomic_load(&link->host_starts);
}

void tm_link_stop(struct tm_link *link)
{
	if (!link)
		return;
	eventfd_write(link->stop_fd, 1);
	eventfd_write(link->call_fd, 1);
	pthread_join(link->thread, NULL);
	link_free(link);
}
