/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host.c - a client of tmemd that takes the time while memory moves
 *
 * host pressure CACHE ALLOC   fill an ephemeral store with CACHE bytes; a child allocates ALLOC
 * bytes as fast as it can host demand CACHE BYTES     the same cache; a second, persistent client
 * puts BYTES as fast as it can
 *
 * Both are clients of the tmemd on $TMEM_SOCKET. The ledgers are looked at every 0.2 ms, the
 * machine every 1 ms (the same way tmemd does). Prints lines of "name value": pressure  detect_ms
 * longest time for which more was granted than the machine had left back_ms     longest time for
 * which more was used than granted alloc_ms, failed, swapped_bytes, given_back_mib, regrow_ms
 * (after the end of the child: until the grant had grown by 1% of memory) demand    serve_ms
 * longest time for which the persistent client had no room for another segment beside the one kept
 * for cleaning refused     of its puts donate_ms   longest time for which the cache used more than
 * granted
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "core/link.h"
#include "core/store.h"
#include "core/util.h"
#include "tools/tmemd/machine.h"

#define PAGE         4096u
#define ALL          512 /* words of a page */
#define HALF         256
#define LOOK_NS      200000u
#define MACHINE_LOOK 5 /* looks */
#define NOISE        (16ull << 20)

/* A client with a store. */
struct holder {
	struct tm_ledger *ledger;
	struct tm_store *store;
	struct tm_link *link;
	int pool;
	uint64_t next; /* page to put */
	uint64_t refused;
};

static _Noreturn void die(const char *why)
{
	fprintf(stderr, "host: %s\n", why);
	exit(1);
}

static uint64_t on_release(void *opaque, uint64_t bytes)
{
	return tm_store_release(((struct holder *)opaque)->store, bytes);
}

static void on_shrink(void *opaque)
{
	tm_store_shrink(((struct holder *)opaque)->store);
}

static void on_destroy(void *opaque)
{
	(void)opaque;
}

static void holder_open(struct holder *h, const char *name, uint32_t flags, uint64_t limit)
{
	struct tm_link_params link = {.name = name,
		.type = "bench",
		.store_fd = -1,
		.state_fd = -1,
		.ops = {.release = on_release,
			.shrink = on_shrink,
			.destroy = on_destroy,
			.opaque = h}};
	struct tm_store_params params = {.limit = limit, .keeper = true};
	struct tm_pool_params pool = {.name = name, .flags = tm_pool_flags(flags, 0)};

	if (tm_ledger_create(&h->ledger, &link.ledger_fd) < 0)
		die("no ledger");
	params.ledger = h->ledger;
	if (tm_store_create(&params, &h->store) < 0)
		die("no store");
	h->pool = tm_store_new_pool(h->store, &pool);
	if (h->pool < 0 || tm_link_start(&link, &h->link) < 0)
		die("no pool, or no link");
	for (int i = 0; atomic_load(&h->ledger->granted_bytes) == UINT64_MAX; i++) {
		if (i == 5000)
			die("no tmemd");
		usleep(1000);
	}
}

static void holder_close(struct holder *h)
{
	tm_link_stop(h->link);
	tm_store_destroy(h->store);
}

static uint64_t used(const struct holder *h)
{
	return atomic_load(&h->ledger->used_bytes);
}

static uint64_t granted(const struct holder *h)
{
	return atomic_load(&h->ledger->granted_bytes);
}

/* A page whose first `words` do not compress, and whose rest does. */
static void put_one(struct holder *h, size_t words)
{
	uint64_t page[PAGE / 8] = {0}, seed = h->next;
	struct tm_oid oid = {{1, 2, h->next >> 32}};

	for (size_t i = 0; i < words; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		page[i] = seed ^ seed >> 29;
	}
	h->refused += tm_store_put(h->store, h->pool, &oid, (uint32_t)h->next++, page) < 0;
}

static void fill(struct holder *h, uint64_t bytes)
{
	uint64_t most = bytes / PAGE * 4; /* tmemd may not grant so much */

	while (used(h) < bytes && most-- > 0)
		put_one(h, ALL);
	if (used(h) < bytes)
		die("the cache cannot be filled: less is granted");
}

/* The longest time for which something was true. */
struct span {
	uint64_t since, longest;
};

static void span_add(struct span *s, bool is, uint64_t now)
{
	if (!is)
		s->since = 0;
	else if (s->since == 0)
		s->since = now;
	else
		s->longest = TM_MAX(s->longest, now - s->since);
}

/* Cuts of a grant, and when each was obeyed. */
struct cuts {
	struct {
		uint64_t at, granted;
	} list[1 << 16];
	size_t count, obeyed;
	uint64_t longest;
};

static void cuts_add(struct cuts *c, uint64_t has, uint64_t may, uint64_t now)
{
	if (c->count == 0 ||
		(may < c->list[c->count - 1].granted && c->count < TM_ARRAY_SIZE(c->list))) {
		c->list[c->count].at = now;
		c->list[c->count++].granted = may;
	}
	while (c->obeyed < c->count && has <= c->list[c->obeyed].granted)
		c->obeyed++;
	if (c->obeyed < c->count)
		c->longest = TM_MAX(c->longest, now - c->list[c->obeyed].at);
}

static void print_ms(const char *name, uint64_t ns)
{
	printf("%s %.1f\n", name, (double)ns / 1e6);
}

