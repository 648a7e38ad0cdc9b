/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memhog.c - a process that needs its memory and knows what must be in it
 *
 * memhog SIZE [ROUNDS]
 *
 * Fills SIZE bytes with pages that follow from their number and version (a mix of zero,
 * compressible and incompressible ones), then ROUNDS times (default 3) visits all in a scattered
 * order, verifies each and rewrites every third. Verifies all at the end, which SIGTERM brings
 * near. One line; exit 1 at the first wrong page. Under stallwatch it counts the pages it has
 * passed.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/util.h"

#define PAGE   4096u
#define STRIDE 1000003u /* prime, so a stride of it meets every page once */

struct hog {
	uint8_t *memory;
	uint32_t *version; /* of each page */
	uint64_t pages;    /* no multiple of STRIDE */
	uint64_t *beat;    /* counted up by each page, see stallwatch.c */
};

static volatile sig_atomic_t enough;

static void end_soon(int signal)
{
	(void)signal;
	enough = 1;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* One page in eight zero, one in eight incompressible, the rest such that all others together take
 * 1.5 KiB under LZ4, as heaps do. */
static void make_page(uint64_t n, uint32_t version, uint64_t *ret_words)
{
	uint64_t seed =
		(n + 1) * 0x9e3779b97f4a7c15u ^ (uint64_t)(version + 1) * 0xbf58476d1ce4e5b9u;
	unsigned int kind = (unsigned int)(seed >> 20) % 8;

	memset(ret_words, 0, PAGE);
	if (kind == 0)
		return;
	for (unsigned int i = 0; i < PAGE / 8; i++)
		ret_words[i] = kind == 1 || i % 7 == 0 ? next_random(&seed) : n + i / 32;
}

static void write_page(struct hog *h, uint64_t n)
{
	make_page(n, h->version[n], (uint64_t *)(h->memory + n * PAGE));
	++*h->beat;
}

static bool check_page(const struct hog *h, uint64_t n)
{
	uint64_t words[PAGE / 8];

	make_page(n, h->version[n], words);
	++*h->beat;
	if (memcmp(h->memory + n * PAGE, words, PAGE) == 0)
		return true;
	printf("page %llu of %llu is wrong (version %u)\n", (unsigned long long)n,
		(unsigned long long)h->pages, h->version[n]);
	return false;
}

static bool check_and_rewrite(struct hog *h, uint64_t start)
{
	uint64_t n = start % h->pages;

	for (uint64_t i = 0; i < h->pages && !enough; i++, n = (n + STRIDE) % h->pages) {
		if (!check_page(h, n))
			return false;
		if (i % 3 == 0) {
			h->version[n]++;
			write_page(h, n);
		}
	}
	return true;
}

/* The counter that stallwatch reads, or one of our own. */
static uint64_t *find_beat(void)
{
	static uint64_t own;
	const char *fd = getenv("TM_BEAT");
	void *shared = MAP_FAILED;

	if (fd)
		shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(fd), 0);
	return shared == MAP_FAILED ? &own : shared;
}

int main(int argc, char **argv)
{
	struct hog h = {.beat = find_beat()};
	uint64_t bytes;
	int rounds = argc > 2 ? atoi(argv[2]) : 3, r;

	if (argc < 2 || tm_size_parse(argv[1], &bytes) < 0 || bytes < PAGE || rounds < 0) {
		fprintf(stderr, "usage: memhog SIZE [ROUNDS]\n");
		return 2;
	}
	signal(SIGTERM, end_soon);
	h.pages = bytes / PAGE;
	if (h.pages % STRIDE == 0)
		h.pages--;
	h.version = calloc(h.pages, sizeof(*h.version));
	h.memory = mmap(
		NULL, h.pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!h.version || h.memory == MAP_FAILED) {
		perror("memhog");
		return 1;
	}
	for (uint64_t n = 0; n < h.pages; n++)
		write_page(&h, n);
	for (r = 0; r < rounds && !enough; r++)
		if (!check_and_rewrite(&h, (uint64_t)r * 7919))
			return 1;
	for (uint64_t n = 0; n < h.pages; n++)
		if (!check_page(&h, n))
			return 1;
	printf("%llu pages right after %d rounds\n", (unsigned long long)h.pages, r);
	return 0;
}
