/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * device.h - a block device whose every page is in exactly one place
 *
 *      +--------------- write of zeros, zero, trim: forget_locked() ---------+
 *      v                                                      |              |
 *   nowhere --------- put accepted: store_locked() -------> tmem             |
 *   (zeros)                                                   ^ |            |
 *      |       write, cache, or read and brought back (see    | | write refused, or cold and
 *      |       writeback.h), put accepted: store_locked()     | | written back: spill_locked()
 *      |                                                      | v            |
 *      +--- put refused, fallback written: spill_locked() -> fallback -------+
 *
 * Invariants
 *   1. A page's place is changed only under its lock, after the new place holds the new content and
 *      before the old one is given up.
 *   2. A failed write leaves the page as it was (on the fallback itself: as the disk left it).
 *   3. Requests and write-back allocate no memory. A device has, for good, one byte a page (1/4096
 * of its size) and 2.1 MiB of buffers.
 *   4. Of a run in which no page is on the fallback, nothing takes up disk space there.
 *
 * Requests are cut into chunks: the part that lies in one run of 32 pages (128 KiB), aligned. A
 * chunk's pages are locked together, so that neighbours go to the disk and come from it in one
 * transfer, and a read sees each page before or after a write, never between.
 *
 * Locking, in this order: page locks (1024 mutexes; page n has number n modulo 1024) in rising
 * order, which a chunk never wraps around since a run does not cross a multiple of 1024; then a
 * buffer; then whatever tmem and the fallback take.
 *
 * Errors of every request: -ENOSPC refused by tmem and no (room on the) fallback; -EIO a damaged or
 * lost page; else the fallback's errno. Other pages of a request that fails may have been written.
 */
#ifndef TM_DEVICE_H
#define TM_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/tmem.h"
#include "nbd-plugin/fallback.h"

#define TM_DEVICE_PAGE 4096u

struct tm_device;

/* A device of `bytes` zeros. `fallback` may be NULL; else it becomes the device's. 0; -ENOMEM. */
int tm_device_create(uint64_t bytes, struct tm_fallback *fallback, struct tm_device **ret_device);

/* Before the device has its memory: start from zeros, or go on where a server that was killed left
 * off (its state's descriptor, which becomes the device's on success). 0 and the descriptor of the
 * state to be kept, which stays the device's; -errno, -EINVAL with a reason when the state does not
 * fit. */
int tm_device_begin(struct tm_device *d, int *ret_state_fd);
int tm_device_resume(struct tm_device *d, int fd, int *ret_state_fd,
	char ret_reason[static TM_STATE_REASON_MAX]);

/* Give the device its memory: a persistent pool of `tmem`, which becomes the device's even on
 * failure. Before this every put counts as refused. `writeback` bytes a second may move between
 * memory and fallback unasked (0: none); that is a thread's work, so call this after the last fork.
 * 0, new_pool's error or pthread_create's. */
int tm_device_attach(
	struct tm_device *d, struct tmem *tmem, const char *pool_name, uint64_t writeback);

void tm_device_destroy(struct tm_device *d);

/* Ranges lie inside the device; any offset and length. */
int tm_device_read(struct tm_device *d, void *ret_buf, uint32_t count, uint64_t offset);
int tm_device_write(struct tm_device *d, const void *buf, uint32_t count, uint64_t offset);
int tm_device_zero(struct tm_device *d, uint32_t count, uint64_t offset);

/* Forget the pages that lie wholly in the range; they read as zeros then. */
int tm_device_trim(struct tm_device *d, uint32_t count, uint64_t offset);

/* Bring the range's pages from the fallback into tmem as far as it takes them. */
int tm_device_cache(struct tm_device *d, uint32_t count, uint64_t offset);

/* The pages in memory are lost for good: nothing waits for a save any more. */
void tm_device_lost(struct tm_device *d);

/* What must be durable is: only the fallback can be. */
int tm_device_sync(struct tm_device *d);

/* Length of the run of pages from `offset` that are all stored, or all nowhere (*ret_hole), up to
 * `count` bytes. Exact when nobody writes meanwhile. */
uint64_t tm_device_extent(struct tm_device *d, uint64_t count, uint64_t offset, bool *ret_hole);

#endif
