/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store.c - what a page costs in the store, beside the bare codec and beside zram
 *
 * store tmem FILE MEGABYTES ORDER
 *      pages of 4 KiB << ORDER: CPU of put and get, bytes; then recompressed, and deduplicated
 * store codec FILE MEGABYTES
 *      the bare codec alone
 * store zram FILE MEGABYTES DEVICE NAME
 *      the same 4 KiB pages, in the same order, through a zram device
 *
 * One thread; CPU time of the whole process, in random order, so pages are cold. The bare codec is
 * LZ4 into a hot buffer and one cold copy. Bytes are of RAM, everything counted: for us what the
 * ledger says is used, without the few MiB of the reserve, which do not grow with the pages; for
 * zram its own mem_used.
 */
#include <lz4.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "bench/pages.h"
#include "core/memory.h"

/* A virtual machine may not have all its memory yet: the first to touch a page pays for that, and
 * it shall not be one of us. */
static void warm_memory(uint64_t bytes)
{
	struct tm_memory m;

	if (tm_memory_open(bytes, true, &m) < 0 || tm_memory_populate(&m, 0, bytes) < 0)
		die("memory", ENOMEM);
	tm_memory_close(&m);
}

static void run_codec(const struct corpus *c)
{
	uint8_t *packed = malloc((size_t)c->count * c->bytes);
	uint32_t *sizes = calloc(c->count, sizeof(*sizes));
	static uint8_t copy[65536], out[65536 * 2];
	uint64_t total = 0;
	double start;

	memset(packed, 1, (size_t)c->count * c->bytes);
	start = cpu_seconds();
	for (uint32_t i = 0; i < c->count; i++) {
		uint32_t n = c->order[i];

		memcpy(copy, corpus_page(c, n), c->bytes);
		sizes[n] = (uint32_t)LZ4_compress_default(
			(char *)copy, (char *)out, (int)c->bytes, sizeof(out));
		sizes[n] = TM_MIN(sizes[n], c->bytes);
		memcpy(packed + (size_t)n * c->bytes, out, sizes[n]);
		total += sizes[n];
	}
	sample(c->name, "put us", "codec+copy", (cpu_seconds() - start) * 1e6 / c->count);
	sample(c->name, "bytes/page", "lz4", (double)total / c->count);

	start = cpu_seconds();
	for (uint32_t i = 0; i < c->count; i++) {
		uint32_t n = c->order[(i + c->count / 2) % c->count];

		if (LZ4_decompress_safe((char *)packed + (size_t)n * c->bytes, (char *)out,
			    (int)sizes[n], (int)c->bytes) < 0)
			memcpy(out, packed + (size_t)n * c->bytes, c->bytes); /* stored raw */
		memcpy(copy, out, c->bytes);
	}
	sample(c->name, "get us", "codec+copy", (cpu_seconds() - start) * 1e6 / c->count);
	free(packed);
	free(sizes);
}

static void get_all(
	const struct corpus *c, struct bench_store *b, const char *what, const char *who)
{
	const struct tm_oid oid = {{0, 0, 0}};
	static uint8_t back[65536];
	double start = cpu_seconds();
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < c->count; i++)
		rc = tm_store_get(b->store, 0, &oid, c->order[(i + c->count / 2) % c->count], back);
	if (rc < 0)
		die("get", -rc);
	sample(c->name, what, who, (cpu_seconds() - start) * 1e6 / c->count);
}

static void same_filled(struct bench_store *b, const struct corpus *c)
{
	const struct tm_oid oid = {{1, 0, 0}};
	static uint64_t page[8192];
	double start = cpu_seconds();
	uint32_t n = 100000;

	for (uint32_t i = 0; i < n; i++)
		tm_store_put(b->store, 0, &oid, i, page);
	sample(c->name, "same-filled us", "put", (cpu_seconds() - start) * 1e6 / n);
	start = cpu_seconds();
	for (uint32_t i = 0; i < n; i++)
		tm_store_get(b->store, 0, &oid, i, page);
	sample(c->name, "same-filled us", "get", (cpu_seconds() - start) * 1e6 / n);
	tm_store_flush_object(b->store, 0, &oid);
}

