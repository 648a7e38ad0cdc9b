/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * watch.h - who wants to be told what happens
 */
#ifndef TM_WATCH_H
#define TM_WATCH_H

#include <sys/socket.h>

#include "tools/tmemd/host.h"

struct tm_watcher;

/* Tell `session` from now on. 0, also when it is told already; -ENOMEM. */
int tm_watch_start(struct tm_host *host, struct tm_session *session);

/* The session ends. NULL is allowed. */
void tm_watch_stop(struct tm_watcher *watcher);

size_t tm_watch_count(const struct tm_host *host);

/* Tell everybody: something happened to `client` (NULL: to all of them). */
void tm_watch_client(struct tm_host *host, const char *event, const struct tm_client *client);

/* A connection or a join was refused. */
void tm_watch_refused(struct tm_host *host, const struct ucred *peer, const struct tm_error *error);

/* Others need memory. Told once a second at most. */
void tm_watch_pressure(struct tm_host *host);

#endif
