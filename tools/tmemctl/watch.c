/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * watch.c - tmemctl watch: events as they come
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/util.h"
#include "tools/tmemctl/ctl.h"

/* What is known about the event, after its name. */
static void print_data(const json_t *data)
{
	const json_t *client = json_object_get(data, "client");
	char total[TM_SIZE_TEXT_MAX], available[TM_SIZE_TEXT_MAX];

	if (json_is_string(client))
		printf("%s (id %llu, %s, pid %llu)%s", json_string_value(client),
			(unsigned long long)tm_tool_number(data, "id"),
			tm_tool_string(data, "type"),
			(unsigned long long)tm_tool_number(data, "pid"),
			json_is_true(json_object_get(data, "kept")) ? ", memory kept" : "");
	else if (client)
		printf("every client");
	else if (json_object_get(data, "desc"))
		printf("pid %llu, uid %llu: %s", (unsigned long long)tm_tool_number(data, "pid"),
			(unsigned long long)tm_tool_number(data, "uid"),
			tm_tool_string(data, "desc"));
	else
		printf("%s available, %s for all clients",
			tm_size_format(tm_tool_number(data, "available_bytes"), available),
			tm_size_format(tm_tool_number(data, "total_bytes"), total));
}

static void print_event(const json_t *message)
{
	const json_t *data = json_object_get(message, "data");
	uint64_t ms = tm_tool_number(data, "time_ms");
	time_t seconds = (time_t)(ms / 1000);
	struct tm local;
	char text[16];

	localtime_r(&seconds, &local);
	strftime(text, sizeof(text), "%H:%M:%S", &local);
	printf("%s.%03u %-9s ", text, (unsigned int)(ms % 1000), tm_tool_string(message, "event"));
	print_data(data);
	putchar('\n');
}

int ctl_watch(struct ctl *ctl)
{
	json_t *result;
	int status = ctl_call(ctl, "watch", NULL, &result);

	if (status != TM_EXIT_OK)
		return status;
	json_decref(result);
	/* Until an event cannot be had or printed. */
	while (status == TM_EXIT_OK) {
		json_t *message;

		status = tm_tool_receive(ctl->conn, &message);
		if (status != TM_EXIT_OK)
			break;
		if (ctl->json)
			tm_tool_print_json(message);
		else
			print_event(message);
		json_decref(message);
		status = tm_tool_flush(status);
	}
	return status;
}
