/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * storeload.c - the store under load: two threads, a doubled store, memory given back, churn
 *
 * storeload threads FILE    put and get with one thread and with two, on one object and on many
 * storeload latency FILE    the slowest puts of 8 threads into a full store, and into one of twice
 * the size storeload release         1 GiB of ephemeral memory given back, beside bare punching
 * storeload churn FILE      a persistent store filled, then overwritten, discarded and refilled ten
 * times over
 */
#include <pthread.h>

#include "bench/pages.h"
#include "core/memory.h"

/* --- threads ------------------------------------------------------------------------------------
 */

struct worker {
	const struct corpus *c;
	struct bench_store *b;
	uint32_t from, step, rounds;
	bool own_object, put;
};

static void *work(void *arg)
{
	const struct worker *w = arg;
	struct tm_oid oid = {{w->own_object ? 1 + w->from : 0, 0, 0}};
	uint8_t page[TM_PAGE_SIZE];
	int rc = 0;

	for (uint32_t i = w->from; rc == 0 && i < w->c->count * w->rounds; i += w->step) {
		uint32_t n = w->c->order[i % w->c->count];

		if (w->put)
			rc = tm_store_put(w->b->store, 0, &oid, n, corpus_page(w->c, n));
		else
			rc = tm_store_get(w->b->store, 0, &oid, n, page);
	}
	if (rc < 0)
		die("threads", -rc);
	return NULL;
}

static double run_threads(
	const struct corpus *c, struct bench_store *b, uint32_t threads, bool own, bool put)
{
	uint32_t rounds = put ? 1 : 20; /* some tenths of a second, or a late start would count */
	struct worker w[2];
	pthread_t id[2];
	double start = wall_seconds();

	for (uint32_t i = 0; i < threads; i++) {
		w[i] = (struct worker){c, b, i, threads, rounds, own, put};
		pthread_create(&id[i], NULL, work, &w[i]);
	}
	for (uint32_t i = 0; i < threads; i++)
		pthread_join(id[i], NULL);
	return (double)c->count * rounds / (wall_seconds() - start);
}

static void threads(const struct corpus *c)
{
	static const char *const who[2][2] = {
		{"1 thread", "1 thread"}, {"2, one object", "2, own objects"}};

	for (uint32_t n = 1; n <= 2; n++) {
		for (int own = 0; own < (int)n; own++) {
			struct bench_store b = open_store(
				(struct tm_store_params){.limit = 2ull << 30, .keeper = true},
				tm_pool_flags(TM_POOL_PERSIST, 0), 0);

			sample("", "puts/s", who[n - 1][own], run_threads(c, &b, n, own, true));
			sample("", "gets/s", who[n - 1][own], run_threads(c, &b, n, own, false));
			close_store(&b);
		}
	}
}

/* --- the slowest puts ---------------------------------------------------------------------------
 */

#define PUTTERS 8

struct putter {
	const struct corpus *c;
	struct bench_store *b;
	uint32_t range, puts;
	uint64_t random;
	float *us; /* [puts] */
};

