/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * trace.c - miss ratios of the real store on recorded block traces
 *
 * trace [-x] FILE...
 *
 * Each trace becomes a string of 4 KiB pages and is replayed at 1, 5, 10, 20 and 40% of its
 * distinct pages: a get, and on a miss a put, into an ephemeral pool that retains what is read (-x:
 * one whose gets are exclusive, so that every get is followed by a put). Beside it, on the same
 * pages: exact LRU and Belady, and what was published for S3-FIFO where that is known.
 *
 * What a size means: pages do not compress and are 4 KiB, so a segment of 256 KiB holds 63 of them.
 * The store may fill as many whole segments as fit into that number of pages, and LRU and Belady
 * get the pages of those segments. Open segments count as full. Index nodes, tables and the one
 * segment kept free for moving pages come on top: the limit follows them through the replay. The
 * column `held` is the highest number of pages ever stored, in percent of what LRU got.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench/traces.h"
#include "core/store.h"
#include "core/util.h"

/* A heap of (next use, page), the farthest on top. */
struct heap {
	uint64_t *at;
	uint32_t count;
};

static void heap_push(struct heap *h, uint64_t v)
{
	uint32_t i = h->count++;

	for (; i > 0 && h->at[(i - 1) / 2] < v; i = (i - 1) / 2)
		h->at[i] = h->at[(i - 1) / 2];
	h->at[i] = v;
}

static uint64_t heap_pop(struct heap *h)
{
	uint64_t top = h->at[0], v = h->at[--h->count];
	uint32_t i = 0, child;

	while ((child = 2 * i + 1) < h->count) {
		child += child + 1 < h->count && h->at[child + 1] > h->at[child];
		if (h->at[child] <= v)
			break;
		h->at[i] = h->at[child];
		i = child;
	}
	h->at[i] = v;
	return top;
}

static double belady(const struct trace *t, uint32_t size)
{
	TM_AUTO_FREE uint32_t *next = need(malloc(t->count * sizeof(*next))); /* a request's */
	TM_AUTO_FREE uint32_t *awaited = need(malloc(t->pages * sizeof(*awaited))); /* a page's */
	TM_AUTO_FREE uint64_t *room = need(malloc((t->count + 1ull) * sizeof(*room)));
	struct heap heap = {room, 0};
	uint32_t held = 0, misses = 0;

	memset(awaited, 0xff, t->pages * sizeof(*awaited));
	for (uint32_t i = t->count; i-- > 0; awaited[t->id[i]] = i)
		next[i] = awaited[t->id[i]];
	memset(awaited, 0, t->pages * sizeof(*awaited)); /* 0: not held */
	for (uint32_t i = 0; i < t->count; i++) {
		uint32_t id = t->id[i];

		if (awaited[id] == 0) {
			misses++;
			while (held == size) {
				uint64_t far = heap_pop(&heap);

				/* What was used since stands in the heap again. */
				if (awaited[(uint32_t)far] == far >> 32) {
					awaited[(uint32_t)far] = 0;
					held--;
				}
			}
			held++;
		}
		awaited[id] = next[i];
		heap_push(&heap, (uint64_t)next[i] << 32 | id);
	}
	return (double)misses / t->count;
}

/* --- the store ---------------------------------------------------------------------------------
 */

struct result {
	double misses; /* ratio */
	double held;   /* ratio to `size` */
	double us;     /* a request */
};

/* `segments` and one to move pages to, and whatever else is in use. */
static void follow(struct tm_ledger *l, uint32_t segments)
{
	uint64_t other = atomic_load(&l->used_bytes) - atomic_load(&l->freeable_bytes);

	atomic_store(&l->limit_bytes, other + (segments + 1ull) * SEGMENT);
}

