/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * readahead.c - patterns, and the pieces they foresee
 *
 *   pieces[PIECES]   free -> waiting (in order of `turn`) -> running -> free
 *
 * Invariant: a piece that is waiting or running refers to its inode and its source.
 *
 * Locking: one mutex, held for a scan of the pieces. Threads block every signal.
 */
#include "tmemfs/readahead.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tmemfs/inode.h"

#define PIECES      64
#define PIECE_BYTES (128u << 10)
#define THREADS_MAX 16

#define SEQUENTIAL_MIN 2 /* reads that make a pattern */
#define STRIDE_MIN     3
#define STRIDE_AHEAD   8           /* reads foreseen at one distance */
#define DISORDER       (1 << 20)   /* how far behind the frontier a sequential read may come */
#define SKIP           (128 << 10) /* and how far before it */
#define JITTER         4096        /* the kernel rounds to its pages */

enum state {
	STATE_FREE,
	STATE_WAITING,
	STATE_RUNNING,
};

struct piece {
	enum state state;
	uint64_t turn;
	struct tm_inode *inode;
	struct tm_source *source;
	int64_t off;
	size_t len;
};

struct tm_readahead {
	/* Constant. */
	size_t window;
	bool (*work)(void *opaque, struct tm_inode *inode, struct tm_source *source, int64_t off,
		size_t len);
	void *opaque;
	unsigned int threads;
	pthread_t thread[THREADS_MAX];

	_Atomic unsigned int busy; /* pieces that are not free: 0 spares readers the lock */

	pthread_mutex_t lock;
	pthread_cond_t filled; /* something waits, or the end */
	pthread_cond_t done;   /* something is free again */

	/* lock */
	struct piece pieces[PIECES];
	uint64_t turn;
	bool stopping;
};

static bool overlaps(
	const struct piece *piece, const struct tm_inode *inode, int64_t off, size_t len)
{
	return piece->state != STATE_FREE && piece->inode == inode &&
		off < piece->off + (int64_t)piece->len && piece->off < off + (int64_t)len;
}

static struct piece *first_waiting_locked(struct tm_readahead *ra)
{
	struct piece *first = NULL;

	for (struct piece *p = ra->pieces; p < ra->pieces + PIECES; p++)
		if (p->state == STATE_WAITING && (!first || p->turn < first->turn))
			first = p;
	return first;
}

/* The piece is free; what it referred to is the caller's to drop, without the lock. */
static struct piece take_locked(struct tm_readahead *ra, struct piece *piece)
{
	struct piece taken = *piece;

	piece->state = STATE_FREE;
	atomic_fetch_sub(&ra->busy, 1);
	pthread_cond_broadcast(&ra->done);
	return taken;
}

static void drop(const struct piece *piece)
{
	piece->source->unref(piece->source->opaque);
	tm_inode_unref(piece->inode);
}

/* --- doing it ----------------------------------------------------------------------------- */

static void *worker(void *arg)
{
	struct tm_readahead *ra = arg;

	pthread_mutex_lock(&ra->lock);
	for (;;) {
		struct piece *piece, taken;
		bool worth;

		while (!(piece = first_waiting_locked(ra)) && !ra->stopping)
			pthread_cond_wait(&ra->filled, &ra->lock);
		if (ra->stopping)
			break;
		piece->state = STATE_RUNNING;
		pthread_mutex_unlock(&ra->lock);
		worth = ra->work(ra->opaque, piece->inode, piece->source, piece->off, piece->len);
		pthread_mutex_lock(&ra->lock);
		if (!worth) {
			struct tm_stream *s = &piece->source->stream;

			s->in_row = s->same = 0;
			s->distance = s->until = s->foreseen = 0;
		}
		taken = take_locked(ra, piece);
		pthread_mutex_unlock(&ra->lock);
		drop(&taken);
		pthread_mutex_lock(&ra->lock);
	}
	pthread_mutex_unlock(&ra->lock);
	return NULL;
}

void tm_readahead_meet(struct tm_readahead *ra, struct tm_inode *inode, int64_t off, size_t len)
{
	struct piece dropped[PIECES];
	unsigned int count = 0;

	if (atomic_load(&ra->busy) == 0)
		return;
	pthread_mutex_lock(&ra->lock);
	for (struct piece *p = ra->pieces; p < ra->pieces + PIECES; p++) {
		while (p->state == STATE_RUNNING && overlaps(p, inode, off, len))
			pthread_cond_wait(&ra->done, &ra->lock);
		if (overlaps(p, inode, off, len))
			dropped[count++] = take_locked(ra, p);
	}
	pthread_mutex_unlock(&ra->lock);
	while (count > 0)
		drop(&dropped[--count]);
}

/* --- foreseeing it ------------------------------------------------------------------------ */

/* Let a piece wait for its turn, unless it is one already or there is no room. */
static bool add_locked(struct tm_readahead *ra, struct tm_inode *inode, struct tm_source *source,
	int64_t off, size_t len)
{
	struct piece *room = NULL;

	for (struct piece *p = ra->pieces; p < ra->pieces + PIECES; p++) {
		if (overlaps(p, inode, off, len))
			return true;
		if (p->state == STATE_FREE)
			room = p;
	}
	if (!room || ra->stopping)
		return false;
	source->ref(source->opaque);
	*room = (struct piece){STATE_WAITING, ++ra->turn, tm_inode_ref(inode), source, off, len};
	atomic_fetch_add(&ra->busy, 1);
	pthread_cond_signal(&ra->filled);
	return true;
}

