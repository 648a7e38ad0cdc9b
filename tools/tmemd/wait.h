/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wait.h - commands whose reply has to wait for clients
 */
#ifndef TM_WAIT_H
#define TM_WAIT_H

#include "tools/tmemd/host.h"

/* A client that has not answered by then is not waited for. */
#define TM_WAIT_NS 2000000000ull

struct tm_wait;

/* Have `bytes` released by `only`, or by whoever is over its share when that is NULL, and reply to
 * request `id` (borrowed) of `session` when that is done. 0; -ENOMEM, then nothing was asked. */
int tm_wait_flush(struct tm_host *host, struct tm_session *session, const json_t *id,
	uint64_t bytes, struct tm_client *only);

/* Tell `client` to drop its pools and reply when it has left. 0; -ENOMEM; -EAGAIN it does not even
 * read. */
int tm_wait_destroy(struct tm_host *host, struct tm_session *session, const json_t *id,
	struct tm_client *client);

/* A client answered. False when nobody waits for this ticket from it (any more). */
bool tm_wait_released(
	struct tm_host *host, const struct tm_client *client, uint64_t ticket, uint64_t bytes);

/* A client is about to leave the registry. */
void tm_wait_client_gone(struct tm_host *host, const struct tm_client *client);

/* Reply for those that have waited long enough. */
void tm_wait_tick(struct tm_host *host, uint64_t now);

/* The session that waits ends: forget about it. */
void tm_wait_cancel(struct tm_wait *wait);

#endif
