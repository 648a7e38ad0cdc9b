/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.h - the loop of tmemd
 */
#ifndef TM_SERVER_H
#define TM_SERVER_H

#include "tools/tmemd/host.h"

/* Serve `listen_fd` until SIGTERM or SIGINT (which the caller has blocked), or until nobody has
 * been here for config.idle_seconds. 0; -errno. */
int tm_server_run(struct tm_host *host, int listen_fd);

#endif
