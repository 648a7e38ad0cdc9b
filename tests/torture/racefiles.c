/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * racefiles.c - writers above and below, readers above: who sees what, and how old
 *
 * racefiles [-t SECONDS] [-u WRITERS] [-d WRITERS] [-r READERS] [-f FILES] [-b BLOCKS] UP DOWN
 *
 * UP and DOWN show the same directory: UP is the mount, DOWN what is below it (or UP once more).
 * Every word of every block says which file, block and word it is and of which generation:
 *
 *      | hash(file, block, word, generation) : 32 | generation : 32 |
 *
 * Writers rewrite whole blocks with the next generation, one writer a block at a time: by pwrite or
 * a shared mapping above, by pwrite below; now and then they put a new file in the old one's place.
 * Shared memory has, for each block, the generation that is begun and the one that is in place.
 * Readers open, read with pread, O_DIRECT or a mapping, keep the file open for a while, and check
 *
 *   1. every word is one that was written there: nothing torn inside it, nothing of another place;
 *   2. none is older than what was in place when the file was opened, nor newer than what is begun;
 *   3. none is older than what was written above before the read began: writes are visible at once
 *      (unless somebody opened or read the file meanwhile, see below);
 *   4. nobody wrote since the open: all words are of one generation, the one in place. A block that
 *      mixes two is fine only while it is being written, never afterwards.
 *
 * Why 3 has an exception. Linux copies what is written into its page, unlocks that, and only then
 * asks the file system to write. All pages of the file can be dropped meanwhile: by an open that
 * may not keep them, and by a read that asks for attributes and finds that mtime has moved
 * (auto_inval_data; each write through the mount makes the next read ask). Who reads then gets the
 * page from the file system, which has not written yet. tmemfs notices if the read comes while it
 * writes, and has the page dropped once more; that takes a moment past the end of the write, and a
 * read that was answered before the write came it cannot tell from one of long before. So 3 is for
 * writes during which nobody above was in an open or a read of the file: `busy` counts both.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/util.h"

#define BLOCK      4096u
#define WORDS      (BLOCK / 8)
#define FILES_MAX  64
#define BLOCKS_MAX 1024

struct block {
	pthread_mutex_t lock;         /* one writer */
	_Atomic uint32_t begun, done; /* generations */
	_Atomic uint32_t above;       /* `done` by a write through UP */
};

struct file {
	_Atomic uint32_t replaced;   /* how often another took its name, odd: it is happening */
	_Atomic uint32_t busy, idle; /* opens and reads above that have begun, and ended */
	struct block blocks[BLOCKS_MAX];
};

/* Shared by all processes. */
struct shared {
	_Atomic bool stop;
	_Atomic uint64_t writes, alone, replaces, opens, reads, settled;
	struct file files[FILES_MAX];
};

static struct shared *shared;
static const char *up, *down;
static unsigned int files = 4, blocks = 64;
static uint64_t random_state;

static unsigned int rnd(unsigned int below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned int)((random_state >> 11) % below);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	shared->stop = true;
	exit(1);
}

