/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stat.h - what the parts of tmemstat share
 */
#ifndef TM_STAT_TOOL_H
#define TM_STAT_TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/common/tool.h"

/* One look at the host: the reply to `list`, and which of its pools are wanted. */
struct sample {
	json_t *list;
	json_t *pools; /* array; the wanted ones, borrowing from list */
	uint64_t time_ns;
};

/* Which pools: each name is a pool's, a client's, or CLIENT/POOL. None: all. */
struct filter {
	char *const *names;
	int count;
};

/* Build a sample from the reply to `list` (stolen). TM_EXIT_OK; TM_EXIT_NO_CLIENT after a line
 * about the first name that nothing has, when `strict`. */
int sample_make(json_t *list, const struct filter *filter, bool strict, struct sample *ret_sample);
void sample_free(struct sample *sample);

/* Rows for people: totals when `before` is NULL, else rates since then. */
void columns_print(const struct sample *before, const struct sample *now, bool header);

/* Lines a header takes. */
#define COLUMNS_HEADER_LINES 2

void json_print(const struct sample *now);
void prometheus_print(const struct sample *now);

#endif
