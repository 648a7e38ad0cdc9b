/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stats.h - the numbers of stats.def as an enum and a table
 */
#ifndef TM_STATS_H
#define TM_STATS_H

enum tm_stat {
#define TM_STAT(id, key, kind, unit, help) TM_STAT_##id,
#include "core/stats.def"
#undef TM_STAT
	TM_STAT_COUNT
};

enum tm_stat_kind {
	TM_STAT_KIND_COUNTER,
	TM_STAT_KIND_GAUGE,
};

enum tm_stat_unit {
	TM_STAT_UNIT_PAGES,
	TM_STAT_UNIT_BYTES,
	TM_STAT_UNIT_US,
	TM_STAT_UNIT_OPS,
};

struct tm_stat_desc {
	const char *key;
	enum tm_stat_kind kind;
	enum tm_stat_unit unit;
	const char *help;
};

/* Indexed by enum tm_stat. Constant. */
extern const struct tm_stat_desc tm_stat_descs[TM_STAT_COUNT];

#endif
