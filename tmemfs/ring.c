/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring.c - a thread, its io_uring and one entry of the kernel's queue
 *
 *   kernel's queue of processor 0: entry  entry  entry  entry  entry ...    the last used one first
 *                                    |      |      |______|______|
 *                                 server  server        usher          threads, each with an
 * io_uring
 *
 *   server: waits --request--> carries it out --answer--> waits              one system call a
 * request |                       ^
 *                                  +- another answers ->  parked <- usher: takes this entry
 *
 * An entry that is free belongs to the thread that submitted it. If the kernel gives it a request,
 * that one thread has to come and fetch it, whoever else is idle. So a thread that submitted two,
 * and then waits for a backing that hangs with the first, keeps somebody else's request waiting.
 * (This is why we do not use libfuse's own rings: there one thread serves a whole queue.) Hence a
 * server has one entry, and submits it only when it has nothing else to do: what a handler does
 * after its answer is done before the kernel hears of that.
 *
 * The kernel does not look at requests that wait when an entry is new, only when one was used. So
 * all entries are made at the beginning, and the usher, who never waits for anything else, has
 * those that no server has: a request that comes to it goes to a server, together with the entry,
 * which is the server's from then on. Because the kernel prefers the entry that was used last, that
 * happens only when all servers are busy.
 *
 * Invariants
 *   1. An entry that is the kernel's belongs to one thread, and that one waits.
 *   2. A request that another thread may answer (it is interrupted, or waits for a notification)
 *      is carried out on a copy: its entry may be the usher's again by then.
 *
 * Locking: one mutex for each queue, held for a few instructions. Threads block every signal.
 */
#include "tmemfs/ring.h"

#include <errno.h>
#include <pthread.h>
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

#define COPY_MAX    8192 /* longer ones are writes and extended attributes, which only we answer */
#define ENTRIES_MAX 1024 /* a queue */
#define IDLE_NS     2000000000ull
#define ROOM        4096 /* before the payload: for the headers, so that a request is in one piece */

/* What an event is about: the address of an entry, or: */
#define EVENT_CALL 0

struct entry {
	struct queue *queue;           /* constant */
	struct tm_ring_header *header; /* the same; shared with the kernel, one mapping with: */
	char *payload;                 /* ROOM before it */
	struct iovec iov[2];           /* these two, for the kernel */
	uint32_t command;              /* whose it is: what to submit */
	bool in_place;                 /* server: carried out where it is */
	bool answered;                 /* server, or queue lock if another thread does it */
	uint64_t unique;               /* queue lock: the request; 0: none that is to be answered */
	struct server *server;         /* queue lock: who carries it out; NULL: nobody any more */
	struct entry *next; /* queue lock: of those that wait for a server, or the usher */
};

struct server {
	struct queue *queue; /* constant */
	pthread_t thread;    /* constant */
	struct tm_uring uring;
	bool has_uring;
	struct entry *entry;   /* queue lock: NULL: parked, or robbed of it */
	struct server *under;  /* queue lock: of the parked */
	struct server *next;   /* queue lock: of all */
	pthread_cond_t called; /* it has an entry again */
	char copy[COPY_MAX + sizeof(struct tm_ring_header)];
};

struct queue {
	struct tm_ring *ring;  /* constant */
	unsigned int number;   /* constant: the processor's */
	pthread_t usher;       /* constant */
	struct tm_uring uring; /* usher */
	int call_fd;           /* eventfd: the usher has something to do */
	struct entry *entries; /* constant: ring->max of them */
	char *memory;          /* constant: theirs */
	pthread_mutex_t lock;

	/* lock */
	struct server *servers;
	struct server *parked;
	unsigned int server_count;
	struct entry *requests; /* that no server was there for */
	struct entry *answers;  /* for the usher to submit */
};

struct tm_ring {
	/* Constant. */
	struct fuse_session *session;
	unsigned int max; /* entries a queue; twice as many servers */
	void (*on_idle)(void *opaque);
	void *opaque;
	int stop_fd; /* eventfd: readable once `stopping` */

	pthread_mutex_t lock;
	pthread_cond_t changed;

	/* lock */
	unsigned int ready;
	int error;
	bool begun, agreed;
	size_t payload; /* constant once begun */

	_Atomic bool stopping;
	unsigned int queue_count, usher_count;
	struct queue queues[];
};

/* What this thread is carrying out. */
static _Thread_local struct entry *serving;
static _Thread_local uint64_t serving_unique;

static void *server_main(void *arg);

/* --- entries ------------------------------------------------------------------------------- */

static size_t entry_bytes(const struct tm_ring *ring)
{
	return 2 * ROOM + TM_ALIGN(ring->payload, (size_t)ROOM);
}

/* Memory is taken when it is used. */
static int entries_make(struct queue *queue)
{
	const struct tm_ring *ring = queue->ring;

	queue->entries = calloc(ring->max, sizeof(*queue->entries));
	queue->memory = mmap(NULL, ring->max * entry_bytes(ring), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (queue->memory == MAP_FAILED)
		queue->memory = NULL;
	if (!queue->entries || !queue->memory)
		return -ENOMEM;
	for (unsigned int i = 0; i < ring->max; i++) {
		struct entry *entry = &queue->entries[i];
		char *mem = queue->memory + i * entry_bytes(ring);

		entry->queue = queue;
		entry->header = (struct tm_ring_header *)mem;
		entry->payload = mem + 2 * ROOM;
		entry->iov[0] = (struct iovec){entry->header, sizeof(*entry->header)};
		entry->iov[1] = (struct iovec){entry->payload, ring->payload};
		entry->command = TM_RING_REGISTER;
	}
	return 0;
}

static void entry_prepare(struct entry *entry, struct tm_uring *uring)
{
	struct io_uring_sqe *sqe = tm_uring_prepare(uring);
	struct tm_ring_command command = {.qid = (uint16_t)entry->queue->number};

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fuse_session_fd(entry->queue->ring->session);
	sqe->off = entry->command; /* of which the kernel calls 32 bits cmd_op */
	sqe->user_data = (uint64_t)(uintptr_t)entry;
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

static int thread_start(pthread_t *ret_thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(ret_thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

/* One more server, which begins with the request in `entry`. 0 or -errno. */
static int add_server_locked(struct queue *queue, struct entry *entry)
{
	struct server *server = calloc(1, sizeof(*server));
	int rc;

	if (!server)
		return -ENOMEM;
	server->queue = queue;
	server->entry = entry;
	pthread_cond_init(&server->called, NULL);
	rc = thread_start(&server->thread, server_main, server);
	if (rc < 0) {
		pthread_cond_destroy(&server->called);
		free(server);
		return rc;
	}
	entry->server = server;
	server->next = queue->servers;
	queue->servers = server;
	queue->server_count++;
	return 0;
}

/* Have a server carry out the request in `entry`, or keep it until there is one. */
static void give_locked(struct queue *queue, struct entry *entry)
{
	struct server *server = queue->parked;

	if (server) {
		queue->parked = server->under;
		server->entry = entry;
		entry->server = server;
		pthread_cond_signal(&server->called);
	} else if (queue->server_count >= 2 * queue->ring->max ||
		add_server_locked(queue, entry) < 0) {
		entry->next = queue->requests;
		queue->requests = entry;
	}
}

/* Wait for the usher to bring a request. False at the end. */
static bool park(struct server *server)
{
	struct queue *queue = server->queue;
	bool go_on;

	queue->ring->on_idle(queue->ring->opaque);
	pthread_mutex_lock(&queue->lock);
	if (queue->requests) {
		server->entry = queue->requests;
		queue->requests = server->entry->next;
		server->entry->server = server;
	} else {
		server->under = queue->parked;
		queue->parked = server;
	}
	while (!server->entry && !atomic_load(&queue->ring->stopping))
		pthread_cond_wait(&server->called, &queue->lock);
	go_on = server->entry;
	pthread_mutex_unlock(&queue->lock);
	return go_on;
}

static void call(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0) {
		/* An eventfd takes that. */
	}
}

/* The request is answered, but not by who could submit that. */
static void submit_by_usher_locked(struct queue *queue, struct entry *entry)
{
	if (entry->server)
		entry->server->entry = NULL;
	entry->server = NULL;
	entry->unique = 0;
	entry->next = queue->answers;
	queue->answers = entry;
	call(queue->call_fd);
}

/* The handler has returned. True if the answer is there and the entry still the server's. */
static bool done(struct server *server, struct entry *entry)
{
	struct queue *queue = server->queue;
	bool keeps;

	pthread_mutex_lock(&queue->lock);
	keeps = server->entry == entry && entry->answered;
	if (keeps && !server->has_uring) {
		submit_by_usher_locked(queue, entry);
		keeps = false;
	} else if (keeps) {
		entry->unique = 0;
	} else if (server->entry == entry) {
		entry->server = NULL; /* whoever answers sees to it */
		server->entry = NULL;
	}
	pthread_mutex_unlock(&queue->lock);
	return keeps;
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

/* Carry out the request in the server's entry. True if the entry is to be submitted. */
static bool serve(struct server *server)
{
	struct queue *queue = server->queue;
	struct entry *entry = server->entry;
	struct fuse_buf request;

	entry->command = TM_RING_COMMIT;
	pthread_mutex_lock(&queue->lock);
	entry->unique = entry->header->in.unique;
	entry->answered = false;
	pthread_mutex_unlock(&queue->lock);
	request = request_of(server, entry);
	if (request.size == 0) {
		answer_error(entry, -EIO);
		return done(server, entry);
	}
	serving = entry;
	serving_unique = entry->unique;
	tm_session_note(&request);
	fuse_session_process_buf(queue->ring->session, &request);
	serving = NULL;
	return done(server, entry);
}

/* Hear when `fd` can be read. */
static void watch_for(struct tm_uring *uring, int fd)
{
	struct io_uring_sqe *sqe = tm_uring_prepare(uring);

	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = fd;
	sqe->poll32_events = 1; /* POLLIN */
	sqe->user_data = EVENT_CALL;
}

/* Submit the server's entry and wait for a request. False at the end. */
static bool fetch(struct server *server)
{
	struct tm_ring *ring = server->queue->ring;
	struct entry *entry = server->entry;
	uint64_t timeout = IDLE_NS, event;
	int rc;

	entry_prepare(entry, &server->uring);
	for (;;) {
		rc = tm_uring_wait(&server->uring, timeout);
		if (rc == -ETIME) {
			timeout = TM_URING_FOREVER;
			entry_rest(entry);
			ring->on_idle(ring->opaque);
		} else if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
			return false;
		}
		while (tm_uring_next(&server->uring, &event, &rc)) {
			if (event == EVENT_CALL)
				return false;
			if (rc == 0)
				return true;
			if (rc != -EAGAIN && rc != -EINTR)
				return false; /* the connection is over */
			entry_prepare(entry, &server->uring);
		}
	}
}

static void *server_main(void *arg)
{
	struct server *server = arg;

	server->has_uring = tm_uring_open(4, &server->uring) == 0;
	if (server->has_uring)
		watch_for(&server->uring, server->queue->ring->stop_fd);
	while (serve(server) ? fetch(server) : park(server))
		;
	if (server->has_uring)
		tm_uring_close(&server->uring);
	return NULL;
}

/* --- the usher ------------------------------------------------------------------------------ */

/* The usher is called: prepare to submit what others have answered. False at the end. */
static bool called(struct queue *queue)
{
	uint64_t times;
	struct entry *entry;

	if (atomic_load(&queue->ring->stopping) || read(queue->call_fd, &times, sizeof(times)) < 0)
		return false;
	watch_for(&queue->uring, queue->call_fd);
	pthread_mutex_lock(&queue->lock);
	while ((entry = queue->answers)) {
		queue->answers = entry->next;
		entry_prepare(entry, &queue->uring);
	}
	pthread_mutex_unlock(&queue->lock);
	return true;
}

/* One event. 0; -ENOTCONN the end; another errno of the kernel's. */
static int usher(struct queue *queue, uint64_t event, int rc)
{
	struct entry *entry = (struct entry *)(uintptr_t)event;

	if (event == EVENT_CALL)
		return called(queue) ? 0 : -ENOTCONN;
	if (rc == -EAGAIN || rc == -EINTR) {
		entry_prepare(entry, &queue->uring);
		return 0;
	}
	if (rc < 0)
		return rc == -ECONNABORTED ? -ENOTCONN : rc;
	pthread_mutex_lock(&queue->lock);
	give_locked(queue, entry);
	pthread_mutex_unlock(&queue->lock);
	return 0;
}

/* Say how it went so far, and wait for the kernel's first answer. True if that was yes. */
static bool wait_for_begin(struct tm_ring *ring, int rc)
{
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
	return go_on;
}

static void *usher_main(void *arg)
{
	struct queue *queue = arg;
	struct tm_ring *ring = queue->ring;
	int open_rc = tm_uring_open(ring->max + 1, &queue->uring), rc = open_rc;
	uint64_t event;
	int res;

	if (!wait_for_begin(ring, open_rc))
		goto out;
	rc = entries_make(queue);
	if (rc == 0) {
		for (unsigned int i = 0; i < ring->max; i++)
			entry_prepare(&queue->entries[i], &queue->uring);
		watch_for(&queue->uring, queue->call_fd);
	}
	while (rc == 0) {
		rc = tm_uring_wait(&queue->uring, TM_URING_FOREVER);
		if (rc == -EINTR || rc == -EAGAIN || rc == -EBUSY)
			rc = 0;
		while (rc == 0 && tm_uring_next(&queue->uring, &event, &res))
			rc = usher(queue, event, res);
	}
	/* The kernel sends requests here, or waits for us to come: it must not go on alone. */
	if (rc != -ENOTCONN) {
		fprintf(stderr, "tmemfs: io_uring: %s\n", strerror(-rc));
		fuse_session_exit(ring->session);
	}
out:
	if (open_rc == 0)
		tm_uring_close(&queue->uring);
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
	for (unsigned int i = 0; queue->entries && i < queue->ring->max; i++)
		if (queue->entries[i].unique == unique)
			return &queue->entries[i];
	return NULL;
}

/* Another thread answers. Whoever carries the request out may never come back, so the entry is not
 * his any more, unless he does it in there. */
static bool answer_for_other(
	struct queue *queue, const struct iovec *iov, int count, uint64_t unique, ssize_t *ret_rc)
{
	struct entry *entry;

	pthread_mutex_lock(&queue->lock);
	entry = entry_of_locked(queue, unique);
	if (entry) {
		*ret_rc = fill(entry, iov, count);
		if (!entry->server || !entry->in_place)
			submit_by_usher_locked(queue, entry);
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
	if (queue->memory)
		munmap(queue->memory, queue->ring->max * entry_bytes(queue->ring));
	free(queue->entries);
	close(queue->call_fd);
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
	pthread_mutex_init(&ring->lock, NULL);
	pthread_cond_init(&ring->changed, NULL);
	ring->queue_count = queues;
	for (unsigned int i = 0; i < queues; i++) {
		struct queue *queue = &ring->queues[i];

		queue->ring = ring;
		queue->number = i;
		queue->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		pthread_mutex_init(&queue->lock, NULL);
		if (queue->call_fd < 0)
			ring->error = -errno;
	}
	if (ring->stop_fd < 0)
		ring->error = -errno;
	return ring;
}

int tm_ring_start(struct fuse_session *session, unsigned int threads_max,
	void (*on_idle)(void *opaque), void *opaque, struct tm_ring **ret_ring)
{
	unsigned int queues = processors();
	struct tm_ring *ring = queues ? ring_new(queues) : NULL;
	int rc;

	if (!ring)
		return queues ? -ENOMEM : -ENOSYS;
	ring->session = session;
	ring->max = TM_MAX(TM_MIN(threads_max, (unsigned int)ENTRIES_MAX), 2u);
	ring->on_idle = on_idle;
	ring->opaque = opaque;
	rc = ring->error;
	for (unsigned int i = 0; i < queues && rc == 0; i++) {
		rc = thread_start(&ring->queues[i].usher, usher_main, &ring->queues[i]);
		ring->usher_count += rc == 0;
	}
	pthread_mutex_lock(&ring->lock);
	while (ring->ready < ring->usher_count)
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
	call(queue->call_fd);
	pthread_join(queue->usher, NULL);
	/* Only the usher adds servers. */
	pthread_mutex_lock(&queue->lock);
	for (struct server *server = queue->servers; server; server = server->next)
		pthread_cond_signal(&server->called);
	pthread_mutex_unlock(&queue->lock);
	for (struct server *server = queue->servers; server; server = server->next)
		pthread_join(server->thread, NULL);
}

void tm_ring_stop(struct tm_ring *ring)
{
	if (!ring)
		return;
	atomic_store(&ring->stopping, true);
	call(ring->stop_fd);
	tm_ring_begin(ring, false, ring->payload);
	for (unsigned int i = 0; i < ring->usher_count; i++)
		stop_queue(&ring->queues[i]);
}
