/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dense.c - what recompression gains a cache: misses on recorded block traces, with and without
 *
 * dense FILE TRACE...
 *
 * As trace.c, but each page of the trace has the bytes of some page of FILE, and a budget is of
 * bytes, everything counted: so many percent of what all pages of the trace take with LZ4. Upkeep
 * gets its turn after every 64 requests, as on a machine that has time for it, and leaves a segment
 * alone for AGE_MS, some thousand requests here.
 */
#include "bench/pages.h"
#include "bench/traces.h"

#define TURN   64u
#define AGE_MS 20u

/* Of all requests. */
struct outcome {
	double misses, pages, packed, us;
};

static uint32_t corpus_number(const struct corpus *c, uint64_t key)
{
	return (uint32_t)((key * 0x9e3779b97f4a7c15u >> 32) % c->count);
}

static double entry_bytes(const struct corpus *c)
{
	static uint8_t buf[65536];
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < c->count; i++)
		bytes += tm_entry_total(
			tm_codec_encode(corpus_page(c, i), c->bytes, true, buf).bytes, true);
	return (double)bytes / c->count;
}

static struct outcome replay(
	const struct trace *t, const struct corpus *c, uint64_t limit, bool recompress)
{
	struct bench_store b =
		open_store((struct tm_store_params){.limit = limit,
				   .segment_bytes = SEGMENT,
				   .recompress = recompress,
				   .upkeep_percent = 100,
				   .cold_ms = 8 * AGE_MS}, /* a full store waits an eighth */
			tm_pool_flags(0, 0), TM_POOL_RETAIN);
	static uint8_t back[PAGE];
	struct outcome o = {0};
	double start = cpu_seconds();
	uint64_t misses = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		struct tm_oid oid = {{t->key[i] >> 32, 0, 0}};
		const uint8_t *page = corpus_page(c, corpus_number(c, t->key[i]));
		uint32_t index = (uint32_t)t->key[i];
		int rc = tm_store_get(b.store, 0, &oid, index, back);

		if (rc == 0 && memcmp(back, page, PAGE) != 0)
			die("another page", EILSEQ);
		misses += rc < 0;
		if (rc < 0)
			rc = tm_store_put(b.store, 0, &oid, index, page);
		if (rc < 0)
			die("put", -rc);
		if (i % TURN == 0)
			tm_upkeep_work(b.store, NULL);
	}
	o.us = (cpu_seconds() - start) * 1e6 / t->count;
	o.misses = (double)misses / t->count;
	o.pages = (double)pool_stat(&b, TM_STAT_PAGES);
	o.packed = (double)pool_stat(&b, TM_STAT_PACKED) / o.pages;
	if (tm_store_check(b.store) < 0)
		die("check", EUCLEAN);
	close_store(&b);
	return o;
}

static void run(const struct trace *t, const struct corpus *c, double bytes)
{
	static const uint32_t percents[] = {10, 20, 40};

	printf("\n%s, %s: %u requests of %u pages, %.0f bytes each with LZ4\n", t->name, c->name,
		t->count, t->pages, bytes);
	printf("  %%    MiB  misses  packing   x      pages  packing   x    packed  us  packing\n");
	for (size_t i = 0; i < TM_ARRAY_SIZE(percents); i++) {
		uint64_t limit = (uint64_t)(t->pages * bytes) * percents[i] / 100;
		struct outcome a = replay(t, c, limit, false), b = replay(t, c, limit, true);

		printf("%3u %6.1f  %.4f  %.4f  %.3f  %7.0f  %7.0f  %.2f  %3.0f%%  %5.1f  %5.1f\n",
			percents[i], (double)limit / 1048576, a.misses, b.misses,
			b.misses / a.misses, a.pages, b.pages, b.pages / a.pages, b.packed * 100,
			a.us, b.us);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	struct corpus c;
	double bytes;

	if (argc < 3) {
		fprintf(stderr, "usage: dense FILE TRACE...\n");
		return 2;
	}
	c = load_corpus(argv[1], 64, 0);
	bytes = entry_bytes(&c);
	for (int i = 2; i < argc; i++) {
		struct trace t = {0};
		int rc = read_trace(argv[i], &t);

		if (rc < 0)
			die(argv[i], -rc);
		run(&t, &c, bytes);
		free(t.key);
		free(t.id);
	}
	return 0;
}
