/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/keeper.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "core/heap.h"
#include "core/locks.h"

/* Index nodes of a resident store: what they may take of the heap before the keeper has seen to it,
 * and what is kept beyond that for everybody else's malloc. */
#define NODE_BYTES (4ull << 20)
#define HEAP_BYTES (NODE_BYTES + (12ull << 20))

/* How long to leave a machine alone that has no memory. */
#define RETRY_MS 50

struct tm_keeper {
	struct tm_keeper_params params;
	pthread_t thread;

	struct tm_lock lock; /* of what follows */
	pthread_cond_t wanted, filled;
	_Atomic bool low, stop, pause; /* read without it by tm_keeper_is_wanted() */
	bool paused;
	bool dry;       /* somebody waited in vain */
	uint64_t fills; /* how often there was more */
};

static void deadline_in(uint32_t ms, struct timespec *ret_deadline)
{
	clock_gettime(CLOCK_MONOTONIC, ret_deadline);
	ret_deadline->tv_sec += ms / 1000;
	ret_deadline->tv_nsec += ms % 1000 * 1000000;
	if (ret_deadline->tv_nsec >= 1000000000) {
		ret_deadline->tv_sec++;
		ret_deadline->tv_nsec -= 1000000000;
	}
}

static void there_is_more(struct tm_keeper *k)
{
	tm_lock(&k->lock);
	k->fills++;
	k->dry = false;
	pthread_cond_broadcast(&k->filled);
	tm_unlock(&k->lock);
}

/* There is no room for the segments that are missing: make some for the next put. More would only
 * lie there, where room is scarce. */
static bool clean(struct tm_keeper *k)
{
	return k->params.clean && tm_arena_is_dry(k->params.arena) &&
		k->params.clean(k->params.opaque);
}

/* Fill every reserve. False when the machine had no memory for it. */
static bool fill(struct tm_keeper *k)
{
	int rc = 0;

	if (k->params.resident && tm_budget_nodes_low(k->params.budget, NODE_BYTES / 2)) {
		if (!tm_heap_reserve(HEAP_BYTES))
			return false;
		tm_budget_set_nodes(k->params.budget, NODE_BYTES);
		there_is_more(k);
	}
	while (!k->stop && !k->pause &&
		((rc = tm_arena_fill(k->params.arena)) > 0 || (rc == 0 && clean(k))))
		there_is_more(k);
	return rc == 0;
}

static void pause_locked(struct tm_keeper *k)
{
	k->paused = true;
	pthread_cond_broadcast(&k->filled);
	while (k->pause && !k->stop)
		pthread_cond_wait(&k->wanted, &k->lock.mutex);
	k->paused = false;
	pthread_cond_broadcast(&k->filled);
}

/* Do what can wait, then wait until somebody wants something or there is more of that. */
static void work_locked(struct tm_keeper *k)
{
	struct timespec deadline;
	uint32_t rest_ms;

	if (!k->params.work) {
		pthread_cond_wait(&k->wanted, &k->lock.mutex);
		return;
	}
	tm_unlock(&k->lock);
	rest_ms = k->params.work(k->params.opaque, k);
	tm_lock(&k->lock);
	if (tm_keeper_is_wanted(k) || rest_ms == 0)
		return;
	deadline_in(rest_ms, &deadline);
	pthread_cond_timedwait(&k->wanted, &k->lock.mutex, &deadline);
}

static void *keeper_main(void *opaque)
{
	struct tm_keeper *k = opaque;
	struct timespec deadline;
	bool filled;

	/* Those who serve must not wait for swapping; this thread waits for memory as everybody
	 * does. */
	if (k->params.resident)
		prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
	tm_lock(&k->lock);
	while (!k->stop) {
		if (k->pause) {
			pause_locked(k);
			continue;
		}
		if (!k->low) {
			work_locked(k);
			continue;
		}
		k->low = false;
		tm_unlock(&k->lock);
		filled = fill(k);
		tm_lock(&k->lock);
		if (!filled && !k->stop) {
			deadline_in(RETRY_MS, &deadline);
			pthread_cond_timedwait(&k->wanted, &k->lock.mutex, &deadline);
			k->low = true;
		}
	}
	tm_unlock(&k->lock);
	return NULL;
}

static void low_locked(struct tm_keeper *k)
{
	if (k->low)
		return;
	k->low = true;
	pthread_cond_signal(&k->wanted);
}

/* From whoever took a ready segment, perhaps with the lock of a log's head. */
static void on_low(void *opaque)
{
	struct tm_keeper *k = opaque;

	tm_lock(&k->lock);
	low_locked(k);
	tm_unlock(&k->lock);
}

bool tm_keeper_is_wanted(const struct tm_keeper *k)
{
	return k && (k->low || k->stop || k->pause);
}

void tm_keeper_pause(struct tm_keeper *k, bool pause)
{
	if (!k)
		return;
	tm_lock(&k->lock);
	k->pause = pause;
	pthread_cond_signal(&k->wanted);
	while (k->paused != pause)
		pthread_cond_wait(&k->filled, &k->lock.mutex);
	tm_unlock(&k->lock);
}

bool tm_keeper_wait(struct tm_keeper *k)
{
	struct timespec deadline;
	uint64_t fills;
	int rc = 0;
	bool more;

	if (!k)
		return false;
	deadline_in(k->params.patience_ms, &deadline);
	tm_lock(&k->lock);
	low_locked(k);
	fills = k->fills;
	while (k->fills == fills && !k->dry && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&k->filled, &k->lock.mutex, &deadline);
	more = k->fills != fills;
	k->dry = !more;
	tm_unlock(&k->lock);
	return more;
}

static void keeper_free(struct tm_keeper *k)
{
	tm_lock_destroy(&k->lock);
	pthread_cond_destroy(&k->wanted);
	pthread_cond_destroy(&k->filled);
	free(k);
}

int tm_keeper_start(const struct tm_keeper_params *params, struct tm_keeper **ret_keeper)
{
	struct tm_keeper *k = calloc(1, sizeof(*k));
	struct tm_reserve reserve = {params->target, params->resident, on_low, k};
	pthread_condattr_t attr;
	int rc;

	if (!k)
		return -ENOMEM;
	k->params = *params;
	tm_lock_init(&k->lock, TM_LOCK_KEEPER);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&k->wanted, &attr);
	pthread_cond_init(&k->filled, &attr);
	pthread_condattr_destroy(&attr);
	tm_arena_set_reserve(params->arena, &reserve);
	if (params->resident) {
		/* The room that cleaning needs is a ready segment here. */
		params->budget->headroom = 0;
		params->budget->resident = true;
		fill(k);
	}
	rc = pthread_create(&k->thread, NULL, keeper_main, k);
	if (rc != 0) {
		keeper_free(k);
		return -rc;
	}
	*ret_keeper = k;
	return 0;
}

void tm_keeper_stop(struct tm_keeper *k)
{
	if (!k)
		return;
	tm_lock(&k->lock);
	k->stop = true;
	pthread_cond_signal(&k->wanted);
	tm_unlock(&k->lock);
	pthread_join(k->thread, NULL);
	tm_arena_set_reserve(k->params.arena, &(struct tm_reserve){.only = k->params.resident});
	while (tm_arena_trim(k->params.arena))
		;
	keeper_free(k);
}
