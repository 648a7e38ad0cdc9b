/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * describe.h - the state of the host as JSON
 */
#ifndef TM_DESCRIBE_H
#define TM_DESCRIBE_H

#include "tools/tmemd/host.h"

/* Each returns a new reference, or NULL without memory. */

/* {"host": {...}, "clients": [{..., "pools": [...]}]} */
json_t *tm_describe_list(struct tm_host *host);

/* {"freeable_bytes": N, "clients": [{"id", "name", "freeable_bytes"}]} of one client, or of all. */
json_t *tm_describe_freeable(struct tm_host *host, struct tm_client *only);

/* Whether the client has a persistent pool with pages. */
bool tm_describe_has_persistent(const struct tm_client *client);

/* The result of `policy`. New reference; NULL without memory. */
json_t *tm_describe_policy(struct tm_host *host);

#endif
