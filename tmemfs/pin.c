/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pin.c - one thread that goes round the pinned files
 *
 *   round:  for each pin:  stat -> gone? follow its name -> changed? -> look at each page, read
 *                          those that are missing
 *
 * A round begins PERIOD after the last one, or four times what that one took: a slow backing with
 * many pins is asked for a fifth of the time, by one. Looking takes one part in LOOKING_PART of a
 * processor at most, reading again one in READING_PART. While the cache is not full and has lost
 * nothing, nothing can be missing, and only every IDLE_ROUNDS-th round looks at pages that were
 * there. After a round that found some given up, or no room, as many rounds do not look, twice as
 * many each time: pins that do not fit are not read in an endless circle.
 *
 * Invariants
 *   1. A pin is on the list exactly while its inode's `pin` points to it, and holds a reference to
 *      that inode and to the directory it was pinned in.
 *   2. `bytes` of all pins on the list sum up to `total`, which never exceeds `max_bytes`.
 *   3. Only the thread changes what a pin holds; it does so under the lock, and a pin that it works
 *      on is not freed under it (`busy`).
 *
 * Locking: one mutex, for the list, the sums and what inode.pin points to. The backing is asked and
 * references are dropped without it.
 */
#include "tmemfs/pin.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/fsctl.h"
#include "tmemfs/fs.h"

#define NS_PER_SEC  1000000000ull
#define PERIOD_NS   (5 * NS_PER_SEC)
#define IDLE_ROUNDS 12
#define PAUSE_MAX   32 /* rounds */

#define LOOKING_PART 20
#define READING_PART 2

struct tm_pin {
	struct tm_pin *next;
	struct tm_inode *inode, *dir; /* referenced; `dir` may be NULL */
	char *name;                   /* in `dir` */
	uint64_t number;
	uint64_t bytes, kept;
	struct tm_oid oid; /* of the version that was there, whole: what is missing was given up */
	bool whole;
	bool busy;           /* the thread is at it */
	atomic_bool removed; /* meanwhile: the thread frees it */
};

struct tm_pins {
	struct tm_mount *mount; /* constant */
	uint64_t max_bytes;     /* constant */
	uint64_t page_bytes;    /* constant */
	pthread_t thread;       /* constant */

	pthread_mutex_t lock;
	pthread_cond_t wake; /* the end */

	/* lock */
	struct tm_pin *first, **last; /* in order of `number` */
	uint64_t bytes, files, numbers;
	bool stopping;

	/* The thread's own. */
	uint64_t live_bytes; /* of the cache, after the last round */
	unsigned int rounds; /* since all pages were looked at */
	unsigned int pause;  /* rounds that do not, from now on */
	unsigned int pauses; /* how many there were the last time */
	bool refused;        /* there was no room */
};

/* What the thread reads a pin by. Opened when something is missing. */
struct reader {
	struct tm_inode *inode;
	int fd;
};

static int reader_fd(void *opaque)
{
	struct reader *reader = opaque;

	if (reader->fd < 0)
		reader->fd = tm_inode_reopen(reader->inode, O_RDONLY);
	return reader->fd;
}

static void reader_ref(void *opaque)
{
	(void)opaque; /* on the stack of who reads */
}

static void pin_free(struct tm_pin *pin)
{
	tm_inode_unref(pin->inode);
	tm_inode_unref(pin->dir);
	free(pin->name);
	free(pin);
}

static void add_bytes_locked(struct tm_pins *pins, int64_t delta)
{
	pins->bytes += (uint64_t)delta;
	tm_cache_count(pins->mount->cache, TM_STAT_PINNED_BYTES, delta);
}

/* Take it off the list. True: the caller frees it, without the lock. */
static bool take_locked(struct tm_pins *pins, struct tm_pin *pin)
{
	struct tm_pin **p = &pins->first;

	while (*p != pin)
		p = &(*p)->next;
	*p = pin->next;
	if (!*p)
		pins->last = p;
	pin->inode->pin = NULL;
	add_bytes_locked(pins, -(int64_t)pin->bytes);
	pins->files--;
	atomic_store(&pin->removed, true);
	return !pin->busy;
}

