/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store.c - what a page costs in the store, beside the bare codec
 *
 * store [-n MEGABYTES] FILE...
 *
 * Cuts the files into 4 KiB pages, then in interleaved rounds on the same pages in the same random
 * order: codec   LZ4 compression (decompression) into a hot buffer, plus one cold 4 KiB copy store
 * put into (get from) a persistent pool Prints medians of CPU time per page, their ratio, and the
 * bytes of memory a page takes, everything counted. One thread; CPU time of the whole process.
 */
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "core/store.h"
#include "core/util.h"

#define ROUNDS 5
#define PAGE   4096u

struct corpus {
	uint8_t *pages;
	uint32_t *order; /* a random permutation */
	uint32_t count;
};

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void add_file(struct corpus *c, uint32_t max, const char *path)
{
	TM_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 1;

	while (fd >= 0 && c->count < max && n > 0) {
		uint8_t *page = c->pages + (size_t)c->count * PAGE;
		uint32_t got = 0;

		while (got < PAGE && (n = read(fd, page + got, PAGE - got)) > 0)
			got += (uint32_t)n;
		memset(page + got, 0, PAGE - got);
		c->count += got > 0;
	}
}

static void shuffle(struct corpus *c)
{
	uint64_t r = 88172645463325252u;

	for (uint32_t i = 0; i < c->count; i++)
		c->order[i] = i;
	for (uint32_t i = c->count; i > 1; i--) {
		uint32_t j, t;

		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		j = (uint32_t)(r % i);
		t = c->order[i - 1], c->order[i - 1] = c->order[j], c->order[j] = t;
	}
}

/* Seconds of CPU (recover: of wall time) for each thing measured in one round. */
struct round {
	double codec_put, store_put, codec_get, store_get, recover;
};

static uint64_t codec_bytes;

static void run_codec(const struct corpus *c, struct round *r)
{
	static uint8_t copy[PAGE], out[PAGE * 2], back[PAGE];
	uint8_t *packed = malloc((size_t)c->count * PAGE);
	uint32_t *sizes = calloc(c->count, sizeof(*sizes));
	uint64_t total = 0;
	double start;

	memset(packed, 1, (size_t)c->count * PAGE);
	start = cpu_seconds();
	for (uint32_t i = 0; i < c->count; i++) {
		uint32_t n = c->order[i];

		memcpy(copy, c->pages + (size_t)n * PAGE, PAGE);
		sizes[n] = (uint32_t)LZ4_compress_default(
			(char *)copy, (char *)out, PAGE, sizeof(out));
		sizes[n] = TM_MIN(sizes[n], PAGE);
		memcpy(packed + (size_t)n * PAGE, out, sizes[n]);
		total += sizes[n];
	}
	r->codec_put = cpu_seconds() - start;
	codec_bytes = total;

	start = cpu_seconds();
	for (uint32_t i = 0; i < c->count; i++) {
		uint32_t n = c->order[(i + c->count / 2) % c->count];

		if (LZ4_decompress_safe((char *)packed + (size_t)n * PAGE, (char *)back,
			    (int)sizes[n], PAGE) < 0)
			memcpy(back, packed + (size_t)n * PAGE, PAGE); /* stored raw */
		memcpy(copy, back, PAGE);
	}
	r->codec_get = cpu_seconds() - start;
	free(packed);
	free(sizes);
}

/* The first store is left as a dead process would leave it: its mapping is emptied by the second.
 */
static int run_recover(
	struct tm_store *dead, uint64_t limit, uint32_t segment_bytes, struct round *r)
{
	struct tm_store_params params = {.limit = limit, .segment_bytes = segment_bytes};
	struct tm_store *s;
	uint64_t start;
	int fd, rc = tm_ledger_create(&params.ledger, &fd);

	if (rc < 0)
		return rc;
	start = tm_now_ns();
	rc = tm_store_recover(&params, dup(tm_store_fd(dead)), false, &s);
	r->recover = (double)(tm_now_ns() - start) * 1e-9;
	if (rc == 0)
		tm_store_destroy(s);
	tm_ledger_unmap(params.ledger);
	close(fd);
	return rc;
}

static uint64_t store_bytes;
static bool store_huge;

