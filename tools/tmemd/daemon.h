/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon.h - into the background, but not before all is well
 */
#ifndef TM_DAEMON_H
#define TM_DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/capability.h>

/* Fork. The child gets 0 and goes on; the parent stays until the child is ready or has failed and
 * gets the exit status + 1 to end with. *ret_ready_fd is for tm_daemon_ready(). -errno. */
int tm_daemon_fork(int *ret_ready_fd);

/* The child serves: let the parent go, leave the terminal, the directory and standard I/O. */
void tm_daemon_ready(int ready_fd);

/* Stay in memory, alive and awake when memory runs out: it is then that we are needed, and servers
 * of this machine's swap ask us for their pages when they are started again. As far as this process
 * may; after the last fork. */
void tm_daemon_stay(void);

/* Give up every privilege but the right to lock memory, and the right to get any back. What a peer
 * could make us do by a mistake of ours, it can then do with no more than our files. 0; -errno. */
int tm_daemon_confine(void);

/* Keep these capabilities, as far as we have them, and no other; programs that we execute as root
 * get them too if `may_execute`, else none. 0; -errno. */
int tm_daemon_keep_only(const cap_value_t *kept, size_t count, bool may_execute);

#endif