/* What a file takes of the limit: whole pages, and at least one, so that it also bounds their
 * number. */
static uint64_t charge(const struct tm_pins *pins, uint64_t size)
{
	return TM_MAX(TM_ALIGN(size, pins->page_bytes), pins->page_bytes);
}

int tm_pins_add(struct tm_pins *pins, struct tm_inode *inode, uint64_t size, uint64_t *ret_bytes)
{
	struct tm_pin *pin = calloc(1, sizeof(*pin)), *unused = pin;
	int rc = 0;

	if (!pin)
		return -ENOMEM;
	pin->bytes = charge(pins, size);
	pin->kept = TM_FSCTL_NO_LOOK;
	pin->inode = tm_inode_ref(inode);
	if (!tm_inode_place(inode, &pin->dir, &pin->name))
		pin->dir = NULL;
	pthread_mutex_lock(&pins->lock);
	if (inode->pin) {
		pin = inode->pin;
	} else if (size > pins->max_bytes || pin->bytes > pins->max_bytes - pins->bytes) {
		rc = -ENOSPC;
	} else {
		pin->number = ++pins->numbers;
		inode->pin = pin;
		*pins->last = pin;
		pins->last = &pin->next;
		pins->files++;
		add_bytes_locked(pins, (int64_t)pin->bytes);
		unused = NULL;
	}
	if (rc == 0)
		*ret_bytes = pin->bytes;
	pthread_mutex_unlock(&pins->lock);
	if (unused)
		pin_free(unused);
	return rc;
}

void tm_pins_remove(struct tm_pins *pins, struct tm_inode *inode)
{
	struct tm_pin *dead = NULL;

	pthread_mutex_lock(&pins->lock);
	if (inode->pin) {
		struct tm_pin *pin = inode->pin;

		dead = take_locked(pins, pin) ? pin : NULL;
	}
	pthread_mutex_unlock(&pins->lock);
	if (dead)
		pin_free(dead);
}

void tm_pins_remove_all(struct tm_pins *pins)
{
	for (;;) {
		struct tm_inode *inode = NULL;

		pthread_mutex_lock(&pins->lock);
		if (pins->first)
			inode = tm_inode_ref(pins->first->inode);
		pthread_mutex_unlock(&pins->lock);
		if (!inode)
			return;
		tm_pins_remove(pins, inode);
		tm_inode_unref(inode);
	}
}

struct tm_pins_total tm_pins_total(struct tm_pins *pins)
{
	struct tm_pins_total total = {.max_bytes = pins->max_bytes};

	pthread_mutex_lock(&pins->lock);
	total.bytes = pins->bytes;
	total.files = pins->files;
	pthread_mutex_unlock(&pins->lock);
	return total;
}

/* --- the list ------------------------------------------------------------------------------ */

/* "a/b/c" for a file; "" if that is not known. NULL without memory. */
static char *path_of(struct tm_inode *inode)
{
	const struct tm_inode *root = tm_inodes_root(inode->table);
	struct tm_inode *at = tm_inode_ref(inode), *dir;
	char *path = strdup(""), *name, *longer;

	while (path && at != root) {
		if (!tm_inode_place(at, &dir, &name)) {
			*path = '\0';
			break;
		}
		if (asprintf(&longer, "%s%s%s", name, *path ? "/" : "", path) < 0)
			longer = NULL;
		free(name);
		free(path);
		path = longer;
		tm_inode_unref(at);
		at = dir;
	}
	tm_inode_unref(at);
	return path;
}

int tm_pins_list(struct tm_pins *pins, uint64_t after, unsigned int max,
	struct tm_pinned *ret_pinned, unsigned int *ret_count)
{
	struct tm_inode **inodes = calloc(max, sizeof(struct tm_inode *));
	unsigned int count = 0;
	int rc = 0;