static int replay_into(struct tm_store *s, struct tm_ledger *l, const struct trace *t,
	uint32_t segments, bool exclusive, struct result *ret)
{
	static uint64_t page[PAGE / 8], back[PAGE / 8];
	uint64_t r = 88172645463325252u, most = 0, misses = 0, start;
	int pool = tm_store_new_pool(s,
		&(struct tm_pool_params){.flags = tm_pool_flags(0, 0),
			.attrs = exclusive ? 0 : TM_POOL_RETAIN,
			.name = "trace"});

	for (size_t i = 0; i < TM_ARRAY_SIZE(page); i++) {
		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		page[i] = r;
	}
	start = tm_now_ns();
	for (uint32_t i = 0; i < t->count; i++) {
		struct tm_oid oid = {{t->key[i] >> 32, 0, 0}};
		uint32_t index = (uint32_t)t->key[i];
		int rc = tm_store_get(s, pool, &oid, index, back);

		if (rc < 0 && rc != -ENOENT)
			return rc;
		if (rc == 0 && back[0] != t->key[i])
			return -EILSEQ;
		misses += rc < 0;
		if (rc == 0 && !exclusive)
			continue;
		page[0] = t->key[i];
		rc = tm_store_put(s, pool, &oid, index, page);
		if (rc < 0)
			return rc;
		most = TM_MAX(most, atomic_load(&l->pools[pool].stat[TM_STAT_PAGES]));
		follow(l, segments);
	}
	ret->us = (double)(tm_now_ns() - start) * 1e-3 / t->count;
	ret->misses = (double)misses / t->count;
	ret->held = (double)most / ((double)segments * SEGMENT_PAGES);
	return tm_store_check(s) < 0 ? -EUCLEAN : 0;
}

static int replay(const struct trace *t, uint32_t segments, bool exclusive, struct result *ret)
{
	struct tm_store_params params = {
		.limit = (segments + 64ull) * SEGMENT * 2, .segment_bytes = SEGMENT};
	struct tm_store *s;
	int fd, rc = tm_ledger_create(&params.ledger, &fd);

	if (rc < 0)
		return rc;
	rc = tm_store_create(&params, &s);
	if (rc == 0) {
		atomic_store(&params.ledger->compress, TM_COMPRESS_NONE);
		follow(params.ledger, segments);
		rc = replay_into(s, params.ledger, t, segments, exclusive, ret);
		tm_store_destroy(s);
	}
	tm_ledger_unmap(params.ledger);
	close(fd);
	return rc;
}

/* --- the table ---------------------------------------------------------------------------------
 */

static const struct {
	const char *name;
	int percent;
	double lru, s3fifo, belady;
} published[] = {
	{"cloudPhysicsIO", 10, .874, .811, .676},
	{"cloudPhysicsIO", 20, .813, .726, .547},
	{"OLTP", 10, .335, .322, .238},
	{"OLTP", 20, .280, .274, .209},
	{"P6", 10, .649, .454, .234},
	{"P6", 20, .162, .147, .089},
};

static void print_published(const struct trace *t, int percent)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(published); i++)
		if (published[i].percent == percent &&
			strncmp(t->name, published[i].name, strlen(published[i].name)) == 0)
			printf("   %.3f %.3f %.3f", published[i].lru, published[i].s3fifo,
				published[i].belady);
	printf("\n");
}

static int run(const struct trace *t, bool exclusive)
{
	static const int percents[] = {1, 5, 10, 20, 40};

	printf("\n%s: %u requests of %u pages%s\n", t->name, t->count, t->pages,
		exclusive ? ", exclusive gets" : "");
	printf("  %%   pages   tmem    LRU Belady   x LRU  held%%  us/op   published: LRU S3-FIFO "
	       "Belady\n");
	for (size_t i = 0; i < TM_ARRAY_SIZE(percents); i++) {
		uint32_t wanted = (uint32_t)((uint64_t)t->pages * (uint32_t)percents[i] / 100);
		uint32_t segments = TM_MAX(wanted / SEGMENT_PAGES, 4u);
		uint32_t size = segments * SEGMENT_PAGES;
		double base = lru(t, size);
		struct result r = {0};
		int rc = replay(t, segments, exclusive, &r);

		if (rc < 0)
			return rc;
		printf("%3d %7u  %.4f %.4f %.4f   %.3f  %5.1f  %5.2f", percents[i], size, r.misses,
			base, belady(t, size), r.misses / base, r.held * 100, r.us);
		print_published(t, percents[i]);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	bool exclusive = false;
	int opt, rc;

	while ((opt = getopt(argc, argv, "x")) != -1) {
		if (opt != 'x') {
			fprintf(stderr, "usage: trace [-x] FILE...\n");
			return 2;
		}
		exclusive = true;
	}
	for (int i = optind; i < argc; i++) {
		struct trace t = {0};

		rc = read_trace(argv[i], &t);
		if (rc == 0)
			rc = run(&t, exclusive);
		free(t.key);
		free(t.id);
		if (rc < 0) {
			fprintf(stderr, "trace: %s: %s\n", argv[i],
				rc == -EUCLEAN ? "the store's check failed" : strerror(-rc));
			return 1;
		}
	}
	return 0;
}
