/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * share_join.c - tm_open_shared(): through the host's door to a shared pool
 *
 * The door is a second socket of the host, beside the one for those who manage it: anybody may
 * knock there, and ask for one thing.
 *
 *      host    greeting, or an error: this user has been let in to nothing
 *      peer    {"execute":"share","arguments":{"uuid":"..."}}
 *      host    {"return":{}} with the descriptor of a socket to the pool's server
 *
 * Locking: none; the remote calls from one thread at a time.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/un.h>

#include "core/host_start.h"
#include "core/proto.h"
#include "core/remote.h"
#include "core/util.h"

#define REPLY_TIMEOUT_MS 10000
#define KNOCKS           50 /* at a door whose queue is full, or that opens just now */
#define KNOCK_PAUSE_MS   100

struct door {
	char *socket, *path; /* of the host; of the door */
	bool start_host;
};

/* What a message that is no success means. */
static int refusal(const json_t *message)
{
	const char *class =
		json_string_value(json_object_get(json_object_get(message, "error"), "class"));

	if (class && strcmp(class, tm_error_descs[TM_ERROR_PERMISSION].word) == 0)
		return -EACCES;
	return class && strcmp(class, tm_error_descs[TM_ERROR_BUSY].word) == 0 ? -EAGAIN : -EPROTO;
}

static int ask(struct tm_conn *conn, const struct tm_uuid *uuid, int stop_fd, int *ret_fd)
{
	char text[TM_UUID_TEXT_MAX];
	json_t *message;
	int rc = tm_conn_receive(conn, stop_fd, REPLY_TIMEOUT_MS, &message);

	if (rc < 0)
		return rc;
	if (!json_object_get(message, "tmem"))
		rc = refusal(message);
	else if (tm_proto_greeting_version(message) != TM_PROTO_VERSION)
		rc = -EPROTO;
	json_decref(message);
	if (rc == 0)
		rc = tm_conn_send(conn,
			tm_proto_request("share",
				json_pack("{s:s}", "uuid", tm_uuid_format(uuid, text)), NULL),
			-1);
	if (rc == 0)
		rc = tm_conn_receive(conn, stop_fd, REPLY_TIMEOUT_MS, &message);
	if (rc < 0)
		return rc;
	*ret_fd = tm_conn_take_fd(conn);
	if (!json_object_get(message, "return"))
		rc = refusal(message);
	else if (*ret_fd < 0)
		rc = -EPROTO;
	json_decref(message);
	if (rc < 0 && *ret_fd >= 0)
		close(*ret_fd);
	return rc;
}

/* Connect, and start the host if that is why it fails. */
static int dial(struct door *door, int stop_fd, struct tm_conn **ret_conn)
{
	struct pollfd stop = {stop_fd, POLLIN, 0};
	bool started = false;
	int rc = -EAGAIN;

	for (int i = 0; i < KNOCKS; i++) {
		rc = tm_conn_dial(door->path, ret_conn);
		if ((rc == -ENOENT || rc == -ECONNREFUSED) && door->start_host && !started) {
			started = true;
			rc = tm_host_start(door->socket, stop_fd);
			if (rc < 0)
				return rc;
			rc = tm_conn_dial(door->path, ret_conn);
		}
		if (rc != -EAGAIN)
			return rc;
		if (poll(&stop, 1, KNOCK_PAUSE_MS) > 0)
			return -ECANCELED;
	}
	return rc;
}

static int door_join(void *opaque, const struct tm_uuid *uuid, int stop_fd, int *ret_fd)
{
	struct tm_conn *conn;
	int rc = dial(opaque, stop_fd, &conn), fd;

	if (rc < 0)
		return rc;
	rc = ask(conn, uuid, stop_fd, &fd);
	tm_conn_close(conn);
	/* Closed without a word: it ended, or had no room. */
	if (rc < 0)
		return rc == -EPIPE ? -EAGAIN : rc;
	*ret_fd = fd;
	return 0;
}

static void door_close(void *opaque)
{
	struct door *door = opaque;

	free(door->socket);
	free(door->path);
	free(door);
}

int tm_open_shared(const struct tm_shared_params *params, struct tmem **ret_tmem)
{
	struct door *door = calloc(1, sizeof(*door));
	struct tm_remote_params remote = {
		.join = door_join,
		.close = door_close,
		.opaque = door,
		.patience_ms = TM_SHARE_PATIENCE_MS,
		.on_destroyed = params->on_destroyed,
		.destroyed_opaque = params->opaque,
	};
	int rc = -ENOMEM;

	if (!door)
		return -ENOMEM;
	door->start_host = params->start_host;
	door->socket = tm_socket_path(params->socket);
	if (door->socket) {
		door->path = malloc(strlen(door->socket) + sizeof(TM_PROTO_DOOR));
		if (door->path)
			strcat(strcpy(door->path, door->socket), TM_PROTO_DOOR);
	}
	if (door->path && strcmp(door->socket, "none") == 0)
		rc = -EINVAL;
	else if (door->path && strlen(door->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		rc = -ENAMETOOLONG;
	else if (door->path)
		rc = tm_remote_open(&remote, ret_tmem);
	if (rc < 0)
		door_close(door);
	return rc;
}
