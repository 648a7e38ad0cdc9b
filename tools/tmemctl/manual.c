/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * manual.c - the tables of tmem-protocol(7), from commands.def
 */
#include <stdio.h>

#include "core/proto.h"
#include "tools/common/schema.h"
#include "tools/tmemctl/ctl.h"

/* Text of the manual: a hyphen is a minus there, a backslash or a leading dot would be a command.
 */
static void print_text(const char *text)
{
	for (; *text; text++) {
		if (*text == '-')
			putchar('\\');
		putchar(*text);
	}
}

static void print_item(const char *name, const char *after, const char *help)
{
	printf(".TP\n.B ");
	print_text(name);
	printf("%s\n", after);
	print_text(help);
	printf(".\n");
}

int ctl_manual(void)
{
	printf(".SH COMMANDS\n");
	for (size_t i = 0; i < TM_COMMAND_COUNT; i++) {
		const struct tm_command_desc *c = &tm_command_descs[i];

		print_item(c->name, "", c->help);
		printf("By: %s.\n", tm_who_names[c->who]);
		for (const struct tm_arg_desc *a = c->args; a->name; a++) {
			printf(".br\n.I ");
			print_text(a->name);
			printf("\n(");
			print_text(tm_arg_type_names[a->type]);
			printf("%s): ", a->required ? "" : "; may be left out");
			print_text(a->help);
			printf("%s", a->values ? ": " : "");
			print_text(a->values ? a->values : "");
			printf(".\n");
		}
	}
	printf(".SH EVENTS\n");
	for (const struct tm_event_desc *e = tm_event_descs; e->name; e++)
		print_item(e->name, e->to_watchers ? " \\fR(to watchers)" : " \\fR(to clients)",
			e->help);
	printf(".SH ERRORS\n");
	for (size_t i = 0; i < TM_ERROR_COUNT; i++)
		print_item(tm_error_descs[i].word, "", tm_error_descs[i].help);
	return TM_EXIT_OK;
}
