/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine.c - samples for programs: JSON lines and the Prometheus text format
 *
 * Names and help of a pool's numbers come from core/stats.def; those of clients and of the host are
 * the tables below.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/stats.h"
#include "core/util.h"
#include "tools/tmemstat/stat.h"

void json_print(const struct sample *now)
{
	struct timespec wall;
	json_t *line;

	clock_gettime(CLOCK_REALTIME, &wall);
	line = json_pack("{s:I,s:O,s:O}", "time_ns",
		(json_int_t)wall.tv_sec * 1000000000 + wall.tv_nsec, "host",
		json_object_get(now->list, "host"), "pools", now->pools);
	tm_tool_print_json(line);
	json_decref(line);
}

struct gauge {
	const char *key, *help;
};

static const struct gauge client_gauges[] = {
	{"granted_bytes", "Bytes the host has granted the client"},
	{"used_bytes", "Bytes the client uses, everything counted"},
	{"limit_bytes", "The client's own limit"},
	{"want_bytes", "Bytes the client could make use of now"},
	{"freeable_bytes", "Bytes the client could release without losing a persistent page"},
	{"persistent_bytes", "Bytes the client cannot give up"},
	{"weight", "Weight of the client"},
	{"frozen", "1 while the client's puts are refused"},
};

static const struct gauge host_gauges[] = {
	{"limit_bytes", "Most that all clients together may use"},
	{"reserve_bytes", "Available memory that is left alone"},
	{"total_bytes", "Bytes there are to divide now"},
	{"granted_bytes", "Bytes granted to all clients"},
	{"used_bytes", "Bytes all clients use"},
	{"available_bytes", "Bytes the machine, or the cgroup of the host, has left"},
	{"memory_bytes", "Bytes of RAM, or the limit of the cgroup of the host"},
	{"clients", "Clients that have joined"},
};

static const struct gauge host_counters[] = {
#define TM_HOST_COUNTER(id, help) {#id, help},
#include "tools/common/counters.def"
#undef TM_HOST_COUNTER
};

static void print_head(const char *name, const char *suffix, const char *type, const char *help)
{
	printf("# HELP %s%s %s\n# TYPE %s%s %s\n", name, suffix, help, name, suffix, type);
}

/* A label's value: backslash, quote and newline are escaped. */
static void print_label(const char *separator, const char *name, const char *value)
{
	printf("%s%s=\"", separator, name);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			putchar('\\');
		if (*value == '\n')
			printf("\\n");
		else
			putchar(*value);
	}
	putchar('"');
}

static void print_number_label(const char *separator, const char *name, uint64_t number)
{
	printf("%s%s=\"%llu\"", separator, name, (unsigned long long)number);
}

static void print_value(const char *end, const json_t *value)
{
	printf("%s %lld\n", end, json_is_true(value) ? 1 : (long long)json_integer_value(value));
}

static void print_pool_stat(const struct sample *now, const struct tm_stat_desc *desc)
{
	bool counter = desc->kind == TM_STAT_KIND_COUNTER;
	const char *suffix = counter ? "_total" : "";
	const json_t *pool;
	char name[80];
	size_t i;

	snprintf(name, sizeof(name), "tmem_pool_%s", desc->key);
	print_head(name, suffix, counter ? "counter" : "gauge", desc->help);
	json_array_foreach (now->pools, i, pool) {
		printf("%s%s", name, suffix);
		print_label("{", "client", tm_tool_string(pool, "client"));
		print_number_label(",", "client_id", tm_tool_number(pool, "client_id"));
		print_label(",", "pool", tm_tool_string(pool, "name"));
		print_number_label(",", "pool_id", tm_tool_number(pool, "id"));
		print_label(",", "type", tm_tool_string(pool, "type"));
		print_value("}", json_object_get(pool, desc->key));
	}
}

static void print_client_gauge(const struct sample *now, const struct gauge *gauge)
{
	const json_t *client;
	char name[80];
	size_t i;

	snprintf(name, sizeof(name), "tmem_client_%s", gauge->key);
	print_head(name, "", "gauge", gauge->help);
	json_array_foreach (json_object_get(now->list, "clients"), i, client) {
		printf("%s", name);
		print_label("{", "client", tm_tool_string(client, "name"));
		print_number_label(",", "client_id", tm_tool_number(client, "id"));
		print_value("}", json_object_get(client, gauge->key));
	}
}

void prometheus_print(const struct sample *now)
{
	const json_t *host = json_object_get(now->list, "host");

	for (size_t i = 0; i < TM_ARRAY_SIZE(host_gauges); i++) {
		char name[80];

		snprintf(name, sizeof(name), "tmem_host_%s", host_gauges[i].key);
		print_head(name, "", "gauge", host_gauges[i].help);
		print_value(name, json_object_get(host, host_gauges[i].key));
	}
	for (size_t i = 0; i < TM_ARRAY_SIZE(host_counters); i++) {
		char name[80];

		snprintf(name, sizeof(name), "tmem_host_%s_total", host_counters[i].key);
		print_head(name, "", "counter", host_counters[i].help);
		print_value(name, json_object_get(host, host_counters[i].key));
	}
	for (size_t i = 0; i < TM_ARRAY_SIZE(client_gauges); i++)
		print_client_gauge(now, &client_gauges[i]);
	for (size_t i = 0; i < TM_STAT_COUNT; i++)
		print_pool_stat(now, &tm_stat_descs[i]);
}
