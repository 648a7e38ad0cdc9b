/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * loop.h - the threads that take the kernel's requests and carry them out
 */
#ifndef TMEMFS_LOOP_H
#define TMEMFS_LOOP_H

#include <fuse_lowlevel.h>

/*
 * Serve until the session ends: unmounted, or a signal whose handler calls fuse_session_exit(). At
 * most `threads_max` requests are under way at once. `on_idle` is called by a thread that will not
 * be needed for a while, to give memory back. Main thread only; signals are for the caller.
 * 0; -ENOMEM; -EAGAIN no thread; the errno of reading requests.
 */
int tm_loop(struct fuse_session *session, unsigned int threads_max, void (*on_idle)(void *opaque),
	void *opaque);

#endif
