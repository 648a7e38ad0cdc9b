/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * door.h - the way to shared pools: who may join one, and the processes that serve them
 */
#ifndef TM_DOOR_H
#define TM_DOOR_H

#include "tools/tmemd/host.h"

struct tm_door;

/* Open the door beside the control socket, and call the servers that an earlier tmemd has left.
 * Takes over host->config.auths. 0; -ENAMETOOLONG; -ENOMEM; -errno. */
int tm_door_open(struct tm_host *host, struct tm_door **ret_door);

/* Servers that are in use go on. NULL is allowed. */
void tm_door_close(struct tm_door *door);

/* For epoll: readable when tm_door_handle() has something to do. */
int tm_door_fd(const struct tm_door *door);
void tm_door_handle(struct tm_door *door);

/* Once a turn of the loop: hand sharers over to servers that have joined, end what takes too long.
 */
void tm_door_run(struct tm_door *door, uint64_t now);

/* Has tm_door_run() to be called again soon? */
bool tm_door_is_busy(const struct tm_door *door);

/* A connection to a server, to become a session like one that was accepted; the caller's. -1: none.
 */
int tm_door_next_server(struct tm_door *door);

/* The command shared-auth: `what` is add, remove or list; `uuid` and `uid` may be NULL. 0 and
 * *ret_result; -EINVAL with *error set; -ENOMEM. */
int tm_door_auth(struct tm_door *door, const char *what, const char *uuid, const json_t *uid,
	json_t **ret_result, struct tm_error *error);

#endif
