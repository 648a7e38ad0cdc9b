/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * proto.c - framing and messages of the control protocol
 *
 * Input is one growing buffer; `scanned` remembers how far no newline was found, so a line that
 * comes in byte by byte costs linear time:
 *
 *      in:   [0 ... in_start ... scanned ... in_end ... in_size]
 *             consumed | a line, perhaps whole | free
 *
 * Invariants
 *   1. in_end - in_start <= line_max + 1: memory is bounded whatever the peer sends.
 *   2. in_start <= scanned <= in_end <= in_size.
 *   3. At most one received descriptor is held; the others are closed on arrival.
 *
 * Locking: none; see proto.h.
 */
#include "core/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/util.h"

#define READ_CHUNK   4096u
#define FDS_PER_READ 4

struct tm_conn {
	int fd;
	size_t line_max, queue_max;

	char *in;
	size_t in_start, scanned, in_end, in_size;
	int in_fd; /* received, not yet taken; -1: none */

	char *out;
	size_t out_start, out_end, out_size;
	int out_fd; /* borrowed, goes with the byte at out_fd_at; -1: none */
	size_t out_fd_at;
};

const struct tm_error_desc tm_error_descs[TM_ERROR_COUNT] = {
#define TM_ERROR_DESC(id, word, help) [TM_ERROR_##id] = {word, help},
	TM_ERRORS(TM_ERROR_DESC)
#undef TM_ERROR_DESC
};

int tm_error_set(struct tm_error *error, enum tm_error_class class, const char *format, ...)
{
	va_list args;

	error->class = class;
	va_start(args, format);
	vsnprintf(error->desc, sizeof(error->desc), format, args);
	va_end(args);
	return -EINVAL;
}

char *tm_printable(char *ret_buf, size_t size, const char *text, size_t text_max)
{
	size_t i;

	for (i = 0; i + 1 < size && i < text_max && text[i]; i++)
		ret_buf[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	ret_buf[i] = '\0';
	return ret_buf;
}

/* --- messages --------------------------------------------------------------------------------- */

json_t *tm_proto_greeting(void)
{
	return json_pack("{s:{s:s,s:i,s:[]}}", "tmem", "version", TM_VERSION, "protocol",
		TM_PROTO_VERSION, "capabilities");
}

int tm_proto_greeting_version(const json_t *message)
{
	const json_t *version = json_object_get(json_object_get(message, "tmem"), "protocol");

	if (!json_is_integer(version) || json_integer_value(version) < 0 ||
		json_integer_value(version) > INT32_MAX)
		return -EPROTO;
	return (int)json_integer_value(version);
}

/* {key: body, "id": id}. Steals `body`. */
static json_t *message_new(const char *key, json_t *body, const json_t *id)
{
	json_t *message = json_object();

	if (!message || json_object_set_new(message, key, body) < 0 ||
		(id && json_object_set(message, "id", (json_t *)id) < 0)) {
		json_decref(message);
		return NULL;
	}
	return message;
}

json_t *tm_proto_request(const char *execute, json_t *arguments, json_t *id)
{
	json_t *message = message_new("execute", json_string(execute), id);

	if (!message)
		json_decref(arguments);
	else if (arguments && json_object_set_new(message, "arguments", arguments) < 0) {
		json_decref(message);
		message = NULL;
	}
	return message;
}

json_t *tm_proto_return(json_t *value, const json_t *id)
{
	return message_new("return", value ? value : json_object(), id);
}

json_t *tm_proto_error(const struct tm_error *error, const json_t *id)
{
	json_t *body = json_pack(
		"{s:s,s:s}", "class", tm_error_descs[error->class].word, "desc", error->desc);

	return message_new("error", body, id);
}

json_t *tm_proto_event(const char *event, json_t *data)
{
	json_t *message = message_new("event", json_string(event), NULL);

	if (!data)
		data = json_object();
	if (!message)
		json_decref(data);
	else if (json_object_set_new(message, "data", data) < 0) {
		json_decref(message);
		message = NULL;
	}
	return message;
}

int tm_proto_parse_request(json_t *message, struct tm_request *ret_request, struct tm_error *error)
{
	json_t *execute = json_object_get(message, "execute");
	json_t *arguments = json_object_get(message, "arguments");
	const char *key;
	json_t *value;
	char text[64];

	*ret_request = (struct tm_request){.id = json_object_get(message, "id")};
	json_object_foreach (message, key, value) {
		if (strcmp(key, "execute") && strcmp(key, "arguments") && strcmp(key, "id"))
			return tm_error_set(error, TM_ERROR_PROTOCOL, "unknown key '%s'",
				tm_printable(text, sizeof(text), key, SIZE_MAX));
	}
	if (!json_is_string(execute))
		return tm_error_set(error, TM_ERROR_PROTOCOL, "a request needs a string 'execute'");
	if (arguments && !json_is_object(arguments))
		return tm_error_set(error, TM_ERROR_PROTOCOL, "'arguments' is not an object");
	ret_request->execute = json_string_value(execute);
	ret_request->arguments = arguments;
	return 0;
}

/* --- connections ------------------------------------------------------------------------------ */

int tm_conn_open(int fd, size_t line_max, size_t queue_max, struct tm_conn **ret_conn)
{
	int flags = fcntl(fd, F_GETFL);
	struct tm_conn *conn;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	conn = calloc(1, sizeof(*conn));
	if (!conn) {
		close(fd);
		return -ENOMEM;
	}
	*conn = (struct tm_conn){
		.fd = fd, .line_max = line_max, .queue_max = queue_max, .in_fd = -1, .out_fd = -1};
	*ret_conn = conn;
	return 0;
}

int tm_conn_dial(const char *path, struct tm_conn **ret_conn)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	TM_AUTO_CLOSE int fd = -1;
	int owned;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	owned = fd;
	fd = -1;
	return tm_conn_open(owned, TM_PROTO_REPLY_MAX, TM_PROTO_LINE_MAX, ret_conn);
}

