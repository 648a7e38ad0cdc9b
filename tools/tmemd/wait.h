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

/* Reply when the cap that `client` was given holds. 0; -ENOMEM. */
int tm_wait_cap(struct tm_host *host, struct tm_session *session, const json_t *id,
	const struct tm_client *client);

/* Begin to wait for the end of a save or restore of `client` (snapshot.c). Returns the ticket; 0
 * without memory. tm_wait_transferred replies: with `result` (stolen), or with *error; false when
 * nobody waits any more. tm_wait_give_up leaves the reply to the caller. */
uint64_t tm_wait_transfer(struct tm_host *host, struct tm_session *session, const json_t *id,
	const struct tm_client *client);
bool tm_wait_transferred(
	struct tm_host *host, uint64_t ticket, json_t *result, const struct tm_error *error);
void tm_wait_give_up(struct tm_host *host, uint64_t ticket);

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
