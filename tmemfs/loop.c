/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * loop.c - receiving requests, with as few threads as will do
 *
 *   receiving --request--> busy --done, few receive--> receiving
 *       ^                    +----done, enough do----> parked (stack)
 *       +---- nobody receives: the top of the stack, or a new thread ----+
 *
 * The kernel wakes the receiver that has waited longest. With every thread there, as in libfuse's
 * own loop, each request meets the one whose stack and buffers have been out of the processor's
 * caches for longest; and one that ends its surplus threads makes them again for the next burst. So
 * a few threads receive, and the others, which a burst or a backing that hangs has called for,
 * sleep until somebody else does, those that ran last first.
 *
 * Invariants
 *   1. While a request is carried out, somebody receives, unless all `max` threads are busy.
 *   2. A thread is cancelled only while it receives: it holds no lock then.
 *
 * Locking: one mutex, held for a few instructions. Threads block every signal.
 */
#include "tmemfs/loop.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/util.h"
#include "tmemfs/session.h"

#define RECEIVERS_MIN 2 /* so that one request at a time wakes nobody but its receiver */

struct worker {
	struct loop *loop;    /* constant */
	pthread_t thread;     /* constant */
	struct fuse_buf buf;  /* the thread's own */
	struct worker *next;  /* loop lock: of all */
	struct worker *under; /* loop lock: of the stack */
	pthread_cond_t called;
	bool parked; /* loop lock */
};

struct loop {
	/* Constant. */
	struct fuse_session *session;
	unsigned int max;
	unsigned int receivers_max;
	void (*on_idle)(void *opaque);
	void *opaque;
	sem_t ended; /* posted when the session is over */

	pthread_mutex_t lock;

	/* lock */
	struct worker *all;
	struct worker *parked;
	unsigned int count;     /* of all */
	unsigned int receivers; /* that receive, or are on their way to it */
	bool stopping;
	int error;
};

static void *worker_main(void *arg);

/* One more thread that receives. 0 or -errno. */
static int add_worker_locked(struct loop *loop)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	sigset_t all, old;
	int rc;

	if (!worker)
		return -ENOMEM;
	worker->loop = loop;
	pthread_cond_init(&worker->called, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&worker->thread, NULL, worker_main, worker);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		pthread_cond_destroy(&worker->called);
		free(worker);
		return -rc;
	}
	worker->next = loop->all;
	loop->all = worker;
	loop->count++;
	loop->receivers++;
	return 0;
}

/* A request has come. Without a thread to spare the others wait until one is done. */
static void received(struct loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	if (--loop->receivers == 0 && !loop->stopping) {
		struct worker *worker = loop->parked;

		if (worker) {
			loop->parked = worker->under;
			worker->parked = false;
			loop->receivers++;
			pthread_cond_signal(&worker->called);
		} else if (loop->count < loop->max) {
			(void)add_worker_locked(loop);
		}
	}
	pthread_mutex_unlock(&loop->lock);
}

/* Receive again if that is wanted. */
static bool rejoin_locked(struct loop *loop)
{
	if (loop->receivers >= loop->receivers_max && !loop->stopping)
		return false;
	loop->receivers++;
	return true;
}

/* A request has been carried out: receive again, or sleep until that is needed. False at the end.
 */
static bool done(struct worker *worker)
{
	struct loop *loop = worker->loop;
	bool go_on;

	pthread_mutex_lock(&loop->lock);
	if (!rejoin_locked(loop)) {
		pthread_mutex_unlock(&loop->lock);
		free(worker->buf.mem);
		worker->buf.mem = NULL;
		loop->on_idle(loop->opaque);
		pthread_mutex_lock(&loop->lock);
		if (!rejoin_locked(loop)) {
			worker->under = loop->parked;
			loop->parked = worker;
			worker->parked = true;
			while (worker->parked && !loop->stopping)
				pthread_cond_wait(&worker->called, &loop->lock);
		}
	}
	go_on = !loop->stopping;
	pthread_mutex_unlock(&loop->lock);
	return go_on;
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct loop *loop = worker->loop;
	int rc = 0;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	while (!fuse_session_exited(loop->session)) {
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		rc = fuse_session_receive_buf(loop->session, &worker->buf);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		if (rc == -EINTR)
			continue;
		if (rc <= 0)
			break;
		received(loop);
		tm_session_note(loop->session, &worker->buf);
		fuse_session_process_buf(loop->session, &worker->buf);
		if (!done(worker))
			break;
	}
	if (rc < 0) {
		pthread_mutex_lock(&loop->lock);
		loop->error = rc;
		pthread_mutex_unlock(&loop->lock);
	}
	fuse_session_exit(loop->session);
	sem_post(&loop->ended);
	return NULL;
}

/* Until the session is over. A signal ends the wait at once, or, should it come just before, within
 * a second. */
static void wait_for_end(struct loop *loop)
{
	struct timespec until;

	while (!fuse_session_exited(loop->session)) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
		sem_timedwait(&loop->ended, &until);
	}
}

static void stop(struct loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->stopping = true;
	for (struct worker *worker = loop->all; worker; worker = worker->next) {
		pthread_cancel(worker->thread);
		pthread_cond_signal(&worker->called);
	}
	pthread_mutex_unlock(&loop->lock);
	/* No thread is added once `stopping` is set. */
	while (loop->all) {
		struct worker *worker = loop->all;

		loop->all = worker->next;
		pthread_join(worker->thread, NULL);
		pthread_cond_destroy(&worker->called);
		free(worker->buf.mem);
		free(worker);
	}
}

int tm_loop(struct fuse_session *session, unsigned int threads_max, void (*on_idle)(void *opaque),
	void *opaque)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct loop loop = {
		.session = session,
		.max = TM_MAX(threads_max, 1u),
		.receivers_max = RECEIVERS_MIN + (unsigned int)TM_MAX(cpus, 1l),
		.on_idle = on_idle,
		.opaque = opaque,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	int rc;

	sem_init(&loop.ended, 0, 0);
	pthread_mutex_lock(&loop.lock);
	rc = add_worker_locked(&loop);
	pthread_mutex_unlock(&loop.lock);
	if (rc == 0) {
		wait_for_end(&loop);
		stop(&loop);
		rc = loop.error;
	}
	sem_destroy(&loop.ended);
	pthread_mutex_destroy(&loop.lock);
	return rc;
}
