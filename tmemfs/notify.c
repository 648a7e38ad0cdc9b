/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * notify.c - one thread, one list of jobs, first in first out
 *
 * Locking: one mutex for the list; never held while the kernel is called.
 */
#include "tmemfs/notify.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tmemfs/session.h"

#define DRAIN_SECONDS 1

struct job {
	struct job *next;
	fuse_ino_t ino;
	off_t from; /* < 0: attributes only */
	off_t len;  /* 0: to the end */
	char *name; /* NULL, or: this name in `ino`, instead */

	fuse_req_t req; /* NULL, or: an open to answer */
	struct fuse_file_info fi;
	struct tm_opened how;
	void (*done)(void *arg, int rc); /* NULL: nobody wants to know */
	void *done_arg;
};

struct tm_notifier {
	struct fuse_session *session; /* constant */
	pthread_t thread;             /* constant */

	pthread_mutex_t lock;
	pthread_cond_t filled;
	pthread_cond_t ended;

	/* lock */
	struct job *first, **last;
	bool stopping, gone;
};

static int expire_entry(
	struct fuse_session *session, fuse_ino_t parent, const char *name, size_t len)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 16)
	return fuse_lowlevel_notify_expire_entry(session, parent, name, len);
#else
	return fuse_lowlevel_notify_expire_entry(session, parent, name, len, FUSE_LL_EXPIRE_ONLY);
#endif
}

/* To be looked up again; older kernels can only drop it, which also hides directories from those
 * who stand in them. */
static void tell_name(struct fuse_session *session, fuse_ino_t parent, const char *name)
{
	size_t len = strlen(name);

	if (expire_entry(session, parent, name, len) == -ENOSYS)
		fuse_lowlevel_notify_inval_entry(session, parent, name, len);
}

static void job_run(struct tm_notifier *notifier, struct job *job)
{
	/* -ENOENT: the kernel has forgotten it, which is as good. */
	if (job->name)
		tell_name(notifier->session, job->ino, job->name);
	else
		fuse_lowlevel_notify_inval_inode(notifier->session, job->ino, job->from, job->len);
	tm_session_opened(&job->how);
	if (job->done)
		job->done(job->done_arg, job->req ? fuse_reply_open(job->req, &job->fi) : 0);
	free(job->name);
	free(job);
}

static void *notifier_main(void *arg)
{
	struct tm_notifier *notifier = arg;

	pthread_mutex_lock(&notifier->lock);
	for (;;) {
		struct job *job = notifier->first;

		if (!job && notifier->stopping)
			break;
		if (!job) {
			pthread_cond_wait(&notifier->filled, &notifier->lock);
			continue;
		}
		notifier->first = job->next;
		if (!notifier->first)
			notifier->last = &notifier->first;
		pthread_mutex_unlock(&notifier->lock);
		job_run(notifier, job);
		pthread_mutex_lock(&notifier->lock);
	}
	notifier->gone = true;
	pthread_cond_signal(&notifier->ended);
	pthread_mutex_unlock(&notifier->lock);
	return NULL;
}

static void job_add(struct tm_notifier *notifier, struct job *job)
{
	pthread_mutex_lock(&notifier->lock);
	*notifier->last = job;
	notifier->last = &job->next;
	pthread_cond_signal(&notifier->filled);
	pthread_mutex_unlock(&notifier->lock);
}

void tm_notify_open(struct tm_notifier *notifier, fuse_req_t req, fuse_ino_t ino,
	const struct fuse_file_info *fi, const struct tm_opened *how,
	void (*opened)(void *arg, int rc), void *opened_arg)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job) {
		tm_session_opened(how);
		opened(opened_arg, fuse_reply_open(req, fi));
		return;
	}
	job->ino = ino;
	job->from = -1;
	job->req = req;
	job->fi = *fi;
	job->how = *how;
	job->done = opened;
	job->done_arg = opened_arg;
	job_add(notifier, job);
}

void tm_notify_pages_then(
	struct tm_notifier *notifier, fuse_ino_t ino, void (*done)(void *arg, int rc), void *arg)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job) {
		done(arg, -ENOMEM);
		return;
	}
	job->ino = ino;
	job->done = done;
	job->done_arg = arg;
	job_add(notifier, job);
}

/* Without memory nothing is told: the next open sees to the pages, the timeouts to the rest. */
static void tell(
	struct tm_notifier *notifier, fuse_ino_t ino, off_t from, off_t len, const char *name)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return;
	job->ino = ino;
	job->from = from;
	job->len = len;
	job->name = name ? strdup(name) : NULL;
	if (name && !job->name)
		free(job);
	else
		job_add(notifier, job);
}

void tm_notify_pages(struct tm_notifier *notifier, fuse_ino_t ino)
{
	tell(notifier, ino, 0, 0, NULL);
}

void tm_notify_range(struct tm_notifier *notifier, fuse_ino_t ino, off_t from, off_t len)
{
	tell(notifier, ino, from, len, NULL);
}

void tm_notify_attributes(struct tm_notifier *notifier, fuse_ino_t ino)
{
	tell(notifier, ino, -1, 0, NULL);
}

void tm_notify_attributes_now(struct tm_notifier *notifier, fuse_ino_t ino)
{
	fuse_lowlevel_notify_inval_inode(notifier->session, ino, -1, 0);
}

void tm_notify_name(struct tm_notifier *notifier, fuse_ino_t parent, const char *name)
{
	tell(notifier, parent, 0, 0, name);
}

int tm_notifier_start(struct fuse_session *session, struct tm_notifier **ret_notifier)
{
	struct tm_notifier *notifier = calloc(1, sizeof(*notifier));
	sigset_t all, old;
	int rc;

	if (!notifier)
		return -ENOMEM;
	notifier->session = session;
	notifier->last = &notifier->first;
	pthread_mutex_init(&notifier->lock, NULL);
	pthread_cond_init(&notifier->filled, NULL);
	pthread_cond_init(&notifier->ended, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&notifier->thread, NULL, notifier_main, notifier);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0)
		free(notifier);
	else
		*ret_notifier = notifier;
	return rc;
}

void tm_notifier_drain(struct tm_notifier *notifier)
{
	struct timespec until;
	int rc = 0;

	if (!notifier)
		return;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DRAIN_SECONDS;
	pthread_mutex_lock(&notifier->lock);
	notifier->stopping = true;
	pthread_cond_signal(&notifier->filled);
	while (!notifier->gone && rc == 0)
		rc = pthread_cond_timedwait(&notifier->ended, &notifier->lock, &until);
	pthread_mutex_unlock(&notifier->lock);
}

void tm_notifier_stop(struct tm_notifier *notifier)
{
	if (!notifier)
		return;
	pthread_mutex_lock(&notifier->lock);
	notifier->stopping = true;
	pthread_cond_signal(&notifier->filled);
	pthread_mutex_unlock(&notifier->lock);
	pthread_join(notifier->thread, NULL);
	pthread_cond_destroy(&notifier->filled);
	pthread_cond_destroy(&notifier->ended);
	pthread_mutex_destroy(&notifier->lock);
	free(notifier);
}
