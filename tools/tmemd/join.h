/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * join.h - how a connection becomes a client
 */
#ifndef TM_JOIN_H
#define TM_JOIN_H

#include "tools/tmemd/host.h"

/* What the peer says of itself; borrowed. Its ledger's descriptor waits in the session. */
struct tm_join {
	const char *name, *type;
	json_int_t pid, protocol;
	const json_t *weight; /* an integer, or NULL: the default */
	bool successor;       /* it has reclaimed what a client of its name left */
};

/* Check, map the ledger, register and divide the memory anew. 0 and *ret_id; -EINVAL with *error
 * set; -ENOMEM. */
int tm_join(struct tm_host *host, struct tm_session *session, const struct tm_join *join,
	unsigned int *ret_id, struct tm_error *error);

/* Read an integer as a weight. 0; -EINVAL with *error set. */
int tm_join_weight(const json_t *weight, uint32_t *ret_weight, struct tm_error *error);

#endif
