/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring_server.c - the threads that carry requests out; see ring.c
 */
#include "tmemfs/ring_state.h"
#include "tmemfs/ring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/util.h"
#include "tmemfs/session.h"

#define IDLE_NS 2000000000ull /* then memory is given back */

static _Thread_local struct tm_ring_entry *serving;
static _Thread_local uint64_t serving_unique;
static _Thread_local bool hurry;

static void *server_main(void *arg);

struct tm_ring_entry *tm_ring_serving(uint64_t unique)
{
	return serving && serving_unique == unique ? serving : NULL;
}

void tm_ring_hurry(void)
{
	hurry = serving;
}

bool tm_ring_spares(void)
{
	struct tm_ring_queue *queue = serving ? serving->queue : NULL;
	unsigned int waiting = 0;

	if (!queue)
		return true;
	pthread_mutex_lock(&queue->lock);
	for (unsigned int i = 0; i < queue->ring->max; i++)
		waiting += queue->entries[i].unique && !queue->entries[i].server;
	pthread_mutex_unlock(&queue->lock);
	return waiting < queue->ring->max / 4 * 3;
}

void tm_ring_answered(struct tm_ring_entry *entry)
{
	struct tm_ring_server *server = entry->server;

	if (!hurry || !server->has_uring)
		return;
	pthread_mutex_lock(&entry->queue->lock);
	entry->unique = 0;
	pthread_mutex_unlock(&entry->queue->lock);
	tm_ring_prepare(entry, &server->uring);
	tm_uring_submit(&server->uring);
	entry->submitted = true;
}

/* --- servers -------------------------------------------------------------------------------- */

