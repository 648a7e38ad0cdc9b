/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/common/schema.h"

#include <string.h>

const char *const tm_arg_type_names[TM_ARG_TYPE_COUNT] = {
	[TM_ARG_CLIENT] = "client: an id, or a string with a name or an id",
	[TM_ARG_BYTES] = "bytes: an integer, not negative",
	[TM_ARG_CAP] = "bytes, or null for none",
	[TM_ARG_INTEGER] = "integer",
	[TM_ARG_STRING] = "string",
	[TM_ARG_BOOLEAN] = "boolean",
};

const char *const tm_who_names[TM_WHO_COUNT] = {
	[TM_BY_ANYBODY] = "anybody",
	[TM_BY_READER] = "reader",
	[TM_BY_OPERATOR] = "operator",
	[TM_BY_CLIENT] = "client",
};

/* The types as the table spells them. */
#define CLIENT  TM_ARG_CLIENT
#define BYTES   TM_ARG_BYTES
#define CAP     TM_ARG_CAP
#define INTEGER TM_ARG_INTEGER
#define STRING  TM_ARG_STRING
#define BOOLEAN TM_ARG_BOOLEAN

#define TM_COMMAND(id, name, who, help, ...)                                                       \
	[TM_COMMAND_##id] = {name, TM_BY_##who, help, {__VA_ARGS__}},
const struct tm_command_desc tm_command_descs[TM_COMMAND_COUNT] = {
#include "tools/common/commands.def"
};
#undef TM_COMMAND

#define TO_CLIENT                false
#define TO_WATCHER               true
#define TM_EVENT(name, to, help) {name, TO_##to, help},
const struct tm_event_desc tm_event_descs[] = {
#include "tools/common/commands.def"
	{NULL, false, NULL}};
#undef TM_EVENT

const struct tm_command_desc *tm_command_desc(const char *name)
{
	for (size_t i = 0; i < TM_COMMAND_COUNT; i++)
		if (strcmp(tm_command_descs[i].name, name) == 0)
			return &tm_command_descs[i];
	return NULL;
}
