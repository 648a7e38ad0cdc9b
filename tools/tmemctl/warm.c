/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * warm.c - tmemctl warm and pin: have a mount read files into tmem
 *
 *   walk (main thread) -> queue of pieces -> THREADS workers, an ioctl each
 *
 * The mount reads; here, ranges are asked for and what was done is summed up. A file is several
 * pieces, so one large file is read in parallel, too.
 *
 * A full cache makes room for what comes by giving up what is old. Where that begins to be what was
 * warmed a moment ago, going on is in vain: of every SAMPLE-th piece is remembered where it was,
 * and once the cache is full the oldest of these is looked at, one for each that is added. When one
 * has gone, the walk ends. Then, as after every walk through a full cache, a second walk only
 * looks, and tells how much is there.
 *
 * Locking: one mutex for queue and sums. It is not held while anything is asked.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/fsctl.h"
#include "core/util.h"
#include "tools/tmemctl/ctl.h"
#include "tools/tmemctl/tree.h"

#define THREADS 8
#define QUEUE   64
#define SAMPLE  16
#define REFUSED_MAX                                                                                \
	64 /* pieces for which there was no room, one after the other: there is none               \
	    */
#define YOUNG_TRIES    40
#define YOUNG_WAIT_MAX 3000 /* ms; longer than any file is young */
#define PROGRESS_MS    500

/* An open file that some pieces are of. `refs`: the lock. */
struct file {
	int fd;
	unsigned int refs;
	char *path;
};

struct piece {
	struct file *file;
	uint64_t off, len;
};

struct sample {
	struct sample *next;
	struct piece piece; /* its file is not open any more, only the path counts */
	char path[];
};

struct sums {
	uint64_t files, bytes;                      /* that were met */
	uint64_t found, stored;                     /* there already; read now */
	uint64_t refused, excluded, young, changed; /* not kept, and why */
	uint64_t failed;                            /* files, with a line on standard error each */
};

enum end {
	END_NOT,
	END_FULL,    /* what was warmed is given up for what comes */
	END_REFUSED, /* the host gives no room at all */
	END_INTERRUPTED,
	END_PINS, /* no more can be pinned */
};

struct warming {
	bool pins;   /* pin each file first */
	bool checks; /* only look; say nothing */
	bool tty;    /* show progress */

	pthread_mutex_t lock;
	pthread_cond_t filled, taken;

	/* lock */
	struct piece queue[QUEUE];
	unsigned int head, count, working;
	bool done; /* nothing is added any more */
	struct sums sums;
	bool full; /* the cache was, at some time */
	struct sample *first, **last;
	unsigned int pieces, refusals;
	uint64_t shown_ns;

	_Atomic enum end end;
};

static atomic_bool interrupted;

static void on_interrupt(int number)
{
	(void)number;
	atomic_store(&interrupted, true);
}

static enum end end_of(struct warming *w)
{
	enum end none = END_NOT;

	if (atomic_load(&interrupted))
		atomic_compare_exchange_strong(&w->end, &none, END_INTERRUPTED);
	return atomic_load(&w->end);
}

static void end_with(struct warming *w, enum end end)
{
	enum end none = END_NOT;

	atomic_compare_exchange_strong(&w->end, &none, end);
}

static void file_unref_locked(struct file *file)
{
	if (--file->refs > 0)
		return;
	close(file->fd);
	free(file->path);
	free(file);
}

/* One line on the terminal, over the last one. */
static void show_locked(struct warming *w, bool last)
{
	char bytes[TM_SIZE_TEXT_MAX];
	uint64_t now = tm_now_ns();

	if (!w->tty || w->checks || (!last && now - w->shown_ns < PROGRESS_MS * 1000000ull))
		return;
	w->shown_ns = now;
	if (last)
		fprintf(stderr, "\r\033[K");
	else
		fprintf(stderr, "\r\033[K%s of %llu files",
			tm_size_format(w->sums.found + w->sums.stored, bytes),
			(unsigned long long)w->sums.files);
}

static const char *reason(int error)
{
	return error == ENOTTY ? "not in a mount of tmemfs" : strerror(error);
}

static void failed(void *opaque, const char *path, int error)
{
	struct warming *w = opaque;

	if (w->checks)
		return;
	pthread_mutex_lock(&w->lock);
	show_locked(w, true);
	tm_tool_complain("%s: %s", path, reason(error));
	w->sums.failed++;
	pthread_mutex_unlock(&w->lock);
}

/* --- workers ------------------------------------------------------------------------------- */

static void pause_ms(unsigned int ms)
{
	const struct timespec moment = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

	nanosleep(&moment, NULL);
}

