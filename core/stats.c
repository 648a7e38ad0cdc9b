/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/stats.h"

const struct tm_stat_desc tm_stat_descs[TM_STAT_COUNT] = {
#define TM_STAT(id, key, kind, unit, help)                                                         \
	[TM_STAT_##id] = {#key, TM_STAT_KIND_##kind, TM_STAT_UNIT_##unit, help},
#include "core/stats.def"
#undef TM_STAT
};
