/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * main.c - tmemctl: command line and table of subcommands
 *
 * Options may stand anywhere; the first other word is the subcommand. What a subcommand takes is in
 * the table, so its function starts with arguments that are right in number and kind.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/common/schema.h"
#include "tools/tmemctl/ctl.h"

const struct ctl_command ctl_commands[] = {
	{"list", "[--json]", NULL, "", true, false, 0, 0, ctl_list},
	{"freeze", "[CLIENT]", NULL,
		"Without CLIENT all clients are frozen, and those that join later too. Gets and\n"
		"flushes work on.",
		false, false, 0, 1, ctl_freeze},
	{"thaw", "[CLIENT]", NULL, "", false, false, 0, 1, ctl_thaw},
	{"freeable", "[--json] [CLIENT]", NULL, "", true, false, 0, 1, ctl_freeable},
	{"flush", "SIZE [CLIENT]", NULL,
		"Releases at least SIZE, or all there is, and prints how much it was. Without "
		"CLIENT\n"
		"those clients give first that have more than their weight entitles them to.",
		false, false, 1, 2, ctl_flush},
	{"policy", "[--json]", NULL,
		"By weight, or by benefit: beyond a quarter of its share by weight, a client "
		"then gets\n"
		"what brings more hits than it would elsewhere. Change it with set HOST policy=.",
		true, false, 0, 0, ctl_policy},
	{"set",
		"CLIENT weight=N|cap=SIZE|cap=none|compress=lz4|none|recompress=on|off... | "
		"HOST policy=weight|benefit",
		NULL, "HOST stands for itself.", false, false, 2, 5, ctl_set},
	{"destroy", "[--force] CLIENT", NULL,
		"Refused while the client has persistent pages, unless --force is given: they "
		"hold\n"
		"data that is nowhere else.",
		false, true, 1, 1, ctl_destroy},
	{"save", "[--live] [--hold] CLIENT FILE|-", NULL,
		"Changes of its pages wait meanwhile; with --live only for a moment at the end.\n"
		"With --hold they wait on after it until the client is thawed or ends, so that "
		"what\n"
		"was saved is the last that anybody was told.",
		false, false, 2, 2, ctl_save},
	{"restore", "CLIENT FILE|-", NULL,
		"All of them, or none: a stream that is cut, damaged or does not fit changes "
		"nothing.\n"
		"Persistent pools have to be empty; of ephemeral ones come back the pages that "
		"have\n"
		"room, and that the client has not put or flushed itself since it began.",
		false, false, 2, 2, ctl_restore},
	{"shared-auth", "add UUID USER | remove UUID USER | list [--json]", NULL,
		"Nobody may who has not been added, root neither; what is there of the pool, "
		"whoever "
		"put\n"
		"it, can be read and replaced by everybody who was. USER is a name or a number.\n"
		"remove also ends the connections of that user.",
		true, false, 1, 3, ctl_shared_auth},
	{"warm", "[--json] PATH...", "read files and trees of a tmemfs mount into tmem",
		"What is read is not passed through this program nor through the kernel's cache.\n"
		"Once the cache is full and what was warmed begins to leave it, nothing more is "
		"read.",
		true, false, 1, CTL_ARGS_ANY, ctl_warm},
	{"pin", "[--json] PATH...", "keep files and trees of a tmemfs mount warm",
		"The mount looks after them from now on and reads again what was given up, or has\n"
		"changed. Memory that is needed elsewhere is given back all the same. For root, "
		"and the\n"
		"user that runs the mount.",
		true, false, 1, CTL_ARGS_ANY, ctl_pin},
	{"unpin", "PATH...", "end that; for all files when PATH is the mount point", "", false,
		false, 1, CTL_ARGS_ANY, ctl_unpin},
	{"pinned", "[--json] PATH", "show what is pinned of the mount that PATH is in", "", true,
		false, 1, 1, ctl_pinned},
	{"watch", "[--json]", NULL,
		"One line for each event, until it is interrupted or tmemd ends.", true, false, 0,
		0, ctl_watch},
	{"help", "[COMMAND]", "show this, or more about a command", "", false, false, 0, 1,
		ctl_help},
	{0},
};

