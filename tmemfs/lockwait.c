/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tmemfs/lockwait.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>

#include "tmemfs/locks.h"
#include "tmemfs/ring.h"

#define PAUSE_MIN_NS 1000000ull
#define PAUSE_MAX_NS 250000000ull
#define GRACE_NS     50000000ull /* until an flock that is taken counts as that */
#define WAITING_MAX  4096

struct waiter {
	struct waiter *next; /* line's lock */
	struct tm_lockwait *line;
	struct tm_lock_ask ask;
	uint64_t until_ns;        /* 0: for ever */
	_Atomic bool interrupted; /* set with the request's own lock held */

	struct tm_mount *mount; /* constant */
	uint64_t epoch;         /* tm_cache_verify()'s, between the lock and the answer */
};

struct tm_lockwait {
	struct tm_mount *mount; /* constant */
	pthread_t thread;       /* constant */

	pthread_mutex_t lock;
	pthread_cond_t called;

	/* lock */
	struct waiter *first, **last;
	unsigned int count;
	bool kicked; /* since the last round began */
	bool stopping;
};

/* --- one try, and the answer ------------------------------------------------------------------ */

static bool unlocks(const struct tm_lock_ask *ask)
{
	return ask->operation < 0 ? ask->range.l_type == F_UNLCK : ask->operation == LOCK_UN;
}

static int attempt(struct tm_mount *mount, const struct tm_lock_ask *ask)
{
	return ask->operation < 0 ? tm_locks_set(mount->locks, ask->file, ask->owner, &ask->range)
				  : tm_locks_flock(ask->file, ask->operation);
}

static void give_back(struct tm_mount *mount, struct tm_lock_ask *ask)
{
	ask->operation = ask->operation < 0 ? -1 : LOCK_UN;
	ask->range.l_type = F_UNLCK;
	(void)attempt(mount, ask);
}

static void answer_dropped(void *arg, int rc)
{
	struct waiter *w = arg;

	if (rc == 0) {
		tm_cache_dropped(w->mount->cache, w->ask.file->inode, w->epoch);
	} else {
		give_back(w->mount, &w->ask);
		rc = -ENOLCK;
	}
	tm_reply_rc(w->ask.req, rc);
	free(w);
}

/*
 * The lock is had: answer as soon as the kernel has nothing older than that. Takes `w`.
 *
 * NFS drops its pages with every lock. What stat shows is enough for us, unless the file is, or
 * was, open for writing: then NFS takes what others wrote for its own, and somebody who read
 * without a lock may have given us old bytes with new times.
 */
static void answer_locked(struct tm_mount *mount, struct waiter *w)
{
	struct tm_inode *inode = w->ask.file->inode;
	struct tm_moment moment = tm_cache_moment(mount->cache, inode);
	struct stat st;
	int fd = tm_file_fd(w->ask.file);

	/* Asked in any case: attributes that are remembered are old as well. */
	if (fd < 0 || tm_fs_ask(mount, inode, fd, &st) < 0 || atomic_load(&inode->wrote)) {
		tm_cache_invalidate(mount->cache, inode);
		w->epoch = 0;
	} else if (tm_cache_verify(mount->cache, inode, &st, &moment, &w->epoch) ==
		TM_VERDICT_SAME) {
		tm_reply_rc(w->ask.req, 0);
		free(w);
		return;
	}
	tm_notify_pages_then(mount->invalidator, tm_node_id(inode), answer_dropped, w);
}

/* Takes `w`, which is in no line. */
static void answer(struct tm_mount *mount, struct waiter *w, int rc)
{
	if (rc == 0 && !unlocks(&w->ask)) {
		answer_locked(mount, w);
		return;
	}
	tm_reply_rc(w->ask.req, rc);
	free(w);
}

/* --- the line --------------------------------------------------------------------------------- */

void tm_lockwait_kick(struct tm_lockwait *line)
{
	pthread_mutex_lock(&line->lock);
	line->kicked = true;
	if (line->first)
		pthread_cond_signal(&line->called);
	pthread_mutex_unlock(&line->lock);
}

static void interrupted(fuse_req_t req, void *data)
{
	struct waiter *w = data;

	(void)req;
	atomic_store(&w->interrupted, true);
	tm_lockwait_kick(w->line);
}

/* False: the line is too long. */
static bool join(struct tm_lockwait *line, struct waiter *w)
{
	bool joined;

	/* First: once it is in the line, it may be answered. */
	fuse_req_interrupt_func(w->ask.req, interrupted, w);
	pthread_mutex_lock(&line->lock);
	joined = line->count < WAITING_MAX && !line->stopping;
	if (joined) {
		*line->last = w;
		line->last = &w->next;
		line->count++;
		line->kicked = true;
		pthread_cond_signal(&line->called);
	}
	pthread_mutex_unlock(&line->lock);
	if (!joined)
		fuse_req_interrupt_func(w->ask.req, NULL, NULL);
	return joined;
}

