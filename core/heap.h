/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap.h - malloc in a process that must not wait for memory
 *
 * One heap that never shrinks and maps nothing, whose free top is kept present in memory: malloc of
 * less than that neither faults nor enters the kernel. All of glibc's documented knobs (mallopt); a
 * libc without them serves as it always does.
 */
#ifndef TM_HEAP_H
#define TM_HEAP_H

#include <stdbool.h>
#include <stddef.h>

/* Make the process's malloc such a heap. For good, and before there are other threads. */
void tm_heap_settle(void);

/* Make sure that `bytes` can be had from it. May wait for memory. False when the machine has none.
 */
bool tm_heap_reserve(size_t bytes);

/* Make a block of it present in memory, as touching all of it would. Never changes what is in it.
 */
void tm_heap_populate(void *block, size_t bytes);

#endif