const struct ctl_command *ctl_find(const char *name)
{
	for (const struct ctl_command *c = ctl_commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

/* The table that the host answers from says what its commands do. */
static const char *help_of(const struct ctl_command *c)
{
	return c->help ? c->help : tm_command_desc(c->name)->help;
}

static void print_help(void)
{
	printf("usage: tmemctl [-S SOCKET] COMMAND [ARGUMENTS]\n"
	       "Look after tmemd and its clients.\n\n");
	for (const struct ctl_command *c = ctl_commands; c->name; c++)
		printf("  %-11s %s\n", c->name, help_of(c));
	printf("\n  -S, --socket PATH  control socket (default: $TMEM_SOCKET, else by user)\n"
	       "      --help         print this and exit\n"
	       "      --version      print the version and exit\n"
	       "\nCLIENT is an id or a name; SIZE is bytes, or has a unit: 512M, 1.5G.\n");
}

static void print_command_help(const struct ctl_command *c)
{
	const struct tm_command_desc *desc = tm_command_desc(c->name);
	const char *help = help_of(c);

	printf("usage: tmemctl %s %s\n%c%s.\n", c->name, c->synopsis, help[0] & ~0x20, help + 1);
	if (desc && desc->args[0].name)
		putchar('\n');
	for (const struct tm_arg_desc *a = desc ? desc->args : NULL; a && a->name; a++)
		printf("  %-10s %s%s%s\n", a->name, a->help, a->values ? ": " : "",
			a->values ? a->values : "");
	if (*c->text)
		printf("\n%s\n", c->text);
}

int ctl_help(struct ctl *ctl)
{
	const struct ctl_command *command = ctl->count ? ctl_find(ctl->args[0]) : NULL;

	if (ctl->count && !command)
		return tm_tool_usage("unknown command '%s'", ctl->args[0]);
	if (command)
		print_command_help(command);
	else
		print_help();
	return TM_EXIT_OK;
}

int ctl_call(struct ctl *ctl, const char *execute, json_t *arguments, json_t **ret_result)
{
	int status = ctl->conn ? TM_EXIT_OK : tm_tool_connect(ctl->socket, &ctl->conn);

	if (status == TM_EXIT_OK)
		return tm_tool_call(ctl->conn, execute, arguments, ret_result);
	json_decref(arguments);
	return status;
}

json_t *ctl_client_arguments(const struct ctl *ctl, int index)
{
	return index < ctl->count ? json_pack("{s:s}", "client", ctl->args[index]) : json_object();
}

struct command_line {
	struct ctl ctl;
	const struct ctl_command *command;
	bool help, version, literal; /* literal: after "--" */
};

/* Take an option. The number of words it used; 0 after a complaint. */
static int take_option(struct command_line *cl, char **words, int left)
{
	const char *word = words[0];

	if (strcmp(word, "--") == 0) {
		cl->literal = true;
	} else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
		cl->help = true;
	} else if (strcmp(word, "--version") == 0) {
		cl->version = true;
	} else if (strncmp(word, "--socket=", 9) == 0) {
		cl->ctl.socket = word + 9;
	} else if (strcmp(word, "-S") == 0 || strcmp(word, "--socket") == 0) {
		if (left < 2) {
			tm_tool_usage("%s needs a path", word);
			return 0;
		}
		cl->ctl.socket = words[1];
		return 2;
	} else if (strcmp(word, "--json") == 0 && cl->command && cl->command->takes_json) {
		cl->ctl.json = true;
	} else if (strcmp(word, "--force") == 0 && cl->command && cl->command->takes_force) {
		cl->ctl.force = true;
	} else if (strcmp(word, "--live") == 0 && cl->command && cl->command->run == ctl_save) {
		cl->ctl.live = true;
	} else if (strcmp(word, "--hold") == 0 && cl->command && cl->command->run == ctl_save) {
		cl->ctl.hold = true;
	} else {
		tm_tool_usage("%s%sunknown option '%s'", cl->command ? cl->command->name : "",
			cl->command ? ": " : "", word);
		return 0;
	}
	return 1;
}

/* Take a word that is no option. 1; 0 after a complaint. */
static int take_word(struct command_line *cl, const char *word)
{
	if (!cl->command) {
		cl->command = ctl_find(word);
		if (!cl->command)
			tm_tool_usage("unknown command '%s'", word);
		return cl->command != NULL;
	}
	if (cl->ctl.count == cl->command->max_args) {
		tm_tool_usage("%s: unexpected argument '%s'", cl->command->name, word);
		return 0;
	}
	cl->ctl.args[cl->ctl.count++] = word;
	return 1;
}

static int run(struct command_line *cl)
{
	if (cl->version) {
		printf("tmemctl %s\n", TM_VERSION);
		return TM_EXIT_OK;
	}
	if (cl->help) {
		if (cl->command)
			print_command_help(cl->command);
		else
			print_help();
		return TM_EXIT_OK;
	}
	if (!cl->command)
		return tm_tool_usage("a command is missing");
	if (cl->ctl.count < cl->command->min_args)
		return tm_tool_usage(
			"usage: tmemctl %s %s", cl->command->name, cl->command->synopsis);
	return cl->command->run(&cl->ctl);
}

int main(int argc, char **argv)
{
	struct command_line cl = {0};
	int status;

	if (argc > 1 && strcmp(argv[1], "--complete") == 0)
		return tm_tool_flush(ctl_complete((const char *const *)argv + 2, argc - 2));
	if (argc == 2 && strcmp(argv[1], "--manual") == 0)
		return tm_tool_flush(ctl_manual());
	cl.ctl.args = calloc((size_t)argc + 1, sizeof(*cl.ctl.args));
	if (!cl.ctl.args) {
		tm_tool_complain("%s", strerror(ENOMEM));
		return TM_EXIT_FAILED;
	}
	for (int i = 1; i < argc;) {
		bool option = argv[i][0] == '-' && argv[i][1] && !cl.literal;
		int used = option ? take_option(&cl, argv + i, argc - i) : take_word(&cl, argv[i]);

		if (used == 0)
			return TM_EXIT_USAGE;
		i += used;
	}
	status = run(&cl);
	tm_conn_close(cl.ctl.conn);
	free(cl.ctl.args);
	return tm_tool_flush(status);
}
