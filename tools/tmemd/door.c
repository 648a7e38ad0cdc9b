/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * door.c - the way to shared pools
 *
 *      DIR/control.sock.share   0666, the door: anybody may knock, and ask for one thing
 *      DIR/control.sock.UUID    0600, where the server of that pool waits for us
 *      DIR/control.sock.auth    0600, who was let in by command
 *
 *      guest: accept -> is its user known here? -> greeting -> {"execute":"share"} -> may it join
 * that pool? -> one end of a socketpair sharer: the other end, until the pool's server has joined
 * as a client -> event to it
 *
 * Invariants
 *   1. Nothing is read from, or started for, a user who is let in to no pool.
 *   2. A guest has GUEST_NS for all it wants, GUESTS_MAX are here at once, and one line is all that
 * is kept of what it says.
 *   3. A server is called once: while it is being started or has not joined yet, an entry among the
 *      sharers says so.
 *   4. Only sockets of our own user are connected to or removed.
 *
 * Locking: none; tmemd has one thread.
 */
#include "tools/tmemd/door.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/util.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/pool_main.h"
#include "tools/tmemd/pool_start.h"
#include "tools/tmemd/session.h"

#define GUESTS_MAX  32
#define SHARERS_MAX 64 /* that wait for a server; and servers that wait for us */
#define LINE_MAX_   1024
#define REPLY_MAX   4096
#define GUEST_NS    10000000000ull
#define SERVER_NS   10000000000ull
#define BACKLOG     128
#define DEAF_NS     1000000000ull /* out of descriptors: how long not to look at the door */
#define AUTH_FILE   ".auth"

struct guest {
	struct tm_conn *conn; /* NULL: free */
	uid_t uid;
	uint64_t deadline_ns;
	int fd;    /* what goes with the reply that is queued; -1: none */
	bool done; /* that was its last */
};

/* Somebody on the way to a server, or (fd -1) a server on its way to us. */
struct sharer {
	struct tm_uuid uuid;
	uid_t uid;
	int fd;
	uint64_t deadline_ns; /* 0: free */
};

struct tm_door {
	struct tm_host *host;
	struct tm_auths auths;
	char *name, *auth_name; /* of the control socket and of the file, in dir_fd */
	int dir_fd, fd, epoll_fd;
	struct guest guests[GUESTS_MAX];
	struct sharer sharers[SHARERS_MAX];
	int servers[SHARERS_MAX]; /* to be taken by tm_door_next_server() */
	size_t server_count;
	uint64_t deaf_until_ns; /* 0: the door is listened at */
};

/* --- servers ---------------------------------------------------------------------------------- */

/* The server of a pool as a client, once it has joined. */
static struct tm_client *find_server(struct tm_door *door, const struct tm_uuid *uuid)
{
	char name[TM_UUID_TEXT_MAX];

