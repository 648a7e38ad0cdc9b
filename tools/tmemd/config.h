/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config.h - what tmemd was told: options, environment, configuration file, defaults
 */
#ifndef TM_CONFIG_H
#define TM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/tmemd/auth.h"
#include "tools/tmemd/policy.h"

#define TM_CONFIG_FILE        "/etc/tmem/tmemd.conf"
#define TM_IDLE_SECONDS       10
#define TM_CONTROL_MAX        256u /* connections that have not joined */
#define TM_CONFIG_RATE        1000u
#define TM_CONFIG_KEEP_CACHES 600
#define TM_CONFIG_SHARE       UINT64_MAX /* a share of the memory there is, which may change */

struct tm_config {
	char *socket;     /* malloc'ed */
	uint64_t limit;   /* bytes all clients together may have, or TM_CONFIG_SHARE: half of all */
	uint64_t reserve; /* bytes of available memory to leave alone, or TM_CONFIG_SHARE: 10% */
	unsigned int max_clients, max_connections; /* the latter: that have not joined */
	unsigned int max_line;                     /* bytes of a request */
	unsigned int max_rate;                     /* requests a second and connection */
	unsigned int keep_caches;                  /* seconds; see leftover.h */
	enum tm_policy policy;                     /* at the start */
	struct tm_auths auths;                     /* who may join which shared pool */
	bool foreground;
	unsigned int idle_seconds; /* 0: stay for ever; else end after so long without anybody */
};

/* Read the command line and what it points to, the first of: option, environment, file, default.
 * 0; or 1 with the exit status in *ret_status, when the program has said all it has to say. */
int tm_config_read(int argc, char **argv, struct tm_config *ret_config, int *ret_status);

void tm_config_free(struct tm_config *config);

#endif
