/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uring.h - one thread's io_uring, with as much of it as FUSE's transport needs
 *
 * liburing would do the same; it is one more library for five calls. Only the thread that opened it
 * may use it: what the kernel has to do for it is done in its own context, while it waits.
 */
#ifndef TMEMFS_URING_H
#define TMEMFS_URING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_URING_FOREVER UINT64_MAX

struct tm_uring {
	int fd;
	void *rings, *sqes; /* mappings */
	size_t rings_bytes, sqes_bytes;
	unsigned int *sq_head, *sq_tail, *cq_head, *cq_tail; /* shared with the kernel */
	unsigned int sq_mask, cq_mask;
	struct io_uring_cqe *cqes;
};

/* With room for so many commands at once. 0, or the errno of the system call: -ENOSYS, -EPERM,
 * -EINVAL where the kernel is too old or forbids it. */
int tm_uring_open(unsigned int commands, struct tm_uring *ret_uring);
void tm_uring_close(struct tm_uring *uring);

/* The next command to submit, all zero, 128 bytes. */
struct io_uring_sqe *tm_uring_prepare(struct tm_uring *uring);

/* Submit what is prepared and wait for an event, at most once and a half `timeout_ns`. 0, maybe
 * without one; -ETIME; -EINTR. */
int tm_uring_wait(struct tm_uring *uring, uint64_t timeout_ns);

/* Submit what is prepared, and wait for nothing. */
void tm_uring_submit(struct tm_uring *uring);

/* Take the next event: false if there is none. */
bool tm_uring_next(struct tm_uring *uring, uint64_t *ret_data, int *ret_res);

#endif
