/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool.c - the data path of one shared pool
 *
 *      add -> guest thread: hello -> admit -> window, lanes -> welcome -> (end of its socket) ->
 * gone
 *                                              \-> a thread a lane: request -> the store -> reply
 *
 * Invariants
 *   1. A guest's sockets and window belong to its threads; others only shut its socket down.
 *   2. A lane's thread does what one message says, bounded by one slot of pages, and never waits
 * for its sharer: a reply that does not fit the socket ends the connection.
 *   3. Nothing is read from the window twice: a page is copied and then stored. Pages that were
 * found are decoded right into it, as no decoder is led by what it has written.
 *   4. No two guests have one token: of a sharer that joins again no older request is under way.
 *   5. The counter of sharers is the number of guests with a welcome.
 *
 * Locking: `lock` guards the list and all that is marked so. `use` is held for reading by whoever
 * calls the store, for writing by who makes the pool; order: use, lock, the store's own.
 */
#include "tools/tmemd/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#include "core/util.h"

#define HELLO_MS     10000
#define LANES_MIN    4
#define THREAD_STACK (512u << 10) /* the store has pages and codec states on it */

struct guest;

struct lane {
	struct guest *guest;
	int fd;         /* the server's end */
	uint8_t *slot;  /* in the window */
	uint8_t *bytes; /* a page that nobody else can change */
	pthread_t thread;
};

struct guest {
	LIST_ENTRY(guest) link; /* lock */
	struct tm_pool_server *server;
	int fd;
	uid_t uid;
	uint64_t token; /* lock; meaningful if `welcome` */
	bool welcome;   /* lock */
	uint8_t *window;
	uint32_t lanes; /* with a socket; `threads` of them with a thread */
	uint32_t threads;
	struct lane lane[TM_SHARE_LANES_MAX];
};

struct tm_pool_server {
	/* Constant. */
	struct tmem *tm;
	struct tm_uuid uuid;
	uint64_t instance;
	uint32_t lanes;

	pthread_rwlock_t use;
	int pool; /* use; -1: nobody has come yet, or no memory for it */
	/* use; page_bytes 0: nobody has come yet; constant from then on, as buffers are made for it
	 */
	uint32_t flags, attrs, page_bytes;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* the list, or `gone` */

	/* lock */
	LIST_HEAD(guest_list, guest) guests;
	size_t count, welcomes;
	bool gone;
};

/* --- requests --------------------------------------------------------------------------------- */

/* Do pages index .. index + count - 1 exist, and fit a slot? */
static bool bad_run(const struct tm_pool_server *s, const struct tm_share_request *q)
{
	return q->count < 1 || q->count > TM_SHARE_SLOT / s->page_bytes ||
		q->index > UINT32_MAX - (q->count - 1);
}

static bool bad_range(const struct tm_pool_server *s, const struct tm_share_request *q)
{
	return q->offset > s->page_bytes || q->length > s->page_bytes - q->offset;
}

static int run_get_locked(
	struct lane *l, const struct tm_share_request *q, struct tm_share_reply *reply)
{
	struct tm_pool_server *s = l->guest->server;
	bool missed[TM_SHARE_PAGES_MAX];
	int rc;

	if (bad_run(s, q))
		return -EINVAL;
	rc = s->tm->ops->get_many(s->tm, s->pool, &q->oid, q->index, q->count, l->slot, missed);
	for (uint32_t i = 0; rc >= 0 && i < q->count; i++)
		reply->pages[i / 64] |= (uint64_t)!missed[i] << i % 64;
	return TM_MIN(rc, 0);
}

static int run_put_locked(
	struct lane *l, const struct tm_share_request *q, struct tm_share_reply *reply)
{
	struct tm_pool_server *s = l->guest->server;
	bool some = false;
	int first = 0;

	if (bad_run(s, q))
		return -EINVAL;
	for (uint32_t i = 0; i < q->count; i++) {
		int rc;

		memcpy(l->bytes, l->slot + (size_t)i * s->page_bytes, s->page_bytes);
		rc = s->tm->ops->put(s->tm, s->pool, &q->oid, q->index + i, l->bytes);
		if (rc < 0 && first == 0)
			first = rc;
		some |= rc == 0;
		reply->pages[i / 64] |= (uint64_t)(rc == 0) << i % 64;
	}
	return some ? 0 : first;
}

