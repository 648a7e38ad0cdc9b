/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * client.c - a client of tmemd without a store, for the tests of the control plane
 *
 * client [-n NAME] [-t TYPE] [-p POOL[:persistent]]... [-e BYTES] [-k BYTES] [-w BYTES] [-l BYTES]
 * [-d] [-b] [-c] -e  ephemeral bytes it pretends to have; -k persistent ones; -w what it wants; -l
 * its limit -d  start tmemd on demand; -b  be busy: count puts and gets as time goes by; -c  be
 * about to take bytes by the grant there was, until SIGUSR1
 *
 * Obeys release, shrink and destroy, and prints one line for each. Ends on SIGTERM, or when
 * destroyed.
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/ledger.h"
#include "core/link.h"
#include "core/util.h"

static struct tm_ledger *ledger;

static uint64_t give_back(uint64_t bytes)
{
	uint64_t freeable = atomic_load(&ledger->freeable_bytes);
	uint64_t given = TM_MIN(bytes, freeable);

	atomic_fetch_sub(&ledger->freeable_bytes, given);
	atomic_fetch_sub(&ledger->used_bytes, given);
	return given;
}

static uint64_t on_release(void *opaque, uint64_t bytes)
{
	uint64_t given = give_back(bytes);

	(void)opaque;
	printf("release %llu: %llu\n", (unsigned long long)bytes, (unsigned long long)given);
	return given;
}

static void on_shrink(void *opaque)
{
	uint64_t used = atomic_load(&ledger->used_bytes);
	uint64_t granted = atomic_load(&ledger->granted_bytes);

	(void)opaque;
	if (used > granted)
		give_back(used - granted);
	printf("shrink to %llu\n", (unsigned long long)granted);
}

static void on_destroy(void *opaque)
{
	(void)opaque;
	printf("destroyed\n");
	for (int i = 0; i < TM_POOLS_MAX; i++)
		atomic_store(&ledger->pools[i].state, TM_LEDGER_POOL_FREE);
	kill(getpid(), SIGTERM);
}

static void add_pool(unsigned int id, char *text)
{
	struct tm_ledger_pool *pool = &ledger->pools[id];
	char *kind = strchr(text, ':');

	if (kind)
		*kind++ = '\0';
	strncpy(pool->name, text, sizeof(pool->name) - 1);
	pool->flags = tm_pool_flags(kind ? TM_POOL_PERSIST : 0, 0);
	for (int i = 0; i < TM_STAT_COUNT; i++)
		atomic_store(&pool->stat[i], 0);
	atomic_store(&pool->stat[TM_STAT_PAGES], 1000);
	atomic_store(&pool->stat[TM_STAT_ORIG_BYTES], 4096000);
	atomic_store(&pool->stat[TM_STAT_USED_BYTES], 1638400);
	atomic_store(&pool->stat[TM_STAT_PUTS], 1200);
	atomic_store(&pool->stat[TM_STAT_PUTS_REJECTED], 200);
	atomic_store(&pool->stat[TM_STAT_GETS], 4000);
	atomic_store(&pool->stat[TM_STAT_HITS], 3000);
	atomic_store(&pool->state, TM_LEDGER_POOL_LIVE);
}

static _Noreturn void usage(void)
{
	fprintf(stderr,
		"usage: client [-n NAME] [-t TYPE] [-p POOL[:persistent]] [-ekwl BYTES] [-dbc]\n");
	exit(2);
}

static uint64_t size(const char *text)
{
	uint64_t bytes;

	if (tm_size_parse(text, &bytes) < 0)
		usage();
	return bytes;
}

int main(int argc, char **argv)
{
	struct tm_link_params params = {.name = "test",
		.type = "test",
		.store_fd = -1,
		.state_fd = -1,
		.ops = {.release = on_release, .shrink = on_shrink, .destroy = on_destroy}};
	struct timespec beat = {.tv_nsec = 10000000};
	struct tm_link *link;
	bool busy = false;
	unsigned int pools = 0;
	sigset_t set;
	int letter, signal;

	if (tm_ledger_create(&ledger, &params.ledger_fd) < 0)
		return 1;
	atomic_store(&ledger->limit_bytes, 1ull << 30);
	atomic_store(&ledger->segment_bytes, 2ull << 20);
	while ((letter = getopt(argc, argv, "n:t:p:e:k:w:l:dbc")) >= 0) {
		if (letter == 'n')
			params.name = optarg;
		else if (letter == 't')
			params.type = optarg;
		else if (letter == 'p' && pools < TM_POOLS_MAX)
			add_pool(pools++, optarg);
		else if (letter == 'e')
			atomic_store(&ledger->freeable_bytes, size(optarg));
		else if (letter == 'k')
			atomic_store(&ledger->persistent_bytes, size(optarg));
		else if (letter == 'w')
			atomic_store(&ledger->want_bytes, size(optarg));
		else if (letter == 'l')
			atomic_store(&ledger->limit_bytes, size(optarg));
		else if (letter == 'd')
			params.start_host = true;
		else if (letter == 'b')
			busy = true;
		else if (letter == 'c')
			atomic_store(&ledger->charging, 1);
		else
			usage();
	}
	atomic_store(&ledger->used_bytes, ledger->freeable_bytes + ledger->persistent_bytes);
	if (ledger->want_bytes == 0)
		atomic_store(&ledger->want_bytes, ledger->used_bytes);
	setvbuf(stdout, NULL, _IOLBF, 0);

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (tm_link_start(&params, &link) < 0)
		return 1;
	while ((signal = sigtimedwait(&set, NULL, &beat)) != SIGTERM) {
		if (signal == SIGUSR1)
			atomic_store(&ledger->charging, 0);
		for (unsigned int i = 0; busy && i < pools; i++) {
			atomic_fetch_add(&ledger->pools[i].stat[TM_STAT_PUTS], 10);
			atomic_fetch_add(&ledger->pools[i].stat[TM_STAT_GETS], 20);
			atomic_fetch_add(&ledger->pools[i].stat[TM_STAT_HITS], 15);
		}
	}
	tm_link_stop(link);
	return 0;
}
