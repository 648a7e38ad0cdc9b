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

/* Take over an accepted socket and greet. 0; -ENOMEM; -errno. The fd is gone after a failure too.
 */
int tm_session_new(
	struct tm_host *host, int fd, const struct ucred *peer, struct tm_session **ret_session);

/* End it: its client leaves, its command is given up. */
void tm_session_free(struct tm_session *session);

/* Events of the socket, as epoll names them. */
void tm_session_handle(struct tm_session *session, uint32_t events);

/* Go on with requests that were read already. */
void tm_session_run(struct tm_session *session);

/* Once in a while: drop a peer that has not read its replies for 10 s. */
void tm_session_tick(struct tm_session *session, uint64_t now);

/* What to wait for (EPOLLIN...); it changes with what is queued. */
uint32_t tm_session_interest(const struct tm_session *session);

int tm_session_fd(const struct tm_session *session);
bool tm_session_is_dead(const struct tm_session *session);
bool tm_session_is_ready(const struct tm_session *session); /* tm_session_run() has work */

/* The client that joined through it, or NULL. */
struct tm_client *tm_session_client(const struct tm_session *session);

/* Queue a message (stolen). What cannot be queued makes the session dead. */
void tm_session_send(struct tm_session *session, json_t *message);

/* The same with a descriptor, which is borrowed while the session lives. */
void tm_session_send_fd(struct tm_session *session, json_t *message, int fd);

/* Send an event to a client that keeps up. False when it has not even read the last one: nothing is
 * queued for those that do not listen. Steals `data`. */
bool tm_session_event(struct tm_session *session, const char *event, json_t *data);

/* The same with a descriptor, which stays the caller's. */
bool tm_session_event_fd(struct tm_session *session, const char *event, json_t *data, int fd);

/* --- for commands.c and wait.c --------------------------------------------------------------- */

/* The descriptor that came with the request, now the caller's; -1: none. */
int tm_session_take_fd(struct tm_session *session);

void tm_session_peer(const struct tm_session *session, struct ucred *ret_peer);
void tm_session_set_client(struct tm_session *session, struct tm_client *client);

struct tm_wait;

/* The command that this session waits for. No other of its requests is run meanwhile. */
void tm_session_set_wait(struct tm_session *session, struct tm_wait *wait);

#endif
