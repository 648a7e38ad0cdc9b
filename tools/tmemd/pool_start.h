/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool_start.h - finding and starting the servers of shared pools
 */
#ifndef TM_POOL_START_H
#define TM_POOL_START_H

#include <sys/types.h>

#include "core/tmem.h"
#include "tools/tmemd/launch.h"

/* Listen on socket `name` in a directory, with mode `mode`, in place of what is there of ours.
 * However long the directory's path is. 0 and *ret_fd; -EEXIST somebody else's, or no socket;
 * -errno. */
int tm_pool_listen(int dir_fd, const char *name, int backlog, mode_t mode, int *ret_fd);

/* Connect to the server of a pool, whose socket is PREFIX.UUID in a directory. If nobody is there,
 * the socket is removed, and a server is started by way of `launch`, if that is not NULL.
 * Waits for nothing: the server reads when it can, and if it cannot be run, the connection ends.
 * 0 and *ret_fd, nonblocking; -ENOENT no server; -EPERM the socket is not ours; -errno. */
int tm_pool_call(int dir_fd, const char *prefix, const struct tm_uuid *uuid,
	struct tm_launch *launch, int *ret_fd);

#endif
