/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * traces.h - recorded block traces: read as strings of 4 KiB pages; exact LRU on one; a store for
 * one
 *
 * What a size means: pages do not compress and are 4 KiB, so a segment of 256 KiB holds 63 of them.
 */
#ifndef TM_BENCH_TRACES_H
#define TM_BENCH_TRACES_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zstd.h>

#include "core/util.h"

#define PAGE          4096u
#define SECTOR        512u
#define SEGMENT       (256u << 10)
#define SEGMENT_PAGES ((SEGMENT - 64) / (PAGE + 20))
#define NEVER         UINT32_MAX

struct trace {
	const char *name;
	uint64_t *key; /* [count] page numbers */
	uint32_t *id;  /* [count] the same, numbered by first appearance */
	uint32_t count, room, pages;
};

static inline void *need(void *p)
{
	if (p)
		return p;
	fprintf(stderr, "trace: out of memory\n");
	exit(1);
}

/* --- reading ---------------------------------------------------------------------------------- */

static inline void add_bytes(struct trace *t, uint64_t first, uint64_t bytes)
{
	uint64_t end = first + TM_MAX(bytes, 1u);

	for (uint64_t n = first / PAGE; n * PAGE < end; n++) {
		if (t->count == t->room) {
			t->room = TM_MAX(t->room * 2, 1u << 16);
			t->key = need(realloc(t->key, t->room * sizeof(*t->key)));
		}
		t->key[t->count++] = n;
	}
}

/* Records of {u32 time, u64 sector, u32 bytes, i64 next}. */
static inline void read_oracle(struct trace *t, const char *data, size_t size)
{
	for (; size >= 24; data += 24, size -= 24) {
		uint64_t sector;
		uint32_t bytes;

		memcpy(&sector, data + 4, sizeof(sector));
		memcpy(&bytes, data + 12, sizeof(bytes));
		add_bytes(t, sector * SECTOR, bytes);
	}
}

/* Lines of "start count 0 number", in units of `unit` bytes. */
static inline void read_lines(struct trace *t, const char *text, uint32_t unit)
{
	char *end;

	for (;;) {
		uint64_t start = strtoull(text, &end, 10), count = strtoull(end, &end, 10);

		text = strchr(end, '\n');
		if (!text)
			break;
		add_bytes(t, start * unit, count * unit);
		text++;
	}
}

/* The whole file, unpacked if need be, with a NUL behind it. NULL: `errno` says why. */
static inline char *load(const char *path, size_t *ret_size)
{
	TM_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ZSTD_outBuffer out = {.size = 1u << 20};
	ZSTD_inBuffer in = {0};
	ZSTD_DStream *z;
	struct stat st;
	void *packed;

	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	packed = need(calloc(1, (size_t)st.st_size + 1));
	if (read(fd, packed, (size_t)st.st_size) != st.st_size) {
		free(packed);
		return NULL;
	}
	*ret_size = (size_t)st.st_size;
	if (!strstr(path, ".zst"))
		return packed;

	z = need(ZSTD_createDStream());
	in.src = packed;
	in.size = *ret_size;
	out.dst = need(malloc(out.size));
	while (in.pos < in.size && !ZSTD_isError(ZSTD_decompressStream(z, &out, &in)))
		if (out.size - out.pos < 1024)
			out.dst = need(realloc(out.dst, out.size *= 2));
	ZSTD_freeDStream(z);
	free(packed);
	((char *)out.dst)[out.pos] = '\0';
	*ret_size = out.pos;
	return out.dst;
}

/* Number the pages by first appearance. */
static inline void number_pages(struct trace *t)
{
	uint32_t slots = 1;

	while (slots < t->count * 2u)
		slots *= 2;
	TM_AUTO_FREE uint32_t *table = need(calloc(slots, sizeof(*table))); /* a request + 1 */

	t->id = need(calloc(t->count, sizeof(*t->id)));
	for (uint32_t i = 0; i < t->count; i++) {
		uint32_t at = (uint32_t)(t->key[i] * 0x9e3779b97f4a7c15u >> 32) & (slots - 1);

		while (table[at] != 0 && t->key[table[at] - 1] != t->key[i])
			at = (at + 1) & (slots - 1);
		if (table[at] == 0) {
			table[at] = i + 1;
			t->id[i] = t->pages++;
		} else {
			t->id[i] = t->id[table[at] - 1];
		}
	}
}

static inline int read_trace(const char *path, struct trace *t)
{
	size_t size;
	TM_AUTO_FREE char *data = load(path, &size);
	const char *slash = strrchr(path, '/');

	if (!data)
		return -errno;
	*t = (struct trace){.name = slash ? slash + 1 : path};
	if (strstr(t->name, ".oracleGeneral"))
		read_oracle(t, data, size);
	else
		read_lines(t, data, strncmp(t->name, "OLTP", 4) == 0 ? PAGE : SECTOR);
	if (t->count == 0)
		return -EPROTO;
	number_pages(t);
	return 0;
}

/* --- the exact policies ------------------------------------------------------------------------
 */

static inline double lru(const struct trace *t, uint32_t size)
{
	/* A ring through [pages], its anchor; `next` of an absent page is NEVER. */
	uint32_t anchor = t->pages, held = 0, misses = 0;
	TM_AUTO_FREE uint32_t *next = need(malloc((anchor + 1) * sizeof(*next)));
	TM_AUTO_FREE uint32_t *prev = need(malloc((anchor + 1) * sizeof(*prev)));

	memset(next, 0xff, (anchor + 1) * sizeof(*next));
	next[anchor] = prev[anchor] = anchor;
	for (uint32_t i = 0; i < t->count; i++) {
		uint32_t out = t->id[i];

		if (next[out] == NEVER) {
			misses++;
			out = held < size ? NEVER : prev[anchor];
			held += held < size;
		}
		if (out != NEVER) {
			next[prev[out]] = next[out];
			prev[next[out]] = prev[out];
			next[out] = NEVER;
		}
		out = t->id[i];
		next[out] = next[anchor];
		prev[out] = anchor;
		prev[next[out]] = next[anchor] = out;
	}
	return (double)misses / t->count;
}

#endif
