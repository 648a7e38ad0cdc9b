/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * snapshot.h - save and restore: an operator's socket is handed on to a client
 *
 *      operator --save, descriptor--> start --event save, descriptor--> client
 *      operator <-------- reply ----- end   <------ transferred ------- client
 *
 * The host keeps its copy of the descriptor only as long as the client has not answered, since the
 * event may still wait to be sent, and never reads or writes the stream. There is no deadline: a
 * stream goes as fast as its slower end. Whoever hangs up ends it: the operator, and the client's
 * socket fails; the client, and the operator is told.
 *
 * One transfer a client at a time, until the client has answered, even if the operator has left.
 */
#ifndef TM_SNAPSHOT_H
#define TM_SNAPSHOT_H

#include "tools/tmemd/host.h"

struct tm_snapshot {
	struct tm_client *client;
	bool restore;
	bool live, hold; /* of a save: see core/move.h */
	int fd;          /* the operator's socket */
};

/* Pass it on, and reply to request `id` (borrowed) of `session` when the client has answered. The
 * descriptor is taken over, also on failure. 0; -EINVAL with *error set; -ENOMEM. */
int tm_snapshot_start(struct tm_host *host, struct tm_session *session, const json_t *id,
	const struct tm_snapshot *snapshot, struct tm_error *error);

/* What a client says of it: the arguments of `transferred`. */
void tm_snapshot_end(struct tm_host *host, struct tm_client *client, const json_t *arguments);

/* Let the changes go on that a save with `hold` has made wait. False: the client does not read. */
bool tm_snapshot_resume(struct tm_client *client);

/* The client's process is gone. */
void tm_snapshot_client_gone(struct tm_client *client);

#endif