static int run_range_locked(struct lane *l, const struct tm_share_request *q)
{
	struct tm_pool_server *s = l->guest->server;
	const struct tmem_ops *ops = s->tm->ops;
	int rc;

	if (bad_range(s, q))
		return -EINVAL;
	if (q->op == TM_SHARE_READ)
		return ops->read(s->tm, s->pool, &q->oid, q->index, q->offset, q->length, l->slot);
	memcpy(l->bytes, l->slot, q->length);
	if (q->op == TM_SHARE_WRITE)
		return ops->write(
			s->tm, s->pool, &q->oid, q->index, q->offset, q->length, l->bytes);
	rc = ops->xchg(s->tm, s->pool, &q->oid, q->index, q->offset, q->length, l->bytes);
	if (rc == 0)
		memcpy(l->slot, l->bytes, q->length);
	return rc;
}

/* What the first of them wants; the name is for people. */
static int make_pool_locked(struct tm_pool_server *s)
{
	char name[TM_UUID_TEXT_MAX];
	struct tm_pool_params params = {
		.flags = s->flags & ~TM_POOL_SHARED, /* to this process it is its own */
		.attrs = s->attrs,
		.name = tm_uuid_format(&s->uuid, name),
	};

	s->pool = s->tm->ops->new_pool(s->tm, &params);
	return TM_MIN(s->pool, 0);
}

/* Every page of everybody goes, and with the pool its counters. */
static int run_flush_all(struct tm_pool_server *s)
{
	int rc;

	pthread_rwlock_wrlock(&s->use);
	rc = s->tm->ops->destroy_pool(s->tm, s->pool);
	if (rc == 0)
		rc = make_pool_locked(s);
	if (rc == 0) {
		pthread_mutex_lock(&s->lock);
		s->tm->ops->count(s->tm, s->pool, TM_STAT_SHARERS, (int64_t)s->welcomes);
		pthread_mutex_unlock(&s->lock);
	}
	pthread_rwlock_unlock(&s->use);
	return rc;
}

static int run_usage_locked(struct tm_pool_server *s, struct tm_share_reply *reply)
{
	struct tm_usage usage;

	s->tm->ops->usage(s->tm, &usage);
	reply->live_bytes = usage.live_bytes;
	reply->limit_bytes = usage.limit_bytes;
	reply->frozen = usage.frozen;
	return 0;
}

static int run_request_locked(
	struct lane *l, const struct tm_share_request *q, struct tm_share_reply *reply)
{
	struct tm_pool_server *s = l->guest->server;

	switch (q->op) {
	case TM_SHARE_GET:
		return run_get_locked(l, q, reply);
	case TM_SHARE_PUT:
		return run_put_locked(l, q, reply);
	case TM_SHARE_FLUSH_PAGE:
		return s->tm->ops->flush_page(s->tm, s->pool, &q->oid, q->index);
	case TM_SHARE_FLUSH_OBJECT:
		return s->tm->ops->flush_object(s->tm, s->pool, &q->oid);
	case TM_SHARE_READ:
	case TM_SHARE_WRITE:
	case TM_SHARE_XCHG:
		return run_range_locked(l, q);
	case TM_SHARE_COUNT:
		if (!tm_share_counts(q->stat) || q->delta < 0)
			return -EINVAL;
		s->tm->ops->count(s->tm, s->pool, (enum tm_stat)q->stat, q->delta);
		return 0;
	case TM_SHARE_USAGE:
		return run_usage_locked(s, reply);
	default:
		return -EINVAL;
	}
}

