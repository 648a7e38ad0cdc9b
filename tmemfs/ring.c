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
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/util.h"
#include "tmemfs/ring_state.h"

/* A queue. Requests that wait, for a lock say, have one each, whoever's threads they need. */
#define ENTRIES_MIN 128
#define ENTRIES_MAX 1024
#define ENTRIES_ALL 16384 /* for so many in all, or ENTRIES_MIN each */

/* --- entries ------------------------------------------------------------------------------- */

static size_t entry_bytes(const struct tm_ring *ring)
{
	return 2 * TM_RING_ROOM + TM_ALIGN(ring->payload, (size_t)TM_RING_ROOM);
}

/* Memory is taken when it is used. */
static int entries_make(struct tm_ring_queue *queue)
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
		struct tm_ring_entry *entry = &queue->entries[i];
		char *mem = queue->memory + i * entry_bytes(ring);

		entry->queue = queue;
		entry->header = (struct tm_ring_header *)mem;
		entry->payload = mem + 2 * TM_RING_ROOM;
		entry->iov[0] = (struct iovec){entry->header, sizeof(*entry->header)};
		entry->iov[1] = (struct iovec){entry->payload, ring->payload};
		entry->command = TM_RING_REGISTER;
	}
	return 0;
}

void tm_ring_prepare(struct tm_ring_entry *entry, struct tm_uring *uring)
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

