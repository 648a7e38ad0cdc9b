/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lanes.c - a connection to a shared pool's server that comes back
 *
 *      HERE --(a lane or the first socket fails)--> AWAY --(joined again)--> HERE
 *        \------(destroyed by an operator)----------> GONE
 *
 *      thread: watch the first socket -> (it ends) disconnect -> pause, join, make up for what was
 *              lost -> watch ...
 *
 * Invariants
 *   1. A lane belongs to one call at a time, so its next message is the reply to the call's.
 *   2. The connection is taken down only when every lane has been given back.
 *   3. What a failed or undelivered put or flush should have removed is in `lost` before its lane
 *      is given back. The state becomes HERE only with `lost` empty: a server that is still
 *      the same has flushed all of it by then, and another one never had it.
 *   4. A server takes no second connection of one token: when it takes ours, requests of the last
 * one that were under way are over, and cannot undo 3.
 *
 * Locking: `lock` for all that is marked so, held for a few instructions; no other lock of the core
 * is taken meanwhile.
 */
#include "core/lanes.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "core/util.h"

#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 5000
#define JOIN_TRIES   20
#define IDLE_MS      250
#define LOST_MAX     1024

enum state {
	AWAY,
	HERE,
	GONE
};

struct connection {
	int fd; /* the first socket; -1: there is none */
	uint8_t *window;
	uint32_t lanes;
	int lane_fd[TM_SHARE_LANES_MAX];
	uint64_t instance;
};

/* Objects of which a page may have to go. */
struct lost {
	struct tm_oid oid[LOST_MAX];
	uint32_t count;
	bool all; /* more than fit */
};

struct tm_lanes {
	/* Constant. */
	struct tm_lanes_params params;
	struct tm_share_hello hello;
	int stop_fd; /* readable once the thread has to end */
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* a lane is free, or the state another */

	/* lock; `conn` is constant for who has a lane, and for the thread */
	enum state state;
	struct connection conn;
	uint32_t free_lanes[TM_SHARE_LANES_MAX], free_count;
	struct lost lost;
};

/* --- one connection --------------------------------------------------------------------------- */

static void connection_close(struct connection *c)
{
	if (c->fd < 0)
		return;
	tm_share_unmap(c->window, c->lanes);
	for (uint32_t i = 0; i < c->lanes; i++)
		close(c->lane_fd[i]);
	close(c->fd);
	c->fd = -1;
}

/* Whoever waits for an answer there waits no longer. */
static void connection_break(const struct connection *c)
{
	for (uint32_t i = 0; i < c->lanes; i++)
		shutdown(c->lane_fd[i], SHUT_RDWR);
	shutdown(c->fd, SHUT_RDWR);
}

/* Take what came with a welcome: the window, then one socket a lane. */
static int connection_accept(
	struct connection *c, const struct tm_share_welcome *welcome, const int *fds, size_t count)
{
	int rc = -EPROTO;

	if (welcome->magic != TM_SHARE_MAGIC || welcome->version != TM_SHARE_VERSION)
		return -EPROTO;
	if (welcome->status < 0)
		return welcome->status;
	if (welcome->lanes < 1 || welcome->lanes > TM_SHARE_LANES_MAX ||
		count != welcome->lanes + 1)
		return -EPROTO;
	rc = tm_share_map(fds[0], welcome->lanes, &c->window);
	if (rc < 0)
		return rc;
	c->lanes = welcome->lanes;
	c->instance = welcome->instance;
	memcpy(c->lane_fd, fds + 1, c->lanes * sizeof(int));
	return 0;
}

/* Wait for the welcome, but not once it is time to stop. */
static int wait_for_server(const struct tm_lanes *l, int fd)
{
	struct pollfd fds[] = {{fd, POLLIN, 0}, {l->stop_fd, POLLIN, 0}};
	int n;

	do
		n = poll(fds, TM_ARRAY_SIZE(fds), (int)l->params.patience_ms);
	while (n < 0 && errno == EINTR);

	if (n <= 0)
		return n == 0 ? -ETIMEDOUT : -errno;
	return fds[1].revents ? -ECANCELED : 0;
}