	if (!inodes)
		return -ENOMEM;
	pthread_mutex_lock(&pins->lock);
	for (struct tm_pin *pin = pins->first; pin && count < max; pin = pin->next) {
		if (pin->number <= after)
			continue;
		ret_pinned[count] = (struct tm_pinned){pin->number, pin->bytes, pin->kept, NULL};
		inodes[count++] = tm_inode_ref(pin->inode);
	}
	pthread_mutex_unlock(&pins->lock);
	for (unsigned int i = 0; i < count; i++) {
		ret_pinned[i].path = path_of(inodes[i]);
		if (!ret_pinned[i].path)
			rc = -ENOMEM;
		tm_inode_unref(inodes[i]);
	}
	free(inodes);
	*ret_count = count;
	return rc;
}

/* --- the thread ----------------------------------------------------------------------------- */

/* Sleep. False when it is to end. */
static bool rest(struct tm_pins *pins, uint64_t ns)
{
	struct timespec until;
	bool stopping;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ns / NS_PER_SEC);
	until.tv_nsec += (long)(ns % NS_PER_SEC);
	if (until.tv_nsec >= (long)NS_PER_SEC) {
		until.tv_sec++;
		until.tv_nsec -= (long)NS_PER_SEC;
	}
	pthread_mutex_lock(&pins->lock);
	while (!pins->stopping && rc == 0)
		rc = pthread_cond_timedwait(&pins->wake, &pins->lock, &until);
	stopping = pins->stopping;
	pthread_mutex_unlock(&pins->lock);
	return !stopping;
}

static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

/* The file is gone: another one has its name? 0 and the inode, referenced; -ENOENT. */
static int follow(struct tm_mount *mount, const struct tm_pin *pin, struct tm_inode **ret_inode)
{
	struct fuse_entry_param entry;
	struct tm_inode *inode;
	int rc = pin->dir ? tm_fs_lookup(mount, pin->dir, pin->name, true, &entry) : -ENOENT;

	if (rc < 0)
		return rc;
	inode = (struct tm_inode *)(uintptr_t)entry.ino;
	if (inode == pin->inode || inode->type != S_IFREG)
		rc = -ENOENT;
	else
		*ret_inode = tm_inode_ref(inode);
	tm_inode_forget(inode, 1); /* the kernel knows nothing of this look-up */
	return rc;
}

/* The pin is `inode`'s from now on, unless that has one of its own. Takes over the reference. */
static bool move_pin(struct tm_pins *pins, struct tm_pin *pin, struct tm_inode *inode)
{
	struct tm_inode *old = inode;
	bool moved;

	pthread_mutex_lock(&pins->lock);
	moved = !atomic_load(&pin->removed) && !inode->pin;
	if (moved) {
		old = pin->inode;
		old->pin = NULL;
		inode->pin = pin;
		pin->inode = inode;
		pin->whole = false;
	}
	pthread_mutex_unlock(&pins->lock);
	tm_inode_unref(old);
	return moved;
}

/* Is the file still there, and how long is it? 0; -ENOENT it is gone for good; another errno: who
 * knows. */
static int look(struct tm_pins *pins, struct tm_inode *inode, struct stat *ret_st)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct tm_mount *mount = pins->mount;
	uint64_t left;
	int rc;

	if (!tm_inode_unlinked(inode) && !tm_fs_must_ask(mount) &&
		tm_meta_stat(mount->meta, inode, ret_st, &left))
		return 0;
	rc = tm_fd_get(inode, &place);
	if (rc == 0)
		rc = tm_fs_ask(mount, inode, place.fd, ret_st);
	if (rc == -ESTALE || (rc == 0 && ret_st->st_nlink == 0))
		return -ENOENT;
	if (rc == 0)
		(void)tm_cache_renew(mount->cache, inode, place.fd);
	return rc;
}

