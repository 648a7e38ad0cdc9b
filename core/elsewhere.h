/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * elsewhere.h - what a save and a restore have to do with pages that the front end keeps elsewhere
 *
 * One of these belongs to one save or one restore: the front end's functions (struct
 * tm_elsewhere_ops), and room for copies of pages, taken before anything is held so that nothing is
 * allocated or faulted in later. A front end without such pages is one that has none: every call
 * does nothing then.
 *
 * Locking: none; it belongs to one thread.
 */
#ifndef TM_ELSEWHERE_H
#define TM_ELSEWHERE_H

#include "core/move.h"
#include "core/store_private.h"

struct tm_elsewhere {
	const struct tm_elsewhere_ops *ops; /* NULL: every page is in tmem */
	void *opaque;
	uint8_t *copies; /* of pages of 4 KiB, and one place to encode in */
	uint32_t count;
};

/* Room for `copies` pages. 0; -ENOMEM. Close what is all zeros, too. */
int tm_elsewhere_open(
	const struct tm_move_params *who, uint32_t copies, struct tm_elsewhere *ret_elsewhere);
void tm_elsewhere_close(struct tm_elsewhere *e);

/* Can pages of the pool be elsewhere? They are 4 KiB, and persistent. */
bool tm_elsewhere_knows(const struct tm_elsewhere *e, const struct tm_pool *p);

/* See struct tm_elsewhere_ops. */
void tm_elsewhere_hold(const struct tm_elsewhere *e);
void tm_elsewhere_release(const struct tm_move_params *who);
uint64_t tm_elsewhere_pages(const struct tm_elsewhere *e, const struct tm_pool *p);

static inline uint8_t *tm_elsewhere_copy(const struct tm_elsewhere *e, uint32_t n)
{
	return e->copies + (size_t)n * TM_PAGE_SIZE;
}

/* Copy number `n` as a stream takes it: the payload is good until the next call. */
void tm_elsewhere_encode(const struct tm_elsewhere *e, uint32_t n, struct tm_stream_page *ret_page);

#endif