/* One more server, which begins with the request in `entry`. 0 or -errno. */
static int add_server_locked(struct tm_ring_queue *queue, struct tm_ring_entry *entry)
{
	struct tm_ring_server *server = calloc(1, sizeof(*server));
	int rc;

	if (!server)
		return -ENOMEM;
	server->queue = queue;
	server->entry = entry;
	pthread_cond_init(&server->called, NULL);
	rc = tm_ring_thread(&server->thread, server_main, server);
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

/* Those that wait in the kernel for requests of their own do not count. */
static bool may_begin_locked(const struct tm_ring_queue *queue)
{
	return queue->busy < queue->ring->busy_max;
}

void tm_ring_give_locked(struct tm_ring_queue *queue, struct tm_ring_entry *entry)
{
	struct tm_ring_server *server = queue->parked;

	entry->unique = entry->header->in.unique;
	if (server && may_begin_locked(queue)) {
		queue->parked = server->under;
		server->entry = entry;
		entry->server = server;
		queue->busy++;
		pthread_cond_signal(&server->called);
	} else if (may_begin_locked(queue) && add_server_locked(queue, entry) == 0) {
		queue->busy++;
	} else {
		entry->next = NULL;
		*queue->last_request = entry;
		queue->last_request = &entry->next;
	}
}

/* The first of the requests that no server was there for, or NULL. */
static struct tm_ring_entry *next_request_locked(struct tm_ring_queue *queue)
{
	struct tm_ring_entry *entry = queue->requests;

	if (!entry)
		return NULL;
	queue->requests = entry->next;
	if (!queue->requests)
		queue->last_request = &queue->requests;
	return entry;
}

/* Wait for the usher to bring a request. False at the end. */
static bool park(struct tm_ring_server *server)
{
	struct tm_ring_queue *queue = server->queue;
	bool go_on;

	queue->ring->on_idle(queue->ring->opaque);
	pthread_mutex_lock(&queue->lock);
	server->entry = next_request_locked(queue);
	if (server->entry) {
		server->entry->server = server;
		queue->busy++;
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

/* The handler has returned. True if the answer is there and the entry still the server's. */
static bool done(struct tm_ring_server *server, struct tm_ring_entry *entry)
{
	struct tm_ring_queue *queue = server->queue;
	bool keeps;

	pthread_mutex_lock(&queue->lock);
	queue->busy--;
	keeps = server->entry == entry && entry->answered;
	if (keeps && (!server->has_uring || (queue->requests && !entry->submitted))) {
		tm_ring_by_usher_locked(queue, entry); /* and park() finds the request */
		keeps = false;
	} else if (keeps) {
		entry->unique = 0;
		entry = next_request_locked(queue);
		if (entry)
			tm_ring_give_locked(queue, entry);
	} else if (server->entry == entry) {
		entry->server = NULL; /* whoever answers sees to it */
		server->entry = NULL;
	}
	pthread_mutex_unlock(&queue->lock);
	return keeps;
}

/* --- requests -------------------------------------------------------------------------------- */

/* The request in one piece, as it would have been read; its length is 0 if it is none. */
static struct fuse_buf request_of(struct tm_ring_server *server, struct tm_ring_entry *entry)
{
	const struct tm_ring_header *header = entry->header;
	size_t len = header->in.len, payload = header->entry.payload_bytes, op;
	struct fuse_buf request = {.size = 0, .fd = -1};
	char *at;

	op = len - sizeof(header->in) - payload;
	if (len < sizeof(header->in) + payload || op > sizeof(header->op_in) ||
		payload > entry->iov[1].iov_len)
		return request;
	entry->in_place = payload > TM_RING_COPY_MAX;
	at = entry->in_place ? entry->payload - op - sizeof(header->in) : server->copy;
	memcpy(at, &header->in, sizeof(header->in));
	memcpy(at + sizeof(header->in), header->op_in, op);
	if (!entry->in_place)
		memcpy(at + sizeof(header->in) + op, entry->payload, payload);
	request.mem = at;
	request.size = len;
	return request;
}

void tm_ring_answer_error(struct tm_ring_entry *entry, int error)
{
	entry->header->out = (struct fuse_out_header){
		.len = sizeof(entry->header->out), .error = error, .unique = entry->unique};
	entry->header->entry.payload_bytes = 0;
	entry->answered = true;
}

/* Carry out the request in the server's entry. True if the entry is to be submitted. */
static bool serve(struct tm_ring_server *server)
{
	struct tm_ring_queue *queue = server->queue;
	struct tm_ring_entry *entry = server->entry;
	struct fuse_buf request;

	entry->command = TM_RING_COMMIT;
	pthread_mutex_lock(&queue->lock);
	entry->unique = entry->header->in.unique;
	entry->answered = false;
	pthread_mutex_unlock(&queue->lock);
	request = request_of(server, entry);
	if (request.size == 0) {
		tm_ring_answer_error(entry, -EIO);
		return done(server, entry);
	}
	hurry = false;
	serving = entry;
	serving_unique = entry->unique;
	tm_session_note(queue->ring->session, &request);
	fuse_session_process_buf(queue->ring->session, &request);
	serving = NULL;
	return done(server, entry);
}

/* Give the memory of large requests back, while the entry waits. The kernel writes to it only in
 * its server's own context. */
static void entry_rest(const struct tm_ring_entry *entry)
{
	madvise(entry->payload, entry->iov[1].iov_len, MADV_DONTNEED);
}

/* The server's own entry has a request. */
static bool begins(struct tm_ring_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->busy++;
	pthread_mutex_unlock(&queue->lock);
	return true;
}

/* Submit the server's entry and wait for a request. False at the end. */
static bool fetch(struct tm_ring_server *server)
{
	struct tm_ring *ring = server->queue->ring;
	struct tm_ring_entry *entry = server->entry;
	uint64_t timeout = IDLE_NS, event;
	int rc;

	if (!entry->submitted)
		tm_ring_prepare(entry, &server->uring);
	entry->submitted = false;
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
			if (event == TM_EVENT_CALL)
				return false;
			if (rc == 0)
				return begins(server->queue);
			if (rc != -EAGAIN && rc != -EINTR)
				return false; /* the connection is over */
			tm_ring_prepare(entry, &server->uring);
		}
	}
}

static void *server_main(void *arg)
{
	struct tm_ring_server *server = arg;

	server->has_uring = tm_uring_open(4, &server->uring) == 0;
	if (server->has_uring)
		tm_ring_watch(&server->uring, server->queue->ring->stop_fd);
	while (serve(server) ? fetch(server) : park(server))
		;
	if (server->has_uring)
		tm_uring_close(&server->uring);
	return NULL;
}