/* The file has another length: charge for it as far as the limit goes. */
static void recharge(struct tm_pins *pins, struct tm_pin *pin, uint64_t size)
{
	uint64_t want = charge(pins, size), room;

	pthread_mutex_lock(&pins->lock);
	if (!atomic_load(&pin->removed)) {
		room = pins->max_bytes - pins->bytes + pin->bytes;
		want = TM_MIN(want, room);
		add_bytes_locked(pins, (int64_t)(want - pin->bytes));
		pin->bytes = want;
	}
	pthread_mutex_unlock(&pins->lock);
}

/* What a round found out. */
struct round {
	bool all;      /* pages that were there are looked at, too */
	bool given_up; /* some were not there any more */
	bool refused;  /* the host gives no room: nothing more is read */
};

/* Look at a pin's pages, and read those that are missing. */
static void tend_pages(struct tm_pins *pins, struct tm_pin *pin, struct round *round)
{
	struct reader reader = {pin->inode, -1};
	struct tm_source source = {reader_fd, reader_ref, reader_ref, &reader, {0}};
	uint64_t end = pin->bytes, kept = 0, missed = 0, cpu;
	struct tm_cache *cache = pins->mount->cache;
	bool was_whole = pin->whole, whole = true;
	struct tm_oid oid = pin->oid;
	struct tm_warmed w = {0};

	for (uint64_t off = 0; off < end && !atomic_load(&pin->removed); off += TM_READ_MAX) {
		size_t len = (size_t)TM_MIN(end - off, (uint64_t)TM_READ_MAX);

		cpu = cpu_ns();
		if (tm_cache_warm(cache, pin->inode, &source, (int64_t)off, len, !round->refused,
			    &w) < 0 ||
			w.warmth != TM_WARMTH_KEEPS)
			break;
		if (off == 0 && memcmp(&oid, &w.oid, sizeof(oid)) != 0)
			was_whole = false;
		oid = w.oid;
		end = TM_MIN(end, w.size);
		kept += w.found + w.stored;
		missed += w.stored + w.refused;
		whole &= w.refused == 0;
		round->refused |= w.refused > 0;
		cpu = cpu_ns() - cpu;
		if (!rest(pins, cpu * ((w.stored > 0 ? READING_PART : LOOKING_PART) - 1)))
			break;
	}
	if (reader.fd >= 0)
		close(reader.fd);
	if (was_whole && missed > 0) {
		tm_cache_count(cache, TM_STAT_PINS_MISSED,
			(int64_t)((missed + pins->page_bytes - 1) / pins->page_bytes));
		round->given_up = true;
	}
	pthread_mutex_lock(&pins->lock);
	pin->kept = kept;
	pin->oid = oid;
	pin->whole = whole && kept >= TM_MIN(end, w.size);
	pthread_mutex_unlock(&pins->lock);
}

/* It was all there, and is the same version still. */
static bool is_settled(struct tm_pins *pins, const struct tm_pin *pin)
{
	struct reader reader = {pin->inode, -1};
	struct tm_source source = {reader_fd, reader_ref, reader_ref, &reader, {0}};
	struct tm_warmed w;
	bool settled;

	if (!pin->whole)
		return false;
	settled = tm_cache_warm(pins->mount->cache, pin->inode, &source, 0, 0, false, &w) == 0 &&
		w.warmth == TM_WARMTH_KEEPS && memcmp(&w.oid, &pin->oid, sizeof(w.oid)) == 0;
	if (reader.fd >= 0)
		close(reader.fd);
	return settled;
}

/* Look after one pin. False if it has ended. */
static bool tend(struct tm_pins *pins, struct tm_pin *pin, struct round *round)
{
	struct tm_inode *other;
	struct stat st = {0};
	int rc = look(pins, pin->inode, &st);

	if (rc == -ENOENT) {
		rc = follow(pins->mount, pin, &other);
		if (rc == -ENOENT || rc == -ESTALE || rc == -ENOTDIR || rc == -ELOOP ||
			(rc == 0 && !move_pin(pins, pin, other)))
			return false;
		if (rc == 0)
			rc = look(pins, pin->inode, &st);
	}
	if (rc < 0)
		return true; /* the backing cannot say: another time */
	recharge(pins, pin, (uint64_t)st.st_size);
	if (round->all || !is_settled(pins, pin))
		tend_pages(pins, pin, round);
	return true;
}

