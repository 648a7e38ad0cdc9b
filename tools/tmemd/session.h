/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.h - one connection to tmemd, of an operator or of a client
 *
 *      new -> control --(join)--> client
 *               \________________/-> dead -> freed by the server after the events at hand
 */
#ifndef TM_SESSION_H
#define TM_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "tools/tmemd/host.h"

struct tm_session;

/* What a peer may do, by who it is. Each may what those before it may. */
enum tm_role {
	TM_ROLE_NONE,
	TM_ROLE_READ,   /* look: the group `tmem` */
	TM_ROLE_MANAGE, /* everything: root, and the user of this tmemd */
};

/* Take over an accepted socket and greet. 0; -ENOMEM; -errno. The fd is gone after a failure too.
 */
int tm_session_new(struct tm_host *host, int fd, const struct ucred *peer, enum tm_role role,
	struct tm_session **ret_session);

/* End it: its client leaves, its command is given up. */
void tm_session_free(struct tm_session *session);

/* Events of the socket, as epoll names them. */
void tm_session_handle(struct tm_session *session, uint32_t events);

/* Go on with requests that were read already. */
void tm_session_run(struct tm_session *session);

/* End it soon: log that pid so-and-so was dropped, which `does_not`. */
void tm_session_drop(struct tm_session *session, const char *does_not);

/* Once in a while: drop a peer that has not read its replies for 10 s. */
void tm_session_tick(struct tm_session *session, uint64_t now);

/* What to wait for (EPOLLIN...); it changes with what is queued. */
uint32_t tm_session_interest(const struct tm_session *session);

int tm_session_fd(const struct tm_session *session);
bool tm_session_is_dead(const struct tm_session *session);
bool tm_session_is_ready(const struct tm_session *session); /* tm_session_run() has work */

enum tm_role tm_session_role(const struct tm_session *session);

/* Bytes that the peer has not read yet. */
size_t tm_session_queued(const struct tm_session *session);

/* The client that joined through it, or NULL. */
struct tm_client *tm_session_client(const struct tm_session *session);

/* Queue a message (stolen). What cannot be queued makes the session dead. */
void tm_session_send(struct tm_session *session, json_t *message);

/* The same with a descriptor, which is borrowed while the session lives. */
void tm_session_send_fd(struct tm_session *session, json_t *message, int fd);

/* Send an event to a client that keeps up. False when it has not even read the last one: nothing is
 * queued for those that do not listen. Steals `data`. */
bool tm_session_event(struct tm_session *session, const char *event, json_t *data);

/* The same with a descriptor, which is borrowed while tm_session_queued() says that it waits. */
bool tm_session_event_fd(struct tm_session *session, const char *event, json_t *data, int fd);

/* --- for commands.c, wait.c, watch.c --------------------------------------------------------- */

/* The descriptor that came with the request, now the caller's; -1: none. */
int tm_session_take_fd(struct tm_session *session);

void tm_session_peer(const struct tm_session *session, struct ucred *ret_peer);
void tm_session_set_client(struct tm_session *session, struct tm_client *client);

struct tm_watcher;

/* What stands for it among those who watch, or NULL. */
struct tm_watcher *tm_session_watcher(const struct tm_session *session);
void tm_session_set_watcher(struct tm_session *session, struct tm_watcher *watcher);

struct tm_wait;

/* The command that this session waits for. No other of its requests is run meanwhile. */
void tm_session_set_wait(struct tm_session *session, struct tm_wait *wait);

#endif
