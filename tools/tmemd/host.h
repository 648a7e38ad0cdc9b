/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host.h - what the parts of tmemd share
 *
 *      main -> server -> session -> commands -> describe, wait, watch
 *                   \________________________-> lease -> policy, machine
 *
 * tmemd has one thread, so nothing in here is locked.
 */
#ifndef TM_HOST_H
#define TM_HOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "tools/tmemd/config.h"
#include "tools/tmemd/machine.h"
#include "tools/tmemd/policy.h"
#include "tools/tmemd/registry.h"

LIST_HEAD(tm_wait_list, tm_wait);
LIST_HEAD(tm_watcher_list, tm_watcher);
struct tm_door;
struct tm_fdstore;
struct tm_launch;
struct tm_orders;

/* What was refused, delayed or dropped, since the start. */
struct tm_host_counters {
#define TM_HOST_COUNTER(id, help) uint64_t id;
#include "tools/common/counters.def"
#undef TM_HOST_COUNTER
};

struct tm_host {
	struct tm_config config;
	struct tm_registry *registry;
	gid_t readers;             /* tm_peer_readers() */
	struct tm_wait_list waits; /* commands that wait for clients */
	struct tm_watcher_list watchers;
	struct tm_host_counters counters;
	struct tm_launch *launch;   /* NULL: it could not be started */
	struct tm_door *door;       /* to shared pools; NULL: it could not be opened */
	struct tm_fdstore *fdstore; /* of systemd; NULL: it has none for us */
	struct tm_orders *orders;   /* for the next host; NULL: nothing is remembered */
	struct tm_machine *machine;
	struct tm_machine_memory memory; /* of the last lease, as are: */
	uint64_t limit, reserve;         /* what the configuration means with so much memory */
	uint64_t total;                  /* bytes to divide */
	uint64_t lease_ns;               /* when the next one is due */
	struct tm_trend trend;
	enum tm_policy policy; /* the configuration's until an operator says otherwise */
	uint64_t benefit_ns;   /* when the clients' curves are looked at next */
	size_t benefit_count;  /* of the clients that the last division had */
	bool benefit_stale;    /* weights or caps have changed since */
	bool pressed;          /* the kernel reported pressure since then */

	bool all_frozen;     /* clients that join are frozen too */
	bool sessions_ready; /* a session has work that no event will announce */
};

#endif