static void *put_randomly(void *arg)
{
	struct putter *w = arg;
	struct tm_oid oid = {{0, 0, 0}};

	for (uint32_t i = 0; i < w->puts; i++) {
		uint32_t n = (uint32_t)(next_random(&w->random) % w->range);
		double start = wall_seconds();

		tm_store_put(w->b->store, 0, &oid, n, corpus_page(w->c, n % w->c->count));
		w->us[i] = (float)((wall_seconds() - start) * 1e6);
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static void latency_of(const struct corpus *c, uint64_t limit, const char *who)
{
	struct bench_store b = open_store((struct tm_store_params){.limit = limit, .keeper = true},
		tm_pool_flags(0, 0), TM_POOL_RETAIN);
	struct tm_oid oid = {{0, 0, 0}};
	struct putter w[PUTTERS];
	pthread_t id[PUTTERS];
	uint32_t puts = 40000, range = 0;
	float *us = calloc((size_t)PUTTERS * puts, sizeof(*us));

	while (pool_stat(&b, TM_STAT_EVICTED) == 0) { /* how many fit */
		tm_store_put(b.store, 0, &oid, range, corpus_page(c, range % c->count));
		range++;
	}
	for (uint32_t i = 0; i < PUTTERS; i++) {
		w[i] = (struct putter){c, &b, range * 2, puts, i + 1, us + (size_t)i * puts};
		pthread_create(&id[i], NULL, put_randomly, &w[i]);
	}
	for (uint32_t i = 0; i < PUTTERS; i++)
		pthread_join(id[i], NULL);
	qsort(us, (size_t)PUTTERS * puts, sizeof(*us), compare);
	sample("", "full store, put p50 us", who, us[PUTTERS * puts / 2]);
	sample("", "full store, put p99.9 us", who, us[PUTTERS * puts / 1000 * 999]);
	free(us);
	close_store(&b);
}

static void latency(const struct corpus *c)
{
	latency_of(c, 128u << 20, "128 MiB");
	latency_of(c, 256u << 20, "256 MiB");
}

/* --- giving back --------------------------------------------------------------------------------
 */

static double free_megabytes(void)
{
	char line[128];
	FILE *f = fopen("/proc/meminfo", "r");
	unsigned long long kb = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemFree: %llu", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return (double)kb / 1024;
}

static void release_bare(uint64_t bytes, uint32_t segment)
{
	struct tm_memory m;
	double start;

	if (tm_memory_open(bytes, true, &m) < 0 || tm_memory_populate(&m, 0, bytes) < 0)
		die("memory", ENOMEM);
	start = wall_seconds();
	for (uint64_t at = 0; at < bytes; at += segment)
		tm_memory_release(&m, at, segment);
	sample("", "release 1 GiB ms", "bare punch", (wall_seconds() - start) * 1e3);
	tm_memory_close(&m);
}

static void release(void)
{
	struct bench_store b = open_store((struct tm_store_params){.limit = 1200ull << 20},
		tm_pool_flags(0, 0), TM_POOL_RETAIN);
	struct tm_oid oid = {{0, 0, 0}};
	uint64_t page[TM_PAGE_SIZE / 8], r = 1, released;
	double start, before;

	release_bare(1ull << 30, (uint32_t)b.ledger->segment_bytes);
	atomic_store(&b.ledger->compress, TM_COMPRESS_NONE);
	for (size_t i = 0; i < TM_ARRAY_SIZE(page); i++)
		page[i] = next_random(&r);
	for (uint32_t i = 0; pool_stat(&b, TM_STAT_USED_BYTES) < 1040ull << 20; i++)
		if (tm_store_put(b.store, 0, &oid, i, page) < 0)
			die("put", ENOMEM);
	before = free_megabytes();
	start = wall_seconds();
	released = tm_store_release(b.store, 1ull << 30);
	sample("", "release 1 GiB ms",
		b.ledger->huge_pages ? "tmem, huge pages" : "tmem, small pages",
		(wall_seconds() - start) * 1e3);
	sample("", "MemFree after release MiB", "released", (double)released / 1048576);
	sample("", "MemFree after release MiB", "grew by", free_megabytes() - before);
	close_store(&b);
}

/* --- churn --------------------------------------------------------------------------------------
 */

#define CHURN_LIMIT (256ull << 20)

struct zipf {
	double *sum; /* [n] */
	uint32_t n;
};

/* Index i has a share of 1 / (1 + i), scattered over the handles by a multiplication. */
static uint32_t choose(const struct zipf *z, uint64_t *random)
{
	uint64_t r = next_random(random);
	double x;
	uint32_t low = 0, high = z->n - 1;

	if (!z->sum)
		return (uint32_t)(r % z->n);
	x = (double)(r >> 11) / 9007199254740992.0 * z->sum[z->n - 1];
	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (z->sum[middle] < x)
			low = middle + 1;
		else
			high = middle;
	}
	return (uint32_t)((uint64_t)low * 2654435761u % z->n);
}

struct churned {
	double cpu;
	uint64_t puts, refused, refused_early;
};

/* Of 20 operations 17 put, 3 discard, so some 85% of the handles hold something. */
static struct churned churn_store(
	struct bench_store *b, const struct corpus *c, const struct zipf *z)
{
	struct churned r = {.puts = 0};
	struct tm_oid oid = {{0, 0, 0}};
	struct tm_usage usage;
	uint64_t random = 7;

	r.cpu = cpu_seconds();
	for (uint64_t i = 0; i < 10ull * z->n; i++) {
		uint32_t n = choose(z, &random);

		if (next_random(&random) % 20 < 3) {
			tm_store_flush_page(b->store, 0, &oid, n);
			continue;
		}
		r.puts++;
		if (tm_store_put(b->store, 0, &oid, n,
			    corpus_page(c, (n + (uint32_t)i) % c->count)) == 0)
			continue;
		tm_store_usage(b->store, &usage);
		r.refused++;
		r.refused_early += usage.live_bytes < b->ledger->limit_bytes / 10 * 9;
	}
	r.cpu = cpu_seconds() - r.cpu;
	return r;
}

/* Fill to the limit of the small store, churn there and in one that never has to clean. */
static void churn(const struct corpus *c, const char *who, bool zipf)
{
	struct tm_store_params params = {.limit = CHURN_LIMIT, .keeper = true};
	struct bench_store b = open_store(params, tm_pool_flags(TM_POOL_PERSIST, 0), 0), roomy;
	struct tm_oid oid = {{0, 0, 0}};
	struct zipf z = {.n = 0};
	struct churned tight, loose;
	uint64_t used, live;

	while (tm_store_put(b.store, 0, &oid, z.n, corpus_page(c, z.n % c->count)) == 0)
		z.n++;
	params.limit *= 4;
	roomy = open_store(params, tm_pool_flags(TM_POOL_PERSIST, 0), 0);
	for (uint32_t i = 0; i < z.n; i++)
		tm_store_put(roomy.store, 0, &oid, i, corpus_page(c, i % c->count));
	if (zipf) {
		z.sum = calloc(z.n, sizeof(*z.sum));
		for (uint32_t i = 0; i < z.n; i++)
			z.sum[i] = (i ? z.sum[i - 1] : 0) + 1.0 / (1 + i);
	}
	loose = churn_store(&roomy, c, &z);
	tight = churn_store(&b, c, &z);
	live = pool_stat(&b, TM_STAT_PAYLOAD_BYTES);
	sample("churn", "live share of the limit", who, (double)live / CHURN_LIMIT);
	sample("churn", "refused while below 90%", who, (double)tight.refused_early);
	sample("churn", "refused", who, (double)tight.refused);
	sample("churn", "pages moved/put", who,
		(double)pool_stat(&b, TM_STAT_CLEANED) / (double)tight.puts);
	sample("churn", "cleaning us/put", who, (tight.cpu - loose.cpu) * 1e6 / (double)tight.puts);
	for (uint64_t before = 0; (used = pool_stat(&b, TM_STAT_USED_BYTES)) != before;) {
		before = used;
		sleep(3); /* the keeper closes up holes, on its share of a processor */
	}
	sample("churn", "used/live afterwards", who,
		(double)used / (double)pool_stat(&b, TM_STAT_PAYLOAD_BYTES));
	free(z.sum);
	close_store(&b);
	close_store(&roomy);
}

int main(int argc, char **argv)
{
	struct corpus c;

	if (argc == 2 && strcmp(argv[1], "release") == 0) {
		release();
		return 0;
	}
	if (argc != 3) {
		fprintf(stderr,
			"usage: storeload threads|latency|churn FILE\n"
			"       storeload release\n");
		return 2;
	}
	c = load_corpus(argv[2], 128, 0);
	if (strcmp(argv[1], "threads") == 0) {
		threads(&c);
	} else if (strcmp(argv[1], "latency") == 0) {
		latency(&c);
	} else if (strcmp(argv[1], "churn") == 0) {
		churn(&c, "random", false);
		churn(&c, "Zipf", true);
	} else {
		fprintf(stderr, "storeload: no such load: %s\n", argv[1]);
		return 2;
	}
	return 0;
}
