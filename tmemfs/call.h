/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * call.h - a request that may wait long for the backing, and whose caller may be killed meanwhile
 *
 * The kernel lets a killed process go only when its request is answered. The thread that waits for
 * the backing cannot be called back, but somebody else can answer: EINTR. Whoever comes first
 * answers; the other one only cleans up.
 *
 * Only who is killed is let go. Programs do not expect EINTR of a file, and some runtimes signal
 * their threads all the time.
 */
#ifndef TMEMFS_CALL_H
#define TMEMFS_CALL_H

#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdbool.h>

/* On the stack of the operation. */
struct tm_call {
	atomic_bool answered;
};

void tm_call_begin(fuse_req_t req, struct tm_call *call);

/* True: answer `req` now. False: it was answered, and must not be touched. Once for each begin. */
bool tm_call_end(fuse_req_t req, struct tm_call *call);

#endif