static int run_store(const struct corpus *c, struct round *r)
{
	struct tm_pool_params pool = {.flags = tm_pool_flags(TM_POOL_PERSIST, 0), .name = "bench"};
	struct tm_store_params params = {.limit = (uint64_t)c->count * PAGE * 2 + (64u << 20)};
	const struct tm_oid oid = {{0, 0, 0}};
	static uint8_t back[PAGE];
	struct tm_store *s;
	double start;
	int fd, rc;

	rc = tm_ledger_create(&params.ledger, &fd);
	if (rc < 0)
		return rc;
	rc = tm_store_create(&params, &s);
	if (rc < 0)
		return rc;
	rc = tm_store_new_pool(s, &pool);

	start = cpu_seconds();
	for (uint32_t i = 0; rc >= 0 && i < c->count; i++)
		rc = tm_store_put(s, 0, &oid, c->order[i], c->pages + (size_t)c->order[i] * PAGE);
	r->store_put = cpu_seconds() - start;
	store_bytes = params.ledger->used_bytes;
	store_huge = params.ledger->huge_pages;

	start = cpu_seconds();
	for (uint32_t i = 0; rc >= 0 && i < c->count; i++)
		rc = tm_store_get(s, 0, &oid, c->order[(i + c->count / 2) % c->count], back);
	r->store_get = cpu_seconds() - start;

	if (rc >= 0)
		rc = run_recover(s, params.limit, (uint32_t)params.ledger->segment_bytes, r);
	tm_store_destroy(s);
	tm_ledger_unmap(params.ledger);
	close(fd);
	return rc;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Median over the rounds of the field at `offset`, in microseconds a page. */
static double median_us(const struct round *rounds, size_t offset, uint32_t pages)
{
	double v[ROUNDS];

	for (int i = 0; i < ROUNDS; i++)
		v[i] = *(const double *)((const char *)&rounds[i] + offset);
	qsort(v, ROUNDS, sizeof(*v), compare);
	return v[ROUNDS / 2] * 1e6 / pages;
}

int main(int argc, char **argv)
{
	struct round rounds[ROUNDS];
	struct corpus c = {0};
	uint32_t megabytes = 256, max;
	int opt, rc = 0;

	while ((opt = getopt(argc, argv, "n:")) != -1) {
		if (opt != 'n' || (megabytes = (uint32_t)atoi(optarg)) == 0) {
			fprintf(stderr, "usage: store [-n MEGABYTES] FILE...\n");
			return 2;
		}
	}
	max = megabytes * 256;
	c.pages = mmap(NULL, (size_t)max * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c.order = calloc(max, sizeof(*c.order));
	for (int i = optind; i < argc; i++)
		add_file(&c, max, argv[i]);
	if (c.count == 0) {
		fprintf(stderr, "store: no pages to measure with\n");
		return 1;
	}
	shuffle(&c);
	for (int i = 0; i < ROUNDS && rc >= 0; i++) {
		run_codec(&c, &rounds[i]);
		rc = run_store(&c, &rounds[i]);
	}
	if (rc < 0) {
		fprintf(stderr, "store: %s\n", strerror(-rc));
		return 1;
	}
	double cp = median_us(rounds, offsetof(struct round, codec_put), c.count);
	double sp = median_us(rounds, offsetof(struct round, store_put), c.count);
	double cg = median_us(rounds, offsetof(struct round, codec_get), c.count);
	double sg = median_us(rounds, offsetof(struct round, store_get), c.count);

	printf("pages %u (%u MiB), %s pages, %d rounds\n", c.count, c.count / 256,
		store_huge ? "huge" : "small", ROUNDS);
	printf("put    codec+copy %6.2f us   store %6.2f us   ratio %.2f\n", cp, sp, sp / cp);
	printf("get    codec+copy %6.2f us   store %6.2f us   ratio %.2f\n", cg, sg, sg / cg);
	printf("bytes  codec      %6.0f      store %6.0f      ratio %.3f\n",
		(double)codec_bytes / c.count, (double)store_bytes / c.count,
		(double)store_bytes / (double)codec_bytes);
	printf("recover %.3f s for %.0f MiB of memory\n",
		median_us(rounds, offsetof(struct round, recover), c.count) * c.count / 1e6,
		(double)store_bytes / 1048576);
	return 0;
}
