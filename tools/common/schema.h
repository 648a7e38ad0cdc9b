/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * schema.h - commands.def as tables
 */
#ifndef TM_SCHEMA_H
#define TM_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

#define TM_ARGS_MAX 6

enum tm_arg_type {
	TM_ARG_CLIENT, /* id or name */
	TM_ARG_BYTES,
	TM_ARG_CAP, /* bytes, or null for none */
	TM_ARG_INTEGER,
	TM_ARG_STRING,
	TM_ARG_BOOLEAN,
	TM_ARG_TYPE_COUNT
};

/* For people. */
extern const char *const tm_arg_type_names[TM_ARG_TYPE_COUNT];

enum tm_who {
	TM_BY_ANYBODY,
	TM_BY_READER,
	TM_BY_OPERATOR,
	TM_BY_CLIENT,
	TM_WHO_COUNT
};

extern const char *const tm_who_names[TM_WHO_COUNT];

struct tm_arg_desc {
	const char *name;
	enum tm_arg_type type;
	bool required;
	const char *help;
	const char *values; /* words it takes, separated by spaces; NULL: any */
};

struct tm_command_desc {
	const char *name;
	enum tm_who who;
	const char *help; /* begins with a small letter, ends without a full stop */
	struct tm_arg_desc args[TM_ARGS_MAX + 1]; /* ends with a NULL name */
};

struct tm_event_desc {
	const char *name;
	bool to_watchers; /* else to clients */
	const char *help;
};

#define TM_COMMAND(id, name, who, help, ...) TM_COMMAND_##id,
enum tm_command_id {
#include "tools/common/commands.def"
	TM_COMMAND_COUNT
};
#undef TM_COMMAND

/* Indexed by enum tm_command_id; the other ends with a NULL name. Constant. */
extern const struct tm_command_desc tm_command_descs[TM_COMMAND_COUNT];
extern const struct tm_event_desc tm_event_descs[];

/* The command called `name`, or NULL. */
const struct tm_command_desc *tm_command_desc(const char *name);

#endif
