/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * readahead.h - reading what will be asked for next, several pieces at once
 *
 *   stream   the reads of one open file, as they come in. Two patterns are foreseen: one read
 *            after the other (as the kernel's threads send them, nearly in order), and reads of one
 *            length at one distance. Anything else is random and nothing is read ahead.
 *   piece    a range of a file that is read ahead: waiting, then running, then gone.
 *
 * What is read goes into tmem and nowhere else, so memory is bounded by its limit, plus one buffer
 * a thread. Any thread may call anything at any time.
 */
#ifndef TMEMFS_READAHEAD_H
#define TMEMFS_READAHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_inode;
struct tm_readahead;

/* All fields: the lock of struct tm_readahead. Zero: nothing was read yet. */
struct tm_stream {
	int64_t last;        /* where the last read began */
	int64_t distance;    /* from the one before */
	int64_t base;        /* where the first read of those began that kept their distance */
	int64_t frontier;    /* sequential: the end of the furthest read */
	int64_t until;       /* all before this was scheduled, or read */
	int64_t foreseen;    /* at a distance: how many from `base` on were scheduled, or read */
	unsigned int in_row; /* reads that were sequential, one after the other */
	unsigned int same;   /* reads that kept their distance */
};

/* An open file, as those see it who read from it. The callbacks get `opaque`. */
struct tm_source {
	int (*fd)(void *opaque); /* a descriptor, made when first asked for, or -errno */
	void (*ref)(void *opaque);
	void (*unref)(void *opaque);
	void *opaque; /* constant, as all above */
	struct tm_stream stream;
};

/*
 * `work` reads a piece, called by `threads` threads; it returns false if that was not worth it (all
 * was there), which ends the stream. At most `window` bytes ahead. 0; -ENOMEM; -EAGAIN no thread.
 */
int tm_readahead_start(unsigned int threads, size_t window,
	bool (*work)(void *opaque, struct tm_inode *inode, struct tm_source *source, int64_t off,
		size_t len),
	void *opaque, struct tm_readahead **ret_readahead);

/* Drops what waits, waits for what is running. NULL is fine. */
void tm_readahead_stop(struct tm_readahead *readahead);

/* Before [off, off + len) is read: wait for pieces of it that are running, drop those that are not;
 * whoever needs them reads them himself. */
void tm_readahead_meet(
	struct tm_readahead *readahead, struct tm_inode *inode, int64_t off, size_t len);

/* It was read, and something of it was `missing`: maybe read ahead, in a file of `size` bytes. */
void tm_readahead_note(struct tm_readahead *readahead, struct tm_inode *inode,
	struct tm_source *source, int64_t off, size_t len, int64_t size, bool missing);

#endif
