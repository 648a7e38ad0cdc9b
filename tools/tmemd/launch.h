/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * launch.h - the launchers: the processes that start the servers of shared pools
 *
 * There are two, so that when one ends the other can fork its successor: tmemd has given up what a
 * launcher needs. When both end at one time no pool can be begun until tmemd is started again.
 *
 * Locking: none; tmemd has one thread.
 */
#ifndef TM_LAUNCH_H
#define TM_LAUNCH_H

#include <stdbool.h>

#include "core/tmem.h"

struct tm_launch;

/* Fork the launchers, which end when *ret_launch is closed. Before tm_daemon_confine(), and before
 * anything is open that they should not have. In the background they log to syslog. 0; -ENOMEM;
 * -errno. */
int tm_launch_start(bool foreground, struct tm_launch **ret_launch);
void tm_launch_close(struct tm_launch *l); /* NULL is fine */

/* Have the server of pool `uuid` started, with the listening socket `listen_fd` (borrowed). Waits
 * for nothing; if it cannot be run, the launcher logs why and the socket goes. 0; -EAGAIN it is
 * behind; -EPIPE there is none any more. */
int tm_launch_pool(struct tm_launch *l, const struct tm_uuid *uuid, int listen_fd);

/* For epoll: readable when a launcher has ended. Then tm_launch_mend() has the other one fork a new
 * one; how many it has so replaced. */
int tm_launch_fd(const struct tm_launch *l);
unsigned int tm_launch_mend(struct tm_launch *l);

#endif
