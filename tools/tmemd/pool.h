/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool.h - the data path of one shared pool: connections of sharers, and their requests
 *
 * Runs in the pool's own process (pool_main.c); the tests run it in theirs. See core/share.h for
 * what is said on a connection.
 *
 * Thread safety: any thread may call anything but tm_pool_server_free().
 */
#ifndef TM_POOL_H
#define TM_POOL_H

#include <sys/types.h>

#include "core/share.h"

#define TM_SHARERS_MAX 64 /* connections to one pool */

struct tm_pool_server;

/* Serve pool `uuid` from `tm`, which is borrowed and has no pool yet: the first sharer's flags and
 * attributes make it. 0; -ENOMEM; -errno. */
int tm_pool_server_new(
	struct tmem *tm, const struct tm_uuid *uuid, struct tm_pool_server **ret_server);

/* Serve a connection of user `uid`, which is the server's also after a failure. Never blocks:
 * threads of its own do the rest. 0; -EUSERS TM_SHARERS_MAX reached; -EAGAIN the pool is gone;
 * -ENOMEM; -errno. */
int tm_pool_server_add(struct tm_pool_server *server, int fd, uid_t uid);

/* End the connections of user `uid`. */
void tm_pool_server_drop(struct tm_pool_server *server, uid_t uid);

/* The pool was destroyed by an operator: tell every sharer, and take no further ones. */
void tm_pool_server_gone(struct tm_pool_server *server);

/* Wait until nobody has been connected for `idle_ms`, or the pool is gone and so is everybody. From
 * then on nobody is let in: the store may be closed. */
void tm_pool_server_wait(struct tm_pool_server *server, unsigned int idle_ms);

/* End every connection, wait for their threads, free. */
void tm_pool_server_free(struct tm_pool_server *server);

#endif
