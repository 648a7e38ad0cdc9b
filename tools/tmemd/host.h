/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host.h - what the parts of tmemd share
 *
 *      main -> server -> session -> commands -> describe, wait
 *                   \________________________-> lease -> policy
 *
 * tmemd has one thread, so nothing in here is locked.
 */
#ifndef TM_HOST_H
#define TM_HOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "tools/tmemd/config.h"
#include "tools/tmemd/registry.h"

LIST_HEAD(tm_wait_list, tm_wait);
struct tm_door;

struct tm_host {
	struct tm_config config;
	struct tm_registry *registry;
	struct tm_wait_list waits; /* commands that wait for clients */
	struct tm_door *door;      /* to shared pools; NULL: it could not be opened */
	uint64_t total;            /* bytes to divide; as of the last lease */
	bool all_frozen;           /* clients that join are frozen too */
	bool sessions_ready;       /* a session has work that no event will announce */
};

#endif