/* Try for `w`. True, and how it ended, when it need not wait any longer. */
static bool is_over(struct tm_lockwait *line, struct waiter *w, int *ret_rc)
{
	int rc = attempt(line->mount, &w->ask);

	*ret_rc = rc;
	if (rc != -EAGAIN)
		return true;
	if (atomic_load(&w->interrupted)) {
		*ret_rc = -EINTR;
		return true;
	}
	return w->until_ns && tm_now_ns() >= w->until_ns;
}

/* Once for everybody in the line. Only this thread takes anybody out. */
static void round_locked(struct tm_lockwait *line)
{
	struct waiter **at = &line->first, *w;
	int rc;

	while ((w = *at) && !line->stopping) {
		bool over;

		pthread_mutex_unlock(&line->lock);
		over = is_over(line, w, &rc);
		pthread_mutex_lock(&line->lock);
		if (!over) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (line->last == &w->next)
			line->last = at;
		line->count--;
		pthread_mutex_unlock(&line->lock);
		fuse_req_interrupt_func(w->ask.req, NULL, NULL);
		answer(line->mount, w, rc);
		pthread_mutex_lock(&line->lock);
	}
}

static void sleep_locked(struct tm_lockwait *line, uint64_t ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(ns / 1000000000);
	until.tv_nsec = (long)(ns % 1000000000);
	while (!line->kicked && !line->stopping &&
		pthread_cond_timedwait(&line->called, &line->lock, &until) == 0)
		;
}

static void *lockwait_main(void *arg)
{
	struct tm_lockwait *line = arg;
	uint64_t pause = PAUSE_MIN_NS;

	pthread_mutex_lock(&line->lock);
	while (!line->stopping) {
		if (!line->first) {
			pthread_cond_wait(&line->called, &line->lock);
			continue;
		}
		pause = line->kicked ? PAUSE_MIN_NS : TM_MIN(2 * pause, PAUSE_MAX_NS);
		line->kicked = false;
		round_locked(line);
		sleep_locked(line, pause);
	}
	pthread_mutex_unlock(&line->lock);
	return NULL;
}

int tm_lockwait_start(struct tm_mount *mount, struct tm_lockwait **ret_line)
{
	struct tm_lockwait *line = calloc(1, sizeof(*line));
	pthread_condattr_t attr;
	sigset_t all, old;
	int rc;

	if (!line)
		return -ENOMEM;
	line->mount = mount;
	line->last = &line->first;
	pthread_mutex_init(&line->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&line->called, &attr);
	pthread_condattr_destroy(&attr);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&line->thread, NULL, lockwait_main, line);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0) {
		pthread_cond_destroy(&line->called);
		pthread_mutex_destroy(&line->lock);
		free(line);
		return rc;
	}
	*ret_line = line;
	return 0;
}

void tm_lockwait_stop(struct tm_lockwait *line)
{
	struct waiter *w;

	if (!line)
		return;
	pthread_mutex_lock(&line->lock);
	line->stopping = true;
	pthread_cond_signal(&line->called);
	pthread_mutex_unlock(&line->lock);
	pthread_join(line->thread, NULL);
	while ((w = line->first)) {
		line->first = w->next;
		fuse_req_interrupt_func(w->ask.req, NULL, NULL);
		tm_reply_rc(w->ask.req, -ENOTCONN);
		free(w);
	}
	pthread_cond_destroy(&line->called);
	pthread_mutex_destroy(&line->lock);
	free(line);
}

void tm_lock_ask(struct tm_lockwait *line, const struct tm_lock_ask *ask)
{
	struct tm_mount *mount = line->mount;
	struct waiter *w = calloc(1, sizeof(*w));
	bool believed = ask->operation < 0 || !tm_locks_flocked(ask->file->inode);
	int rc;

	if (!w) {
		tm_reply_rc(ask->req, -ENOLCK);
		return;
	}
	w->line = line;
	w->mount = mount;
	w->ask = *ask;
	rc = attempt(mount, ask);
	if (rc == -EAGAIN && (ask->waits || !believed)) {
		w->until_ns = ask->waits ? 0 : tm_now_ns() + GRACE_NS;
		if (tm_ring_spares() && join(line, w))
			return;
		rc = ask->waits ? -ENOLCK : rc;
	}
	answer(mount, w, rc);
	/* There may be less than there was: an unlocked range, a weaker lock in its place, or,
	 * after a failed change of kind, none. */
	tm_lockwait_kick(line);
}
