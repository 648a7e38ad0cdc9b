/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * listen.h - the control socket, its directory and its lock
 */
#ifndef TM_LISTEN_H
#define TM_LISTEN_H

#include <sys/types.h>

struct tm_listen;

/* Take the lock and listen on `path`: makes the directory, removes a stale socket. The group
 * `readers` may connect too, (gid_t)-1: nobody else. 0; or -errno
 * after one line in the log: the directory, lock or socket belongs to somebody else, another tmemd
 * has the lock (-EBUSY), or the call that failed. */
int tm_listen_open(const char *path, gid_t readers, struct tm_listen **ret_listen);

int tm_listen_fd(const struct tm_listen *listen);

/* Remove the socket and drop the lock. The lock's file stays: removing it would let two processes
 * hold two locks. NULL is allowed. */
void tm_listen_close(struct tm_listen *listen);

#endif