/* A second store on the mapping, as a successor would make it: it goes without tidying up. */
static void recover(const struct corpus *c, struct bench_store *dead)
{
	struct tm_store_params params = {.limit = dead->ledger->limit_bytes,
		.segment_bytes = (uint32_t)dead->ledger->segment_bytes};
	struct tm_store *s;
	double start;
	int fd, rc = tm_ledger_create(&params.ledger, &fd);

	if (rc < 0)
		die("ledger", -rc);
	start = wall_seconds();
	rc = tm_store_recover(&params, dup(tm_store_fd(dead->store)), false, &s);
	if (rc < 0)
		die("recover", -rc);
	sample(c->name, "recovery s/GiB", "tmem",
		(wall_seconds() - start) * 1073741824.0 / (double)dead->ledger->used_bytes);
	tm_store_destroy(s); /* empties the mapping for both */
	tm_ledger_unmap(params.ledger);
	close(fd);
}

/* Wait until nothing was packed or moved for a second, then let the reserve go. */
static void wait_until_packed(struct bench_store *b)
{
	uint64_t before = 0, now = 1;

	while (now != before) {
		before = now;
		sleep(1);
		now = 1 + pool_stat(b, TM_STAT_RECOMPRESSED) + pool_stat(b, TM_STAT_CLEANED);
	}
	tm_keeper_stop(b->store->keeper);
	b->store->keeper = NULL;
}

/* Put every page; `what` NULL: nobody wants to know what that costs. */
static void fill(const struct corpus *c, struct bench_store *b, const char *what, const char *who)
{
	const struct tm_oid oid = {{0, 0, 0}};
	double start = cpu_seconds();
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < c->count; i++)
		rc = tm_store_put(b->store, 0, &oid, c->order[i], corpus_page(c, c->order[i]));
	if (rc < 0)
		die("put", -rc);
	if (what)
		sample(c->name, what, who, (cpu_seconds() - start) * 1e6 / c->count);
}

static struct bench_store open_persistent(
	const struct corpus *c, unsigned int order, bool recompress)
{
	struct tm_store_params params = {
		.limit = (uint64_t)c->count * c->bytes * 2 + (64u << 20),
		.keeper = recompress,
		.upkeep_percent = 100,
		.cold_ms = 1,
	};

	return open_store(params, tm_pool_flags(TM_POOL_PERSIST, order), 0);
}

/* What is left when the payloads are taken off: entries' headers and padding, index, tables. Not
 * the room at the end of the few open segments, which does not grow with the pages. */
static double metadata_bytes(const struct corpus *c, const struct bench_store *b)
{
	uint64_t segments = (uint64_t)tm_arena_taken(b->store->arena) * b->ledger->segment_bytes;
	uint64_t bytes = pool_stat(b, TM_STAT_PAYLOAD_BYTES) + b->ledger->used_bytes - segments;
	static uint8_t buf[65536];

	for (uint32_t i = 0; i < c->count; i++)
		bytes -= tm_codec_encode(corpus_page(c, i), c->bytes, true, buf).bytes;
	return (double)bytes / c->count;
}

static void run_tmem(const struct corpus *c, unsigned int order)
{
	struct bench_store b = open_persistent(c, order, false);

	fill(c, &b, "put us", "tmem");
	sample(c->name, "metadata bytes/page", "tmem", metadata_bytes(c, &b));
	sample(c->name, "bytes/page", "tmem", (double)b.ledger->used_bytes / c->count);
	get_all(c, &b, "get us", "tmem");
	if (order == 0)
		same_filled(&b, c);
	recover(c, &b);
	close_store(&b);

	b = open_persistent(c, order, true);
	fill(c, &b, NULL, NULL);
	atomic_store(&b.ledger->recompress, 1);
	wait_until_packed(&b);
	sample(c->name, "bytes/page", "tmem packed", (double)b.ledger->used_bytes / c->count);
	sample(c->name, "recompression us", "tmem",
		(double)pool_stat(&b, TM_STAT_RECOMPRESS_CPU_US) / c->count);
	get_all(c, &b, "get us", "tmem packed");
	close_store(&b);
}