static void *lane_run(void *arg)
{
	struct lane *l = arg;
	struct tm_pool_server *s = l->guest->server;
	struct tm_share_request request = {0};

	pthread_setname_np(pthread_self(), "tmem-lane");
	while (tm_share_receive(l->fd, &request, sizeof(request), NULL, 0, NULL) == 0) {
		struct tm_share_reply reply = {0};

		if (request.op == TM_SHARE_FLUSH_ALL) {
			reply.status = run_flush_all(s);
		} else {
			pthread_rwlock_rdlock(&s->use);
			reply.status = run_request_locked(l, &request, &reply);
			pthread_rwlock_unlock(&s->use);
		}
		if (send(l->fd, &reply, sizeof(reply), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
	}
	shutdown(l->guest->fd, SHUT_RDWR);
	return NULL;
}

/* --- guests ----------------------------------------------------------------------------------- */

static int start_thread(pthread_t *ret_thread, bool detached, void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	if (detached)
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(ret_thread, &attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -rc;
}

/* The pool is the one that the sharer means; the first one decides what it is like. */
static int check_pool(struct tm_pool_server *s, const struct tm_share_hello *hello)
{
	int rc = 0;

	if (hello->uuid.lo != s->uuid.lo || hello->uuid.hi != s->uuid.hi)
		return -EACCES;
	if (!(hello->flags & TM_POOL_SHARED))
		return -EOPNOTSUPP;
	pthread_rwlock_wrlock(&s->use);
	if (s->page_bytes == 0) {
		s->flags = hello->flags;
		s->attrs = hello->attrs | TM_POOL_RETAIN;
		rc = make_pool_locked(s);
		if (rc == 0)
			s->page_bytes = TM_PAGE_SIZE
				<< ((s->flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT);
	} else if (s->flags != hello->flags || s->attrs != (hello->attrs | TM_POOL_RETAIN)) {
		rc = -EEXIST;
	} else if (s->pool < 0) { /* it could not be made again */
		rc = make_pool_locked(s);
	}
	pthread_rwlock_unlock(&s->use);
	return rc;
}

/* Nobody has this token: its last connection is over. */
static int admit(struct guest *g, const struct tm_share_hello *hello)
{
	struct tm_pool_server *s = g->server;
	int rc = check_pool(s, hello);

	if (rc < 0)
		return rc;
	pthread_rwlock_rdlock(&s->use);
	pthread_mutex_lock(&s->lock);
	for (struct guest *other = LIST_FIRST(&s->guests); other; other = LIST_NEXT(other, link))
		if (other->welcome && other->token == hello->token)
			rc = -EAGAIN;
	if (s->gone)
		rc = -EAGAIN;
	if (rc == 0) {
		g->token = hello->token;
		g->welcome = true;
		s->welcomes++;
		s->tm->ops->count(s->tm, s->pool, TM_STAT_SHARERS, 1);
	}
	pthread_mutex_unlock(&s->lock);
	pthread_rwlock_unlock(&s->use);
	return rc;
}

/* Window, lanes and their threads. The sharer's ends are in ret_fds[1] and on; ret_fds[0] is the
 * window. After a failure some of them may be there too: *ret_count. */
static int open_lanes(struct guest *g, int *ret_fds, size_t *ret_count)
{
	int rc = tm_share_create(g->server->lanes, &ret_fds[0], &g->window);

	*ret_count = rc == 0;
	while (rc == 0 && g->lanes < g->server->lanes) {
		struct lane *l = &g->lane[g->lanes];
		int ends[2];

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
			return -errno;
		ret_fds[(*ret_count)++] = ends[1];
		*l = (struct lane){.guest = g,
			.fd = ends[0],
			.slot = g->window + (size_t)g->lanes * TM_SHARE_SLOT};
		g->lanes++;
		l->bytes = malloc(g->server->page_bytes);
		rc = l->bytes ? start_thread(&l->thread, false, lane_run, l) : -ENOMEM;
		g->threads += rc == 0;
	}
	return rc;
}

/* From hello to welcome. */
static int greet(struct guest *g)
{
	struct tm_share_welcome welcome = {
		.magic = TM_SHARE_MAGIC, .version = TM_SHARE_VERSION, .lanes = g->server->lanes};
	struct tm_share_hello hello = {0};
	int fds[TM_SHARE_LANES_MAX + 1];
	size_t count = 0;
	int rc = tm_share_set_patience(g->fd, HELLO_MS), sent;

	if (rc == 0)
		rc = tm_share_receive(g->fd, &hello, sizeof(hello), NULL, 0, NULL);
	if (rc == 0 && (hello.magic != TM_SHARE_MAGIC || hello.version != TM_SHARE_VERSION))
		rc = -EPROTO;
	if (rc == 0)
		rc = admit(g, &hello);
	if (rc == 0)
		rc = open_lanes(g, fds, &count);
	welcome.status = rc;
	welcome.instance = g->server->instance;
	sent = tm_share_send(g->fd, &welcome, sizeof(welcome), fds, rc < 0 ? 0 : count);
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	return rc < 0 ? rc : sent;
}

static void guest_end(struct guest *g)
{
	struct tm_pool_server *s = g->server;

	for (uint32_t i = 0; i < g->lanes; i++)
		shutdown(g->lane[i].fd, SHUT_RDWR);
	for (uint32_t i = 0; i < g->lanes; i++) {
		if (i < g->threads)
			pthread_join(g->lane[i].thread, NULL);
		close(g->lane[i].fd);
		free(g->lane[i].bytes);
	}
	tm_share_unmap(g->window, s->lanes);
	if (g->welcome) {
		pthread_rwlock_rdlock(&s->use);
		pthread_mutex_lock(&s->lock);
		s->welcomes--;
		s->tm->ops->count(s->tm, s->pool, TM_STAT_SHARERS, -1);
		pthread_mutex_unlock(&s->lock);
		pthread_rwlock_unlock(&s->use);
	}
	pthread_mutex_lock(&s->lock);
	LIST_REMOVE(g, link);
	close(g->fd);
	free(g);
	s->count--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock); /* the last use of `s`, which may be freed now */
}

static void *guest_run(void *arg)
{
	struct guest *g = arg;
	char nothing = 0;

	pthread_setname_np(pthread_self(), "tmem-guest");
	/* A sharer says nothing more on this socket: whatever comes is its end. */
	if (greet(g) == 0 && tm_share_set_patience(g->fd, 0) == 0)
		(void)tm_share_receive(g->fd, &nothing, sizeof(nothing), NULL, 0, NULL);
	guest_end(g);
	return NULL;
}

/* --- the server ------------------------------------------------------------------------------- */

int tm_pool_server_new(
	struct tmem *tm, const struct tm_uuid *uuid, struct tm_pool_server **ret_server)
{
	struct tm_pool_server *s = calloc(1, sizeof(*s));
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_condattr_t attr;

	if (!s)
		return -ENOMEM;
	if (getrandom(&s->instance, sizeof(s->instance), 0) != (ssize_t)sizeof(s->instance)) {
		free(s);
		return -errno;
	}
	s->tm = tm;
	s->uuid = *uuid;
	s->pool = -1;
	s->lanes = (uint32_t)TM_MAX(LANES_MIN, TM_MIN(2 * cpus, (long)TM_SHARE_LANES_MAX));
	LIST_INIT(&s->guests);
	pthread_rwlock_init(&s->use, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attr);
	pthread_condattr_destroy(&attr);
	*ret_server = s;
	return 0;
}

int tm_pool_server_add(struct tm_pool_server *s, int fd, uid_t uid)
{
	struct guest *g = calloc(1, sizeof(*g));
	pthread_t thread;
	int rc = g ? 0 : -ENOMEM;

	if (rc == 0) {
		*g = (struct guest){.server = s, .fd = fd, .uid = uid};
		pthread_mutex_lock(&s->lock);
		if (s->count >= TM_SHARERS_MAX)
			rc = -EUSERS;
		if (s->gone)
			rc = -EAGAIN;
		if (rc == 0)
			rc = start_thread(&thread, true, guest_run, g);
		if (rc == 0) {
			LIST_INSERT_HEAD(&s->guests, g, link);
			s->count++;
		}
		pthread_mutex_unlock(&s->lock);
	}
	if (rc < 0) {
		struct tm_share_welcome welcome = {
			.magic = TM_SHARE_MAGIC, .version = TM_SHARE_VERSION, .status = rc};

		(void)send(fd, &welcome, sizeof(welcome), MSG_DONTWAIT | MSG_NOSIGNAL);
		close(fd);
		free(g);
	}
	return rc;
}

void tm_pool_server_drop(struct tm_pool_server *s, uid_t uid)
{
	pthread_mutex_lock(&s->lock);
	for (struct guest *g = LIST_FIRST(&s->guests); g; g = LIST_NEXT(g, link))
		if (g->uid == uid)
			shutdown(g->fd, SHUT_RDWR);
	pthread_mutex_unlock(&s->lock);
}

static void end_all_locked(struct tm_pool_server *s, const struct tm_share_gone *last_words)
{
	for (struct guest *g = LIST_FIRST(&s->guests); g; g = LIST_NEXT(g, link)) {
		if (last_words && g->welcome)
			(void)send(g->fd, last_words, sizeof(*last_words),
				MSG_DONTWAIT | MSG_NOSIGNAL);
		shutdown(g->fd, SHUT_RDWR);
	}
}

void tm_pool_server_gone(struct tm_pool_server *s)
{
	const struct tm_share_gone gone = {TM_SHARE_MAGIC};

	pthread_mutex_lock(&s->lock);
	s->gone = true;
	end_all_locked(s, &gone);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

void tm_pool_server_wait(struct tm_pool_server *s, unsigned int idle_ms)
{
	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct timespec until;

		while (s->count > 0)
			pthread_cond_wait(&s->changed, &s->lock);
		if (s->gone)
			break;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += idle_ms / 1000;
		until.tv_nsec += idle_ms % 1000 * 1000000l;
		until.tv_sec += until.tv_nsec / 1000000000l;
		until.tv_nsec %= 1000000000l;
		if (pthread_cond_timedwait(&s->changed, &s->lock, &until) == ETIMEDOUT &&
			s->count == 0)
			s->gone = true;
	}
	pthread_mutex_unlock(&s->lock);
}

void tm_pool_server_free(struct tm_pool_server *s)
{
	pthread_mutex_lock(&s->lock);
	s->gone = true;
	end_all_locked(s, NULL);
	while (s->count > 0)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	pthread_rwlock_destroy(&s->use);
	free(s);
}