static int ask(int fd, uint64_t off, uint64_t len, bool checks, struct tm_fsctl_warm *ret_warm)
{
	*ret_warm = (struct tm_fsctl_warm){
		.off = off, .len = len, .flags = checks ? TM_FSCTL_CHECK : 0};
	return ioctl(fd, TM_FSCTL_WARM, ret_warm) < 0 ? -errno : 0;
}

/* The same, and once more after it is not too young any more. */
static int ask_patiently(struct warming *w, const struct piece *p, struct tm_fsctl_warm *ret_warm)
{
	unsigned int waited = 0;
	int rc = ask(p->file->fd, p->off, p->len, w->checks, ret_warm);

	for (unsigned int i = 0; i < YOUNG_TRIES && rc == 0; i++) {
		bool again = ret_warm->verdict == TM_FSCTL_YOUNG ||
			ret_warm->verdict == TM_FSCTL_CHANGED;

		if (!again || waited > YOUNG_WAIT_MAX || end_of(w) != END_NOT)
			break;
		pause_ms(TM_MAX(ret_warm->wait_ms, 1u));
		waited += TM_MAX(ret_warm->wait_ms, 1u);
		rc = ask(p->file->fd, p->off, p->len, w->checks, ret_warm);
	}
	return rc;
}

/* Is what was warmed there still there? True without an answer. */
static bool is_there(const struct sample *sample)
{
	TM_AUTO_CLOSE int fd = open(sample->path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	struct tm_fsctl_warm answer;

	return fd < 0 || ask(fd, sample->piece.off, sample->piece.len, true, &answer) < 0 ||
		answer.verdict != TM_FSCTL_KEEPS || answer.found * 2 >= sample->piece.len;
}

/* Remember some pieces, and look at the oldest. */
static void sample_piece(struct warming *w, const struct piece *p)
{
	size_t path_bytes = strlen(p->file->path) + 1;
	struct sample *sample = NULL, *oldest = NULL;

	pthread_mutex_lock(&w->lock);
	if (w->pieces++ % SAMPLE == 0)
		sample = malloc(sizeof(*sample) + path_bytes);
	if (sample) {
		*sample = (struct sample){.piece = *p};
		memcpy(sample->path, p->file->path, path_bytes);
		*w->last = sample;
		w->last = &sample->next;
	}
	if (sample && w->full) {
		oldest = w->first;
		w->first = oldest->next;
		if (!w->first)
			w->last = &w->first;
	}
	pthread_mutex_unlock(&w->lock);
	if (oldest && !is_there(oldest))
		end_with(w, END_FULL);
	free(oldest);
}

/* Add what an answer says to the sums. */
static void sum_up_locked(
	struct warming *w, const struct piece *p, const struct tm_fsctl_warm *answer)
{
	struct sums *s = &w->sums;
	uint64_t rest = p->len - TM_MIN(p->len, answer->found + answer->stored + answer->refused);

	s->found += answer->found;
	s->stored += answer->stored;
	s->refused += answer->refused;
	w->full |= answer->full;
	if (answer->verdict == TM_FSCTL_NEVER)
		s->excluded += rest;
	else if (answer->verdict == TM_FSCTL_YOUNG)
		s->young += rest;
	else if (answer->verdict == TM_FSCTL_CHANGED || !w->checks)
		s->changed += rest;
	w->refusals = answer->refused > 0 && answer->stored == 0 ? w->refusals + 1 : 0;
	if (w->refusals >= REFUSED_MAX)
		end_with(w, END_REFUSED);
	show_locked(w, false);
}

static void warm_piece(struct warming *w, const struct piece *p)
{
	struct tm_fsctl_warm answer;
	int rc = ask_patiently(w, p, &answer);

	if (rc < 0) {
		failed(w, p->file->path, -rc);
		return;
	}
	pthread_mutex_lock(&w->lock);
	sum_up_locked(w, p, &answer);
	pthread_mutex_unlock(&w->lock);
	if (!w->checks && answer.stored > 0)
		sample_piece(w, p);
}

static void *worker(void *opaque)
{
	struct warming *w = opaque;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct piece p;

		while (w->count == 0 && !w->done)
			pthread_cond_wait(&w->filled, &w->lock);
		if (w->count == 0)
			break;
		p = w->queue[w->head];
		w->head = (w->head + 1) % QUEUE;
		w->count--;
		pthread_cond_signal(&w->taken);
		if (end_of(w) == END_NOT) {
			pthread_mutex_unlock(&w->lock);
			warm_piece(w, &p);
			pthread_mutex_lock(&w->lock);
		}
		file_unref_locked(p.file);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* --- the walk ------------------------------------------------------------------------------- */

static void add_piece(struct warming *w, struct file *file, uint64_t off, uint64_t len)
{
	pthread_mutex_lock(&w->lock);
	while (w->count == QUEUE)
		pthread_cond_wait(&w->taken, &w->lock);
	file->refs++;
	w->queue[(w->head + w->count++) % QUEUE] = (struct piece){file, off, len};
	pthread_cond_signal(&w->filled);
	pthread_mutex_unlock(&w->lock);
}

/* 0; -ENOSPC no more can be pinned; -EOPNOTSUPP it is not cached. Other errors are of the file. */
static int pin_file(int fd)
{
	struct tm_fsctl_pin out;

	return ioctl(fd, TM_FSCTL_PIN, &out) < 0 ? -errno : 0;
}

/* A file to be asked for in pieces, or NULL without memory. */
static struct file *file_new(int fd, const char *path)
{
	struct file *file = malloc(sizeof(*file));

	if (!file)
		return NULL;
	*file = (struct file){.fd = fd, .refs = 1, .path = strdup(path)};
	if (!file->path) {
		free(file);
		return NULL;
	}
	return file;
}

static bool on_file(void *opaque, int fd, const char *path, const struct stat *st)
{
	struct warming *w = opaque;
	uint64_t size = (uint64_t)st->st_size;
	struct file *file = file_new(fd, path);
	int rc = !file ? -ENOMEM : w->pins && !w->checks ? pin_file(fd) : 0;

	if (rc == -ENOSPC)
		end_with(w, END_PINS);
	else if (rc < 0 && rc != -EOPNOTSUPP)
		failed(w, path, -rc);
	pthread_mutex_lock(&w->lock);
	if (rc == 0 || rc == -EOPNOTSUPP) {
		w->sums.files++;
		w->sums.bytes += size;
	}
	w->sums.excluded += rc == -EOPNOTSUPP ? size : 0;
	pthread_mutex_unlock(&w->lock);
	for (uint64_t off = 0; rc == 0 && off < size && end_of(w) == END_NOT;
		off += TM_FSCTL_WARM_MAX)
		add_piece(w, file, off, TM_MIN(size - off, (uint64_t)TM_FSCTL_WARM_MAX));
	pthread_mutex_lock(&w->lock);
	if (file)
		file_unref_locked(file);
	else
		close(fd);
	pthread_mutex_unlock(&w->lock);
	return end_of(w) == END_NOT;
}

static const struct tree_ops tree_ops = {.file = on_file, .failed = failed};

/* Walk all paths, with workers. 0, or -errno of a thread. */
static int walk(struct warming *w, const char *const *paths)
{
	pthread_t threads[THREADS];
	unsigned int started = 0;
	sigset_t stops, old;
	int rc = 0;

	/* The main thread is told to stop: it stops the others. */
	sigemptyset(&stops);
	sigaddset(&stops, SIGINT);
	sigaddset(&stops, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stops, &old);
	while (started < THREADS && rc == 0) {
		rc = -pthread_create(&threads[started], NULL, worker, w);
		started += rc == 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (started > 0)
		rc = 0;
	for (; rc == 0 && *paths; paths++)
		if (!tree_walk(*paths, &tree_ops, w))
			break;
	pthread_mutex_lock(&w->lock);
	w->done = true;
	pthread_cond_broadcast(&w->filled);
	pthread_mutex_unlock(&w->lock);
	while (started > 0)
		pthread_join(threads[--started], NULL);
	return rc;
}

static void warming_init(struct warming *w)
{
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->filled, NULL);
	pthread_cond_init(&w->taken, NULL);
	w->last = &w->first;
}

static void warming_free(struct warming *w)
{
	while (w->first) {
		struct sample *next = w->first->next;

		free(w->first);
		w->first = next;
	}
	pthread_cond_destroy(&w->filled);
	pthread_cond_destroy(&w->taken);
	pthread_mutex_destroy(&w->lock);
}

/* --- what is said about it ------------------------------------------------------------------- */

static const char *const ends[] = {
	[END_NOT] = NULL,
	[END_FULL] = "the cache is full: going on would only push out what was warmed",
	[END_REFUSED] = "the host gives no more memory",
	[END_INTERRUPTED] = "interrupted",
	[END_PINS] = "no more can be pinned (tmemfs -o pins=)",
};

/* What of the files is in the cache now: `total` of all that were named. */
struct outcome {
	struct sums sums;
	uint64_t kept, total;
	enum end end;
};

static void print_part(const char *what, uint64_t bytes)
{
	char text[TM_SIZE_TEXT_MAX];

	if (bytes > 0)
		printf(", %s %s", tm_size_format(bytes, text), what);
}

static void print_text(const struct outcome *o, bool pins)
{
	const struct sums *s = &o->sums;
	char kept[TM_SIZE_TEXT_MAX], total[TM_SIZE_TEXT_MAX], stored[TM_SIZE_TEXT_MAX];

	printf("%s %llu files: %s read, %s of %s are cached", pins ? "pinned" : "warmed",
		(unsigned long long)s->files, tm_size_format(s->stored, stored),
		tm_size_format(o->kept, kept), tm_size_format(o->total, total));
	print_part("found no room", s->refused);
	print_part("excluded", s->excluded);
	print_part("changed just now", s->young + s->changed);
	putchar('\n');
	if (ends[o->end])
		tm_tool_complain("stopped: %s", ends[o->end]);
}

static void print_json(const struct outcome *o)
{
	const struct sums *s = &o->sums;
	static const char *const names[] = {"done", "full", "refused", "interrupted", "pins"};
	json_t *json = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s}", "files",
		(json_int_t)s->files, "total_bytes", (json_int_t)o->total, "cached_bytes",
		(json_int_t)o->kept, "found_bytes", (json_int_t)s->found, "read_bytes",
		(json_int_t)s->stored, "refused_bytes", (json_int_t)s->refused, "excluded_bytes",
		(json_int_t)s->excluded, "changed_bytes", (json_int_t)(s->young + s->changed),
		"failed", (json_int_t)s->failed, "end", names[o->end]);

	tm_tool_print_json(json);
	json_decref(json);
}

