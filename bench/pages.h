/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pages.h - what the store's benchmarks share: real pages, a store to put them in, clocks, samples
 *
 * A sample is a line "WHAT <tab> WHO <tab> VALUE" on standard output, which bench-store collects.
 */
#ifndef TM_BENCH_PAGES_H
#define TM_BENCH_PAGES_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/store_private.h"
#include "core/util.h"

struct corpus {
	const char *name;
	uint8_t *pages;
	uint32_t *order; /* a random permutation */
	uint32_t count, bytes;
};

struct bench_store {
	struct tm_ledger *ledger;
	int ledger_fd;
	struct tm_store *store;
};

static inline double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline double cpu_seconds(void)
{
	return seconds(CLOCK_PROCESS_CPUTIME_ID);
}

static inline double wall_seconds(void)
{
	return seconds(CLOCK_MONOTONIC);
}

static inline void sample(const char *corpus, const char *what, const char *who, double value)
{
	printf("%s%s%s\t%s\t%.9g\n", corpus, *corpus ? " " : "", what, who, value);
	fflush(stdout);
}

/* xorshift: the same numbers in every run. */
static inline uint64_t next_random(uint64_t *r)
{
	*r ^= *r << 13;
	*r ^= *r >> 7;
	*r ^= *r << 17;
	return *r;
}

/* Say why, and end. */
static inline _Noreturn void die(const char *what, int err)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(err));
	exit(1);
}

/* At most `megabytes` of pages of 4 KiB << order, spread evenly over the file. */
static inline struct corpus load_corpus(const char *path, uint32_t megabytes, unsigned int order)
{
	struct corpus c = {.name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path,
		.bytes = TM_PAGE_SIZE << order};
	TM_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t all = fd < 0 ? 0 : (uint64_t)lseek(fd, 0, SEEK_END) >> 20, r = 88172645463325252u;
	uint64_t take = TM_MIN(all, (uint64_t)megabytes);

	if (take == 0)
		die(path, fd < 0 ? errno : EINVAL);
	c.count = (uint32_t)((take << 20) / c.bytes);
	c.pages =
		mmap(NULL, take << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c.order = calloc(c.count, sizeof(*c.order));
	if (c.pages == MAP_FAILED || !c.order)
		die(path, ENOMEM);
	for (uint64_t i = 0; i < take; i++)
		if (pread(fd, c.pages + (i << 20), 1 << 20, (off_t)(i * all / take) << 20) !=
			1 << 20)
			die(path, errno);
	for (uint32_t i = 0; i < c.count; i++)
		c.order[i] = i;
	for (uint32_t i = c.count; i > 1; i--) {
		uint32_t j = (uint32_t)(next_random(&r) % i), t = c.order[i - 1];

		c.order[i - 1] = c.order[j];
		c.order[j] = t;
	}
	return c;
}

static inline const uint8_t *corpus_page(const struct corpus *c, uint32_t n)
{
	return c->pages + (size_t)n * c->bytes;
}

/* With one pool, 0. */
static inline struct bench_store open_store(
	struct tm_store_params params, uint32_t flags, uint32_t attrs)
{
	struct tm_pool_params pool = {.flags = flags, .attrs = attrs, .name = "bench"};
	struct bench_store b;
	int rc = tm_ledger_create(&b.ledger, &b.ledger_fd);

	params.ledger = b.ledger;
	if (rc == 0)
		rc = tm_store_create(&params, &b.store);
	if (rc == 0)
		rc = tm_store_new_pool(b.store, &pool);
	if (rc < 0)
		die("store", -rc);
	return b;
}

static inline void close_store(struct bench_store *b)
{
	tm_store_destroy(b->store);
	tm_ledger_unmap(b->ledger);
	close(b->ledger_fd);
}

static inline uint64_t pool_stat(const struct bench_store *b, enum tm_stat stat)
{
	return atomic_load(&b->ledger->pools[0].stat[stat]);
}

#endif