void tm_conn_close(struct tm_conn *conn)
{
	if (!conn)
		return;
	if (conn->in_fd >= 0)
		close(conn->in_fd);
	close(conn->fd);
	free(conn->in);
	free(conn->out);
	free(conn);
}

int tm_conn_fd(const struct tm_conn *conn)
{
	return conn->fd;
}

int tm_conn_take_fd(struct tm_conn *conn)
{
	int fd = conn->in_fd;

	conn->in_fd = -1;
	return fd;
}

size_t tm_conn_queued(const struct tm_conn *conn)
{
	return conn->out_end - conn->out_start;
}

/* Make `need` bytes free after *end, by moving the live bytes down or by growing. */
static int buffer_reserve(char **buf, size_t *start, size_t *end, size_t *size, size_t need)
{
	size_t live = *end - *start;

	if (*size - *end >= need)
		return 0;
	if (*start > 0) {
		memmove(*buf, *buf + *start, live);
		*start = 0;
		*end = live;
	}
	if (*size - *end < need) {
		size_t grown = TM_MAX(*size * 2, TM_ALIGN(*end + need, (size_t)READ_CHUNK));
		char *moved = realloc(*buf, grown);

		if (!moved)
			return -ENOMEM;
		*buf = moved;
		*size = grown;
	}
	return 0;
}

/* Give a large buffer back once it is empty: one long line must not cost memory for ever. */
static void buffer_trim(char **buf, size_t *start, size_t *end, size_t *size)
{
	if (*start != *end)
		return;
	*start = *end = 0;
	if (*size > 16 * READ_CHUNK) {
		free(*buf);
		*buf = NULL;
		*size = 0;
	}
}

/* Keep the first descriptor of a message, close the others. */
static void keep_fds(struct tm_conn *conn, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (conn->in_fd < 0)
				conn->in_fd = fd;
			else
				close(fd);
		}
	}
}

int tm_conn_fill(struct tm_conn *conn)
{
	size_t shift = conn->in_start;
	size_t room = conn->line_max + 1 - (conn->in_end - conn->in_start);
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FDS_PER_READ * sizeof(int))];
	} control;
	struct iovec iov;
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	ssize_t n;

	if (room == 0) /* a line too long; next() says so */
		return 0;
	if (buffer_reserve(&conn->in, &conn->in_start, &conn->in_end, &conn->in_size, READ_CHUNK) <
		0)
		return -ENOMEM;
	if (conn->in_start != shift)
		conn->scanned -= shift;

	iov.iov_base = conn->in + conn->in_end;
	iov.iov_len = TM_MIN(room, conn->in_size - conn->in_end);
	do
		n = recvmsg(conn->fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	keep_fds(conn, &msg);
	if (n == 0)
		return -EPIPE;
	conn->in_end += (size_t)n;
	return 0;
}

/* The end of the next whole line, or NULL. */
static char *find_newline(struct tm_conn *conn)
{
	char *newline = NULL;

	if (conn->scanned < conn->in_end)
		newline = memchr(conn->in + conn->scanned, '\n', conn->in_end - conn->scanned);
	conn->scanned = newline ? (size_t)(newline - conn->in) : conn->in_end;
	return newline;
}

