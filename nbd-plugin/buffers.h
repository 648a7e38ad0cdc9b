/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * buffers.h - a fixed number of page-aligned buffers, all allocated at the start
 *
 * Requests that touch the fallback, or part of a page, need a place to assemble pages in: aligned,
 * for O_DIRECT, and there already, since a request must not allocate. The number of buffers bounds
 * both the memory and the requests that are at the fallback at one time.
 *
 * Locking: one mutex, held for a few instructions. Who holds a buffer takes no page lock and no
 * second buffer, so a wait for a buffer ends.
 */
#ifndef TM_BUFFERS_H
#define TM_BUFFERS_H

#include <stddef.h>

struct tm_buffers;

/* `count` buffers of `bytes` (whole pages) each. 0; -ENOMEM. */
int tm_buffers_create(unsigned int count, size_t bytes, struct tm_buffers **ret_buffers);
void tm_buffers_destroy(struct tm_buffers *b); /* all buffers are back; NULL: nothing */

/* Take a buffer, waiting until one is free; give it back. Its content means nothing. */
void *tm_buffers_get(struct tm_buffers *b);
void tm_buffers_put(struct tm_buffers *b, void *buffer);

#endif
