/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sample.c - one look at the host, and which of its pools are wanted
 */
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemstat/stat.h"

/* Whether `name` is this pool, its client, or CLIENT/POOL. */
static bool name_matches(const char *name, const json_t *pool)
{
	const char *client = tm_tool_string(pool, "client"), *own = tm_tool_string(pool, "name");
	size_t length = strlen(client);

	if (strcmp(name, own) == 0 || strcmp(name, client) == 0)
		return true;
	return strncmp(name, client, length) == 0 && name[length] == '/' &&
		strcmp(name + length + 1, own) == 0;
}

static bool is_wanted(const struct filter *filter, const json_t *pool)
{
	for (int i = 0; i < filter->count; i++)
		if (name_matches(filter->names[i], pool))
			return true;
	return filter->count == 0;
}

static bool name_is_known(const char *name, const json_t *pools)
{
	const json_t *pool;
	size_t i;

	json_array_foreach (pools, i, pool) {
		if (name_matches(name, pool))
			return true;
	}
	return false;
}

int sample_make(json_t *list, const struct filter *filter, bool strict, struct sample *ret_sample)
{
	struct sample sample = {.list = list, .pools = json_array(), .time_ns = tm_now_ns()};
	json_t *client, *pool;
	size_t i, j;

	json_array_foreach (json_object_get(list, "clients"), i, client) {
		json_array_foreach (json_object_get(client, "pools"), j, pool) {
			if (is_wanted(filter, pool))
				json_array_append(sample.pools, pool);
		}
	}
	for (int n = 0; strict && n < filter->count; n++) {
		if (name_is_known(filter->names[n], sample.pools))
			continue;
		tm_tool_complain("no pool '%s'", filter->names[n]);
		sample_free(&sample);
		return TM_EXIT_NO_CLIENT;
	}
	*ret_sample = sample;
	return TM_EXIT_OK;
}

void sample_free(struct sample *sample)
{
	json_decref(sample->pools);
	json_decref(sample->list);
	*sample = (struct sample){0};
}
