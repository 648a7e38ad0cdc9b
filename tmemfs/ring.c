/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring.c - a thread, its io_uring and one entry of the kernel's queue
 *
 *   kernel's queue of processor 0: entry, entry, ...      latest free one first
 *                                    |      |
 *   server (thread + io_uring)       *      *             waits, or carries out a request
 *
 *   waiting --request--> serving --answered, returned--> waiting      (one system call: commit, fetch)
 *                           |
 *                           +--another thread answered, or will--> parked, without an entry
 *   parked --an entry to commit, or a new one as nobody waits--> waiting
 *
 * Why each thread has one entry, and an io_uring of its own: an entry that is free belongs to the
 * thread that submitted it. If the kernel gives it a request, that one thread has to come and fetch
 * it, whoever else is idle. A thread that submitted two, and then waits for a backing that hangs,
 * keeps somebody else's request waiting. (This is also why we do not use libfuse's own rings, where
 * a thread serves a whole queue.) So a thread submits its entry only when it has nothing else to do:
 * also what a handler does after its answer is done before the kernel hears of that.
 *
 * Entries are never taken back: the kernel prefers those that were used last.
 *
 * Invariants
 *   1. An entry that is the kernel's belongs to one server, and that one waits.
 *   2. While a request is carried out some server of its queue waits, unless `max` are busy.
 *   3. A request that another thread may answer (it is interrupted, or waits for a notification)
 *      is carried out on a copy: its entry is another server's by then.
 *
 * Locking: one mutex for each queue, held for a few instructions. Threads block every signal.
 */
#include "tmemfs/ring.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/util.h"
#include "tmemfs/ring_abi.h"
#include "tmemfs/session.h"
#include "tmemfs/uring.h"

#define COPY_MAX 8192 /* longer ones are writes and extended attributes, which only we answer */
#define IDLE_NS  3000000000ull
#define ROOM     4096 /* before the payload: for the headers, so that a request is in one piece */
#define AGAIN_NS (10 * 1000000l)

#define EVENT_STOP  0
#define EVENT_ENTRY 1

struct entry {
	struct queue *queue;            /* constant */
	struct tm_ring_header *header;  /* the same: shared with the kernel, one mapping with: */
	char *payload;                  /* ROOM before it */
	struct iovec iov[2];            /* these two, for the kernel */
	uint32_t command;               /* server: what to submit */
	bool in_place;                  /* server: carried out where it is */
	uint64_t unique;                /* queue lock: the request, 0: none that is to be answered */
	struct server *server;          /* queue lock: who carries it out, or did; NULL: nobody */
	bool answered;                  /* server, or queue lock if another thread does it */
	struct entry *next;             /* queue lock: of all */
};

struct server {
	struct queue *queue; /* constant */
	pthread_t thread;    /* constant */
	struct tm_uring uring;
	struct entry *entry;   /* queue lock: NULL: parked, or robbed of it */
	struct server *under;  /* queue lock: of the parked */
	struct server *next;   /* queue lock: of all */
	pthread_cond_t called; /* it has an entry again */
	char copy[COPY_MAX + sizeof(struct tm_ring_header)];
};

struct queue {
	struct tm_ring *ring; /* constant */
	unsigned int number;  /* constant: the processor's */
	pthread_mutex_t lock;

	/* lock */
	struct server *servers;
	struct server *parked;
	struct entry *entries;
	unsigned int server_count;
	unsigned int entry_count; /* but for those that wait for another thread's answer */
	unsigned int receivers; /* that wait, or are on their way to it */
};

struct tm_ring {
	/* Constant. */
	struct fuse_session *session;
	unsigned int max;
	void (*on_idle)(void *opaque);
	void *opaque;
	int stop_fd; /* eventfd: readable once `stopping` */

	pthread_mutex_t lock;
	pthread_cond_t changed;

	/* lock */
	unsigned int ready, failed;
	int error;
	bool begun, agreed;
	size_t payload; /* constant once begun */

	_Atomic bool stopping;
	unsigned int queue_count;
	struct queue queues[];
};

/* What this thread is carrying out. */
static _Thread_local struct entry *serving;
static _Thread_local uint64_t serving_unique;

static void *server_main(void *arg);

/* --- entries ------------------------------------------------------------------------------- */

static struct entry *entry_new_locked(struct queue *queue)
{
	size_t payload = queue->ring->payload;
	struct entry *entry = queue->entry_count < queue->ring->max ? calloc(1, sizeof(*entry)) : NULL;
	char *mem;

