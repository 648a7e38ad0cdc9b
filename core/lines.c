/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/lines.h"

#include "core/util.h"

/* A table takes at most this part of the limit, however small the pages are. */
#define LIMIT_SHARE 64u

/* Chunk 0 has the first lines, each other one as many as all before it. */
static uint32_t chunk_lines(unsigned int i)
{
	return i == 0 ? TM_LINES_FIRST : TM_LINES_FIRST << (i - 1);
}

static size_t chunk_bytes(unsigned int i)
{
	return (size_t)chunk_lines(i) * TM_LINE_BYTES;
}

static unsigned int chunks_of(uint32_t count)
{
	return count == 0 ? 0 : 1 + (unsigned int)__builtin_ctz(count / TM_LINES_FIRST);
}

void *tm_lines_at(const struct tm_lines *t, uint32_t n)
{
	unsigned int i = 0;

	if (n >= TM_LINES_FIRST) {
		i = 1 + (unsigned int)__builtin_clz(TM_LINES_FIRST) -
			(unsigned int)__builtin_clz(n);
		n -= chunk_lines(i);
	}
	return (char *)t->chunk[i] + (size_t)n * TM_LINE_BYTES;
}

/* False where nothing may be added. */
static bool add_chunk(
	struct tm_lines *t, struct tm_budget *b, _Atomic uint64_t *owner_bytes, uint32_t count)
{
	unsigned int i = chunks_of(count);

	if (i == TM_LINES_CHUNKS_MAX ||
		tm_lines_bytes(t) + tm_node_bytes(chunk_bytes(i)) >
			tm_budget_limit(b) / LIMIT_SHARE)
		return false;
	t->chunk[i] = tm_node_alloc(b, owner_bytes, chunk_bytes(i));
	return t->chunk[i] != NULL;
}

void tm_lines_grow(struct tm_lines *t, struct tm_budget *b, _Atomic uint64_t *owner_bytes,
	uint64_t items, uint32_t per_line)
{
	uint32_t count;

	if (items <= atomic_load_explicit(&t->grow_at, memory_order_relaxed) ||
		atomic_flag_test_and_set(&t->growing))
		return;
	count = atomic_load(&t->count);
	while (count * (uint64_t)per_line < items && add_chunk(t, b, owner_bytes, count)) {
		count = count == 0 ? TM_LINES_FIRST : count * 2;
		atomic_store(&t->count, count);
	}
	/* Where there was no room, not again before there is an eighth more. */
	atomic_store(&t->grow_at, TM_MAX(count * (uint64_t)per_line, items + items / 8));
	atomic_flag_clear(&t->growing);
}

void tm_lines_drop(struct tm_lines *t, struct tm_budget *b, _Atomic uint64_t *owner_bytes)
{
	unsigned int chunks = chunks_of(atomic_load(&t->count));

	atomic_store(&t->count, 0);
	atomic_store(&t->grow_at, 0);
	for (unsigned int i = 0; i < chunks; i++)
		tm_node_free(b, owner_bytes, t->chunk[i], chunk_bytes(i));
}

uint64_t tm_lines_bytes(const struct tm_lines *t)
{
	unsigned int chunks = chunks_of(atomic_load(&t->count));
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < chunks; i++)
		bytes += tm_node_bytes(chunk_bytes(i));
	return bytes;
}
