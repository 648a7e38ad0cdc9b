/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.c - the loop of tmemd
 *
 *      epoll: listening socket | signals | sessions      -> handle, run, reap
 *             pressure                                    -> leases
 *      every 100, 50 or 10 ms while there are clients     -> leases, waits
 *      every second while there is any session            -> peers that do not read
 *
 * Invariants
 *   1. Nothing in the loop blocks: sockets are nonblocking, and files of the kernel are all that is
 * read.
 *   2. Sessions are freed only by reap(), after the events of one epoll_wait are handled, so an
 *      event never meets a session that is gone.
 *   3. At most SESSIONS_MAX sessions, of them max_connections that have not joined.
 *
 * Locking: none; one thread.
 */
#include "tools/tmemd/server.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "core/util.h"
#include "tools/tmemd/door.h"
#include "tools/tmemd/fdstore.h"
#include "tools/tmemd/launch.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/peer.h"
#include "tools/tmemd/session.h"
#include "tools/tmemd/wait.h"
#include "tools/tmemd/watch.h"

#define SESSIONS_MAX (TM_CONTROL_MAX + TM_CLIENTS_MAX) /* the parameters may say less */
#define EVENTS_BATCH 64
#define SLOW_TICK_NS 1000000000ull
#define ACCEPT_BATCH 16
#define DOOR_TICK_MS 50

struct server {
	struct tm_host *host;
	int listen_fd, epoll_fd, signal_fd;
	struct tm_session *sessions[SESSIONS_MAX];
	uint32_t interest[SESSIONS_MAX]; /* what epoll knows of each */
	size_t count;
	uint64_t slow_ns;       /* when the slow tick is due */
	uint64_t idle_since_ns; /* when the last session ended */
	bool accepting, stop;
	bool systemd_behind; /* it has not taken all that it was told */
};

/* data.ptr of what is no session */
static char tag_listen, tag_signal, tag_pressure, tag_door, tag_launch;

static int watch(struct server *s, int op, int fd, uint32_t events, void *tag)
{
	struct epoll_event event = {.events = events, .data.ptr = tag};

	return epoll_ctl(s->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

/* --- connections ------------------------------------------------------------------------------ */

/* Tell a peer why not, as far as its socket takes it, and hang up. */
static void refuse(struct server *s, int fd, const struct ucred *peer, enum tm_error_class class,
	const char *why)
{
	struct tm_error error;
	struct tm_conn *conn;

	tm_error_set(&error, class, "%s", why);
	s->host->counters.connections_refused++;
	tm_watch_refused(s->host, peer, &error);
	if (tm_conn_open(fd, TM_PROTO_LINE_MAX, TM_PROTO_LINE_MAX, &conn) < 0)
		return;
	tm_conn_send(conn, tm_proto_error(&error, NULL), -1);
	tm_conn_close(conn);
}

/* Connections that are no client's. */
static size_t control_sessions(const struct server *s)
{
	size_t control = 0;

	for (size_t i = 0; i < s->count; i++)
		control += !tm_session_client(s->sessions[i]);
	return control;
}

/* Serve an accepted connection, or one that we made to the server of a shared pool. */
static void take_session(struct server *s, int fd, const struct ucred *peer, enum tm_role role)
{
	struct tm_session *session;

	if (tm_session_new(s->host, fd, peer, role, &session) < 0)
		return;
	s->interest[s->count] = tm_session_interest(session);
	if (watch(s, EPOLL_CTL_ADD, fd, s->interest[s->count], session) < 0)
		tm_session_free(session);
	else
		s->sessions[s->count++] = session;
}

static void admit(struct server *s, int fd)
{
	struct ucred peer;
	enum tm_role role = tm_peer_role(fd, s->host->readers, &peer);

	if (role == TM_ROLE_NONE) {
		refuse(s, fd, &peer, TM_ERROR_PERMISSION,
			"only root, the user of this tmemd and the group " TM_PEER_GROUP
			" may connect");
		return;
	}
	if (control_sessions(s) >= s->host->config.max_connections || s->count >= SESSIONS_MAX) {
		refuse(s, fd, &peer, TM_ERROR_BUSY, "too many connections");
		return;
	}
	take_session(s, fd, &peer, role);
}

/* Let sharers in. The pools' servers are our own children: they act for this tmemd's user. */
static void run_door(struct server *s)
{
	int fd;

	if (!s->host->door)
		return;
	tm_door_run(s->host->door, tm_now_ns());
	while ((fd = tm_door_next_server(s->host->door)) >= 0) {
		const struct ucred ourselves = {.uid = geteuid(), .gid = getegid()};

		if (s->count < SESSIONS_MAX)
			take_session(s, fd, &ourselves, TM_ROLE_MANAGE);
		else
			close(fd);
	}
}

/* Out of descriptors the listening socket would be ready for ever: look away until the next tick.
 */
static void set_accepting(struct server *s, bool accepting)
{
	if (s->accepting != accepting)
		watch(s, EPOLL_CTL_MOD, s->listen_fd, accepting ? EPOLLIN : 0, &tag_listen);
	s->accepting = accepting;
}

static void accept_some(struct server *s)
{
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0)
			admit(s, fd);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			set_accepting(s, false);
		if (fd < 0 && errno != EINTR && errno != ECONNABORTED)
			return;
	}
}