static uint64_t swapped_bytes(pid_t pid)
{
	unsigned long long kib = 0;
	char text[128];
	FILE *file;

	snprintf(text, sizeof(text), "/proc/%d/status", (int)pid);
	file = fopen(text, "re");
	while (file && fgets(text, sizeof(text), file))
		if (sscanf(text, "VmSwap: %llu kB", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib << 10;
}

/* In the child: allocate and touch, tell how long that took, hold it until told to end. */
static _Noreturn void allocate(uint64_t bytes, const int go[2], int done_fd)
{
	uint64_t start, took;
	int go_fd = go[0];
	uint8_t *at;

	close(go[1]);
	if (read(go_fd, &start, sizeof(start)) != sizeof(start))
		_exit(1);
	start = tm_now_ns();
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		_exit(1);
	for (uint64_t i = 0; i < bytes; i += PAGE)
		at[i] = 1;
	took = tm_now_ns() - start;
	if (write(done_fd, &took, sizeof(took)) != sizeof(took) ||
		read(go_fd, &start, sizeof(start)) < 0)
		_exit(1);
	_exit(0);
}

static void pressure(uint64_t cache, uint64_t bytes)
{
	static struct cuts back;
	struct span late = {0};
	struct holder h = {0};
	struct tm_machine *machine;
	struct tm_machine_memory memory;
	uint64_t reserve = strtoull(getenv("RESERVE") ? getenv("RESERVE") : "0", NULL, 10);
	uint64_t took = 0, swapped, before, least, start, settled;
	int go[2], done[2], status;
	pid_t child;

	if (pipe(go) < 0 || pipe2(done, O_NONBLOCK) < 0)
		die("no pipe");
	child = fork();
	if (child == 0)
		allocate(bytes, go, done[1]);
	holder_open(&h, "cache", 0, 2 * cache);
	fill(&h, cache);
	if (child < 0 || tm_machine_open("", &machine) < 0)
		die("no child, or out of memory");
	before = least = used(&h);

	start = tm_now_ns();
	if (write(go[1], &start, sizeof(start)) < 0)
		die("no child");
	/* And a second longer: what comes in late is late. */
	for (uint64_t i = 0, end = UINT64_MAX; tm_now_ns() < end; i++) {
		uint64_t now = tm_now_ns(), has = used(&h), may = granted(&h);

		if (i % MACHINE_LOOK == 0) {
			uint64_t left;

			tm_machine_read(machine, &memory);
			left = has + memory.available;
			left -= TM_MIN(left, reserve);
			span_add(&late, TM_MIN(may, has) > left + NOISE, now);
		}
		cuts_add(&back, has, may, now);
		least = TM_MIN(least, has);
		if (end == UINT64_MAX &&
			(read(done[0], &took, sizeof(took)) > 0 ||
				waitpid(child, &status, WNOHANG) == child))
			end = now + 1000000000;
		usleep(LOOK_NS / 1000);
	}
	settled = granted(&h);
	swapped = swapped_bytes(child);
	close(go[1]);
	if (took > 0)
		waitpid(child, &status, 0);
	start = tm_now_ns();
	while (granted(&h) < settled + memory.total / 100 && tm_now_ns() - start < 20000000000ull) {
		put_one(&h, ALL);
		if (granted(&h) <= used(&h))
			usleep(1000);
	}
	print_ms("detect_ms", late.longest);
	print_ms("back_ms", back.longest);
	print_ms("alloc_ms", took);
	printf("failed %d\n", took == 0 || status != 0);
	printf("swapped_bytes %llu\n", (unsigned long long)swapped);
	printf("given_back_mib %.0f\n", (double)(before - least) / 1048576);
	print_ms("regrow_ms", tm_now_ns() - start);
	tm_machine_close(machine);
	holder_close(&h);
}

struct stream {
	struct holder *holder;
	uint64_t pages;
	_Atomic bool done;
};

static void *put_stream(void *opaque)
{
	struct stream *s = opaque;

	while (s->pages-- > 0)
		put_one(s->holder, HALF);
	s->done = true;
	return NULL;
}

static void demand(uint64_t cache, uint64_t bytes)
{
	static struct cuts donate;
	struct span serve = {0};
	struct holder h = {0}, swap = {0};
	struct stream stream = {.holder = &swap, .pages = bytes / PAGE};
	uint64_t segment;
	pthread_t thread;

	holder_open(&h, "cache", 0, 2 * cache);
	fill(&h, cache);
	holder_open(&swap, "swap", TM_POOL_PERSIST, 2 * bytes);
	sleep(2); /* idle: nothing is set aside for it but a little */
	segment = atomic_load(&swap.ledger->segment_bytes);
	if (pthread_create(&thread, NULL, put_stream, &stream))
		die("no thread");
	while (!stream.done) {
		uint64_t now = tm_now_ns();

		span_add(&serve, used(&swap) + 2 * segment > granted(&swap), now);
		cuts_add(&donate, used(&h), granted(&h), now);
		usleep(LOOK_NS / 1000);
	}
	pthread_join(thread, NULL);
	print_ms("serve_ms", serve.longest);
	printf("refused %llu\n", (unsigned long long)swap.refused);
	print_ms("donate_ms", donate.longest);
	holder_close(&swap);
	holder_close(&h);
}

int main(int argc, char **argv)
{
	uint64_t cache, bytes;

	if (argc != 4 || tm_size_parse(argv[2], &cache) < 0 || tm_size_parse(argv[3], &bytes) < 0) {
		fprintf(stderr, "usage: host pressure CACHE ALLOC | host demand CACHE BYTES\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (strcmp(argv[1], "pressure") == 0)
		pressure(cache, bytes);
	else
		demand(cache, bytes);
	return 0;
}
