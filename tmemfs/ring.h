/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring.h - requests that come by io_uring: half the system calls, on the caller's own processor
 *
 * Linux 6.14, with fuse.enable_uring=1. What loop.c reads meanwhile is what does not come this way:
 * the first request, forgets, interrupts.
 */
#ifndef TMEMFS_RING_H
#define TMEMFS_RING_H

#include <fuse_lowlevel.h>
#include <stdbool.h>

struct tm_ring;

/* Make a thread for each processor that could ever be there, to see that it works. At most
 * `threads_max` requests are carried out at once on each. `on_idle` is called by a thread that had
 * nothing to do for a while, to give memory back. Before the first request is received. 0; -ENOMEM;
 * -EAGAIN no thread; the errors of tm_uring_open(). */
int tm_ring_start(struct fuse_session *session, unsigned int threads_max,
	void (*on_idle)(void *opaque), void *opaque, struct tm_ring **ret_ring);

/* The kernel has had our first answer, and in it (`agreed`) that this is what we want. It reads and
 * writes at most `payload` bytes with a request. Once. */
void tm_ring_begin(struct tm_ring *ring, bool agreed, size_t payload);

/* An answer, as libfuse writes it: false if its request did not come from here. Else *ret_rc is the
 * number of bytes, or -1 and errno. Any thread. */
bool tm_ring_answer(struct tm_ring *ring, const struct iovec *iov, int count, ssize_t *ret_rc);

/* The kernel hears of an answer when its handler returns. This thread's next one shall be told at
 * once: what comes after it is short, and waits for nothing, as the kernel may have given us
 * another request by then. */
void tm_ring_hurry(void);

/* This thread's request may wait for somebody else's, as one for a lock does: there are entries for
 * others left. (A request keeps its entry until it is answered.) True if it did not come from here.
 */
bool tm_ring_spares(void);

/* The request is here, and has no answer. */
bool tm_ring_pending(struct tm_ring *ring, uint64_t unique);

/* Let no more requests in, and wait for those under way. Answers are ignored from then on. */
void tm_ring_stop(struct tm_ring *ring);

/* After the last answer. NULL is fine. */
void tm_ring_free(struct tm_ring *ring);

#endif
