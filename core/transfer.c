/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/transfer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/util.h"

#define STACK_BYTES (256u << 10)

struct tm_transfer {
	struct tm_store *store;
	struct tm_move_params who;

	/* Of the one that is under way; constant while it is. */
	struct tm_transfer_request request;
	tm_transfer_done_fn *done;
	void *opaque;
	pthread_t thread;

	pthread_mutex_t lock;           /* of what follows */
	bool running, joinable, closed; /* joinable: the last thread was not joined yet */
};

/* The socket may be a nonblocking one. */
static int wait_ready(int fd, short events)
{
	struct pollfd poller = {fd, events, 0};

	return poll(&poller, 1, -1) < 0 && errno != EINTR ? -errno : 0;
}

static int socket_write(void *opaque, const void *data, size_t bytes)
{
	const struct tm_transfer *t = opaque;
	const uint8_t *from = data;

	while (bytes > 0) {
		ssize_t n = send(t->request.fd, from, bytes, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			int rc = wait_ready(t->request.fd, POLLOUT);

			if (rc < 0)
				return rc;
		} else if (n < 0 && errno != EINTR) {
			return errno == ECONNRESET ? -EPIPE : -errno;
		}
		if (n > 0) {
			from += n;
			bytes -= (size_t)n;
		}
	}
	return 0;
}

static int64_t socket_read(void *opaque, void *ret_data, size_t bytes)
{
	const struct tm_transfer *t = opaque;

	for (;;) {
		ssize_t n = recv(t->request.fd, ret_data, bytes, 0);

		if (n >= 0)
			return n;
		if (errno == EAGAIN) {
			int rc = wait_ready(t->request.fd, POLLIN);

			if (rc < 0)
				return rc;
		} else if (errno != EINTR) {
			return errno == ECONNRESET ? 0 : -errno;
		}
	}
}

static int run(struct tm_transfer *t, struct tm_move_result *ret_result)
{
	struct tm_save_params save = {.live = t->request.live,
		.hold = t->request.hold,
		.write = socket_write,
		.opaque = t};

	if (t->request.restore)
		return tm_store_restore(t->store, &t->who, socket_read, t, ret_result);
	return tm_store_save(t->store, &t->who, &save, ret_result);
}

static void *transfer_thread(void *opaque)
{
	struct tm_transfer *t = opaque;
	struct tm_move_result result;
	tm_transfer_done_fn *done = t->done;
	void *done_opaque = t->opaque;
	int rc;

	pthread_setname_np(pthread_self(), "tmem-transfer");
	rc = run(t, &result);

	/* The end of the stream comes by itself, whoever else has the descriptor. */
	shutdown(t->request.fd, SHUT_RDWR);
	pthread_mutex_lock(&t->lock);
	close(t->request.fd);
	t->request.fd = -1;
	t->running = false;
	pthread_mutex_unlock(&t->lock);
	done(done_opaque, rc, &result);
	return NULL;
}

int tm_transfer_create(
	struct tm_store *s, const struct tm_move_params *who, struct tm_transfer **ret_transfer)
{
	struct tm_transfer *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->store = s;
	t->who = *who;
	t->request.fd = -1;
	pthread_mutex_init(&t->lock, NULL);
	*ret_transfer = t;
	return 0;
}

/* With every signal blocked: they are the host program's. */
static int start_thread(struct tm_transfer *t)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return -rc;
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&t->thread, &attr, transfer_thread, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -rc;
}

static int start_locked(struct tm_transfer *t, const struct tm_transfer_request *request)
{
	int rc;

	t->request = *request;
	t->running = true;
	rc = start_thread(t);
	if (rc < 0) {
		t->running = false;
		t->request.fd = -1;
	}
	t->joinable = rc == 0;
	return rc;
}

int tm_transfer_start(struct tm_transfer *t, const struct tm_transfer_request *request,
	tm_transfer_done_fn *done, void *opaque)
{
	socklen_t size = sizeof(int);
	int type, rc;

	if (getsockopt(request->fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
		return -ENOTSOCK;
	pthread_mutex_lock(&t->lock);
	if (t->closed || t->running) {
		rc = t->closed ? -ESHUTDOWN : -EBUSY;
	} else {
		if (t->joinable) /* it has ended, or is just answering */
			pthread_join(t->thread, NULL);
		t->done = done;
		t->opaque = opaque;
		rc = start_locked(t, request);
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

void tm_transfer_cancel(struct tm_transfer *t)
{
	pthread_mutex_lock(&t->lock);
	if (t->running)
		shutdown(t->request.fd, SHUT_RDWR);
	pthread_mutex_unlock(&t->lock);
}

void tm_transfer_stop(struct tm_transfer *t)
{
	bool joinable;

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->closed = true;
	joinable = t->joinable;
	t->joinable = false;
	if (t->running)
		shutdown(t->request.fd, SHUT_RDWR);
	pthread_mutex_unlock(&t->lock);
	if (joinable)
		pthread_join(t->thread, NULL);
}

void tm_transfer_destroy(struct tm_transfer *t)
{
	if (!t)
		return;
	pthread_mutex_destroy(&t->lock);
	free(t);
}