	if (!entry)
		return NULL;
	mem = mmap(NULL, 2 * ROOM + payload, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		0);
	if (mem == MAP_FAILED) {
		free(entry);
		return NULL;
	}
	entry->queue = queue;
	entry->header = (struct tm_ring_header *)mem;
	entry->payload = mem + 2 * ROOM;
	entry->iov[0] = (struct iovec){entry->header, sizeof(*entry->header)};
	entry->iov[1] = (struct iovec){entry->payload, payload};
	entry->command = TM_RING_REGISTER;
	entry->next = queue->entries;
	queue->entries = entry;
	queue->entry_count++;
	return entry;
}

static void entry_prepare(struct entry *entry, struct tm_uring *uring, int device)
{
	struct io_uring_sqe *sqe = tm_uring_prepare(uring);
	struct tm_ring_command command = {.qid = (uint16_t)entry->queue->number};

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = device;
	sqe->off = entry->command; /* of which the kernel calls 32 bits cmd_op */
	sqe->user_data = EVENT_ENTRY;
	if (entry->command == TM_RING_REGISTER) {
		sqe->addr = (uint64_t)(uintptr_t)entry->iov;
		sqe->len = 2;
	} else {
		command.commit_id = entry->header->entry.commit_id;
	}
	memcpy((char *)sqe + offsetof(struct io_uring_sqe, addr3), &command, sizeof(command));
}

/* Give the memory of large requests back, while the entry waits. The kernel writes to it only in
 * its server's own context. */
static void entry_rest(const struct entry *entry)
{
	madvise(entry->payload, entry->iov[1].iov_len, MADV_DONTNEED);
}

/* --- servers -------------------------------------------------------------------------------- */

/* One more thread, for `entry` if it is not NULL. 0 or -errno. */
static int add_server_locked(struct queue *queue, struct entry *entry)
{
	struct server *server = calloc(1, sizeof(*server));
	sigset_t all, old;
	int rc;

	if (!server)
		return -ENOMEM;
	server->queue = queue;
	server->entry = entry;
	pthread_cond_init(&server->called, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&server->thread, NULL, server_main, server);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		pthread_cond_destroy(&server->called);
		free(server);
		return -rc;
	}
	if (entry)
		entry->server = server;
	server->next = queue->servers;
	queue->servers = server;
	queue->server_count++;
	return 0;
}

/* Have somebody else wait with `entry`. False if there is no thread for it. */
static bool give_locked(struct queue *queue, struct entry *entry)
{
	struct server *server = queue->parked;

	if (server) {
		queue->parked = server->under;
		server->entry = entry;
		entry->server = server;
		pthread_cond_signal(&server->called);
	} else if (queue->server_count >= 2 * queue->ring->max ||
		   add_server_locked(queue, entry) < 0) {
		return false;
	}
	queue->receivers++;
	return true;
}

/* A request has come for `server`. Without anybody to spare the others wait until one is done. */
static void received(struct server *server, struct entry *entry)
{
	struct queue *queue = server->queue;
	struct entry *more;

	pthread_mutex_lock(&queue->lock);
	entry->unique = entry->header->in.unique;
	entry->answered = false;
	if (--queue->receivers == 0 && !atomic_load(&queue->ring->stopping)) {
		more = entry_new_locked(queue);
		if (more && !give_locked(queue, more)) {
			queue->entries = more->next;
			queue->entry_count--;
			munmap(more->header, 2 * ROOM + queue->ring->payload);
			free(more);
		}
	}
	pthread_mutex_unlock(&queue->lock);
}

/* Wait until there is an entry for this thread. False at the end. */
static bool park(struct server *server)
{
	struct queue *queue = server->queue;
	bool go_on;

	queue->ring->on_idle(queue->ring->opaque);
	pthread_mutex_lock(&queue->lock);
	server->under = queue->parked;
	queue->parked = server;
	while (!server->entry && !atomic_load(&queue->ring->stopping))
		pthread_cond_wait(&server->called, &queue->lock);
	go_on = server->entry;
	pthread_mutex_unlock(&queue->lock);
	return go_on;
}

