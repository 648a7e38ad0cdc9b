/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.c - one connection to tmemd
 *
 * Requests of one session are answered one after the other, and the next one is looked at only when
 * the last reply is on its way:
 *
 *      fill -> next -> command -> reply queued -> flushed -> next ...
 *                         \-> wait (for clients) -> reply ...
 *
 * Invariants
 *   1. While a reply is queued or a command waits, nothing more is read: the peer's own socket
 * buffer is what fills up, so memory is bounded by one line and one reply.
 *   2. One turn runs at most TURN_REQUESTS requests, so nobody starves the others.
 *   3. A dead session sends and runs nothing; only the server frees it.
 */
#include "tools/tmemd/session.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "core/util.h"
#include "tools/tmemd/commands.h"
#include "tools/tmemd/fdstore.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/orders.h"
#include "tools/tmemd/snapshot.h"
#include "tools/tmemd/wait.h"
#include "tools/tmemd/watch.h"

#define TURN_REQUESTS 16
#define STALL_NS      10000000000ull

struct tm_session {
	struct tm_host *host;
	struct tm_conn *conn;
	struct ucred peer;
	struct tm_client *client; /* NULL: an operator, or not joined yet */
	struct tm_wait *wait;     /* the command in progress, or NULL */
	struct tm_watcher *watcher;
	enum tm_role role;
	double tokens;            /* requests it may still make at once, see take_token() */
	uint64_t tokens_ns;       /* as of then */
	bool dead, ready, at_end; /* at_end: the peer sends no more */
	bool throttled;           /* it made too many requests: tm_session_tick() goes on */
	size_t queued_before;     /* bytes queued when progress was last looked at */
	uint64_t progress_ns;     /* when fewer bytes were queued than before, or none */
};

int tm_session_new(struct tm_host *host, int fd, const struct ucred *peer, enum tm_role role,
	struct tm_session **ret_session)
{
	struct tm_session *session = calloc(1, sizeof(*session));
	int rc;

	if (!session) {
		close(fd);
		return -ENOMEM;
	}
	session->host = host;
	session->peer = *peer;
	session->role = role;
	session->tokens = host->config.max_rate;
	session->tokens_ns = tm_now_ns();
	session->progress_ns = tm_now_ns();
	rc = tm_conn_open(fd, host->config.max_line, TM_PROTO_REPLY_MAX, &session->conn);
	if (rc < 0) {
		free(session);
		return rc;
	}
	tm_session_send(session, tm_proto_greeting());
	*ret_session = session;
	return 0;
}

void tm_session_free(struct tm_session *session)
{
	struct tm_client *client = session->client;
	bool keeps;

	tm_watch_stop(session->watcher);
	if (session->wait)
		tm_wait_cancel(session->wait);
	if (client) {
		tm_snapshot_client_gone(client);
		tm_watch_client(session->host, "left", client);
		tm_wait_client_gone(session->host, client);
		if (client->kept[TM_KEPT_STORE] < 0 || client->took_leave) {
			tm_log("client %u '%s' left", client->id, client->name);
			tm_fdstore_forget(session->host, client);
			keeps = client->kept[TM_KEPT_STORE] >= 0;
			tm_registry_remove(session->host->registry, client);
			if (keeps)
				tm_orders_keep(session->host);
		} else {
			tm_log("client %u '%s' died; its memory is kept", client->id, client->name);
			tm_client_orphaned(client);
		}
		tm_lease_update(session->host);
	}
	tm_conn_close(session->conn);
	free(session);
}

void tm_session_send_fd(struct tm_session *session, json_t *message, int fd)
{
	if (session->dead)
		json_decref(message);
	else if (tm_conn_send(session->conn, message, fd) < 0)
		session->dead = true;
}

void tm_session_send(struct tm_session *session, json_t *message)
{
	tm_session_send_fd(session, message, -1);
}

bool tm_session_event_fd(struct tm_session *session, const char *event, json_t *data, int fd)
{
	if (!session || session->dead || tm_conn_queued(session->conn) > 0) {
		json_decref(data);
		return false;
	}
	tm_session_send_fd(session, tm_proto_event(event, data), fd);
	return !session->dead;
}

bool tm_session_event(struct tm_session *session, const char *event, json_t *data)
{
	return tm_session_event_fd(session, event, data, -1);
}

/* Answer a line that is no message. False when nothing more can be read from this peer. */
static bool refuse_line(struct tm_session *session, int rc)
{
	struct tm_error error = {TM_ERROR_PROTOCOL, ""};

	if (rc == -EBADMSG) {
		tm_error_set(&error, TM_ERROR_PROTOCOL, "the line is no JSON object");
	} else {
		session->host->counters.lines_refused++;
		tm_error_set(&error, TM_ERROR_PROTOCOL, "a line has more than %u bytes",
			session->host->config.max_line);
	}
	tm_session_send(session, tm_proto_error(&error, NULL));
	return rc == -EBADMSG;
}

