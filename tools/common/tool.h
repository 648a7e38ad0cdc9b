/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tool.h - what tmemctl and tmemstat have in common: exit statuses, talking to the host, output
 */
#ifndef TM_TOOL_H
#define TM_TOOL_H

#include <stdint.h>

#include "core/proto.h"

enum tm_exit {
	TM_EXIT_OK,
	TM_EXIT_FAILED,
	TM_EXIT_USAGE,
	TM_EXIT_NO_HOST,   /* nobody serves the socket */
	TM_EXIT_NO_CLIENT, /* the host knows no such client, or client no such pool */
};

/* One line on standard error, after the program's name. */
void tm_tool_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, then where to find help. Returns TM_EXIT_USAGE. */
int tm_tool_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Connect to the host on `socket` (NULL: the default one) and read its greeting. TM_EXIT_OK and
 * *ret_conn, or another status after a line on standard error. */
int tm_tool_connect(const char *socket, struct tm_conn **ret_conn);

/* Run a command of the host (`arguments` is stolen, may be NULL) and wait for its result, which the
 * caller owns. TM_EXIT_OK, or another status after a line on standard error. */
int tm_tool_call(struct tm_conn *conn, const char *execute, json_t *arguments, json_t **ret_result);

/* The two halves of tm_tool_call: send a request, with a descriptor (borrowed) or -1, and wait for
 * the reply. */
int tm_tool_send(struct tm_conn *conn, const char *execute, json_t *arguments, int fd);
int tm_tool_reply(struct tm_conn *conn, int wake_fd, json_t **ret_result);

/* As tm_tool_call, but gives up with -ECANCELED when `wake_fd` becomes readable. */
int tm_tool_call_until(struct tm_conn *conn, int wake_fd, const char *execute, json_t *arguments,
	json_t **ret_result);

/* Wait for the next message, however long; the caller owns it. TM_EXIT_OK, or another status after
 * a line on standard error. */
int tm_tool_receive(struct tm_conn *conn, json_t **ret_message);

/* Print `value` on one line, keys in the order they came. */
void tm_tool_print_json(const json_t *value);

/* Write out what standard output holds. `status`, or TM_EXIT_FAILED after a line on standard error;
 * a reader that has gone away is not worth a line. */
int tm_tool_flush(int status);

/* A number of a JSON object; 0 when it is not there. */
uint64_t tm_tool_number(const json_t *object, const char *key);

/* A string of a JSON object; "-" when it is not there. */
const char *tm_tool_string(const json_t *object, const char *key);

/* Text for a cell: three significant digits, K/M/G of 1024. */
#define TM_CELL_MAX 24

/* part / whole as "12.3", "-" when there is no whole. Returns `buf`. */
const char *tm_tool_ratio(double part, double whole, char buf[static TM_CELL_MAX]);

#endif