static void raise_file_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

/* The last part of the work: how much is there? After a walk that the cache has not been too small
 * for, all that was put. */
static int look_again(struct warming *w, const char *const *paths, struct outcome *o)
{
	struct warming again = {.checks = true};
	int rc;

	if (o->end == END_INTERRUPTED || (!w->full && o->end == END_NOT))
		return 0;
	warming_init(&again);
	rc = walk(&again, paths);
	o->kept = again.sums.found;
	o->total = again.sums.bytes;
	/* It went through all of it, and did push out what it had warmed. */
	if (o->end == END_NOT &&
		o->kept + o->sums.excluded + o->sums.young + o->sums.changed < o->total)
		o->end = END_FULL;
	warming_free(&again);
	return rc;
}

/* Is `path` in a mount of tmemfs? False after a complaint. */
static bool is_ours(const char *path)
{
	TM_AUTO_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct tm_fsctl_about about = {0};
	struct stat st;
	int error = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		error = errno;
	else if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		error = ENOTTY;
	else if (ioctl(fd, TM_FSCTL_ABOUT, &about) < 0)
		error = errno;
	else if (about.magic != TM_FSCTL_MAGIC || about.version != TM_FSCTL_VERSION)
		error = ENOTTY;
	if (error)
		tm_tool_complain("%s: %s", path, reason(error));
	return error == 0;
}

