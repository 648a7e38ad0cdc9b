/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host_start.h - run tmemd when nobody listens on the socket
 */
#ifndef TM_HOST_START_H
#define TM_HOST_START_H

#include <stddef.h>

/* Path of the tmemd to run, the first that can be executed of: $TMEM_TMEMD; `tmemd` beside the
 * program or plugin this code is part of; ../sbin from there; each directory of $PATH; the usual
 * sbin directories. 0 and a malloc'ed *ret_path; -ENOENT; -ENOMEM. */
int tm_host_find(char **ret_path);

/* Run `tmemd --on-demand -S socket` and wait until it listens, at most 5 s. 0; -ENOENT no tmemd to
 * be found; -ECANCELED `stop_fd` became readable; -ETIMEDOUT; -ECHILD it failed (most likely
 * another one was faster); -errno. Leaves no child behind. */
int tm_host_start(const char *socket, int stop_fd);

#endif