/* The handler has returned: wait with the entry again, if it is still ours. */
static bool done(struct server *server, struct entry *entry)
{
	struct queue *queue = server->queue;
	bool keeps;

	pthread_mutex_lock(&queue->lock);
	keeps = server->entry == entry && entry->answered;
	if (keeps) {
		entry->unique = 0;
	} else if (server->entry == entry) {
		entry->server = NULL; /* whoever answers sees to it */
		server->entry = NULL;
		queue->entry_count--;
	}
	if (!keeps && queue->receivers == 0) {
		server->entry = entry_new_locked(queue);
		keeps = server->entry;
		if (keeps)
			server->entry->server = server;
	}
	if (keeps)
		queue->receivers++;
	pthread_mutex_unlock(&queue->lock);
	return keeps || park(server);
}

/* --- requests -------------------------------------------------------------------------------- */

/* The request in one piece, as it would have been read; its length is 0 if it is none. */
static struct fuse_buf request_of(struct server *server, struct entry *entry)
{
	const struct tm_ring_header *header = entry->header;
	size_t len = header->in.len, payload = header->entry.payload_bytes, op;
	struct fuse_buf request = {.size = 0, .fd = -1};
	char *at;

	op = len - sizeof(header->in) - payload;
	if (len < sizeof(header->in) + payload || op > sizeof(header->op_in) ||
		payload > entry->iov[1].iov_len)
		return request;
	entry->in_place = payload > COPY_MAX;
	at = entry->in_place ? entry->payload - op - sizeof(header->in) : server->copy;
	memcpy(at, &header->in, sizeof(header->in));
	memcpy(at + sizeof(header->in), header->op_in, op);
	if (!entry->in_place)
		memcpy(at + sizeof(header->in) + op, entry->payload, payload);
	request.mem = at;
	request.size = len;
	return request;
}

static void answer_error(struct entry *entry, int error)
{
	entry->header->out = (struct fuse_out_header){
		.len = sizeof(entry->header->out), .error = error, .unique = entry->unique};
	entry->header->entry.payload_bytes = 0;
	entry->answered = true;
}

/* Carry out what has come with the server's entry. False at the end. */
static bool serve(struct server *server)
{
	struct entry *entry = server->entry;
	struct tm_ring *ring = server->queue->ring;
	struct fuse_buf request;

	entry->command = TM_RING_COMMIT;
	received(server, entry);
	request = request_of(server, entry);
	if (request.size == 0) {
		answer_error(entry, -EIO);
		return done(server, entry);
	}
	serving = entry;
	serving_unique = entry->unique;
	tm_session_note(&request);
	fuse_session_process_buf(ring->session, &request);
	serving = NULL;
	return done(server, entry);
}

/* Submit the entry and wait for a request. 0; -ENOTCONN the end; another errno: the entry is lost. */
static int fetch(struct server *server)
{
	struct tm_ring *ring = server->queue->ring;
	struct entry *entry = server->entry;
	uint64_t timeout = IDLE_NS, event;
	int rc;

	entry_prepare(entry, &server->uring, fuse_session_fd(ring->session));
	for (;;) {
		rc = tm_uring_wait(&server->uring, timeout);
		if (rc == -ETIME) {
			timeout = TM_URING_FOREVER;
			entry_rest(entry);
			ring->on_idle(ring->opaque);
		} else if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
			return -ENOTCONN;
		}
		while (tm_uring_next(&server->uring, &event, &rc)) {
			if (event == EVENT_STOP || rc == -ENOTCONN || rc == -ECONNABORTED)
				return -ENOTCONN;
			if (rc != -EAGAIN && rc != -EINTR)
				return rc;
			entry_prepare(entry, &server->uring, fuse_session_fd(ring->session));
		}
	}
}