static int run(struct ctl *ctl, bool pins)
{
	const struct sigaction interrupt = {
		.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
	struct warming w = {.pins = pins, .tty = isatty(STDERR_FILENO)};
	struct outcome o;
	int rc;

	for (int i = 0; i < ctl->count; i++)
		if (!is_ours(ctl->args[i]))
			return TM_EXIT_FAILED;
	raise_file_limit();
	sigaction(SIGINT, &interrupt, NULL);
	sigaction(SIGTERM, &interrupt, NULL);
	warming_init(&w);
	rc = walk(&w, ctl->args);
	show_locked(&w, true);
	o = (struct outcome){.sums = w.sums,
		.kept = w.sums.found + w.sums.stored,
		.total = w.sums.bytes,
		.end = end_of(&w)};
	if (rc == 0)
		rc = look_again(&w, ctl->args, &o);
	warming_free(&w);
	if (rc < 0) {
		tm_tool_complain("%s", strerror(-rc));
		return TM_EXIT_FAILED;
	}
	if (ctl->json)
		print_json(&o);
	else
		print_text(&o, pins);
	return o.end == END_NOT && o.sums.failed == 0 && o.kept + o.sums.excluded >= o.total
		? TM_EXIT_OK
		: TM_EXIT_FAILED;
}

int ctl_warm(struct ctl *ctl)
{
	return run(ctl, false);
}

int ctl_pin(struct ctl *ctl)
{
	return run(ctl, true);
}
