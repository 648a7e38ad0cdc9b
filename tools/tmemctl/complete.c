/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * complete.c - what may come next on a command line, for the shells' completions
 *
 * `tmemctl --complete WORD...` prints candidates for the word after these, one a line; the shell
 * keeps those that fit. All of it comes from the tables of subcommands and commands, and from the
 * host.
 */
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "tools/common/schema.h"
#include "tools/tmemctl/ctl.h"

static void print_clients(const char *socket)
{
	struct ctl ctl = {.socket = socket};
	const json_t *client;
	json_t *list;
	size_t i;

	/* A completion has no place for complaints. */
	if (!freopen("/dev/null", "w", stderr) || ctl_call(&ctl, "list", NULL, &list) != TM_EXIT_OK)
		return;
	json_array_foreach (json_object_get(list, "clients"), i, client) {
		printf("%s\n", tm_tool_string(client, "name"));
	}
	json_decref(list);
	tm_conn_close(ctl.conn);
}

static void print_commands(void)
{
	for (const struct ctl_command *c = ctl_commands; c->name; c++)
		printf("%s\n", c->name);
}

/* NAME= and NAME=VALUE for what `set` takes. */
static void print_attributes(const struct tm_command_desc *desc, bool of_host)
{
	for (const struct tm_arg_desc *a = desc->args; a->name; a++) {
		TM_AUTO_FREE char *values = a->values ? strdup(a->values) : NULL;
		char *save = NULL;

		/* The policy is the host's, the rest a client's. */
		if (a->type == TM_ARG_CLIENT || (strcmp(a->name, "policy") == 0) != of_host)
			continue;
		if (a->type != TM_ARG_STRING && a->type != TM_ARG_BOOLEAN)
			printf("%s=\n", a->name);
		for (char *v = values ? strtok_r(values, " ", &save) : NULL; v;
			v = strtok_r(NULL, " ", &save))
			printf("%s=%s\n", a->name, v);
	}
}

int ctl_complete(const char *const *words, int count)
{
	const struct ctl_command *command = NULL;
	const char *socket = NULL;
	bool of_host = false;
	int given = 0;

	for (int i = 0; i < count; i++) {
		if (strcmp(words[i], "-S") == 0 || strcmp(words[i], "--socket") == 0) {
			if (++i == count)
				return TM_EXIT_OK; /* a path: the shell knows those */
			socket = words[i];
		} else if (words[i][0] != '-') {
			given += command != NULL;
			of_host |= given == 1 && strcmp(words[i], "HOST") == 0;
			command = command ? command : ctl_find(words[i]);
		}
	}
	if (!command) {
		print_commands();
		printf("-S\n--socket\n--help\n--version\n");
		return TM_EXIT_OK;
	}
	if (command->takes_json)
		printf("--json\n");
	if (command->takes_force)
		printf("--force\n");
	if (command->run == ctl_save)
		printf("--live\n--hold\n");
	if (command->run == ctl_warm || command->run == ctl_pin || command->run == ctl_unpin ||
		command->run == ctl_pinned)
		return TM_EXIT_OK; /* paths */
	if ((command->run == ctl_save || command->run == ctl_restore) && given > 0)
		return TM_EXIT_OK; /* a path */
	if (command->run == ctl_help)
		print_commands();
	else if (command->run == ctl_shared_auth)
		fputs(given == 0 ? "add\nremove\nlist\n" : "", stdout);
	else if (given > 0 && command->run == ctl_set)
		print_attributes(tm_command_desc("set"), of_host);
	else if (given < command->max_args && !(command->run == ctl_flush && given == 0)) {
		if (command->run == ctl_set)
			printf("HOST\n");
		print_clients(socket);
	}
	return TM_EXIT_OK;
}