	tm_uuid_format(uuid, name);
	for (struct tm_client *c = NULL; (c = tm_registry_next(door->host->registry, c));)
		if (c->session && strcmp(c->type, TM_POOL_TYPE) == 0 && strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static bool is_called(const struct tm_door *door, const struct tm_uuid *uuid)
{
	for (size_t i = 0; i < SHARERS_MAX; i++)
		if (door->sharers[i].deadline_ns && door->sharers[i].uuid.lo == uuid->lo &&
			door->sharers[i].uuid.hi == uuid->hi)
			return true;
	return false;
}

/* Note who is on the way; fd -1 for the server itself. 0; -ENOSPC. */
static int add_sharer(struct tm_door *door, const struct tm_uuid *uuid, uid_t uid, int fd)
{
	for (size_t i = 0; i < SHARERS_MAX; i++) {
		struct sharer *s = &door->sharers[i];

		if (s->deadline_ns)
			continue;
		*s = (struct sharer){*uuid, uid, fd, tm_now_ns() + SERVER_NS};
		return 0;
	}
	return -ENOSPC;
}

/* Call a pool's server, if there is none yet start one where `start` says so. */
static int call_server(struct tm_door *door, const struct tm_uuid *uuid, bool start)
{
	int fd, rc;

	if (find_server(door, uuid) || is_called(door, uuid))
		return 0;
	if (door->server_count == SHARERS_MAX)
		return -EAGAIN;
	rc = tm_pool_call(door->dir_fd, door->name, uuid, start ? door->host->launch : NULL, &fd);
	if (rc < 0)
		return rc;
	rc = add_sharer(door, uuid, 0, -1);
	if (rc < 0)
		close(fd);
	else
		door->servers[door->server_count++] = fd;
	return rc;
}

int tm_door_next_server(struct tm_door *door)
{
	return door->server_count > 0 ? door->servers[--door->server_count] : -1;
}

/* Those that an earlier tmemd has left. */
static void call_all(struct tm_door *door)
{
	int fd = openat(door->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	size_t length = strlen(door->name);
	const struct dirent *entry;
	struct tm_uuid uuid;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(dir)))
		if (strncmp(entry->d_name, door->name, length) == 0 &&
			entry->d_name[length] == '.' &&
			tm_uuid_parse(entry->d_name + length + 1, &uuid) == 0)
			(void)call_server(door, &uuid, false);
	closedir(dir);
}

/* --- guests ----------------------------------------------------------------------------------- */

static void guest_end(struct guest *g)
{
	tm_conn_close(g->conn);
	if (g->fd >= 0)
		close(g->fd);
	*g = (struct guest){.fd = -1};
}

/* Send the last message; steals it. */
static void guest_answer(struct guest *g, json_t *message)
{
	g->done = true;
	if (tm_conn_send(g->conn, message, g->fd) < 0 || tm_conn_queued(g->conn) == 0)
		guest_end(g);
}

static void guest_refuse(struct guest *g, const struct tm_error *error)
{
	guest_answer(g, tm_proto_error(error, NULL));
}

static const char *why_not(const struct tm_door *door, int rc)
{
	if (rc == -EPIPE || !door->host->launch)
		return "tmemd has no launcher any more, and has to be started again";
	return strerror(-rc);
}

/* Let a guest that may into a pool. 0; -EINVAL with *error set. */
static int let_in(
	struct tm_door *door, struct guest *g, const struct tm_uuid *uuid, struct tm_error *error)
{
	int ends[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return tm_error_set(error, TM_ERROR_BUSY, "%s", strerror(errno));
	rc = call_server(door, uuid, true);
	if (rc == 0)
		rc = add_sharer(door, uuid, g->uid, ends[1]);
	if (rc < 0) {
		close(ends[0]);
		close(ends[1]);
		tm_log("no server for a shared pool: %s", why_not(door, rc));
		return tm_error_set(
			error, TM_ERROR_BUSY, "the pool has no server: %s", why_not(door, rc));
	}
	g->fd = ends[0];
	return 0;
}

/* Do what a guest asks for. 0 and its g->fd; -EINVAL with *error set. */
static int guest_request(
	struct tm_door *door, struct guest *g, json_t *message, struct tm_error *error)
{
	struct tm_request request;
	const char *text;
	struct tm_uuid uuid;
	int rc = tm_proto_parse_request(message, &request, error);