/* Free what has died, and tell epoll what the others wait for now. */
static void reap(struct server *s)
{
	for (size_t i = 0; i < s->count;) {
		struct tm_session *session = s->sessions[i];
		uint32_t interest;

		if (tm_session_is_dead(session)) {
			s->count--;
			s->sessions[i] = s->sessions[s->count];
			s->interest[i] = s->interest[s->count];
			tm_session_free(session);
			if (s->count == 0)
				s->idle_since_ns = tm_now_ns();
			i = 0; /* its leaving may have changed any other */
			continue;
		}
		interest = tm_session_interest(session);
		if (interest != s->interest[i])
			watch(s, EPOLL_CTL_MOD, tm_session_fd(session), interest, session);
		s->interest[i++] = interest;
	}
}

static void run_ready(struct server *s)
{
	s->host->sessions_ready = false;
	for (size_t i = 0; i < s->count; i++)
		if (tm_session_is_ready(s->sessions[i]))
			tm_session_run(s->sessions[i]);
}

/* --- time ------------------------------------------------------------------------------------- */

static bool is_idle(const struct server *s)
{
	/* A freeze of all is something to stay for: it has to meet those that join later. So is
	 * what a client left that was killed, which is in the registry still: it goes with this
	 * process, and may be all there is of a device. */
	return s->host->config.idle_seconds && s->count == 0 && !s->host->all_frozen &&
		tm_registry_count(s->host->registry) == 0 &&
		!(s->host->door && tm_door_is_busy(s->host->door));
}

static void tick(struct server *s)
{
	uint64_t now = tm_now_ns();

	if (now >= s->host->lease_ns && tm_registry_count(s->host->registry) > 0)
		tm_lease_update(s->host);
	tm_wait_tick(s->host, now);
	s->systemd_behind = tm_fdstore_tick(s->host);
	if (now >= s->slow_ns) {
		s->slow_ns = now + SLOW_TICK_NS;
		set_accepting(s, true);
		for (size_t i = 0; i < s->count; i++)
			tm_session_tick(s->sessions[i], now);
	}
	if (is_idle(s) && now - s->idle_since_ns >= s->host->config.idle_seconds * 1000000000ull)
		s->stop = true;
}

/* Somebody had to wait for memory: look now, not at the next tick. */
static void on_pressure(struct server *s, uint32_t events)
{
	struct tm_host *host = s->host;

	if (events & EPOLLERR) {
		watch(s, EPOLL_CTL_DEL, tm_machine_pressure_fd(host->machine), 0, NULL);
		tm_machine_pressure_lost(host->machine);
		return;
	}
	host->pressed = true;
	host->counters.stalls++;
	host->lease_ns = 0;
	tm_watch_pressure(host);
}

/* Milliseconds until a tick has something to do; -1: never. */
static int next_tick_ms(const struct server *s)
{
	uint64_t now = tm_now_ns(), due = s->host->lease_ns;

	if (s->host->sessions_ready)
		return 0;
	if (s->systemd_behind || (s->host->door && tm_door_is_busy(s->host->door)))
		return DOOR_TICK_MS;
	if (tm_registry_count(s->host->registry) > 0)
		return due > now ? (int)((due - now + 999999) / 1000000) : 0;
	if (s->count > 0 || !s->accepting || is_idle(s))
		return 500;
	return -1;
}

/* --- the loop --------------------------------------------------------------------------------- */

static int server_open(struct server *s)
{
	sigset_t set;
	int rc;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->epoll_fd < 0 || s->signal_fd < 0)
		return -errno;
	s->accepting = true;
	rc = watch(s, EPOLL_CTL_ADD, s->listen_fd, EPOLLIN, &tag_listen);
	if (rc == 0)
		rc = watch(s, EPOLL_CTL_ADD, s->signal_fd, EPOLLIN, &tag_signal);
	if (rc == 0 && s->host->door)
		rc = watch(s, EPOLL_CTL_ADD, tm_door_fd(s->host->door), EPOLLIN, &tag_door);
	if (rc == 0 && s->host->launch)
		rc = watch(s, EPOLL_CTL_ADD, tm_launch_fd(s->host->launch), EPOLLIN, &tag_launch);
	/* Without it there is still the tick. */
	if (tm_machine_pressure_fd(s->host->machine) >= 0)
		(void)watch(s, EPOLL_CTL_ADD, tm_machine_pressure_fd(s->host->machine), EPOLLPRI,
			&tag_pressure);
	return rc;
}

static int server_loop(struct server *s)
{
	while (!s->stop) {
		struct epoll_event events[EVENTS_BATCH];
		int n = epoll_wait(s->epoll_fd, events, EVENTS_BATCH, next_tick_ms(s));

		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr == &tag_listen)
				accept_some(s);
			else if (events[i].data.ptr == &tag_signal)
				s->stop = true;
			else if (events[i].data.ptr == &tag_pressure)
				on_pressure(s, events[i].events);
			else if (events[i].data.ptr == &tag_door)
				tm_door_handle(s->host->door);
			else if (events[i].data.ptr == &tag_launch)
				s->host->counters.launchers_replaced +=
					tm_launch_mend(s->host->launch);
			else
				tm_session_handle(events[i].data.ptr, events[i].events);
		}
		if (s->host->sessions_ready)
			run_ready(s);
		run_door(s);
		tick(s);
		reap(s);
	}
	return 0;
}

int tm_server_run(struct tm_host *host, int listen_fd)
{
	struct server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	*s = (struct server){.host = host,
		.listen_fd = listen_fd,
		.epoll_fd = -1,
		.signal_fd = -1,
		.idle_since_ns = tm_now_ns()};
	rc = server_open(s);
	if (rc == 0)
		rc = server_loop(s);
	while (s->count > 0)
		tm_session_free(s->sessions[--s->count]);
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	if (s->signal_fd >= 0)
		close(s->signal_fd);
	free(s);
	return rc;
}
