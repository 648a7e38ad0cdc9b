/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * together.c - several block traces as the clients of one host, which divides one budget
 *
 * together FILE FILE...
 *
 * The traces run side by side, each as fast as it takes for all to end together. Each has a store
 * and a sampler of its own; what a store may fill is what the host's functions grant (tools/tmemd/
 * policy.c, benefit.c), which look once a second of REQUESTS_A_SECOND, as the host does. The budget
 * is 5, 10, 20 and 40% of the distinct pages of all, in whole segments (traces.h); index nodes,
 * tables and the segment for moving pages come on top, as in trace.c.
 *
 *      benefit     the stores under policy=benefit
 *      weight      the stores under policy=weight, of equal weights: the equal split
 *      shared      one exact LRU for all
 *      equal       an exact LRU for each, of equal sizes
 *      optimum     an exact LRU for each, of the sizes, found by dynamic programming over the exact
 *                  miss-ratio curves, that miss least in all; they stay the same throughout
 *
 * All are misses of all traces to requests of all. A store may miss less than the optimum, since it
 * does not evict by LRU, and since the sizes need not stay the same.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench/traces.h"
#include "core/sampler.h"
#include "core/store.h"
#include "tools/tmemd/benefit.h"
#include "tools/tmemd/policy.h"

#define CLIENTS_MAX       8
#define REQUESTS_A_SECOND 1000u
#define LEASES_A_SECOND   20u

struct client {
	const struct trace *trace;
	uint32_t at; /* requests that are done */
	uint64_t misses;
	struct tm_ledger *ledger;
	int ledger_fd, pool;
	struct tm_store *store;
	struct tm_sampler *sampler;
	struct tm_history history;
	uint64_t aim, floor;
	uint64_t share; /* bytes of segments that it may fill */
};

struct play {
	struct client clients[CLIENTS_MAX];
	size_t count;
	uint64_t requests;
	uint64_t budget; /* bytes of segments */
	bool benefit;
};

/* The trace that is behind the others, or NULL at the end. */
static struct client *whose_turn(struct play *p)
{
	struct client *first = NULL;

	for (size_t i = 0; i < p->count; i++) {
		struct client *c = &p->clients[i];

		if (c->at < c->trace->count &&
			(!first ||
				(uint64_t)(c->at + 1) * first->trace->count <
					(uint64_t)(first->at + 1) * c->trace->count))
			first = c;
	}
	return first;
}

/* --- the stores ------------------------------------------------------------------------------- */

/* Whatever is no segment of pages comes on top, and the segment for moving pages. */
static void follow(struct client *c)
{
	struct tm_ledger *l = c->ledger;
	uint64_t other = atomic_load(&l->used_bytes) - atomic_load(&l->freeable_bytes);

	atomic_store(&l->granted_bytes, other + (c->share / SEGMENT + 1) * SEGMENT);
}

/* What the host does: divide 20 times a second, look at the curves in one of them. */
static void divide(struct play *p, bool look)
{
	struct tm_claim claims[CLIENTS_MAX];
	struct tm_share shares[CLIENTS_MAX];

	for (size_t i = 0; i < p->count; i++) {
		struct client *c = &p->clients[i];

		if (look)
			tm_history_look(&c->history, c->ledger);
		shares[i] = (struct tm_share){.weight = TM_WEIGHT_DEFAULT,
			.want = tm_benefit_want(atomic_load(&c->ledger->freeable_bytes),
				atomic_load(&c->ledger->want_bytes)),
			.ceiling = UINT64_MAX};
		claims[i] = (struct tm_claim){.weight = TM_WEIGHT_DEFAULT,
			.history = &c->history,
			.aim = c->aim,
			.most = tm_history_is_known(&c->history) ? UINT64_MAX : shares[i].want};
	}
	if (p->benefit && look)
		tm_benefit_divide(claims, p->count, p->budget);
	for (size_t i = 0; i < p->count; i++) {
		struct client *c = &p->clients[i];

		if (p->benefit && look) {
			c->aim = claims[i].aim;
			c->floor = claims[i].floor;
		}
		shares[i].floor = c->floor;
		shares[i].part = tm_benefit_part(c->floor, c->aim);
	}
	tm_policy_divide(shares, p->count, p->budget);
	for (size_t i = 0; i < p->count; i++) {
		struct client *c = &p->clients[i];

		c->share = shares[i].granted;
		follow(c);
		if (atomic_load(&c->ledger->used_bytes) > atomic_load(&c->ledger->granted_bytes))
			tm_store_shrink(c->store);
	}
}