	if (rc < 0)
		return rc;
	text = json_string_value(json_object_get(request.arguments, "uuid"));
	if (strcmp(request.execute, "share") != 0)
		return tm_error_set(error, TM_ERROR_NOT_FOUND, "all one can do here is share");
	if (!text || json_object_size(request.arguments) != 1 || tm_uuid_parse(text, &uuid) < 0)
		return tm_error_set(error, TM_ERROR_PARAMETER, "share needs 'uuid', and no more");
	if (!tm_auths_has(&door->auths, &uuid, g->uid)) {
		tm_log("user %u is not let in to shared pool %s", (unsigned int)g->uid,
			tm_uuid_format(&uuid, (char[TM_UUID_TEXT_MAX]){0}));
		return tm_error_set(error, TM_ERROR_PERMISSION,
			"user %u may not join this shared pool", (unsigned int)g->uid);
	}
	return let_in(door, g, &uuid, error);
}

static void guest_read(struct tm_door *door, struct guest *g)
{
	struct tm_error error;
	json_t *message;
	int rc;

	do {
		rc = tm_conn_next(g->conn, &message);
	} while (rc == -EAGAIN && (rc = tm_conn_fill(g->conn)) == 0);
	if (rc == -EAGAIN)
		return;
	if (rc == -EBADMSG || rc == -EMSGSIZE) {
		tm_error_set(&error, TM_ERROR_PROTOCOL, "that was no request");
		guest_refuse(g, &error);
	} else if (rc < 0) {
		guest_end(g);
	} else {
		rc = guest_request(door, g, message, &error);
		json_decref(message);
		if (rc == 0)
			guest_answer(g, tm_proto_return(NULL, NULL));
		else
			guest_refuse(g, &error);
	}
}

static void guest_handle(struct tm_door *door, struct guest *g, uint32_t events)
{
	if (!g->conn)
		return;
	if (events & EPOLLOUT && tm_conn_flush(g->conn) < 0) {
		guest_end(g);
		return;
	}
	if (g->done) {
		if (tm_conn_queued(g->conn) == 0 || events & (EPOLLHUP | EPOLLERR))
			guest_end(g);
		return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		guest_read(door, g);
}

static void admit(struct tm_door *door, int fd)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
	struct guest *g = NULL;
	struct tm_error error;
	struct ucred peer;
	socklen_t size = sizeof(peer);

	for (size_t i = 0; i < GUESTS_MAX && !g; i++)
		if (!door->guests[i].conn)
			g = &door->guests[i];
	if (!g || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
		close(fd); /* it tries again */
		return;
	}
	if (tm_conn_open(fd, LINE_MAX_, REPLY_MAX, &g->conn) < 0)
		return;
	g->uid = peer.uid;
	g->deadline_ns = tm_now_ns() + GUEST_NS;
	if (!tm_auths_knows(&door->auths, g->uid)) {
		tm_error_set(&error, TM_ERROR_PERMISSION, "user %u may join no shared pool",
			(unsigned int)g->uid);
		guest_refuse(g, &error);
		return;
	}
	event.data.ptr = g;
	if (tm_conn_send(g->conn, tm_proto_greeting(), -1) < 0 ||
		epoll_ctl(door->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		guest_end(g);
}

/* Out of descriptors the door would be ready for ever. */
static void set_deaf(struct tm_door *door, uint64_t until_ns)
{
	struct epoll_event event = {.events = until_ns ? 0 : EPOLLIN, .data.ptr = NULL};

	door->deaf_until_ns = until_ns;
	epoll_ctl(door->epoll_fd, EPOLL_CTL_MOD, door->fd, &event);
}

int tm_door_fd(const struct tm_door *door)
{
	return door->epoll_fd;
}

void tm_door_handle(struct tm_door *door)
{
	struct epoll_event events[GUESTS_MAX];
	int n = epoll_wait(door->epoll_fd, events, GUESTS_MAX, 0);

	for (int i = 0; i < n; i++) {
		int fd;

		if (events[i].data.ptr) {
			guest_handle(door, events[i].data.ptr, events[i].events);
			continue;
		}
		fd = accept4(door->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			admit(door, fd);
		else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			set_deaf(door, tm_now_ns() + DEAF_NS);
	}
}

/* --- time ------------------------------------------------------------------------------------- */

static void sharer_end(struct sharer *s)
{
	if (s->fd >= 0)
		close(s->fd);
	*s = (struct sharer){.fd = -1};
}

/* Hand one over if its server is there and listens. */
static void deliver(struct tm_door *door, struct sharer *s)
{
	struct tm_client *server = find_server(door, &s->uuid);

	if (!server)
		return;
	if (s->fd >= 0 &&
		!tm_session_event_fd(server->session, "sharer",
			json_pack("{s:I}", "uid", (json_int_t)s->uid), s->fd))
		return;
	if (s->fd >= 0 && tm_session_queued(server->session) > 0)
		tm_session_drop(server->session, "does not take its sharers");
	sharer_end(s);
}

void tm_door_run(struct tm_door *door, uint64_t now)
{
	if (door->deaf_until_ns && now >= door->deaf_until_ns)
		set_deaf(door, 0);
	for (size_t i = 0; i < SHARERS_MAX; i++) {
		struct sharer *s = &door->sharers[i];

		if (s->deadline_ns)
			deliver(door, s);
		if (s->deadline_ns && now >= s->deadline_ns)
			sharer_end(s);
	}
	for (size_t i = 0; i < GUESTS_MAX; i++)
		if (door->guests[i].conn && now >= door->guests[i].deadline_ns)
			guest_end(&door->guests[i]);
}

bool tm_door_is_busy(const struct tm_door *door)
{
	for (size_t i = 0; i < SHARERS_MAX; i++)
		if (door->sharers[i].deadline_ns)
			return true;
	for (size_t i = 0; i < GUESTS_MAX; i++)
		if (door->guests[i].conn)
			return true;
	return door->deaf_until_ns != 0;
}

/* --- shared-auth ------------------------------------------------------------------------------ */

static void remove_auth(struct tm_door *door, const struct tm_uuid *uuid, uid_t uid)
{
	tm_auths_remove(&door->auths, uuid, uid);
	for (size_t i = 0; i < SHARERS_MAX; i++) {
		struct sharer *s = &door->sharers[i];

		if (s->fd >= 0 && s->uid == uid && s->uuid.lo == uuid->lo && s->uuid.hi == uuid->hi)
			sharer_end(s);
	}
}

static int auth_change(struct tm_door *door, bool add, const struct tm_uuid *uuid, uid_t uid,
	struct tm_error *error)
{
	struct tm_client *server;
	int rc = 0;

	if (add)
		rc = tm_auths_add(&door->auths, uuid, uid, false);
	else
		remove_auth(door, uuid, uid);
	if (rc == -ENOSPC)
		return tm_error_set(
			error, TM_ERROR_BUSY, "there are %d of them already", TM_AUTHS_MAX);
	if (rc < 0)
		return rc;
	rc = tm_auths_save(&door->auths, door->dir_fd, door->auth_name);
	if (rc < 0)
		tm_log("%s: %s: who may share is forgotten when this tmemd ends", door->auth_name,
			strerror(-rc));
	server = add ? NULL : find_server(door, uuid);
	if (server &&
		!tm_session_event_fd(
			server->session, "sharer", json_pack("{s:I}", "uid", (json_int_t)uid), -1))
		return tm_error_set(error, TM_ERROR_BUSY,
			"user %u cannot join any more, but the pool's server does not read that it "
			"has to end its connections",
			(unsigned int)uid);
	return 0;
}

int tm_door_auth(struct tm_door *door, const char *what, const char *uuid, const json_t *uid,
	json_t **ret_result, struct tm_error *error)
{
	bool add = strcmp(what, "add") == 0;
	struct tm_uuid parsed;
	int rc;

	if (strcmp(what, "list") == 0) {
		*ret_result = json_pack("{s:o}", "auths", tm_auths_describe(&door->auths));
		return *ret_result ? 0 : -ENOMEM;
	}
	if (!add && strcmp(what, "remove") != 0)
		return tm_error_set(
			error, TM_ERROR_PARAMETER, "action has to be add, remove or list");
	if (!uuid || tm_uuid_parse(uuid, &parsed) < 0)
		return tm_error_set(error, TM_ERROR_PARAMETER,
			"uuid has to be 32 hexadecimal digits in groups of 8-4-4-4-12");
	if (!uid || json_integer_value(uid) < 0 || json_integer_value(uid) >= UINT32_MAX)
		return tm_error_set(error, TM_ERROR_PARAMETER, "uid has to be a user's number");
	rc = auth_change(door, add, &parsed, (uid_t)json_integer_value(uid), error);
	if (rc == 0)
		*ret_result = NULL;
	return rc;
}

/* --- open and close --------------------------------------------------------------------------- */

static int open_socket(struct tm_door *door)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	char name[64];
	int rc;

	if ((size_t)snprintf(name, sizeof(name), "%.40s" TM_PROTO_DOOR, door->name) !=
		strlen(door->name) + strlen(TM_PROTO_DOOR))
		return -ENAMETOOLONG;
	door->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (door->epoll_fd < 0)
		return -errno;
	rc = tm_pool_listen(door->dir_fd, name, BACKLOG, 0666, &door->fd);
	if (rc == 0 && epoll_ctl(door->epoll_fd, EPOLL_CTL_ADD, door->fd, &event) < 0)
		rc = -errno;
	return rc;
}

static int open_directory(struct tm_door *door, const char *path)
{
	TM_AUTO_FREE char *copy = strdup(path);
	const char *slash = strrchr(path, '/');

	door->name = strdup(slash ? slash + 1 : path);
	if (!copy || !door->name || asprintf(&door->auth_name, "%s" AUTH_FILE, door->name) < 0)
		return -ENOMEM;
	door->dir_fd = open(dirname(copy), O_PATH | O_DIRECTORY | O_CLOEXEC);
	return door->dir_fd < 0 ? -errno : 0;
}

int tm_door_open(struct tm_host *host, struct tm_door **ret_door)
{
	struct tm_door *door = calloc(1, sizeof(*door));
	int rc;

	if (!door)
		return -ENOMEM;
	door->host = host;
	door->dir_fd = door->fd = door->epoll_fd = -1;
	for (size_t i = 0; i < GUESTS_MAX; i++)
		door->guests[i].fd = -1;
	for (size_t i = 0; i < SHARERS_MAX; i++)
		door->sharers[i].fd = -1;
	door->auths = host->config.auths;
	host->config.auths = (struct tm_auths){0};
	rc = open_directory(door, host->config.socket);
	if (rc == 0)
		rc = open_socket(door);
	if (rc < 0) {
		tm_door_close(door);
		return rc;
	}
	rc = tm_auths_load(&door->auths, door->dir_fd, door->auth_name);
	if (rc < 0 && rc != -ENOENT)
		tm_log("%s: %s", door->auth_name, strerror(-rc));
	call_all(door);
	*ret_door = door;
	return 0;
}

void tm_door_close(struct tm_door *door)
{
	int fd;

	if (!door)
		return;
	for (size_t i = 0; i < GUESTS_MAX; i++)
		if (door->guests[i].conn)
			guest_end(&door->guests[i]);
	for (size_t i = 0; i < SHARERS_MAX; i++)
		sharer_end(&door->sharers[i]);
	while ((fd = tm_door_next_server(door)) >= 0)
		close(fd);
	if (door->fd >= 0) {
		TM_AUTO_FREE char *name = NULL;

		if (asprintf(&name, "%s" TM_PROTO_DOOR, door->name) > 0)
			unlinkat(door->dir_fd, name, 0);
		close(door->fd);
	}
	if (door->epoll_fd >= 0)
		close(door->epoll_fd);
	if (door->dir_fd >= 0)
		close(door->dir_fd);
	tm_auths_free(&door->auths);
	free(door->name);
	free(door->auth_name);
	free(door);
}