bool tm_conn_has_line(struct tm_conn *conn)
{
	return find_newline(conn) != NULL;
}

int tm_conn_next(struct tm_conn *conn, json_t **ret_message)
{
	char *line, *newline = find_newline(conn);
	size_t length;
	json_t *message;

	if (!newline)
		return conn->in_end - conn->in_start > conn->line_max ? -EMSGSIZE : -EAGAIN;
	line = conn->in + conn->in_start;
	length = (size_t)(newline - line);
	message = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
	conn->in_start += length + 1;
	buffer_trim(&conn->in, &conn->in_start, &conn->in_end, &conn->in_size);
	conn->scanned = conn->in_start;

	if (!json_is_object(message)) {
		json_decref(message);
		return -EBADMSG;
	}
	*ret_message = message;
	return 0;
}

/* Append `message` and a newline to the queue. */
static int queue_append(struct tm_conn *conn, const json_t *message)
{
	TM_AUTO_FREE char *text = json_dumps(message, JSON_COMPACT);
	size_t length;

	if (!text)
		return -ENOMEM;
	length = strlen(text);
	text[length++] = '\n'; /* in the place of the NUL */
	if (tm_conn_queued(conn) + length > conn->queue_max)
		return -ENOBUFS;

	size_t shift = conn->out_start;

	if (buffer_reserve(&conn->out, &conn->out_start, &conn->out_end, &conn->out_size, length) <
		0)
		return -ENOMEM;
	if (conn->out_start != shift)
		conn->out_fd_at -= TM_MIN(shift, conn->out_fd_at);
	memcpy(conn->out + conn->out_end, text, length);
	conn->out_end += length;
	return 0;
}

int tm_conn_send(struct tm_conn *conn, json_t *message, int fd)
{
	size_t before = tm_conn_queued(conn);
	int rc = -ENOMEM;

	if (message)
		rc = fd >= 0 && conn->out_fd >= 0 ? -EBUSY : queue_append(conn, message);
	json_decref(message);
	if (rc < 0)
		return rc;
	if (fd >= 0) {
		conn->out_fd = fd;
		conn->out_fd_at = conn->out_start + before;
	}
	return tm_conn_flush(conn);
}

/* Write one piece of the queue: up to the byte that carries the descriptor, or from it on. */
static ssize_t send_piece(struct tm_conn *conn)
{
	bool with_fd = conn->out_fd >= 0 && conn->out_fd_at == conn->out_start;
	size_t end = conn->out_fd >= 0 && !with_fd ? conn->out_fd_at : conn->out_end;
	struct iovec iov = {conn->out + conn->out_start, end - conn->out_start};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = {0}};
	ssize_t n;

	if (with_fd) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &conn->out_fd, sizeof(int));
	}
	do
		n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n > 0 && with_fd)
		conn->out_fd = -1;
	return n < 0 ? -errno : n;
}

int tm_conn_flush(struct tm_conn *conn)
{
	while (tm_conn_queued(conn) > 0) {
		ssize_t n = send_piece(conn);

		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return n == -ECONNRESET ? -EPIPE : (int)n;
		conn->out_start += (size_t)n;
	}
	buffer_trim(&conn->out, &conn->out_start, &conn->out_end, &conn->out_size);
	return 0;
}

int tm_conn_receive(struct tm_conn *conn, int wake_fd, int timeout_ms, json_t **ret_message)
{
	uint64_t deadline = tm_now_ns() + (uint64_t)TM_MAX(timeout_ms, 0) * 1000000u;

	for (;;) {
		struct pollfd fds[] = {{conn->fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};
		uint64_t now = tm_now_ns();
		int left = timeout_ms, rc = tm_conn_next(conn, ret_message);

		if (rc != -EAGAIN)
			return rc;
		if (timeout_ms >= 0)
			left = now < deadline ? (int)((deadline - now + 999999u) / 1000000u) : 0;
		if (tm_conn_queued(conn) > 0)
			fds[0].events |= POLLOUT;
		rc = poll(fds, TM_ARRAY_SIZE(fds), left);
		if (rc < 0 && errno != EINTR)
			return -errno;
		if (rc == 0)
			return -ETIMEDOUT;
		if (rc < 0) /* a signal: the caller's handler may have made wake_fd readable */
			continue;
		if (fds[1].revents)
			return -ECANCELED;
		rc = fds[0].revents & POLLOUT ? tm_conn_flush(conn) : 0;
		if (rc == 0 && fds[0].revents & ~POLLOUT)
			rc = tm_conn_fill(conn);
		if (rc < 0 && rc != -EAGAIN)
			return rc;
	}
}