static bool session_is_blocked(const struct tm_session *session)
{
	return session->dead || session->wait || session->throttled ||
		tm_conn_queued(session->conn) > 0;
}

/* A request costs a token; max_rate of them come back each second, up to that number. False when
 * there is none: the peer waits, and its own socket buffer is what fills up. */
static bool take_token(struct tm_session *session)
{
	double rate = session->host->config.max_rate;
	uint64_t now = tm_now_ns();

	session->tokens += rate * (double)(now - session->tokens_ns) / 1e9;
	session->tokens = TM_MIN(session->tokens, rate);
	session->tokens_ns = now;
	if (session->tokens < 1) {
		if (!session->throttled)
			session->host->counters.requests_delayed++;
		session->throttled = true;
		return false;
	}
	session->tokens--;
	session->throttled = false;
	return true;
}

void tm_session_run(struct tm_session *session)
{
	int done = 0;

	session->ready = false;
	while (!session_is_blocked(session)) {
		json_t *message;
		int fd, rc;

		if (done++ == TURN_REQUESTS) {
			session->ready = session->host->sessions_ready = true;
			return;
		}
		if (tm_conn_has_line(session->conn) && !take_token(session))
			return;
		rc = tm_conn_next(session->conn, &message);
		if (rc == -EAGAIN) {
			session->dead = session->at_end;
			return;
		}
		if (rc == 0) {
			tm_command_run(session->host, session, message);
			json_decref(message);
			fd = tm_conn_take_fd(session->conn);
			if (fd >= 0)
				close(fd);
		} else if (!refuse_line(session, rc)) {
			session->dead = true;
		}
	}
}

void tm_session_handle(struct tm_session *session, uint32_t events)
{
	int rc = 0;

	if (session->dead)
		return;
	if (events & EPOLLOUT)
		rc = tm_conn_flush(session->conn);
	if (rc == 0 && !session_is_blocked(session) && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		rc = tm_conn_fill(session->conn);
		/* Requests sent before the end are still run; their replies may find a reader. */
		if (rc == -EPIPE) {
			session->at_end = true;
			rc = 0;
		}
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		session->dead = true;
	}
	if (rc < 0 && rc != -EAGAIN)
		session->dead = true;
	tm_session_run(session);
}

void tm_session_drop(struct tm_session *session, const char *does_not)
{
	if (session->dead)
		return;
	tm_log("dropped pid %d, which %s", (int)session->peer.pid, does_not);
	session->dead = true;
}

void tm_session_tick(struct tm_session *session, uint64_t now)
{
	size_t queued = tm_conn_queued(session->conn);

	if (session->throttled) {
		session->throttled = false;
		session->ready = session->host->sessions_ready = true;
	}
	if (queued == 0 || queued < session->queued_before)
		session->progress_ns = now;
	session->queued_before = queued;
	/* A client that is stopped keeps its lease: its memory is still there. */
	if (!session->client && now - session->progress_ns > STALL_NS) {
		session->host->counters.peers_dropped++;
		tm_session_drop(session, "does not read its replies");
	}
}

enum tm_role tm_session_role(const struct tm_session *session)
{
	return session->role;
}

size_t tm_session_queued(const struct tm_session *session)
{
	return tm_conn_queued(session->conn);
}

struct tm_watcher *tm_session_watcher(const struct tm_session *session)
{
	return session->watcher;
}

void tm_session_set_watcher(struct tm_session *session, struct tm_watcher *watcher)
{
	session->watcher = watcher;
}

uint32_t tm_session_interest(const struct tm_session *session)
{
	uint32_t interest = session_is_blocked(session) ? 0 : EPOLLIN;

	return interest | (tm_conn_queued(session->conn) > 0 ? EPOLLOUT : 0);
}

int tm_session_fd(const struct tm_session *session)
{
	return tm_conn_fd(session->conn);
}

bool tm_session_is_dead(const struct tm_session *session)
{
	return session->dead;
}

bool tm_session_is_ready(const struct tm_session *session)
{
	return session->ready;
}

struct tm_client *tm_session_client(const struct tm_session *session)
{
	return session->client;
}

int tm_session_take_fd(struct tm_session *session)
{
	return tm_conn_take_fd(session->conn);
}

void tm_session_peer(const struct tm_session *session, struct ucred *ret_peer)
{
	*ret_peer = session->peer;
}

void tm_session_set_client(struct tm_session *session, struct tm_client *client)
{
	session->client = client;
}

void tm_session_set_wait(struct tm_session *session, struct tm_wait *wait)
{
	session->wait = wait;
	if (!wait)
		session->ready = session->host->sessions_ready = true;
}
