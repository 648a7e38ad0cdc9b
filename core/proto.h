/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * proto.h - the control protocol: JSON objects, one a line, over a Unix socket
 *
 * tmemd, the link of every client and the tools all speak through this file. After QEMU's QMP:
 *
 *      host   {"tmem":{"version":"0.1","protocol":1,"capabilities":[]}}     greeting, once
 *      peer   {"execute":"list","arguments":{},"id":1}                      request
 *      host   {"return":{...},"id":1}                                       reply, in order
 *      host   {"error":{"class":"NoSuchClient","desc":"..."},"id":1}
 *      host   {"event":"shrink","data":{}}                                  to clients, any time
 *
 * A `struct tm_conn` is one end of one connection: a nonblocking socket, the bytes read but not yet
 * parsed, the bytes queued but not yet written, and at most one descriptor each way.
 *
 * Thread safety: a connection belongs to one thread at a time; everything else here is pure.
 */
#ifndef TM_PROTO_H
#define TM_PROTO_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define TM_PROTO_VERSION   1
#define TM_PROTO_LINE_MAX  (1u << 20)  /* bytes of a line the host or a client takes */
#define TM_PROTO_REPLY_MAX (16u << 20) /* bytes of a reply: a list of every client and pool */
#define TM_PROTO_TEXT_MAX  192         /* bytes of an error's desc, with the NUL */
#define TM_PROTO_DOOR      ".share"    /* after the control socket's path: where sharers knock */

/* Error classes: stable words for programs; the desc beside them is for people. */
#define TM_ERRORS(X)                                                                               \
	X(PROTOCOL, "ProtocolError", "the line is no request of this protocol")                    \
	X(VERSION, "WrongVersion", "the peer speaks another version of the protocol")              \
	X(NOT_FOUND, "CommandNotFound", "there is no such command")                                \
	X(PARAMETER, "InvalidParameter", "an argument is missing, unknown, or no value it takes")  \
	X(NO_CLIENT, "NoSuchClient", "no client has this id or name")                              \
	X(AMBIGUOUS, "AmbiguousClient", "more than one client has this name; use the id")          \
	X(PERMISSION, "NotPermitted", "the peer may not do this, or not without force")            \
	X(BUSY, "Busy", "a limit on clients or connections is reached")                            \
	X(MEMORY, "NoMemory", "the host could not get memory for this request")                    \
	X(TRANSFER, "NotTransferred", "a save or restore failed; nothing has changed")

enum tm_error_class {
#define TM_ERROR_ENUM(id, word, help) TM_ERROR_##id,
	TM_ERRORS(TM_ERROR_ENUM)
#undef TM_ERROR_ENUM
	TM_ERROR_COUNT
};

struct tm_error_desc {
	const char *word;
	const char *help;
};

/* Indexed by enum tm_error_class. Constant. */
extern const struct tm_error_desc tm_error_descs[TM_ERROR_COUNT];

struct tm_error {
	enum tm_error_class class;
	char desc[TM_PROTO_TEXT_MAX];
};

/* Fill `error` and return -EINVAL, so that a check can `return tm_error_set(...)`. Text that came
 * from a peer goes through tm_printable() first. */
int tm_error_set(struct tm_error *error, enum tm_error_class class, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Copy at most `size` - 1 bytes of `text`, every byte outside printable ASCII as '?'. Returns
 * `ret_buf`. `text` needs no NUL within `text_max` bytes. */
char *tm_printable(char *ret_buf, size_t size, const char *text, size_t text_max);

/* --- messages ---------------------------------------------------------------------------------
 * Each builder returns a new reference, or NULL without memory. They steal `arguments`, `value` and
 * `data` (NULL stands for {}) and borrow `id` (NULL: none). */
json_t *tm_proto_greeting(void);
json_t *tm_proto_request(const char *execute, json_t *arguments, json_t *id);
json_t *tm_proto_return(json_t *value, const json_t *id);
json_t *tm_proto_error(const struct tm_error *error, const json_t *id);
json_t *tm_proto_event(const char *event, json_t *data);

struct tm_request {
	const char *execute;
	json_t *arguments; /* an object, or NULL */
	json_t *id;        /* any value, or NULL */
};

/* Read a message as a request; the result borrows from `message`. 0; -EINVAL with *error set: no
 * `execute`, arguments that are no object, or an unknown key. ret_request->id is set either way. */
int tm_proto_parse_request(json_t *message, struct tm_request *ret_request, struct tm_error *error);

/* The protocol version in a greeting, or -EPROTO when `message` is none. */
int tm_proto_greeting_version(const json_t *message);

/* --- connections ----------------------------------------------------------------------------- */
struct tm_conn;

/* Wrap a connected stream socket, which becomes nonblocking and belongs to the connection (also
 * on failure). No line read may exceed `line_max` bytes, nor may the bytes queued exceed
 * `queue_max`. 0; -ENOMEM; errno of fcntl. */
int tm_conn_open(int fd, size_t line_max, size_t queue_max, struct tm_conn **ret_conn);

/* Connect to the Unix socket `path` and wrap it as a peer of the host. Never blocks. 0;
 * -ENAMETOOLONG; -ENOENT, -ECONNREFUSED nobody there; -EAGAIN its backlog is full; -errno. */
int tm_conn_dial(const char *path, struct tm_conn **ret_conn);

/* NULL is allowed. */
void tm_conn_close(struct tm_conn *conn);

int tm_conn_fd(const struct tm_conn *conn);

/* Read what has arrived, as far as there is room for it. 0; -EAGAIN nothing new; -EPIPE the peer
 * closed; -ENOMEM; -errno. */
int tm_conn_fill(struct tm_conn *conn);

/* Will the next call of tm_conn_next() take a line? */
bool tm_conn_has_line(struct tm_conn *conn);

/* Take the next whole line as a message, which the caller owns. 0; -EAGAIN none yet; -EBADMSG a
 * line that is no JSON object (it is consumed, the next one is fine); -EMSGSIZE a line longer than
 * line_max (the connection is of no use any more). */
int tm_conn_next(struct tm_conn *conn, json_t **ret_message);

/* The descriptor that came with the bytes read so far, or -1. The caller owns it. */
int tm_conn_take_fd(struct tm_conn *conn);

/* Queue a message and write what the socket takes. Steals `message`; NULL is -ENOMEM. `fd` (or -1)
 * goes with its first byte; it is borrowed until the queue is empty. 0, also when bytes are left;
 * -ENOBUFS queue_max reached, nothing queued; -EBUSY another fd is still queued; -EPIPE; -errno. */
int tm_conn_send(struct tm_conn *conn, json_t *message, int fd);

/* Write queued bytes. 0; -EPIPE the peer is gone; -errno. */
int tm_conn_flush(struct tm_conn *conn);

/* Bytes still queued. */
size_t tm_conn_queued(const struct tm_conn *conn);

/* Block until a message arrives, writing what is queued meanwhile. 0; -ECANCELED `wake_fd` (or -1)
 * became readable; -ETIMEDOUT after `timeout_ms` (-1: never); else as fill and next. */
int tm_conn_receive(struct tm_conn *conn, int wake_fd, int timeout_ms, json_t **ret_message);

#endif
