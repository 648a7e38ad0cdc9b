/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * putq.h - pages on their way into tmem, off the reply path
 *
 * A bounded queue with its memory allocated up front, and threads that empty it. When it is full a
 * page is simply not put: any put may be refused.
 */
#ifndef TMEMFS_PUTQ_H
#define TMEMFS_PUTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_inode;
struct tm_putq;

struct tm_put {
	struct tm_inode *inode; /* referenced by the queue while it holds the put */
	uint64_t epoch;         /* the inode's when the page was read */
	uint32_t index;
	const void *page;
};

/*
 * `work` is called by the threads, one put at a time each. `hold` is asked every few puts: while it
 * says so nothing is put, and it is asked again a millisecond later.
 * 0; -ENOMEM; -EAGAIN no thread.
 */
struct tm_putq_ops {
	void (*work)(void *opaque, const struct tm_put *put);
	bool (*hold)(void *opaque);
};
int tm_putq_start(size_t page_size, uint64_t bytes, unsigned int threads,
	const struct tm_putq_ops *ops, void *opaque, struct tm_putq **ret_queue);

/* Drops what waits, waits for what is under way. NULL is fine. */
void tm_putq_stop(struct tm_putq *queue);

/* Copy `count` pages that follow one another, from `index` on, and queue them. The number of those
 * that found room, the first ones. Never blocks for long. Any thread. */
unsigned int tm_putq_add(struct tm_putq *queue, struct tm_inode *inode, uint64_t epoch,
	uint32_t index, unsigned int count, const char *pages);

#endif