static int connection_open(struct tm_lanes *l, struct connection *ret_conn)
{
	struct connection c = {.fd = -1};
	struct tm_share_welcome welcome = {0};
	int fds[TM_SHARE_LANES_MAX + 1];
	size_t count = 0;
	int rc = l->params.join(l->params.join_opaque, &l->hello.uuid, l->stop_fd, &c.fd);

	if (rc < 0)
		return rc;
	rc = tm_share_set_patience(c.fd, l->params.patience_ms);
	if (rc == 0)
		rc = tm_share_send(c.fd, &l->hello, sizeof(l->hello), NULL, 0);
	if (rc == 0)
		rc = wait_for_server(l, c.fd);
	if (rc == 0)
		rc = tm_share_receive(
			c.fd, &welcome, sizeof(welcome), fds, TM_ARRAY_SIZE(fds), &count);
	if (rc == 0) {
		rc = connection_accept(&c, &welcome, fds, count);
		for (size_t i = 0; i < (rc < 0 ? count : 1); i++)
			close(fds[i]);
	}
	for (uint32_t i = 0; rc == 0 && i < c.lanes; i++)
		rc = tm_share_set_patience(c.lane_fd[i], l->params.patience_ms);
	if (rc < 0) {
		connection_close(&c);
		return rc == -EPIPE ? -EAGAIN : rc; /* it was just leaving */
	}
	*ret_conn = c;
	return 0;
}

static int exchange(int fd, const struct tm_share_request *request, struct tm_share_reply *reply)
{
	int rc = tm_share_send(fd, request, sizeof(*request), NULL, 0);

	if (rc == 0)
		rc = tm_share_receive(fd, reply, sizeof(*reply), NULL, 0, NULL);
	return rc < 0 ? -EAGAIN : 0;
}

int tm_lanes_exchange(struct tm_lanes *l, int lane, const struct tm_share_request *request,
	struct tm_share_reply *ret_reply)
{
	return exchange(l->conn.lane_fd[lane], request, ret_reply);
}

uint8_t *tm_lanes_slot(struct tm_lanes *l, int lane)
{
	return l->conn.window + (size_t)lane * TM_SHARE_SLOT;
}

/* --- what was lost ---------------------------------------------------------------------------- */

static void lose_locked(struct tm_lanes *l, const struct tm_oid *oid)
{
	if (l->lost.count < LOST_MAX)
		l->lost.oid[l->lost.count++] = *oid;
	else
		l->lost.all = true;
}

static int make_up(const struct connection *c, const struct lost *lost)
{
	struct tm_share_request request = {.op = TM_SHARE_FLUSH_ALL};
	struct tm_share_reply reply = {0};
	int rc = 0;

	if (lost->all)
		return exchange(c->lane_fd[0], &request, &reply);
	request.op = TM_SHARE_FLUSH_OBJECT;
	for (uint32_t i = 0; rc == 0 && i < lost->count; i++) {
		request.oid = lost->oid[i];
		rc = exchange(c->lane_fd[0], &request, &reply);
	}
	return rc;
}

/* Make a new connection the one that is used. */
static int settle(struct tm_lanes *l, struct connection *c)
{
	struct lost lost;
	int rc = 0;

	while (rc == 0) {
		pthread_mutex_lock(&l->lock);
		if (c->instance != l->conn.instance)
			l->lost.count = l->lost.all = 0;
		if (l->lost.count == 0) {
			l->conn = *c;
			l->free_count = c->lanes;
			for (uint32_t i = 0; i < c->lanes; i++)
				l->free_lanes[i] = i;
			l->state = HERE;
			pthread_mutex_unlock(&l->lock);
			return 0;
		}
		lost = l->lost;
		l->lost.count = l->lost.all = 0;
		pthread_mutex_unlock(&l->lock);
		rc = make_up(c, &lost);
	}
	pthread_mutex_lock(&l->lock);
	l->lost.all = true;
	l->lost.count = LOST_MAX;
	pthread_mutex_unlock(&l->lock);
	connection_close(c);
	return rc;
}

/* --- lanes ------------------------------------------------------------------------------------ */

int tm_lanes_take(struct tm_lanes *l, const struct tm_oid *lose)
{
	int lane;

	pthread_mutex_lock(&l->lock);
	while (l->state == HERE && l->free_count == 0)
		pthread_cond_wait(&l->changed, &l->lock);
	if (l->state == HERE) {
		lane = (int)l->free_lanes[--l->free_count];
	} else if (l->state == GONE) {
		lane = -ENOENT;
	} else {
		lane = -EAGAIN;
		if (lose)
			lose_locked(l, lose);
	}
	pthread_mutex_unlock(&l->lock);
	return lane;
}

