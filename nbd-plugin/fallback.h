/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fallback.h - the file that takes the pages RAM refuses
 *
 *      | header page | page 0 | page 1 | ... |          a sparse file, or a block device
 *
 * The header says that the file is ours. A file with any other content is refused, never
 * overwritten. Page n of the device lies at (n + 1) pages, at its place or nowhere: freed pages are
 * punched out.
 *
 * Opened O_DIRECT where the file system has it, so that swapping does not go through the page cache
 * it is meant to relieve. No call allocates memory. Thread safe, except that calls on one page must
 * not overlap (the device's page locks see to that).
 */
#ifndef TM_FALLBACK_H
#define TM_FALLBACK_H

#include <stdbool.h>
#include <stdint.h>

#include "nbd-plugin/state.h"

#define TM_FALLBACK_PAGE 4096u

struct tm_fallback;

/* Why an open failed, beyond the errno: one line without the path, or "". */
#define TM_FALLBACK_REASON_MAX 128

/*
 * Open or create (sparse, mode 0600) the file for a device of `pages` pages, and lock it. What lies
 * in it stays until tm_fallback_reset. 0; -EBUSY another server has it, or it is mounted or swapped
 * to; -EEXIST it holds something else; -EINVAL neither a regular file nor a block device; -ENOSPC
 * no room for even the header, or a block device too small; -EROFS, -EACCES and whatever open,
 * fstat and write say. `ret_reason` is always set.
 */
int tm_fallback_open(const char *path, uint64_t pages, struct tm_fallback **ret_fallback,
	char ret_reason[static TM_FALLBACK_REASON_MAX]);

/* Nothing in it is wanted any more: start from holes. 0 or -errno. */
int tm_fallback_reset(struct tm_fallback *f);

/* A random number that the file has had since it was made or reset: names its content. */
const uint8_t *tm_fallback_id(const struct tm_fallback *f);

/* Give the disk space back and close. */
void tm_fallback_close(struct tm_fallback *f);

/* `count` pages from page `n`. The buffers are aligned to TM_FALLBACK_PAGE. 0 or -errno; a transfer
 * that ends early is -ENOSPC (write) or -EIO (read). After a failed write each page holds its old
 * content, its new one, or what the disk made of it. */
int tm_fallback_read(struct tm_fallback *f, uint64_t n, unsigned int count, void *ret_pages);
int tm_fallback_write(struct tm_fallback *f, uint64_t n, unsigned int count, const void *pages);

/* The pages are not needed any more: give their blocks back where the file system can. */
void tm_fallback_discard(struct tm_fallback *f, uint64_t n, unsigned int count);

/* Make every write that returned before this call durable; does nothing when they are already.
 * 0 or -errno; after an error the next call tries again. */
int tm_fallback_sync(struct tm_fallback *f);

bool tm_fallback_is_direct(const struct tm_fallback *f);

#endif