/* The thread belongs to its queue's processor, as the callers do whose requests come there. */
static void stay_there(unsigned int processor)
{
	cpu_set_t set;

	if (processor >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	/* It may not be there, or not be for us. */
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static int server_open(struct server *server)
{
	int rc = tm_uring_open(&server->uring);
	struct io_uring_sqe *sqe;

	if (rc < 0)
		return rc;
	sqe = tm_uring_prepare(&server->uring);
	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = server->queue->ring->stop_fd;
	sqe->poll32_events = 1; /* POLLIN */
	sqe->user_data = EVENT_STOP;
	return 0;
}

/* The first thread of its queue: say how that went, and wait for the kernel's first answer. True
 * with an entry. */
static bool wait_for_begin(struct server *server, int rc)
{
	struct queue *queue = server->queue;
	struct tm_ring *ring = queue->ring;
	bool go_on;

	pthread_mutex_lock(&ring->lock);
	if (rc < 0)
		ring->error = rc;
	ring->ready++;
	pthread_cond_broadcast(&ring->changed);
	while (!ring->begun)
		pthread_cond_wait(&ring->changed, &ring->lock);
	go_on = rc == 0 && ring->agreed && !atomic_load(&ring->stopping);
	pthread_mutex_unlock(&ring->lock);
	if (!go_on)
		return false;
	pthread_mutex_lock(&queue->lock);
	server->entry = entry_new_locked(queue);
	if (server->entry) {
		server->entry->server = server;
		queue->receivers++;
	}
	pthread_mutex_unlock(&queue->lock);
	return server->entry;
}

static void *server_main(void *arg)
{
	struct server *server = arg;
	struct tm_ring *ring = server->queue->ring;
	bool first = !server->entry;
	int rc;

	if (getenv("TM_RING_PIN"))
		stay_there(server->queue->number);
	rc = server_open(server);
	if (first && !wait_for_begin(server, rc))
		goto out;
	while (rc == 0) {
		rc = fetch(server);
		if (rc == 0 && !serve(server))
			break;
	}
	/* The kernel waits for as many as have promised to come. */
	if (rc < 0 && rc != -ENOTCONN) {
		fprintf(stderr, "tmemfs: io_uring: %s\n", strerror(-rc));
		fuse_session_exit(ring->session);
	}
out:
	if (server->uring.rings)
		tm_uring_close(&server->uring);
	return NULL;
}

/* --- answers --------------------------------------------------------------------------------- */

/* Put an answer where the kernel reads it. The number of bytes, or -1 and errno. */
static ssize_t fill(struct entry *entry, const struct iovec *iov, int count)
{
	size_t len = 0;

	for (int i = 1; i < count; i++) {
		if (iov[i].iov_len > entry->iov[1].iov_len - len) {
			answer_error(entry, -EIO);
			errno = EINVAL;
			return -1;
		}
		memcpy(entry->payload + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	memcpy(&entry->header->out, iov[0].iov_base, sizeof(entry->header->out));
	entry->header->entry.payload_bytes = (uint32_t)len;
	entry->answered = true;
	return (ssize_t)(sizeof(entry->header->out) + len);
}

static struct entry *entry_of_locked(const struct queue *queue, uint64_t unique)
{
	for (struct entry *entry = queue->entries; entry; entry = entry->next)
		if (entry->unique == unique)
			return entry;
	return NULL;
}

/* Another thread answers: whoever carries the request out may never come back, so the entry is
 * somebody else's from now on. */
static void take_away_locked(struct queue *queue, struct entry *entry)
{
	struct timespec pause = {0, AGAIN_NS};
	struct server *server = entry->server;

	if (server && entry->in_place)
		return;
	entry->unique = 0;
	while (!give_locked(queue, entry)) {
		if (server || atomic_load(&queue->ring->stopping))
			break; /* then it goes when its handler returns, or never */
		pthread_mutex_unlock(&queue->lock);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&queue->lock);
	}
	if (!server && entry->server)
		queue->entry_count++;
	else if (entry->server != server)
		server->entry = NULL;
}

static bool answer_for_other(
	struct queue *queue, const struct iovec *iov, int count, uint64_t unique, ssize_t *ret_rc)
{
	struct entry *entry;

	pthread_mutex_lock(&queue->lock);
	entry = entry_of_locked(queue, unique);
	if (entry) {
		*ret_rc = fill(entry, iov, count);
		take_away_locked(queue, entry);
	}
	pthread_mutex_unlock(&queue->lock);
	return entry;
}

bool tm_ring_answer(struct tm_ring *ring, const struct iovec *iov, int count, ssize_t *ret_rc)
{
	const struct fuse_out_header *out = iov[0].iov_base;

	if (serving && serving_unique == out->unique) {
		*ret_rc = fill(serving, iov, count);
		return true;
	}
	if (out->unique == 0) /* a notification */
		return false;
	for (unsigned int i = 0; i < ring->queue_count; i++)
		if (answer_for_other(&ring->queues[i], iov, count, out->unique, ret_rc))
			return true;
	return false;
}

/* --- start and stop -------------------------------------------------------------------------- */

/* The kernel makes a queue for each processor that could be there. */
static unsigned int processors(void)
{
	unsigned int last = 0, from;
	char text[256] = "", *p;
	FILE *file = fopen("/sys/devices/system/cpu/possible", "re");

	if (!file)
		return 0;
	if (fgets(text, sizeof(text), file))
		for (p = text; (p = strpbrk(p, "0123456789")); last = from)
			from = (unsigned int)strtoul(p, &p, 10);
	fclose(file);
	return *text ? last + 1 : 0;
}

static void free_queue(struct queue *queue)
{
	while (queue->servers) {
		struct server *server = queue->servers;

		queue->servers = server->next;
		pthread_cond_destroy(&server->called);
		free(server);
	}
	while (queue->entries) {
		struct entry *entry = queue->entries;

		queue->entries = entry->next;
		munmap(entry->header, 2 * ROOM + queue->ring->payload);
		free(entry);
	}
	pthread_mutex_destroy(&queue->lock);
}

void tm_ring_free(struct tm_ring *ring)
{
	if (!ring)
		return;
	for (unsigned int i = 0; i < ring->queue_count; i++)
		free_queue(&ring->queues[i]);
	close(ring->stop_fd);
	pthread_cond_destroy(&ring->changed);
	pthread_mutex_destroy(&ring->lock);
	free(ring);
}

static struct tm_ring *ring_new(unsigned int queues)
{
	struct tm_ring *ring = calloc(1, sizeof(*ring) + queues * sizeof(struct queue));

	if (!ring)
		return NULL;
	ring->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (ring->stop_fd < 0) {
		free(ring);
		return NULL;
	}
	pthread_mutex_init(&ring->lock, NULL);
	pthread_cond_init(&ring->changed, NULL);
	ring->queue_count = queues;
	for (unsigned int i = 0; i < queues; i++) {
		ring->queues[i].ring = ring;
		ring->queues[i].number = i;
		pthread_mutex_init(&ring->queues[i].lock, NULL);
	}
	return ring;
}

int tm_ring_start(struct fuse_session *session, unsigned int threads_max,
	void (*on_idle)(void *opaque), void *opaque, struct tm_ring **ret_ring)
{
	unsigned int queues = processors(), started;
	struct tm_ring *ring = queues ? ring_new(queues) : NULL;
	int rc = 0;

	if (!ring)
		return queues ? -ENOMEM : -ENOSYS;
	ring->session = session;
	ring->max = TM_MAX(threads_max, 2u);
	ring->on_idle = on_idle;
	ring->opaque = opaque;
	for (started = 0; started < queues && rc == 0; started += rc == 0) {
		pthread_mutex_lock(&ring->queues[started].lock);
		rc = add_server_locked(&ring->queues[started], NULL);
		pthread_mutex_unlock(&ring->queues[started].lock);
	}
	pthread_mutex_lock(&ring->lock);
	while (ring->ready < started)
		pthread_cond_wait(&ring->changed, &ring->lock);
	rc = rc < 0 ? rc : ring->error;
	pthread_mutex_unlock(&ring->lock);
	if (rc < 0) {
		tm_ring_stop(ring);
		tm_ring_free(ring);
		return rc;
	}
	*ret_ring = ring;
	return 0;
}

void tm_ring_begin(struct tm_ring *ring, bool agreed, size_t payload)
{
	pthread_mutex_lock(&ring->lock);
	ring->agreed = agreed;
	ring->payload = payload;
	ring->begun = true;
	pthread_cond_broadcast(&ring->changed);
	pthread_mutex_unlock(&ring->lock);
}

static void stop_queue(struct queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	for (struct server *server = queue->servers; server; server = server->next)
		pthread_cond_signal(&server->called);
	pthread_mutex_unlock(&queue->lock);
	/* No server is added once `stopping` is set. */
	for (struct server *server = queue->servers; server; server = server->next)
		pthread_join(server->thread, NULL);
}

void tm_ring_stop(struct tm_ring *ring)
{
	uint64_t one = 1;

	if (!ring)
		return;
	atomic_store(&ring->stopping, true);
	if (write(ring->stop_fd, &one, sizeof(one)) < 0) {
		/* An eventfd takes that. */
	}
	pthread_mutex_lock(&ring->lock);
	ring->begun = true;
	pthread_cond_broadcast(&ring->changed);
	pthread_mutex_unlock(&ring->lock);
	for (unsigned int i = 0; i < ring->queue_count; i++)
		stop_queue(&ring->queues[i]);
}
