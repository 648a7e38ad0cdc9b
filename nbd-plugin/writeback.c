/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/writeback.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util.h"
#include "nbd-plugin/chunk.h"

#define SECOND_NS   1000000000ull
#define POLL_NS     (SECOND_NS / 10) /* grants and freezes come without a word */
#define RETRY_NS    SECOND_NS        /* after a failure, or when nothing is cold */
#define GROWTH      256u             /* pages between two looks at a memory that fills */
#define LOOK_RUNS   (1u << 15)       /* a few ms; of a large device that is not a turn */
#define WANTED_MAX  64u              /* runs; more than that and the rest waits for its next read */
#define STACK_BYTES (256u << 10)     /* of which the codec's tables take 16 KiB */

struct tm_writeback {
	struct tm_device *device;
	uint64_t rate; /* bytes a second */
	pthread_t thread;

	/* The thread's own. */
	uint64_t hand;       /* the first page of the run it comes to next */
	uint64_t searched;   /* pages it passed since it last found a cold one */
	bool working;        /* writing back until live bytes are at `goal` */
	uint64_t goal;       /* bytes */
	uint64_t not_before; /* when the next transfer may start */

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t wake;
	bool stop, woken, refused;
	unsigned int wanted_count;
	uint64_t wanted[WANTED_MAX]; /* first pages of runs, oldest first */
};

/* --- numbers ---------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static struct tm_usage usage_of(const struct tm_device *d)
{
	struct tm_usage u;

	d->tmem->ops->usage(d->tmem, &u);
	return u;
}

static uint64_t high_mark(const struct tm_usage *u)
{
	return u->limit_bytes / 16 * 15;
}

static uint64_t low_mark(const struct tm_usage *u)
{
	return u->limit_bytes / 16 * 14;
}

static bool has_room(const struct tm_usage *u)
{
	return !u->frozen && u->live_bytes < low_mark(u);
}

static bool is_pressed(struct tm_writeback *w, const struct tm_usage *u, bool refused)
{
	uint64_t low = low_mark(u), gap = high_mark(u) - low;

	if (refused) {
		w->working = true;
		w->goal = u->live_bytes - TM_MIN(u->live_bytes, gap);
	} else if (!w->working && (u->live_bytes > high_mark(u) || u->frozen)) {
		w->working = true;
		w->goal = low;
	}
	w->goal = TM_MIN(w->goal, low); /* the limit may have fallen since */
	if (u->live_bytes <= w->goal || atomic_load(&w->device->in_tmem) == 0)
		w->working = false;
	return w->working;
}

/* --- moving pages ----------------------------------------------------------------------------- */

static unsigned int pages_at(const struct tm_device *d, uint64_t first)
{
	return (unsigned int)TM_MIN((uint64_t)TM_RUN_PAGES, d->pages - first);
}

/* The hand passes over a run: which pages are cold. */
static uint32_t pass_over(struct tm_device *d, uint64_t first)
{
	uint32_t cold = 0;

	for (unsigned int i = 0; i < pages_at(d, first); i++) {
		uint8_t byte = tm_page_byte(d, first + i);

		if (byte & TM_PAGE_TOUCHED)
			atomic_fetch_and_explicit(&d->map[first + i], (uint8_t)~TM_PAGE_TOUCHED,
				memory_order_relaxed);
		else if ((byte & TM_PLACE_MASK) == TM_IN_TMEM)
			cold |= 1u << i;
	}
	return cold;
}

/* Turn the hand to the next run with cold pages. 0: none so far. */
static uint32_t find_cold(struct tm_writeback *w, uint64_t *ret_first)
{
	struct tm_device *d = w->device;
	uint32_t cold = 0;

	for (unsigned int i = 0; i < LOOK_RUNS && cold == 0; i++) {
		*ret_first = w->hand;
		cold = pass_over(d, w->hand);
		w->hand += TM_RUN_PAGES;
		if (w->hand >= d->pages)
			w->hand = 0;
		w->searched += TM_RUN_PAGES;
	}
	return cold;
}

/* The pages of a run to be brought back: those that were read, or all. */
static uint32_t find_wanted(const struct tm_device *d, uint64_t first, bool all)
{
	uint32_t wanted = 0;

	for (unsigned int i = 0; i < pages_at(d, first); i++) {
		uint8_t byte = tm_page_byte(d, first + i);

		if ((byte & (TM_PLACE_MASK | TM_PAGE_RAW)) == TM_ON_FALLBACK &&
			(all || byte & TM_PAGE_TOUCHED))
			wanted |= 1u << i;
	}
	return wanted;
}

/* Move pages of one run, each span of neighbours with only its own pages locked, and pay for it. */
static int move(struct tm_writeback *w, uint64_t first, uint32_t mask,
	int (*move_locked)(struct tm_chunk *c))
{
	uint64_t start = now_ns(), bytes = 0;
	int rc = 0;

	if (!tm_dev_gate_enter_now(&w->device->gate)) {
		w->not_before = start + POLL_NS; /* held, perhaps for long */
		return 0;
	}
	for (unsigned int i = 0, n; i < TM_RUN_PAGES && rc == 0; i += TM_MAX(n, 1u)) {
		struct tm_chunk c;

		n = tm_mask_span(mask, i);
		if (n == 0)
			continue;
		c = tm_chunk_at(w->device, (first + i) * TM_DEVICE_PAGE, n * TM_DEVICE_PAGE);
		tm_chunk_lock(&c);
		rc = move_locked(&c);
		tm_chunk_unlock(&c);
		bytes += n * TM_DEVICE_PAGE;
	}
	tm_dev_gate_leave(&w->device->gate);
	w->not_before = start + bytes * SECOND_NS / w->rate;
	return rc;
}