/* The window doubles with each read that goes on, so that a short run costs little. */
static void ahead_in_row_locked(
	struct tm_readahead *ra, struct tm_inode *inode, struct tm_source *source, int64_t size)
{
	struct tm_stream *s = &source->stream;
	unsigned int doublings = TM_MIN(s->in_row - SEQUENTIAL_MIN, 16u);
	int64_t window = (int64_t)TM_MIN(ra->window, (size_t)PIECE_BYTES * 2 << doublings);
	int64_t stop = TM_MIN(s->frontier + window, size), off;

	s->until = TM_MAX(s->until, s->frontier);
	while (s->until < stop) {
		/* To the next multiple of a piece, so that none is read in two halves. */
		off = s->until;
		s->until = TM_MIN((off / PIECE_BYTES + 1) * PIECE_BYTES, size);
		if (!add_locked(ra, inode, source, off, (size_t)(s->until - off))) {
			s->until = off;
			break;
		}
	}
}

static void ahead_at_distance_locked(struct tm_readahead *ra, struct tm_inode *inode,
	struct tm_source *source, size_t len, int64_t size)
{
	struct tm_stream *s = &source->stream;
	int64_t steps = (int64_t)s->same + 1, distance = (s->last - s->base) / steps;

	s->foreseen = TM_MAX(s->foreseen, steps);
	while (s->foreseen < steps + STRIDE_AHEAD) {
		int64_t off = TM_MAX(s->base + (s->foreseen + 1) * distance - JITTER, (int64_t)0);
		int64_t end = TM_MIN(off + (int64_t)len + 2 * JITTER, size);

		if (off >= end || !add_locked(ra, inode, source, off, (size_t)(end - off)))
			break;
		s->foreseen++;
	}
}

void tm_readahead_note(struct tm_readahead *ra, struct tm_inode *inode, struct tm_source *source,
	int64_t off, size_t len, int64_t size, bool missing)
{
	struct tm_stream *s = &source->stream;
	int64_t end = off + (int64_t)len, distance;
	bool near, going, steady;

	pthread_mutex_lock(&ra->lock);
	distance = off - s->last;
	near = off >= s->frontier - DISORDER && off <= s->frontier + SKIP;
	if (!near)
		s->in_row = 0;
	else if (end > s->frontier) /* else a late one */
		s->in_row++;
	if (distance != 0 && llabs(distance - s->distance) <= JITTER) {
		s->same++;
	} else {
		s->same = 0;
		s->foreseen = 0;
		s->base = s->last;
	}
	s->distance = distance;
	s->last = off;
	if (!near)
		s->until = 0;
	s->frontier = near ? TM_MAX(s->frontier, end) : end;
	/* Without a miss, only what read-ahead brought is worth going on. */
	going = missing || s->until >= end || s->foreseen > s->same;
	steady = s->same >= STRIDE_MIN && llabs(distance - (int64_t)len) > JITTER &&
		len <= PIECE_BYTES;
	if (going && steady)
		ahead_at_distance_locked(ra, inode, source, len, size);
	else if (going && !steady && s->in_row >= SEQUENTIAL_MIN)
		ahead_in_row_locked(ra, inode, source, size);
	pthread_mutex_unlock(&ra->lock);
}

/* --- start and stop ----------------------------------------------------------------------- */

void tm_readahead_stop(struct tm_readahead *ra)
{
	if (!ra)
		return;
	pthread_mutex_lock(&ra->lock);
	ra->stopping = true;
	pthread_cond_broadcast(&ra->filled);
	pthread_mutex_unlock(&ra->lock);
	for (unsigned int i = 0; i < ra->threads; i++)
		pthread_join(ra->thread[i], NULL);
	for (struct piece *p = ra->pieces; p < ra->pieces + PIECES; p++)
		if (p->state != STATE_FREE)
			drop(p);
	pthread_cond_destroy(&ra->filled);
	pthread_cond_destroy(&ra->done);
	pthread_mutex_destroy(&ra->lock);
	free(ra);
}

int tm_readahead_start(unsigned int threads, size_t window,
	bool (*work)(void *opaque, struct tm_inode *inode, struct tm_source *source, int64_t off,
		size_t len),
	void *opaque, struct tm_readahead **ret_readahead)
{
	struct tm_readahead *ra = calloc(1, sizeof(*ra));
	sigset_t all, old;
	int rc = 0;

	if (!ra)
		return -ENOMEM;
	pthread_mutex_init(&ra->lock, NULL);
	pthread_cond_init(&ra->filled, NULL);
	pthread_cond_init(&ra->done, NULL);
	ra->window = window;
	ra->work = work;
	ra->opaque = opaque;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (rc == 0 && ra->threads < TM_MIN(threads, (unsigned int)THREADS_MAX)) {
		rc = -pthread_create(&ra->thread[ra->threads], NULL, worker, ra);
		if (rc == 0)
			ra->threads++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ra->threads == 0) {
		tm_readahead_stop(ra);
		return rc;
	}
	*ret_readahead = ra;
	return 0;
}
