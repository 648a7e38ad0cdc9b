/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * control.c - the subcommands of tmemctl that change something
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemctl/ctl.h"

/* Run a command whose result nobody looks at. */
static int call_quietly(struct ctl *ctl, const char *execute, json_t *arguments)
{
	json_t *result;
	int status = ctl_call(ctl, execute, arguments, &result);

	if (status == TM_EXIT_OK)
		json_decref(result);
	return status;
}

int ctl_freeze(struct ctl *ctl)
{
	return call_quietly(ctl, "freeze", ctl_client_arguments(ctl, 0));
}

int ctl_thaw(struct ctl *ctl)
{
	return call_quietly(ctl, "thaw", ctl_client_arguments(ctl, 0));
}

int ctl_flush(struct ctl *ctl)
{
	char text[TM_SIZE_TEXT_MAX];
	json_t *arguments, *result;
	uint64_t bytes, unanswered;
	int status;

	if (tm_size_parse(ctl->args[0], &bytes) < 0)
		return tm_tool_usage("flush: '%s' is no size", ctl->args[0]);
	arguments = ctl_client_arguments(ctl, 1);
	json_object_set_new(arguments, "bytes", json_integer((json_int_t)bytes));
	status = ctl_call(ctl, "flush", arguments, &result);
	if (status != TM_EXIT_OK)
		return status;
	printf("released %s\n", tm_size_format(tm_tool_number(result, "released_bytes"), text));
	unanswered = tm_tool_number(result, "unanswered_clients");
	if (unanswered > 0) {
		tm_tool_complain("%llu client%s did not answer", (unsigned long long)unanswered,
			unanswered == 1 ? "" : "s");
		status = TM_EXIT_FAILED;
	}
	json_decref(result);
	return status;
}

/* Put one "key=value" into the arguments of set. 0; -EINVAL. */
static int set_attribute(json_t *arguments, const char *text)
{
	const char *value = strchr(text, '=');
	size_t length = value ? (size_t)(value++ - text) : 0;
	uint64_t number;
	char *end;

	if (length == strlen("weight") && strncmp(text, "weight", length) == 0) {
		number = strtoul(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || number > INT32_MAX)
			return -EINVAL;
		return json_object_set_new(arguments, "weight", json_integer((json_int_t)number));
	}
	if (length == strlen("cap") && strncmp(text, "cap", length) == 0) {
		if (strcmp(value, "none") == 0)
			return json_object_set_new(arguments, "cap", json_null());
		if (tm_size_parse(value, &number) < 0)
			return -EINVAL;
		return json_object_set_new(arguments, "cap", json_integer((json_int_t)number));
	}
	if (length == strlen("compress") && strncmp(text, "compress", length) == 0 &&
		(strcmp(value, "lz4") == 0 || strcmp(value, "none") == 0))
		return json_object_set_new(arguments, "compress", json_string(value));
	if (length == strlen("recompress") && strncmp(text, "recompress", length) == 0 &&
		(strcmp(value, "on") == 0 || strcmp(value, "off") == 0))
		return json_object_set_new(
			arguments, "recompress", json_boolean(strcmp(value, "on") == 0));
	return -EINVAL;
}

/* set HOST policy=NAME. The host knows the names. */
static int set_policy(struct ctl *ctl, const char *name)
{
	if (strcmp(ctl->args[0], "HOST") != 0)
		return tm_tool_usage("set: the policy is the host's: set HOST policy=%s", name);
	if (ctl->count > 2)
		return tm_tool_usage("set: HOST has a policy and nothing else");
	return call_quietly(ctl, "set", json_pack("{s:s}", "policy", name));
}

int ctl_set(struct ctl *ctl)
{
	json_t *arguments;

	for (int i = 1; i < ctl->count; i++)
		if (strncmp(ctl->args[i], "policy=", strlen("policy=")) == 0)
			return set_policy(ctl, ctl->args[i] + strlen("policy="));
	arguments = ctl_client_arguments(ctl, 0);

	for (int i = 1; i < ctl->count; i++) {
		if (set_attribute(arguments, ctl->args[i]) < 0) {
			json_decref(arguments);
			return tm_tool_usage(
				"set: '%s' is no weight=N, cap=SIZE, cap=none, "
				"compress=lz4, compress=none, recompress=on or recompress=off",
				ctl->args[i]);
		}
	}
	return call_quietly(ctl, "set", arguments);
}

int ctl_destroy(struct ctl *ctl)
{
	json_t *arguments = ctl_client_arguments(ctl, 0), *result;
	int status;

	json_object_set_new(arguments, "force", json_boolean(ctl->force));
	status = ctl_call(ctl, "destroy", arguments, &result);
	if (status != TM_EXIT_OK)
		return status;
	if (!json_is_true(json_object_get(result, "destroyed"))) {
		tm_tool_complain("client '%s' does not answer; it will drop its pools when it does",
			ctl->args[0]);
		status = TM_EXIT_FAILED;
	}
	json_decref(result);
	return status;
}
