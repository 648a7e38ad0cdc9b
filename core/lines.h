/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lines.h - a table of cache lines that a hash chooses, and that grows under its users
 *
 *      chunk 0 | 4 lines |
 *      chunk 1 | 4 lines |            each chunk has as many lines as all before it
 *      chunk 2 | 8 lines ... |
 *
 * The table doubles by one more chunk. Nothing is moved: what the lines hold is their user's, who
 * can do without any of it.
 *
 * Locking: none; thread safe. A line that was once seen stays until tm_lines_drop().
 */
#ifndef TM_LINES_H
#define TM_LINES_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/budget.h"

#define TM_LINE_BYTES       64
#define TM_LINES_FIRST      4u
#define TM_LINES_CHUNKS_MAX 24

/* All zeros is a table without lines. */
struct tm_lines {
	_Atomic uint32_t count;   /* a power of two, or 0 */
	_Atomic uint64_t grow_at; /* items from which on it is too small */
	atomic_flag growing;
	void *chunk[TM_LINES_CHUNKS_MAX]; /* published by `count` */
};

/* Suit `items` at `per_line`, as far as the budget and a 64th of the limit allow; charged to
 * `owner_bytes` as well. New lines are zeros. */
void tm_lines_grow(struct tm_lines *t, struct tm_budget *b, _Atomic uint64_t *owner_bytes,
	uint64_t items, uint32_t per_line);

/* Give the memory back. Nobody else uses it any more. */
void tm_lines_drop(struct tm_lines *t, struct tm_budget *b, _Atomic uint64_t *owner_bytes);

/* How many lines there are now: the low bits of a hash choose one of them. */
static inline uint32_t tm_lines_count(struct tm_lines *t)
{
	return atomic_load(&t->count);
}

/* Line `n`, which is less than a count that was seen. */
void *tm_lines_at(const struct tm_lines *t, uint32_t n);

/* What tm_lines_grow() charged so far. For checks. */
uint64_t tm_lines_bytes(const struct tm_lines *t);

#endif
