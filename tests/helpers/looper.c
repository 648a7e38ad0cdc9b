/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * looper.c - a cache that joins tmemd as front ends do, and reads the same pages again and again
 *
 * looper [-n NAME] [-w WEIGHT] [-l LIMIT] [-s BYTES] [-r BYTES]
 *   -s  the pages it reads, in order, over and over; without it, each page once; -r  bytes a second
 *
 * A page that is not there is put. Pages are random, so they do not compress. Ends on SIGTERM, or
 * when destroyed.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/tmem.h"
#include "core/util.h"

static uint64_t size(const char *text)
{
	uint64_t bytes;

	if (tm_size_parse(text, &bytes) == 0)
		return bytes;
	fprintf(stderr, "usage: looper [-n NAME] [-w WEIGHT] [-l LIMIT] [-s BYTES] [-r BYTES]\n");
	exit(2);
}

static void on_destroyed(void *opaque)
{
	(void)opaque;
	kill(getpid(), SIGTERM);
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
	struct tm_open_params params = {.name = "looper",
		.type = "test",
		.limit = 1ull << 30,
		.on_destroyed = on_destroyed};
	struct tm_pool_params pool = {
		.name = "loop", .flags = tm_pool_flags(0, 0), .attrs = TM_POOL_RETAIN};
	uint64_t pages = UINT64_MAX, rate = 20 << 8, page[512], start;
	struct tmem *t;
	sigset_t set;
	int letter, id;

	while ((letter = getopt(argc, argv, "n:w:l:s:r:")) >= 0) {
		if (letter == 'n')
			params.name = optarg;
		else if (letter == 'w')
			params.weight = (uint32_t)size(optarg);
		else if (letter == 'l')
			params.limit = size(optarg);
		else if (letter == 's')
			pages = TM_MAX(size(optarg) / sizeof(page), (uint64_t)1);
		else if (letter == 'r')
			rate = TM_MAX(size(optarg) / sizeof(page), (uint64_t)1);
		else
			size("");
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (tm_open(&params, &t) < 0)
		return 1;
	id = t->ops->new_pool(t, &pool);
	if (id < 0)
		return 1;
	start = tm_now_ns();
	for (uint64_t n = 0;; n++) {
		uint64_t at = n % pages, due = start + n * 1000000000 / rate, now = tm_now_ns();
		uint64_t wait_ns = due > now ? due - now : 0;
		struct timespec wait = {
			(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
		struct tm_oid oid = {{1, 2, at >> 16}};

		if ((n % 64 == 0 || wait_ns > 0) && sigtimedwait(&set, NULL, &wait) == SIGTERM)
			break;
		if (t->ops->get(t, id, &oid, (uint32_t)at, page) == 0)
			continue;
		fill(page, at);
		t->ops->put(t, id, &oid, (uint32_t)at, page);
	}
	t->ops->close(t);
	return 0;
}
