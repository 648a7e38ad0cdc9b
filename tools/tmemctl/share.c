/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * share.c - tmemctl shared-auth: who may join which shared pool
 */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemctl/ctl.h"

/* A user's name or number. 0; -EINVAL. */
static int parse_user(const char *text, json_int_t *ret_uid)
{
	const struct passwd *pw;

	if (*text && strspn(text, "0123456789") == strlen(text)) {
		errno = 0;
		*ret_uid = strtoll(text, NULL, 10);
		return errno ? -EINVAL : 0;
	}
	pw = getpwnam(text);
	if (!pw)
		return -EINVAL;
	*ret_uid = pw->pw_uid;
	return 0;
}

static int list(struct ctl *ctl)
{
	const json_t *auth;
	json_t *result;
	size_t i;
	int status = ctl_call(ctl, "shared-auth", json_pack("{s:s}", "action", "list"), &result);

	if (status != TM_EXIT_OK)
		return status;
	if (ctl->json) {
		tm_tool_print_json(result);
	} else {
		json_array_foreach (json_object_get(result, "auths"), i, auth) {
			uid_t uid = (uid_t)tm_tool_number(auth, "uid");
			const struct passwd *pw = getpwuid(uid);

			printf("%s %u%s%s\n", tm_tool_string(auth, "uuid"), (unsigned int)uid,
				pw ? " " : "", pw ? pw->pw_name : "");
		}
	}
	json_decref(result);
	return status;
}

int ctl_shared_auth(struct ctl *ctl)
{
	const char *action = ctl->args[0];
	json_int_t uid;
	json_t *result;
	int status;

	if (strcmp(action, "list") == 0)
		return ctl->count == 1 ? list(ctl)
				       : tm_tool_usage("shared-auth: list takes no argument");
	if (strcmp(action, "add") != 0 && strcmp(action, "remove") != 0)
		return tm_tool_usage("shared-auth: '%s' is none of add, remove, list", action);
	if (ctl->count != 3)
		return tm_tool_usage("shared-auth: %s needs UUID and USER", action);
	if (parse_user(ctl->args[2], &uid) < 0)
		return tm_tool_usage("shared-auth: there is no user '%s'", ctl->args[2]);
	status = ctl_call(ctl, "shared-auth",
		json_pack("{s:s,s:s,s:I}", "action", action, "uuid", ctl->args[1], "uid", uid),
		&result);
	if (status == TM_EXIT_OK)
		json_decref(result);
	return status;
}