/* What this round is to do. */
static struct round round_begin(struct tm_pins *pins)
{
	struct tm_usage usage = tm_cache_usage(pins->mount->cache);
	struct round round = {0};

	pins->rounds++;
	if (pins->pause > 0) {
		pins->pause--;
		round.refused = pins->refused;
		return round;
	}
	/* What is evicted or given back leaves room behind it, or the cache is full. */
	round.all = pins->rounds >= IDLE_ROUNDS || usage.live_bytes < pins->live_bytes ||
		usage.live_bytes >= usage.limit_bytes / 4 * 3;
	if (round.all)
		pins->rounds = 0;
	return round;
}

static void round_end(struct tm_pins *pins, const struct round *round)
{
	pins->live_bytes = tm_cache_usage(pins->mount->cache).live_bytes;
	if (pins->pause > 0)
		return;
	if (round->given_up || round->refused) {
		pins->pauses = TM_MIN(TM_MAX(pins->pauses * 2, 1u), (unsigned int)PAUSE_MAX);
		pins->pause = pins->pauses;
	} else if (round->all) {
		pins->pauses = 0;
	}
	pins->refused = round->refused;
}

/* The first pin after `number`, which the thread is at from now on. NULL: none, or the end. */
static struct tm_pin *next_locked(struct tm_pins *pins, struct tm_pin *pin, uint64_t number)
{
	if (pin && !atomic_load(&pin->removed))
		pin = pin->next;
	else
		for (pin = pins->first; pin && pin->number <= number;)
			pin = pin->next;
	if (pins->stopping)
		return NULL;
	if (pin)
		pin->busy = true;
	return pin;
}

/* Go once round all pins there are. */
static void go_round(struct tm_pins *pins)
{
	struct round round = round_begin(pins);
	struct tm_pin *pin, *next;

	pthread_mutex_lock(&pins->lock);
	pin = next_locked(pins, NULL, 0);
	pthread_mutex_unlock(&pins->lock);
	while (pin) {
		bool lives = tend(pins, pin, &round), dead;

		pthread_mutex_lock(&pins->lock);
		next = next_locked(pins, pin, pin->number);
		pin->busy = false;
		dead = atomic_load(&pin->removed) || (!lives && take_locked(pins, pin));
		pthread_mutex_unlock(&pins->lock);
		if (dead)
			pin_free(pin);
		pin = next;
	}
	round_end(pins, &round);
}

static void *pins_main(void *arg)
{
	struct tm_pins *pins = arg;
	uint64_t start, took = 0;

	while (rest(pins, TM_MAX((uint64_t)PERIOD_NS, took * 4))) {
		start = tm_now_ns();
		go_round(pins);
		took = tm_now_ns() - start;
	}
	return NULL;
}

int tm_pins_start(struct tm_mount *mount, uint64_t max_bytes, struct tm_pins **ret_pins)
{
	struct tm_pins *pins = calloc(1, sizeof(*pins));
	pthread_condattr_t monotonic;
	sigset_t all, old;
	int rc;

	if (!pins)
		return -ENOMEM;
	pins->mount = mount;
	pins->max_bytes = max_bytes;
	pins->page_bytes = tm_cache_page_size(mount->cache);
	pins->last = &pins->first;
	pthread_mutex_init(&pins->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&pins->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&pins->thread, NULL, pins_main, pins);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0)
		free(pins);
	else
		*ret_pins = pins;
	return rc;
}

void tm_pins_stop(struct tm_pins *pins)
{
	if (!pins)
		return;
	pthread_mutex_lock(&pins->lock);
	pins->stopping = true;
	pthread_cond_signal(&pins->wake);
	pthread_mutex_unlock(&pins->lock);
	pthread_join(pins->thread, NULL);
	tm_pins_remove_all(pins);
	pthread_cond_destroy(&pins->wake);
	pthread_mutex_destroy(&pins->lock);
	free(pins);
}