#define CHECK(ok)                                                                                  \
	do {                                                                                       \
		if (!(ok))                                                                         \
			fail("%s: %s", #ok, strerror(errno));                                      \
	} while (0)

static const char *path_of(const char *dir, unsigned int file, const char *suffix)
{
	static char path[4200];

	snprintf(path, sizeof(path), "%s/race.%u%s", dir, file, suffix);
	return path;
}

static uint64_t word_of(unsigned int file, unsigned int block, unsigned int word, uint32_t gen)
{
	uint64_t place = (uint64_t)file << 40 | (uint64_t)block << 20 | word;
	uint64_t hash = (place + 1) * 0x9e3779b97f4a7c15u ^ (gen + 1ull) * 0xbf58476d1ce4e5b9u;

	hash = (hash ^ hash >> 29) * 0x94d049bb133111ebu;
	return (hash & 0xffffffff00000000u) | gen;
}

static int open_counted(const char *dir, unsigned int f, int flags)
{
	int fd;

	shared->files[f].busy += dir == up;
	fd = open(path_of(dir, f, ""), flags | O_CLOEXEC);
	CHECK(fd >= 0);
	shared->files[f].idle += dir == up;
	return fd;
}

static void make_block(unsigned int file, unsigned int block, uint32_t gen, uint64_t *ret_words)
{
	for (unsigned int i = 0; i < WORDS; i++)
		ret_words[i] = word_of(file, block, i, gen);
}

/* --- writers ------------------------------------------------------------------------------ */

static void write_block(unsigned int f, unsigned int b, bool above, int fd, char *map)
{
	struct file *file = &shared->files[f];
	struct block *block = &file->blocks[b];
	uint64_t words[WORDS];
	uint32_t gen = block->done + 1, idle = file->idle;
	size_t at = (size_t)b * BLOCK;

	block->begun = gen;
	make_block(f, b, gen, words);
	if (map) {
		memcpy(map + at, words, BLOCK);
		CHECK(msync(map + at, BLOCK, MS_SYNC) == 0);
	} else {
		CHECK(pwrite(fd, words, BLOCK, (off_t)at) == BLOCK);
	}
	block->done = gen;
	if (above && file->busy == idle) {
		block->above = gen;
		shared->alone++;
	}
}

/* Open the file and rewrite some of its blocks. */
static void rewrite(unsigned int f, bool above)
{
	struct file *file = &shared->files[f];
	size_t size = (size_t)blocks * BLOCK;
	char *map = NULL;
	int fd;

	for (unsigned int i = rnd(8) + 1; i-- > 0;) {
		unsigned int b = rnd(blocks);

		pthread_mutex_lock(&file->blocks[b].lock);
		/* The name leads to this very file as long as one of its blocks is locked. */
		fd = open_counted(above ? up : down, f, O_RDWR);
		if (above && rnd(4) == 0) {
			map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			CHECK(map != MAP_FAILED);
		}
		write_block(f, b, above, fd, map);
		if (map)
			munmap(map, size);
		map = NULL;
		close(fd);
		pthread_mutex_unlock(&file->blocks[b].lock);
		shared->writes++;
	}
}

/* Another file takes the name, with the next generation of every block. */
static void replace(unsigned int f, bool above)
{
	struct file *file = &shared->files[f];
	const char *dir = above ? up : down;
	char from[4200];
	int fd;

	for (unsigned int b = 0; b < blocks; b++)
		pthread_mutex_lock(&file->blocks[b].lock);
	file->replaced++;
	strcpy(from, path_of(dir, f, above ? ".above" : ".below"));
	CHECK((fd = open(from, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) >= 0);
	for (unsigned int b = 0; b < blocks; b++) {
		uint64_t words[WORDS];

		file->blocks[b].begun++;
		make_block(f, b, file->blocks[b].begun, words);
		CHECK(write(fd, words, BLOCK) == BLOCK);
	}
	close(fd);
	CHECK(rename(from, path_of(dir, f, "")) == 0);
	for (unsigned int b = 0; b < blocks; b++)
		file->blocks[b].done = file->blocks[b].begun;
	file->replaced++;
	for (unsigned int b = blocks; b-- > 0;)
		pthread_mutex_unlock(&file->blocks[b].lock);
	shared->replaces++;
}

static void pause_ms(unsigned int ms)
{
	const struct timespec moment = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

	nanosleep(&moment, NULL);
}

static void writer(bool above)
{
	while (!shared->stop) {
		unsigned int f = rnd(files);

		if (rnd(50) == 0)
			replace(f, above);
		else
			rewrite(f, above);
		/* Long enough, now and then, that what stat says is trusted. */
		pause_ms(rnd(8) == 0 ? 60 : rnd(3));
	}
}

/* --- readers ------------------------------------------------------------------------------ */

/* What may be seen of each block, as of the open. */
struct opened {
	uint32_t replaced, done[BLOCKS_MAX];
	char *map;
	int fd, direct;
};

/* Does it pass? What a later open sees. */
static uint32_t look_again(unsigned int f, unsigned int b)
{
	TM_AUTO_CLOSE int fd = open(path_of(up, f, ""), O_RDONLY | O_CLOEXEC);
	uint64_t word = 0;

	return fd >= 0 && pread(fd, &word, sizeof(word), (off_t)b * BLOCK) == sizeof(word)
		? (uint32_t)word
		: 0;
}

static void check_block(const struct opened *o, unsigned int f, unsigned int b,
	const uint64_t *words, uint32_t least, const char *how)
{
	struct block *block = &shared->files[f].blocks[b];
	uint32_t begun = block->begun;

	for (unsigned int i = 0; i < WORDS; i++) {
		uint32_t gen = (uint32_t)words[i];

		if (words[i] != word_of(f, b, i, gen))
			fail("%s: file %u block %u word %u is %016llx, which was never written "
			     "there",
				how, f, b, i, (unsigned long long)words[i]);
		if ((int32_t)(gen - least) < 0 || (int32_t)(begun - gen) < 0)
			fail("%s: file %u block %u word %u is of generation %u, not within %u (%u "
			     "at "
			     "the open) and %u; opened again: %u",
				how, f, b, i, gen, least, o->done[b], begun, look_again(f, b));
	}
	if (begun != o->done[b] || shared->files[f].replaced != o->replaced)
		return;
	shared->settled++;
	for (unsigned int i = 0; i < WORDS; i++)
		if ((uint32_t)words[i] != begun)
			fail("%s: file %u block %u is torn at word %u: generation %u, not %u", how,
				f, b, i, (uint32_t)words[i], begun);
}

static void read_block(const struct opened *o, unsigned int f, unsigned int b)
{
	static _Alignas(BLOCK) uint64_t words[WORDS];
	struct file *file = &shared->files[f];
	uint32_t least = o->done[b], above = file->blocks[b].above;
	const char *how = "read";

	/* What another file got is nothing of this one's. */
	if (file->replaced == o->replaced && (int32_t)(above - least) > 0)
		least = above;
	file->busy++;
	switch (rnd(4)) {
	case 0:
		how = "mapped read";
		memcpy(words, o->map + (size_t)b * BLOCK, BLOCK);
		break;
	case 1:
		how = "direct read";
		CHECK(pread(o->direct, words, BLOCK, (off_t)b * BLOCK) == BLOCK);
		break;
	default:
		CHECK(pread(o->fd, words, BLOCK, (off_t)b * BLOCK) == BLOCK);
	}
	file->idle++;
	check_block(o, f, b, words, least, how);
	shared->reads++;
}

static void reader(void)
{
	size_t size = (size_t)blocks * BLOCK;
	struct opened o;

	while (!shared->stop) {
		unsigned int f = rnd(files), first = rnd(blocks);
		struct file *file = &shared->files[f];

		for (unsigned int b = 0; b < blocks; b++)
			o.done[b] = file->blocks[b].done;
		o.replaced = file->replaced;
		o.fd = open_counted(up, f, O_RDONLY);
		o.direct = open_counted(up, f, O_RDONLY | O_DIRECT);
		o.map = mmap(NULL, size, PROT_READ, MAP_SHARED, o.fd, 0);
		CHECK(o.map != MAP_FAILED);
		/* Between the two opens it may have become another file; then only what held before
		 * the first is promised, and check_block() sees that it was replaced. */
		if (rnd(2))
			CHECK(posix_fadvise(o.fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
		for (unsigned int i = 0, n = rnd(blocks) + 1; i < n && !shared->stop; i++)
			read_block(&o, f, (first + i) % blocks);
		munmap(o.map, size);
		close(o.direct);
		close(o.fd);
		shared->opens++;
	}
}

/* --- the run ------------------------------------------------------------------------------ */

static void prepare(void)
{
	pthread_mutexattr_t attr;
	uint64_t words[WORDS];

	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		abort();
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	for (unsigned int f = 0; f < files; f++) {
		TM_AUTO_CLOSE int fd =
			open(path_of(down, f, ""), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		CHECK(fd >= 0);
		for (unsigned int b = 0; b < blocks; b++) {
			pthread_mutex_init(&shared->files[f].blocks[b].lock, &attr);
			make_block(f, b, 0, words);
			CHECK(write(fd, words, BLOCK) == BLOCK);
		}
	}
}

static void start(void (*job)(void), unsigned int count, unsigned int *number)
{
	for (unsigned int i = 0; i < count; i++, (*number)++) {
		if (fork() != 0)
			continue;
		random_state = (*number + 1) * 0x9e3779b97f4a7c15u;
		job();
		exit(0);
	}
}

static void writer_above(void)
{
	writer(true);
}

static void writer_below(void)
{
	writer(false);
}

static void usage(void)
{
	fprintf(stderr,
		"usage: racefiles [-t SECONDS] [-u WRITERS] [-d WRITERS] [-r READERS] [-f FILES] "
		"[-b BLOCKS] UP DOWN\n");
	exit(2);
}

int main(int argc, char **argv)
{
	unsigned int seconds = 5, above = 2, below = 2, readers = 4, number = 0;
	int opt, status, failed = 0;

	while ((opt = getopt(argc, argv, "t:u:d:r:f:b:")) != -1) {
		unsigned int value = optarg ? (unsigned int)strtoul(optarg, NULL, 0) : 0;

		if (opt == '?')
			usage();
		*(opt == 't'                 ? &seconds
				: opt == 'u' ? &above
				: opt == 'd' ? &below
				: opt == 'r' ? &readers
				: opt == 'f' ? &files
					     : &blocks) = value;
	}
	if (argc - optind != 2 || files > FILES_MAX || blocks > BLOCKS_MAX || !files || !blocks)
		usage();
	up = argv[optind];
	down = argv[optind + 1];
	prepare();
	start(writer_above, above, &number);
	start(writer_below, below, &number);
	start(reader, readers, &number);
	for (unsigned int i = 0; i < seconds * 10 && !shared->stop; i++)
		pause_ms(100);
	shared->stop = true;
	while (wait(&status) > 0)
		failed |= status;
	printf("%llu writes, %llu of them alone, %llu files replaced, %llu opens, %llu blocks "
	       "read, %llu of them settled\n",
		(unsigned long long)shared->writes, (unsigned long long)shared->alone,
		(unsigned long long)shared->replaces, (unsigned long long)shared->opens,
		(unsigned long long)shared->reads, (unsigned long long)shared->settled);
	return failed ? 1 : 0;
}