void tm_lanes_give(struct tm_lanes *l, int lane, bool broken, const struct tm_oid *lose)
{
	pthread_mutex_lock(&l->lock);
	if (broken && lose)
		lose_locked(l, lose);
	if (broken && l->state == HERE) {
		l->state = AWAY;
		connection_break(&l->conn);
	}
	l->free_lanes[l->free_count++] = (uint32_t)lane;
	if (l->state == HERE)
		pthread_cond_signal(&l->changed);
	else
		pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

/* Wait until there is no more to wait for: AWAY; GONE; or HERE, when it is our end that stops. */
static enum state watch(struct tm_lanes *l)
{
	struct pollfd fds[] = {{l->conn.fd, POLLIN, 0}, {l->stop_fd, POLLIN, 0}};
	struct tm_share_gone gone = {0};

	while (poll(fds, TM_ARRAY_SIZE(fds), IDLE_MS) <= 0)
		l->params.tick(l->params.opaque);
	if (fds[1].revents)
		return HERE;
	return tm_share_receive(l->conn.fd, &gone, sizeof(gone), NULL, 0, NULL) == 0 &&
			gone.magic == TM_SHARE_MAGIC
		? GONE
		: AWAY;
}

static void disconnect(struct tm_lanes *l, enum state state)
{
	pthread_mutex_lock(&l->lock);
	l->state = state;
	connection_break(&l->conn);
	pthread_cond_broadcast(&l->changed);
	while (l->free_count < l->conn.lanes)
		pthread_cond_wait(&l->changed, &l->lock);
	connection_close(&l->conn);
	pthread_mutex_unlock(&l->lock);
}

/* False when it is time to stop. */
static bool rejoin(struct tm_lanes *l)
{
	struct pollfd stop = {l->stop_fd, POLLIN, 0};

	for (int pause = PAUSE_MIN_MS;; pause = TM_MIN(2 * pause, PAUSE_MAX_MS)) {
		struct connection c = {.fd = -1};

		if (poll(&stop, 1, pause) > 0)
			return false;
		if (connection_open(l, &c) == 0 && settle(l, &c) == 0)
			return true;
	}
}

static void *run(void *arg)
{
	struct tm_lanes *l = arg;

	pthread_setname_np(pthread_self(), "tmem-share");
	for (;;) {
		enum state state = watch(l);

		disconnect(l, state == GONE ? GONE : AWAY);
		if (state == GONE)
			l->params.gone(l->params.opaque);
		if (state != AWAY || !rejoin(l))
			return NULL;
	}
}

/* --- open and close --------------------------------------------------------------------------- */

/* The first time somebody waits, and a server that is just leaving is worth another try. */
static int join_patiently(struct tm_lanes *l)
{
	struct connection c = {.fd = -1};
	int rc = -EAGAIN;

	for (int i = 0; i < JOIN_TRIES && rc == -EAGAIN; i++) {
		if (i > 0)
			poll(NULL, 0, PAUSE_MIN_MS);
		rc = connection_open(l, &c);
	}
	return rc < 0 ? rc : settle(l, &c);
}

static int start_thread(struct tm_lanes *l)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&l->thread, NULL, run, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -rc;
}

static void lanes_free(struct tm_lanes *l)
{
	connection_close(&l->conn);
	if (l->stop_fd >= 0)
		close(l->stop_fd);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

int tm_lanes_open(const struct tm_lanes_params *params, const struct tm_share_hello *hello,
	struct tm_lanes **ret_lanes)
{
	struct tm_lanes *l = calloc(1, sizeof(*l));
	int rc = 0;

	if (!l)
		return -ENOMEM;
	l->params = *params;
	l->hello = *hello;
	l->conn.fd = -1;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->stop_fd < 0 ||
		getrandom(&l->hello.token, sizeof(l->hello.token), 0) !=
			(ssize_t)sizeof(l->hello.token))
		rc = -errno;
	if (rc == 0)
		rc = join_patiently(l);
	if (rc == 0)
		rc = start_thread(l);
	if (rc < 0)
		lanes_free(l);
	else
		*ret_lanes = l;
	return rc;
}

void tm_lanes_close(struct tm_lanes *l)
{
	eventfd_write(l->stop_fd, 1);
	pthread_join(l->thread, NULL);
	lanes_free(l);
}