static int compare_hashes(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* What TM_POOL_DEDUP costs and gains, in two stores that do not differ in anything else; and which
 * part of the pages are copies of others. */
static void run_dedup(const struct corpus *c)
{
	uint64_t *hash = calloc(c->count, sizeof(*hash));
	uint32_t copies = 0;

	for (uint32_t i = 0; i < c->count; i++)
		hash[i] = XXH3_64bits(corpus_page(c, i), c->bytes);
	qsort(hash, c->count, sizeof(*hash), compare_hashes);
	for (uint32_t i = 1; i < c->count; i++)
		copies += hash[i] == hash[i - 1];
	sample(c->name, "copies of other pages", "share", (double)copies / c->count);
	free(hash);
	for (uint32_t attrs = 0; attrs <= TM_POOL_DEDUP; attrs += TM_POOL_DEDUP) {
		const char *who = attrs ? "dedup" : "tmem";
		struct bench_store b = open_store(
			(struct tm_store_params){
				.limit = (uint64_t)c->count * c->bytes * 2 + (64u << 20)},
			tm_pool_flags(0, 0), TM_POOL_RETAIN | attrs);

		fill(c, &b, "ephemeral put us", who);
		sample(c->name, "ephemeral bytes/page", who,
			(double)b.ledger->used_bytes / c->count);
		get_all(c, &b, "ephemeral get us", who);
		close_store(&b);
	}
}

/* --- zram ---------------------------------------------------------------------------------------
 */

/* "orig compr used ..." */
static double zram_used(const char *device)
{
	char path[96];
	unsigned long long used = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/%s/mm_stat", strrchr(device, '/') + 1);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%*u %*u %llu", &used) != 1)
		die(path, errno);
	fclose(f);
	return (double)used;
}

static void run_zram(const struct corpus *c, const char *device, const char *who)
{
	TM_AUTO_CLOSE int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
	static uint8_t page[TM_PAGE_SIZE] __attribute__((aligned(TM_PAGE_SIZE)));
	double start = cpu_seconds();
	ssize_t n = TM_PAGE_SIZE;

	for (uint32_t i = 0; n == TM_PAGE_SIZE && i < c->count; i++)
		n = pwrite(fd, corpus_page(c, c->order[i]), TM_PAGE_SIZE,
			(off_t)c->order[i] * TM_PAGE_SIZE);
	sample(c->name, "put us", who, (cpu_seconds() - start) * 1e6 / c->count);
	start = cpu_seconds();
	for (uint32_t i = 0; n == TM_PAGE_SIZE && i < c->count; i++)
		n = pread(fd, page, TM_PAGE_SIZE,
			(off_t)c->order[(i + c->count / 2) % c->count] * TM_PAGE_SIZE);
	if (n != TM_PAGE_SIZE)
		die(device, errno);
	sample(c->name, "get us", who, (cpu_seconds() - start) * 1e6 / c->count);
	sample(c->name, "bytes/page", who, zram_used(device) / c->count);
}

int main(int argc, char **argv)
{
	bool zram = argc == 6 && strcmp(argv[1], "zram") == 0;
	bool codec = argc == 4 && strcmp(argv[1], "codec") == 0;
	unsigned int order = argc == 5 ? (unsigned int)atoi(argv[4]) : 0;
	struct corpus c;

	if (!zram && !codec &&
		(argc != 5 || strcmp(argv[1], "tmem") != 0 || order > TM_ORDER_MAX)) {
		fprintf(stderr,
			"usage: store tmem FILE MEGABYTES ORDER\n"
			"       store codec FILE MEGABYTES\n"
			"       store zram FILE MEGABYTES DEVICE NAME\n");
		return 2;
	}
	c = load_corpus(argv[2], (uint32_t)atoi(argv[3]), order);
	warm_memory((uint64_t)c.count * c.bytes + (256u << 20));
	if (order > 0)
		c.name = "16K heap";
	if (zram) {
		run_zram(&c, argv[4], argv[5]);
	} else {
		run_codec(&c);
		if (!codec)
			run_tmem(&c, order);
		if (!codec && order == 0)
			run_dedup(&c);
	}
	return 0;
}
