/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * putter.c - a client of tmemd with a store, which puts and puts
 *
 * putter [-n NAME] [-w WEIGHT] [-l LIMIT] [-k] [-s BYTES] [-r BYTES]
 *   -k  persistent pages; -s  put so many bytes, then only stay; -r  bytes a second at most, also
 * after it was kept waiting, else as fast as it goes
 *
 * Pages are random, so they do not compress. Ends on SIGTERM and prints, as one JSON object, its
 * puts, how many of them were refused, and how many left it with more than its cap that it did not
 * have before, if it was never raised. (A cap that the ledger shows holds to the byte; a grant may
 * fall while a thread is between asking and taking.)
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/link.h"
#include "core/store.h"
#include "core/util.h"

static struct tm_ledger *ledger;
static struct tm_store *store;

static uint64_t on_release(void *opaque, uint64_t bytes)
{
	(void)opaque;
	return tm_store_release(store, bytes);
}

static void on_shrink(void *opaque)
{
	(void)opaque;
	tm_store_shrink(store);
}

static void on_destroy(void *opaque)
{
	(void)opaque;
	kill(getpid(), SIGTERM);
}

static uint64_t size(const char *text)
{
	uint64_t bytes;

	if (tm_size_parse(text, &bytes) == 0)
		return bytes;
	fprintf(stderr,
		"usage: putter [-n NAME] [-w WEIGHT] [-l LIMIT] [-k] [-s BYTES] [-r BYTES]\n");
	exit(2);
}

static bool told_to_end(const sigset_t *set, uint64_t wait_ns)
{
	struct timespec wait = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};

	return sigtimedwait(set, NULL, &wait) == SIGTERM;
}

/* A page that no other is like. */
static void fill(uint64_t page[static 512], uint64_t seed)
{
	for (int i = 0; i < 512; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		page[i] = seed ^ seed >> 29;
	}
}

int main(int argc, char **argv)
{
	struct tm_link_params link = {.name = "putter",
		.type = "test",
		.store_fd = -1,
		.state_fd = -1,
		.ops = {.release = on_release, .shrink = on_shrink, .destroy = on_destroy}};
	struct tm_store_params params = {.limit = 1ull << 30, .keeper = true};
	struct tm_pool_params pool = {.name = "puts", .flags = tm_pool_flags(0, 0)};
	uint64_t puts = 0, refused = 0, over = 0, stop_at = UINT64_MAX, rate = 0, due = 0,
		 page[512];
	struct tm_link *l;
	sigset_t set;
	int letter, id;

	while ((letter = getopt(argc, argv, "n:w:l:ks:r:")) >= 0) {
		if (letter == 'n')
			link.name = optarg;
		else if (letter == 'w')
			link.weight = (uint32_t)size(optarg);
		else if (letter == 'l')
			params.limit = size(optarg);
		else if (letter == 'k')
			pool.flags = tm_pool_flags(TM_POOL_PERSIST, 0);
		else if (letter == 's')
			stop_at = size(optarg) / sizeof(page);
		else if (letter == 'r')
			rate = size(optarg) / sizeof(page);
		else
			size("");
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (tm_ledger_create(&ledger, &link.ledger_fd) < 0)
		return 1;
	params.ledger = ledger;
	if (tm_store_create(&params, &store) < 0)
		return 1;
	id = tm_store_new_pool(store, &pool);
	if (id < 0 || tm_link_start(&link, &l) < 0)
		return 1;

	/* Until then there is no grant to keep to. */
	while (atomic_load(&ledger->granted_bytes) == UINT64_MAX)
		if (told_to_end(&set, 1000000))
			return 1;
	while (puts < stop_at) {
		struct tm_oid oid = {{1, 2, puts >> 32}};
		uint64_t cap = atomic_load(&ledger->cap_bytes);
		uint64_t used = atomic_load(&ledger->used_bytes);
		uint64_t now = tm_now_ns();
		int rc;

		due = rate ? TM_MAX(due, now) + 1000000000 / rate : 0;
		fill(page, puts);
		rc = tm_store_put(store, id, &oid, (uint32_t)puts, page);
		puts++;
		refused += rc < 0;
		over += atomic_load(&ledger->used_bytes) > TM_MAX(used, cap);
		now = tm_now_ns();
		if (told_to_end(&set, due > now ? due - now : 0))
			break;
	}
	while (puts == stop_at && !told_to_end(&set, 1000000000))
		;
	printf("{\"puts\":%llu,\"refused\":%llu,\"over_cap\":%llu}\n", (unsigned long long)puts,
		(unsigned long long)refused, (unsigned long long)over);
	tm_link_stop(l);
	tm_store_destroy(store);
	return 0;
}
