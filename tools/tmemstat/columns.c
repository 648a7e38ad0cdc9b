/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * columns.c - rows for people
 *
 * A table of columns; each is a level, a rate, or a quotient of two numbers of core/stats.def.
 * Rates are differences to the sample before divided by its age; in the first report they are
 * totals.
 *
 *      client           pool          ------ memory ------  ------- puts ...
 */
#include <stdio.h>
#include <string.h>

#include "core/stats.h"
#include "core/util.h"
#include "tools/tmemstat/stat.h"

#define NAME_WIDTH 16
#define POOL_WIDTH 10

enum column_kind {
	LEVEL,  /* the number itself */
	RATE,   /* what it grew by, per second */
	RATIO,  /* of two levels */
	PERCENT /* of two growths */
};

struct column {
	const char *title;
	int width;
	enum column_kind kind;
	enum tm_stat stat, other; /* other: the divisor */
	enum tm_stat plus;        /* for a RATE: added; the same as stat for none */
};

static const struct column columns[] = {
	{"pages", 5, LEVEL, TM_STAT_PAGES, 0, TM_STAT_PAGES},
	{"orig", 5, LEVEL, TM_STAT_ORIG_BYTES, 0, TM_STAT_ORIG_BYTES},
	{"used", 5, LEVEL, TM_STAT_USED_BYTES, 0, TM_STAT_USED_BYTES},
	{"ratio", 5, RATIO, TM_STAT_ORIG_BYTES, TM_STAT_USED_BYTES, TM_STAT_ORIG_BYTES},
	{"put", 5, RATE, TM_STAT_PUTS, 0, TM_STAT_PUTS},
	{"rej", 5, RATE, TM_STAT_PUTS_REJECTED, 0, TM_STAT_PUTS_REJECTED},
	{"get", 5, RATE, TM_STAT_GETS, 0, TM_STAT_GETS},
	{"hit%", 5, PERCENT, TM_STAT_HITS, TM_STAT_GETS, TM_STAT_HITS},
	{"evict", 5, RATE, TM_STAT_EVICTED, 0, TM_STAT_EVICTED},
	{"read", 5, RATE, TM_STAT_BACKING_READS, 0, TM_STAT_FALLBACK_READS},
	{"write", 5, RATE, TM_STAT_BACKING_WRITES, 0, TM_STAT_FALLBACK_WRITES},
};

/* Titles over the columns, each over so many of them. */
static const struct {
	const char *title;
	int columns;
} groups[] = {{"memory", 4}, {"operations", 5}, {"disk", 2}};

/* `title` in the middle of dashes. */
static void print_group(const char *title, int width)
{
	int dashes = width - (int)strlen(title) - 2;

	for (int i = 0; i < dashes / 2; i++)
		putchar('-');
	printf(" %s ", title);
	for (int i = dashes / 2; i < dashes; i++)
		putchar('-');
}

static void print_header(bool totals)
{
	size_t c = 0;

	printf("%-*s", NAME_WIDTH + 1 + POOL_WIDTH, totals ? "since start" : "per second");
	for (size_t g = 0; g < TM_ARRAY_SIZE(groups); g++) {
		int width = -1;

		for (int i = 0; i < groups[g].columns; i++)
			width += columns[c++].width + 1;
		printf("  ");
		print_group(groups[g].title, width - 1);
	}
	printf("\n%-*s %-*s", NAME_WIDTH, "client", POOL_WIDTH, "pool");
	for (c = 0; c < TM_ARRAY_SIZE(columns); c++)
		printf(" %*s", columns[c].width, columns[c].title);
	putchar('\n');
}

/* One pool now and before; `before` is NULL for totals. */
struct row {
	const json_t *now, *before;
	double seconds;
};

static double level(const json_t *pool, enum tm_stat stat)
{
	return (double)tm_tool_number(pool, tm_stat_descs[stat].key);
}

static double growth(const struct row *row, enum tm_stat stat)
{
	return level(row->now, stat) - (row->before ? level(row->before, stat) : 0);
}

static void print_cell(const struct row *row, const struct column *c)
{
	char text[TM_CELL_MAX];
	double value;

	switch (c->kind) {
	case RATIO:
		tm_tool_ratio(level(row->now, c->stat), level(row->now, c->other), text);
		break;
	case PERCENT:
		tm_tool_ratio(100 * growth(row, c->stat), growth(row, c->other), text);
		break;
	default:
		value = c->kind == LEVEL ? level(row->now, c->stat) : growth(row, c->stat);
		if (c->plus != c->stat)
			value += growth(row, c->plus);
		if (c->kind == RATE)
			value /= row->seconds;
		tm_size_format(value > 0 ? (uint64_t)(value + 0.5) : 0, text);
	}
	printf(" %*s", c->width, text);
}

/* A name cut to `width`, at its front: the end of a path tells more. */
static void print_name(const char *name, int width)
{
	int length = (int)strlen(name);

	if (length <= width)
		printf("%-*s", width, name);
	else
		printf("~%s", name + length - width + 1);
}

/* The same pool in the sample before; NULL when it is new or has started anew. */
static const json_t *find_before(const struct sample *before, const json_t *pool)
{
	const json_t *old;
	size_t i;

	json_array_foreach (before->pools, i, old) {
		if (tm_tool_number(old, "client_id") == tm_tool_number(pool, "client_id") &&
			tm_tool_number(old, "id") == tm_tool_number(pool, "id") &&
			strcmp(tm_tool_string(old, "client"), tm_tool_string(pool, "client")) ==
				0 &&
			tm_tool_number(old, "puts") <= tm_tool_number(pool, "puts") &&
			tm_tool_number(old, "gets") <= tm_tool_number(pool, "gets"))
			return old;
	}
	return NULL;
}

void columns_print(const struct sample *before, const struct sample *now, bool header)
{
	const json_t *pool;
	size_t i;

	if (header)
		print_header(!before);
	json_array_foreach (now->pools, i, pool) {
		struct row row = {.now = pool, .seconds = 1};

		if (before) {
			row.before = find_before(before, pool);
			row.seconds = (double)(now->time_ns - before->time_ns) / 1e9;
			/* Nothing to compare with: no rate is honest, so all are zero. */
			if (!row.before)
				row.before = pool;
		}
		print_name(tm_tool_string(pool, "client"), NAME_WIDTH);
		putchar(' ');
		print_name(tm_tool_string(pool, "name"), POOL_WIDTH);
		for (size_t c = 0; c < TM_ARRAY_SIZE(columns); c++)
			print_cell(&row, &columns[c]);
		putchar('\n');
	}
}
