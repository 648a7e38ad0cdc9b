/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * list.c - tmemctl list, tmemctl freeable, tmemctl policy
 */
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "tools/common/grid.h"
#include "tools/tmemctl/ctl.h"

static void add_size(struct tm_grid *table, const json_t *object, const char *key)
{
	char text[TM_SIZE_TEXT_MAX];

	if (json_is_integer(json_object_get(object, key)))
		tm_grid_add(table, tm_size_format(tm_tool_number(object, key), text));
	else
		tm_grid_add(table, "-");
}

static void add_integer(struct tm_grid *table, const json_t *object, const char *key)
{
	char text[TM_CELL_MAX];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)tm_tool_number(object, key));
	tm_grid_add(table, text);
}

static void print_host(const json_t *host)
{
	static const char *const keys[][2] = {{"limit", "limit_bytes"},
		{"reserve", "reserve_bytes"}, {"total", "total_bytes"},
		{"granted", "granted_bytes"}, {"used", "used_bytes"}};

	printf("tmemd %s, pid %llu:", tm_tool_string(host, "version"),
		(unsigned long long)tm_tool_number(host, "pid"));
	for (size_t i = 0; i < TM_ARRAY_SIZE(keys); i++) {
		char text[TM_SIZE_TEXT_MAX];

		printf("%s %s %s", i ? "," : "", keys[i][0],
			tm_size_format(tm_tool_number(host, keys[i][1]), text));
	}
	printf("%s%s\n", strcmp(tm_tool_string(host, "policy"), "weight") ? ", by benefit" : "",
		json_is_true(json_object_get(host, "frozen")) ? ", frozen" : "");
}

static void print_clients(const json_t *clients)
{
	static const char *const titles[] = {">ID", "CLIENT", "TYPE", ">PID", ">USED", ">GRANTED",
		">LIMIT", ">CAP", ">FREEABLE", ">WEIGHT", "COMPRESS", "STATE"};
	struct tm_grid *table = tm_grid_new(titles, TM_ARRAY_SIZE(titles));
	const json_t *client;
	size_t i;

	json_array_foreach (clients, i, client) {
		add_integer(table, client, "id");
		tm_grid_add(table, tm_tool_string(client, "name"));
		tm_grid_add(table, tm_tool_string(client, "type"));
		add_integer(table, client, "pid");
		add_size(table, client, "used_bytes");
		add_size(table, client, "granted_bytes");
		add_size(table, client, "limit_bytes");
		add_size(table, client, "cap_bytes");
		add_size(table, client, "freeable_bytes");
		add_integer(table, client, "weight");
		tm_grid_add(table, tm_tool_string(client, "compress"));
		tm_grid_add(table,
			json_is_false(json_object_get(client, "alive"))           ? "orphan"
				: json_is_true(json_object_get(client, "held"))   ? "held"
				: json_is_true(json_object_get(client, "frozen")) ? "frozen"
										  : "active");
	}
	tm_grid_print(table);
}

static void add_pool(struct tm_grid *table, const json_t *pool)
{
	char text[TM_CELL_MAX];

	tm_grid_add(table, tm_tool_string(pool, "client"));
	add_integer(table, pool, "id");
	tm_grid_add(table, tm_tool_string(pool, "name"));
	tm_grid_add(table, tm_tool_string(pool, "type"));
	tm_grid_add(table, tm_size_format(4096ull << tm_tool_number(pool, "order"), text));
	add_integer(table, pool, "pages");
	add_size(table, pool, "orig_bytes");
	add_size(table, pool, "used_bytes");
	tm_grid_add(table,
		tm_tool_ratio((double)tm_tool_number(pool, "orig_bytes"),
			(double)tm_tool_number(pool, "used_bytes"), text));
	tm_grid_add(table,
		tm_tool_ratio(100.0 * (double)tm_tool_number(pool, "hits"),
			(double)tm_tool_number(pool, "gets"), text));
}

