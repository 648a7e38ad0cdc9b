/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fallback.h - the file that takes the pages RAM refuses
 *
 *      | header page | page 0 | page 1 | ... |          a sparse file, or a block device
 *
 * The header says that the file is ours. A file with any other content is refused, never
 * overwritten. Page n of the device lies at (n + 1) pages, at its place or nowhere: freed pages are
 * punched out. Each page has a checksum in memory (state.h) that it is read against: a disk that
 * brings back something else, or something older, or nothing, is an error. Pages may be encrypted
 * (crypt.h) with a key that is in memory only.
 *
 * Opened O_DIRECT where the file system has it, so that swapping does not go through the page cache
 * it is meant to relieve. No call allocates memory. Thread safe, except that calls on one page must
 * not overlap, nor calls on pages that are equal modulo TM_STATE_EXPECTED (the device's page locks
 * see to both).
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
 * to; -EEXIST it holds something else; -EINVAL neither a regular file nor a block device; -ERANGE a
 * block device too small; -ENOSPC no room for even the header; -ENOPKG no cipher to encrypt with;
 * -EROFS, -EACCES and whatever open, fstat and write say. `ret_reason` is always set.
 */
int tm_fallback_open(const char *path, uint64_t pages, bool encrypt,
	struct tm_fallback **ret_fallback, char ret_reason[static TM_FALLBACK_REASON_MAX]);

/* Nothing in it is wanted any more: start from holes. 0 or -errno. */
int tm_fallback_reset(struct tm_fallback *f);

/* What vouches for the pages, before the first of them: the state, which outlives `f`. 0; -EIO
 * libcrypto refuses the key. */
int tm_fallback_bind(struct tm_fallback *f, struct tm_state *s);

/* A random number that the file has had since it was made or reset: names its content. */
const uint8_t *tm_fallback_id(const struct tm_fallback *f);

/* Give the disk space back if a state was bound to it, and close. */
void tm_fallback_close(struct tm_fallback *f);

/* `count` pages, TM_STATE_EXPECTED at most, from page `n`. The buffers are aligned to
 * TM_FALLBACK_PAGE; what was written is encrypted in place and means nothing afterwards. 0 or
 * -errno; -EBADMSG a page that was read is not what was written; a transfer that ends early is
 * -ENOSPC (write) or -EIO (read). After a failed write each page is its old content, its new one,
 * or damaged, and reading it says which. */
int tm_fallback_read(struct tm_fallback *f, uint64_t n, unsigned int count, void *ret_pages);
int tm_fallback_write(struct tm_fallback *f, uint64_t n, unsigned int count, void *pages);

/* The pages are not needed any more: give their blocks back where the file system can. */
void tm_fallback_discard(struct tm_fallback *f, uint64_t n, unsigned int count);

/* Make every write that returned before this call durable; does nothing when they are already.
 * 0 or -errno; after an error the next call tries again. */
int tm_fallback_sync(struct tm_fallback *f);

/* Whether writes to the file take memory first: in the page cache, for there is no O_DIRECT on its
 * file system, or for good, on a tmpfs. */
bool tm_fallback_takes_memory(const struct tm_fallback *f);
bool tm_fallback_is_encrypted(const struct tm_fallback *f);

#endif