static int client_open(struct client *c, uint64_t budget)
{
	struct tm_store_params params = {
		.limit = TM_MAX(budget * 2, 64ull * SEGMENT), .segment_bytes = SEGMENT};
	struct tm_pool_params pool = {
		.flags = tm_pool_flags(0, 0), .attrs = TM_POOL_RETAIN, .name = "trace"};
	int rc = tm_ledger_create(&c->ledger, &c->ledger_fd);

	params.ledger = c->ledger;
	if (rc == 0)
		rc = tm_store_create(&params, &c->store);
	if (rc < 0)
		return rc;
	atomic_store(&c->ledger->compress, TM_COMPRESS_NONE);
	c->pool = tm_store_new_pool(c->store, &pool);
	if (c->pool < 0)
		return c->pool;
	rc = tm_sampler_create(c->ledger, &c->sampler);
	if (rc == 0)
		tm_sampler_add_pool(c->sampler, c->pool, &pool);
	return rc;
}

static void client_close(struct client *c)
{
	tm_sampler_destroy(c->sampler);
	if (c->store)
		tm_store_destroy(c->store);
	if (c->ledger) {
		tm_ledger_unmap(c->ledger);
		close(c->ledger_fd);
	}
}

/* A get and, on a miss, a put: what core/local.c makes of them. */
static int request(struct client *c, uint64_t page[static PAGE / 8])
{
	static uint64_t back[PAGE / 8];
	uint64_t key = c->trace->key[c->at++];
	struct tm_oid oid = {{key >> 32, 0, 0}};
	uint32_t index = (uint32_t)key;
	int rc;

	tm_sampler_get(c->sampler, c->pool, &oid, index, true);
	rc = tm_store_get(c->store, c->pool, &oid, index, back);
	if (rc == 0)
		return back[0] == key ? 0 : -EILSEQ;
	if (rc != -ENOENT)
		return rc;
	c->misses++;
	page[0] = key;
	rc = tm_store_put(c->store, c->pool, &oid, index, page);
	if (rc == 0)
		tm_sampler_put(c->sampler, c->pool, &oid, index);
	follow(c);
	return rc;
}

static int replay(struct play *p)
{
	static uint64_t page[PAGE / 8];
	uint64_t r = 88172645463325252u;
	struct client *c;
	int rc = 0;

	for (size_t i = 0; i < TM_ARRAY_SIZE(page); i++) {
		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		page[i] = r;
	}
	for (uint64_t n = 0; rc == 0 && (c = whose_turn(p)); n++) {
		if (n % (REQUESTS_A_SECOND / LEASES_A_SECOND) == 0)
			divide(p, n % REQUESTS_A_SECOND == 0);
		rc = request(c, page);
	}
	for (size_t i = 0; i < p->count && rc == 0; i++)
		if (tm_store_check(p->clients[i].store) < 0)
			rc = -EUCLEAN;
	return rc;
}

/* All misses, and each client's in ret_misses. */
static int play(const struct trace *traces, size_t count, uint32_t segments, bool benefit,
	uint64_t *ret_misses)
{
	struct play *p = need(calloc(1, sizeof(*p)));
	int rc = 0;

	p->budget = (uint64_t)segments * SEGMENT;
	p->count = count;
	p->benefit = benefit;
	for (size_t i = 0; i < count && rc == 0; i++) {
		p->clients[i].trace = &traces[i];
		rc = client_open(&p->clients[i], p->budget);
	}
	if (rc == 0)
		rc = replay(p);
	for (size_t i = 0; i < count; i++) {
		ret_misses[i] = p->clients[i].misses;
		client_close(&p->clients[i]);
	}
	free(p);
	return rc;
}

/* --- what is exact ---------------------------------------------------------------------------- */

/* One trace of all of them, in the order in which they run. */
static struct trace merge(const struct trace *traces, size_t count)
{
	struct play p = {.count = count};
	struct trace all = {.name = "all"};
	uint32_t first[CLIENTS_MAX];
	struct client *c;

	for (size_t i = 0; i < count; i++) {
		first[i] = all.pages;
		all.pages += traces[i].pages;
		all.room += traces[i].count;
		p.clients[i].trace = &traces[i];
	}
	all.id = need(calloc(all.room, sizeof(*all.id)));
	while ((c = whose_turn(&p)))
		all.id[all.count++] = first[c - p.clients] + c->trace->id[c->at++];
	return all;
}

/* hits[s]: of an LRU of s segments' pages, for s up to `segments`. From stack distances: the number
 * of pages used since a page's last use, out of a Fenwick tree over requests. */