static void print_pools(const json_t *clients)
{
	static const char *const titles[] = {"CLIENT", ">ID", "POOL", "TYPE", ">PAGE", ">PAGES",
		">ORIG", ">USED", ">RATIO", ">HIT%"};
	struct tm_grid *table = tm_grid_new(titles, TM_ARRAY_SIZE(titles));
	const json_t *client, *pool;
	size_t i, j;

	json_array_foreach (clients, i, client) {
		json_array_foreach (json_object_get(client, "pools"), j, pool) {
			add_pool(table, pool);
		}
	}
	tm_grid_print(table);
}

int ctl_list(struct ctl *ctl)
{
	json_t *list;
	const json_t *clients;
	int status = ctl_call(ctl, "list", NULL, &list);

	if (status != TM_EXIT_OK)
		return status;
	clients = json_object_get(list, "clients");
	if (ctl->json) {
		tm_tool_print_json(list);
	} else {
		print_host(json_object_get(list, "host"));
		if (json_array_size(clients) > 0) {
			putchar('\n');
			print_clients(clients);
			putchar('\n');
			print_pools(clients);
		}
	}
	json_decref(list);
	return TM_EXIT_OK;
}

int ctl_freeable(struct ctl *ctl)
{
	static const char *const titles[] = {">ID", "CLIENT", ">FREEABLE"};
	struct tm_grid *table;
	const json_t *client;
	json_t *result;
	size_t i;
	int status = ctl_call(ctl, "freeable", ctl_client_arguments(ctl, 0), &result);

	if (status != TM_EXIT_OK)
		return status;
	if (ctl->json) {
		tm_tool_print_json(result);
	} else {
		table = tm_grid_new(titles, TM_ARRAY_SIZE(titles));
		json_array_foreach (json_object_get(result, "clients"), i, client) {
			add_integer(table, client, "id");
			tm_grid_add(table, tm_tool_string(client, "name"));
			add_size(table, client, "freeable_bytes");
		}
		if (ctl->count == 0) {
			tm_grid_add(table, "");
			tm_grid_add(table, "total");
			add_size(table, result, "freeable_bytes");
		}
		tm_grid_print(table);
	}
	json_decref(result);
	return TM_EXIT_OK;
}

int ctl_policy(struct ctl *ctl)
{
	static const char *const titles[] = {">ID", "CLIENT", ">WEIGHT", "CURVE", ">SAMPLES",
		">FLOOR", ">AIM", ">HITS%", ">GRANTED"};
	struct tm_grid *table;
	const json_t *client;
	json_t *result;
	size_t i;
	int status = ctl_call(ctl, "policy", NULL, &result);

	if (status != TM_EXIT_OK)
		return status;
	if (ctl->json) {
		tm_tool_print_json(result);
		json_decref(result);
		return TM_EXIT_OK;
	}
	printf("policy: %s\n", tm_tool_string(result, "policy"));
	if (strcmp(tm_tool_string(result, "policy"), "benefit") == 0 &&
		json_array_size(json_object_get(result, "clients")) > 0) {
		table = tm_grid_new(titles, TM_ARRAY_SIZE(titles));
		json_array_foreach (json_object_get(result, "clients"), i, client) {
			bool known = json_is_true(json_object_get(client, "known"));

			add_integer(table, client, "id");
			tm_grid_add(table, tm_tool_string(client, "name"));
			add_integer(table, client, "weight");
			tm_grid_add(table, known ? "known" : "none");
			add_integer(table, client, "samples");
			add_size(table, client, "floor_bytes");
			add_size(table, client, "aim_bytes");
			if (known)
				add_integer(table, client, "aim_hits_percent");
			else
				tm_grid_add(table, "-");
			add_size(table, client, "granted_bytes");
		}
		putchar('\n');
		tm_grid_print(table);
	}
	json_decref(result);
	return TM_EXIT_OK;
}
