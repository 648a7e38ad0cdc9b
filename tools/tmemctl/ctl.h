/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl.h - what the subcommands of tmemctl get and give
 */
#ifndef TM_CTL_H
#define TM_CTL_H

#include <limits.h>
#include <stdbool.h>

#include "tools/common/tool.h"

#define CTL_ARGS_ANY INT_MAX /* max_args: as many as there are */

struct ctl {
	const char *socket;   /* NULL: the default one */
	struct tm_conn *conn; /* NULL until ctl_call() */
	bool json, force;     /* --json, --force, where the subcommand takes them */
	bool live, hold;      /* --live, --hold: of save */
	const char **args;    /* its arguments; ends with NULL */
	int count;
};

struct ctl_command {
	const char *name;
	const char *synopsis; /* after the name */
	const char *help;     /* one line for the list; NULL: that of commands.def */
	const char *text;     /* more for `tmemctl help NAME`; "" for none */
	bool takes_json, takes_force;
	int min_args, max_args;
	int (*run)(struct ctl *ctl); /* returns an exit status */
};

/* Ends with a NULL name. */
extern const struct ctl_command ctl_commands[];

/* The command called `name`, or NULL. */
const struct ctl_command *ctl_find(const char *name);

/* Run a command of the host, connecting first. As tm_tool_call(). */
int ctl_call(struct ctl *ctl, const char *execute, json_t *arguments, json_t **ret_result);

/* {"client": args[index]}, or {} when there is none. */
json_t *ctl_client_arguments(const struct ctl *ctl, int index);

int ctl_list(struct ctl *ctl);
int ctl_freeze(struct ctl *ctl);
int ctl_thaw(struct ctl *ctl);
int ctl_freeable(struct ctl *ctl);
int ctl_flush(struct ctl *ctl);
int ctl_policy(struct ctl *ctl);
int ctl_set(struct ctl *ctl);
int ctl_destroy(struct ctl *ctl);
int ctl_save(struct ctl *ctl);
int ctl_restore(struct ctl *ctl);
int ctl_watch(struct ctl *ctl);
int ctl_shared_auth(struct ctl *ctl);
int ctl_warm(struct ctl *ctl);
int ctl_pin(struct ctl *ctl);
int ctl_unpin(struct ctl *ctl);
int ctl_pinned(struct ctl *ctl);
int ctl_help(struct ctl *ctl);

/* Print what may come after these words of a command line, one a line. For the shells. */
int ctl_complete(const char *const *words, int count);

/* Print the tables of tmem-protocol(7), as they have to be there. */
int ctl_manual(void);

#endif
