/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tool.c - what tmemctl and tmemstat have in common
 *
 * The one place where errors of the connection and error objects of the host become exit statuses.
 */
#include "tools/common/tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"

/* The host gives up on its clients after 2 s; one that says nothing for so long is stuck itself. */
#define ANSWER_TIMEOUT_MS 10000

static void complain(const char *format, va_list args)
{
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
}

void tm_tool_complain(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args);
	va_end(args);
}

int tm_tool_usage(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args);
	va_end(args);
	fprintf(stderr, "try '%s --help'\n", program_invocation_short_name);
	return TM_EXIT_USAGE;
}

/* Say what an error object says. */
static int refused(const json_t *error)
{
	const char *class = tm_tool_string(error, "class");

	tm_tool_complain("%s", tm_tool_string(error, "desc"));
	if (strcmp(class, tm_error_descs[TM_ERROR_NO_CLIENT].word) == 0 ||
		strcmp(class, tm_error_descs[TM_ERROR_AMBIGUOUS].word) == 0)
		return TM_EXIT_NO_CLIENT;
	return TM_EXIT_FAILED;
}

/* Say why a message did not come. */
static int silent(int rc)
{
	if (rc == -EPIPE) {
		tm_tool_complain("tmemd has gone away");
		return TM_EXIT_NO_HOST;
	}
	if (rc == -ETIMEDOUT)
		tm_tool_complain("tmemd does not answer");
	else
		tm_tool_complain("tmemd cannot be understood: %s", strerror(-rc));
	return TM_EXIT_FAILED;
}

static int read_greeting(struct tm_conn *conn)
{
	json_t *message;
	const json_t *error;
	int status = TM_EXIT_OK;
	int rc = tm_conn_receive(conn, -1, ANSWER_TIMEOUT_MS, &message);

	if (rc < 0)
		return silent(rc);
	error = json_object_get(message, "error");
	rc = tm_proto_greeting_version(message);
	if (error) {
		status = refused(error);
	} else if (rc < 0) {
		tm_tool_complain("what answers on the socket is no tmemd");
		status = TM_EXIT_FAILED;
	} else if (rc != TM_PROTO_VERSION) {
		tm_tool_complain("tmemd speaks protocol %d, this program %d", rc, TM_PROTO_VERSION);
		status = TM_EXIT_FAILED;
	}
	json_decref(message);
	return status;
}

int tm_tool_connect(const char *socket, struct tm_conn **ret_conn)
{
	TM_AUTO_FREE char *path = tm_socket_path(socket);
	struct tm_conn *conn = NULL;
	int status, rc = path ? tm_conn_dial(path, &conn) : -ENOMEM;

	if (rc == -ENOENT || rc == -ECONNREFUSED) {
		tm_tool_complain("no tmemd on %s", path);
		return TM_EXIT_NO_HOST;
	}
	if (rc < 0) {
		tm_tool_complain("%s: %s", path ? path : "socket", strerror(-rc));
		return TM_EXIT_FAILED;
	}
	status = read_greeting(conn);
	if (status == TM_EXIT_OK)
		*ret_conn = conn;
	else
		tm_conn_close(conn);
	return status;
}

int tm_tool_send(struct tm_conn *conn, const char *execute, json_t *arguments, int fd)
{
	int rc = tm_conn_send(conn, tm_proto_request(execute, arguments, NULL), fd);

	return rc < 0 ? silent(rc) : TM_EXIT_OK;
}

int tm_tool_reply(struct tm_conn *conn, int wake_fd, json_t **ret_result)
{
	json_t *message, *result;
	int status = TM_EXIT_OK;
	int rc = tm_conn_receive(conn, wake_fd, ANSWER_TIMEOUT_MS, &message);

	if (rc == -ECANCELED)
		return rc;
	if (rc < 0)
		return silent(rc);
	result = json_object_get(message, "return");
	if (result)
		*ret_result = json_incref(result);
	else
		status = refused(json_object_get(message, "error"));
	json_decref(message);
	return status;
}

int tm_tool_call_until(struct tm_conn *conn, int wake_fd, const char *execute, json_t *arguments,
	json_t **ret_result)
{
	int status = tm_tool_send(conn, execute, arguments, -1);

	return status == TM_EXIT_OK ? tm_tool_reply(conn, wake_fd, ret_result) : status;
}

int tm_tool_call(struct tm_conn *conn, const char *execute, json_t *arguments, json_t **ret_result)
{
	return tm_tool_call_until(conn, -1, execute, arguments, ret_result);
}

int tm_tool_receive(struct tm_conn *conn, json_t **ret_message)
{
	int rc = tm_conn_receive(conn, -1, -1, ret_message);

	return rc < 0 ? silent(rc) : TM_EXIT_OK;
}

void tm_tool_print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_COMPACT);
	putchar('\n');
}

int tm_tool_flush(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (errno != EPIPE)
		tm_tool_complain("standard output: %s", strerror(errno));
	return TM_EXIT_FAILED;
}

uint64_t tm_tool_number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

const char *tm_tool_string(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

const char *tm_tool_ratio(double part, double whole, char buf[static TM_CELL_MAX])
{
	double ratio = whole > 0 ? part / whole : 0;

	if (whole > 0)
		snprintf(buf, TM_CELL_MAX, "%.*f",
			ratio < 9.995           ? 2
				: ratio < 99.95 ? 1
						: 0,
			ratio);
	else
		strcpy(buf, "-");
	return buf;
}