int tm_ring_thread(pthread_t *ret_thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(ret_thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

/* --- the usher ------------------------------------------------------------------------------ */

void tm_ring_watch(struct tm_uring *uring, int fd)
{
	struct io_uring_sqe *sqe = tm_uring_prepare(uring);

	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = fd;
	sqe->poll32_events = 1; /* POLLIN */
	sqe->user_data = TM_EVENT_CALL;
}

static void call(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0) {
		/* An eventfd takes that. */
	}
}

void tm_ring_by_usher_locked(struct tm_ring_queue *queue, struct tm_ring_entry *entry)
{
	if (entry->server)
		entry->server->entry = NULL;
	entry->server = NULL;
	entry->unique = 0;
	entry->next = queue->answers;
	queue->answers = entry;
	call(queue->call_fd);
}

/* The usher is called: prepare to submit what others have answered. False at the end. */
static bool called(struct tm_ring_queue *queue)
{
	uint64_t times;
	struct tm_ring_entry *entry;

	if (atomic_load(&queue->ring->stopping) || read(queue->call_fd, &times, sizeof(times)) < 0)
		return false;
	tm_ring_watch(&queue->uring, queue->call_fd);
	pthread_mutex_lock(&queue->lock);
	while ((entry = queue->answers)) {
		queue->answers = entry->next;
		tm_ring_prepare(entry, &queue->uring);
	}
	pthread_mutex_unlock(&queue->lock);
	return true;
}

/* One event. 0; -ENOTCONN the end; another errno of the kernel's. */
static int usher(struct tm_ring_queue *queue, uint64_t event, int rc)
{
	struct tm_ring_entry *entry = (struct tm_ring_entry *)(uintptr_t)event;

	if (event == TM_EVENT_CALL)
		return called(queue) ? 0 : -ENOTCONN;
	if (rc == -EAGAIN || rc == -EINTR) {
		tm_ring_prepare(entry, &queue->uring);
		return 0;
	}
	if (rc < 0)
		return rc == -ECONNABORTED ? -ENOTCONN : rc;
	pthread_mutex_lock(&queue->lock);
	tm_ring_give_locked(queue, entry);
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
	struct tm_ring_queue *queue = arg;
	struct tm_ring *ring = queue->ring;
	int open_rc = tm_uring_open(ring->max + 1, &queue->uring), rc = open_rc;
	uint64_t event;
	int res;

	if (!wait_for_begin(ring, open_rc))
		goto out;
	rc = entries_make(queue);
	if (rc == 0) {
		for (unsigned int i = 0; i < ring->max; i++)
			tm_ring_prepare(&queue->entries[i], &queue->uring);
		tm_ring_watch(&queue->uring, queue->call_fd);
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
static ssize_t fill(struct tm_ring_entry *entry, const struct iovec *iov, int count)
{
	size_t len = 0;

	for (int i = 1; i < count; i++) {
		if (iov[i].iov_len > entry->iov[1].iov_len - len) {
			tm_ring_answer_error(entry, -EIO);
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

static struct tm_ring_entry *entry_of_locked(const struct tm_ring_queue *queue, uint64_t unique)
{
	for (unsigned int i = 0; queue->entries && i < queue->ring->max; i++)
		if (queue->entries[i].unique == unique)
			return &queue->entries[i];
	return NULL;
}

/* Another thread answers. Whoever carries the request out may never come back, so the entry is not
 * his any more, unless he does it in there. */
static bool answer_for_other(struct tm_ring_queue *queue, const struct iovec *iov, int count,
	uint64_t unique, ssize_t *ret_rc)
{
	struct tm_ring_entry *entry;

	pthread_mutex_lock(&queue->lock);
	entry = entry_of_locked(queue, unique);
	if (entry) {
		*ret_rc = fill(entry, iov, count);
		if (!entry->server || !entry->in_place)
			tm_ring_by_usher_locked(queue, entry);
	}
	pthread_mutex_unlock(&queue->lock);
	return entry;
}

bool tm_ring_answer(struct tm_ring *ring, const struct iovec *iov, int count, ssize_t *ret_rc)
{
	const struct fuse_out_header *out = iov[0].iov_base;

	struct tm_ring_entry *serving = tm_ring_serving(out->unique);

	if (serving) {
		*ret_rc = fill(serving, iov, count);
		tm_ring_answered(serving);
		return true;
	}
	if (out->unique == 0) /* a notification */
		return false;
	for (unsigned int i = 0; i < ring->queue_count; i++)
		if (answer_for_other(&ring->queues[i], iov, count, out->unique, ret_rc))
			return true;
	return false;
}

bool tm_ring_pending(struct tm_ring *ring, uint64_t unique)
{
	bool pending = false;

	for (unsigned int i = 0; i < ring->queue_count && !pending; i++) {
		struct tm_ring_queue *queue = &ring->queues[i];

		pthread_mutex_lock(&queue->lock);
		pending = entry_of_locked(queue, unique);
		pthread_mutex_unlock(&queue->lock);
	}
	return pending;
}

/* --- start and stop -------------------------------------------------------------------------- */

/* The kernel makes a queue for each processor that could be there: "0-3,8". */
static unsigned int processors(void)
{
	FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
	unsigned int count = 0;
	char text[256], *p = text;

	if (!file)
		return 0;
	if (!fgets(text, sizeof(text), file))
		*text = '\0';
	fclose(file);
	while ((p = strpbrk(p, "0123456789"))) {
		unsigned long first = strtoul(p, &p, 10), last = first;

		if (*p == '-')
			last = strtoul(p + 1, &p, 10);
		count += (unsigned int)(last - first) + 1;
	}
	return count;
}

static void free_queue(struct tm_ring_queue *queue)
{
	while (queue->servers) {
		struct tm_ring_server *server = queue->servers;

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
	struct tm_ring *ring = calloc(1, sizeof(*ring) + queues * sizeof(struct tm_ring_queue));

	if (!ring)
		return NULL;
	ring->stop_fd = eventfd(0, EFD_CLOEXEC);
	pthread_mutex_init(&ring->lock, NULL);
	pthread_cond_init(&ring->changed, NULL);
	ring->queue_count = queues;
	for (unsigned int i = 0; i < queues; i++) {
		struct tm_ring_queue *queue = &ring->queues[i];

		queue->ring = ring;
		queue->number = i;
		queue->last_request = &queue->requests;
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
	ring->max = TM_MIN(
		TM_MAX(ENTRIES_ALL / queues, (unsigned int)ENTRIES_MIN), (unsigned int)ENTRIES_MAX);
	ring->busy_max = TM_MAX(threads_max, 1u);
	ring->on_idle = on_idle;
	ring->opaque = opaque;
	rc = ring->error;
	for (unsigned int i = 0; i < queues && rc == 0; i++) {
		rc = tm_ring_thread(&ring->queues[i].usher, usher_main, &ring->queues[i]);
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

static void stop_queue(struct tm_ring_queue *queue)
{
	call(queue->call_fd);
	pthread_join(queue->usher, NULL);
	/* Only the usher adds servers. */
	pthread_mutex_lock(&queue->lock);
	for (struct tm_ring_server *server = queue->servers; server; server = server->next)
		pthread_cond_signal(&server->called);
	pthread_mutex_unlock(&queue->lock);
	for (struct tm_ring_server *server = queue->servers; server; server = server->next)
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
