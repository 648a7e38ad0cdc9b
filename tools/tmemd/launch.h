/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * launch.h - the launcher: the process that starts the servers of shared pools
 */
#ifndef TM_LAUNCH_H
#define TM_LAUNCH_H

#include <stdbool.h>

#include "core/tmem.h"

/* Fork the launcher, which ends when *ret_fd is closed. Before tm_daemon_confine(), and before
 * anything is open that it should not have. In the background it logs to syslog. 0; -errno. */
int tm_launch_start(bool foreground, int *ret_fd);

/* Have the server of pool `uuid` started, with the listening socket `listen_fd` (borrowed). Waits
 * for nothing; if it cannot be run, the launcher logs why and the socket goes. 0; -EAGAIN the
 * launcher is behind; -errno it is gone. */
int tm_launch_pool(int launch_fd, const struct tm_uuid *uuid, int listen_fd);

#endif