static void give_up_for_now(struct tm_writeback *w)
{
	w->working = false;
	w->not_before = now_ns() + RETRY_NS;
}

static void write_back(struct tm_writeback *w)
{
	uint64_t first;
	uint32_t cold = find_cold(w, &first);

	if (cold) {
		w->searched = 0;
		if (move(w, first, cold, tm_chunk_write_back_locked) < 0)
			give_up_for_now(w);
	} else if (w->searched >= 2 * w->device->pages) { /* after one turn all marks are gone */
		w->searched = 0;
		give_up_for_now(w);
	}
}

static void bring_back(struct tm_writeback *w, uint64_t first, const struct tm_usage *u)
{
	uint32_t wanted = find_wanted(w->device, first, has_room(u));
	int rc = u->frozen ? 0 : move(w, first, wanted, tm_chunk_bring_back_locked);

	if (rc == -ENOMEM) {
		w->working = true;
		w->goal = low_mark(u);
	} else if (rc < 0 && rc != -EBADMSG) { /* a damaged page stays where it is */
		give_up_for_now(w);
	}
}

/* --- the thread ------------------------------------------------------------------------------- */

static void wait_until_locked(struct tm_writeback *w, uint64_t ns)
{
	struct timespec t = {(time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS)};

	pthread_cond_timedwait(&w->wake, &w->lock, &t);
}

/* Wait for the rate, then for something to do or to look at. False: the end. */
static bool next(struct tm_writeback *w, bool *ret_refused, bool *ret_wanted)
{
	uint64_t look = now_ns() + POLL_NS;
	bool stop;

	pthread_mutex_lock(&w->lock);
	while (!w->stop && now_ns() < w->not_before)
		wait_until_locked(w, w->not_before);
	while (!w->stop && !w->working && !w->woken && w->wanted_count == 0 && now_ns() < look)
		wait_until_locked(w, look);
	stop = w->stop;
	*ret_refused = w->refused;
	*ret_wanted = w->wanted_count > 0;
	w->refused = w->woken = false;
	pthread_mutex_unlock(&w->lock);
	return !stop;
}

static uint64_t take_wanted(struct tm_writeback *w)
{
	uint64_t first;

	pthread_mutex_lock(&w->lock);
	first = w->wanted[0];
	w->wanted_count--;
	memmove(w->wanted, w->wanted + 1, w->wanted_count * sizeof(w->wanted[0]));
	pthread_mutex_unlock(&w->lock);
	return first;
}

static void *writeback_thread(void *opaque)
{
	struct tm_writeback *w = opaque;
	bool refused, wanted;

	pthread_setname_np(pthread_self(), "tmem-writeback");
	while (next(w, &refused, &wanted)) {
		struct tm_usage u = usage_of(w->device);

		if (is_pressed(w, &u, refused))
			write_back(w);
		else if (wanted)
			bring_back(w, take_wanted(w), &u);
	}
	return NULL;
}

/* --- what requests tell it -------------------------------------------------------------------- */

static void wake(struct tm_writeback *w, bool refused)
{
	pthread_mutex_lock(&w->lock);
	w->woken = true;
	w->refused |= refused;
	pthread_mutex_unlock(&w->lock);
	pthread_cond_signal(&w->wake);
}

void tm_writeback_grew(struct tm_writeback *w, uint64_t pages)
{
	if (w && pages % GROWTH == 0)
		wake(w, false);
}

void tm_writeback_refused(struct tm_writeback *w)
{
	if (w)
		wake(w, true);
}

static void add_wanted_locked(struct tm_writeback *w, uint64_t first)
{
	for (unsigned int i = 0; i < w->wanted_count; i++)
		if (w->wanted[i] == first)
			return;
	if (w->wanted_count < WANTED_MAX)
		w->wanted[w->wanted_count++] = first;
}

void tm_writeback_want(struct tm_writeback *w, uint64_t page, bool again)
{
	struct tm_usage u;

	if (!w)
		return;
	u = usage_of(w->device);
	if (u.frozen || (!again && !has_room(&u)))
		return;
	pthread_mutex_lock(&w->lock);
	add_wanted_locked(w, page / TM_RUN_PAGES * TM_RUN_PAGES);
	pthread_mutex_unlock(&w->lock);
	pthread_cond_signal(&w->wake);
}

/* --- life ------------------------------------------------------------------------------------- */

/* With all signals blocked: they are nbdkit's. */
static int start_thread(struct tm_writeback *w)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&w->thread, &attr, writeback_thread, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return rc;
}

int tm_writeback_start(struct tm_device *d, uint64_t rate, struct tm_writeback **ret_writeback)
{
	struct tm_writeback *w = calloc(1, sizeof(*w));
	pthread_condattr_t attr;
	int rc;

	if (!w)
		return -ENOMEM;
	w->device = d;
	w->rate = rate;
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attr);
	pthread_condattr_destroy(&attr);
	/* The thread waits for this lock first, and so sees what is stored here. */
	pthread_mutex_lock(&w->lock);
	rc = start_thread(w);
	if (rc == 0)
		*ret_writeback = w;
	pthread_mutex_unlock(&w->lock);
	if (rc == 0)
		return 0;
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return rc;
}

void tm_writeback_stop(struct tm_writeback *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_mutex_unlock(&w->lock);
	pthread_cond_signal(&w->wake);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