static uint64_t *lru_hits(const struct trace *t, uint32_t segments)
{
	uint64_t *hits = need(calloc(segments + 2ull, sizeof(*hits)));
	TM_AUTO_FREE uint32_t *tree = need(calloc(t->count + 1ull, sizeof(*tree)));
	TM_AUTO_FREE uint32_t *last = need(calloc(t->pages, sizeof(*last))); /* a request + 1 */
	uint32_t placed = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		uint32_t *at = &last[t->id[i]];

		if (*at) {
			uint32_t since = placed, before = *at - 1;

			for (uint32_t n = before; n > 0; n &= n - 1)
				since -= tree[n];
			hits[TM_MIN((since + SEGMENT_PAGES - 1) / SEGMENT_PAGES, segments + 1)]++;
			for (uint32_t n = *at; n <= t->count; n += n & -n)
				tree[n]--;
			placed--;
		}
		*at = i + 1;
		placed++;
		for (uint32_t n = *at; n <= t->count; n += n & -n)
			tree[n]++;
	}
	for (uint32_t s = 1; s <= segments; s++)
		hits[s] += hits[s - 1];
	return hits;
}

/* The most hits that any division of `segments` has. */
static uint64_t optimum(uint64_t *const *hits, size_t count, uint32_t segments)
{
	uint64_t *best = need(calloc(segments + 1ull, sizeof(*best))), result;

	for (size_t i = 0; i < count; i++) {
		for (uint32_t all = segments + 1; all-- > 0;) {
			uint64_t most = 0;

			for (uint32_t own = 0; own <= all; own++)
				most = TM_MAX(most, best[all - own] + hits[i][own]);
			best[all] = most;
		}
	}
	result = best[segments];
	free(best);
	return result;
}

/* --- the table -------------------------------------------------------------------------------- */

static int run(const struct trace *traces, size_t count, const struct trace *all, int percent)
{
	uint32_t segments =
		(uint32_t)((uint64_t)all->pages * (uint32_t)percent / 100 / SEGMENT_PAGES);
	uint64_t *hits[CLIENTS_MAX], by_weight[CLIENTS_MAX], by_benefit[CLIENTS_MAX];
	uint64_t equal = 0, best, weight = 0, benefit = 0;
	double n = all->count, shared, optimal;
	int rc = play(traces, count, segments, false, by_weight);

	if (rc == 0)
		rc = play(traces, count, segments, true, by_benefit);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count; i++) {
		hits[i] = lru_hits(&traces[i], segments);
		equal += hits[i][segments / count];
		weight += by_weight[i];
		benefit += by_benefit[i];
	}
	best = optimum(hits, count, segments);
	for (size_t i = 0; i < count; i++)
		free(hits[i]);
	shared = lru(all, segments * SEGMENT_PAGES);
	optimal = 1 - (double)best / n;
	printf("%3d %7u   %.4f  %.4f  %.4f  %.4f  %.4f     %.3f   %.3f    %.3f  ", percent,
		segments * SEGMENT_PAGES, (double)benefit / n, (double)weight / n, shared,
		1 - (double)equal / n, optimal, (double)benefit / (double)weight,
		(double)benefit / n / shared, (double)benefit / n / optimal);
	for (size_t i = 0; i < count; i++)
		printf(" %.3f/%.3f", (double)by_benefit[i] / traces[i].count,
			(double)by_weight[i] / traces[i].count);
	printf("\n");
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	static const int percents[] = {5, 10, 20, 40};
	struct trace traces[CLIENTS_MAX] = {0}, all;
	size_t count = (size_t)argc - 1;
	int rc = 0;

	if (argc < 3 || count > CLIENTS_MAX) {
		fprintf(stderr, "usage: together FILE FILE... (at most %d)\n", CLIENTS_MAX);
		return 2;
	}
	for (size_t i = 0; i < count; i++) {
		rc = read_trace(argv[i + 1], &traces[i]);
		if (rc < 0) {
			fprintf(stderr, "together: %s: %s\n", argv[i + 1], strerror(-rc));
			return 1;
		}
	}
	all = merge(traces, count);
	printf("\ntogether: %u requests of %u pages\n", all.count, all.pages);
	printf("            -- stores --     -- exact LRU --         -- benefit x --           "
	       "benefit/weight of:\n");
	printf("  %%   pages  benefit  weight  shared   equal optimum   weight  shared optimum  ");
	for (size_t i = 0; i < count; i++)
		printf(" %-11.11s", traces[i].name);
	printf("\n");
	for (size_t i = 0; i < TM_ARRAY_SIZE(percents) && rc == 0; i++)
		rc = run(traces, count, &all, percents[i]);
	if (rc < 0)
		fprintf(stderr, "together: %s\n",
			rc == -EUCLEAN ? "a store's check failed" : strerror(-rc));
	for (size_t i = 0; i < count; i++) {
		free(traces[i].key);
		free(traces[i].id);
	}
	free(all.id);
	return rc < 0;
}
