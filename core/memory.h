/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memory.h - one large sparse shared mapping
 *
 * The pages of a store live in an unlinked file, so that its descriptor can outlive the process.
 * Where we may mount one, on a private tmpfs: with huge=always, since taking and returning 1 GiB
 * then costs milliseconds, and with noswap (from Linux 6.4), since compressed pages that are
 * swapped out help nobody, and could be on their way to the very device they serve. Elsewhere in a
 * memfd. Untouched and released ranges take no memory and read as zeros.
 */
#ifndef TM_MEMORY_H
#define TM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define TM_HUGE_BYTES (2ull << 20)

struct tm_memory {
	uint8_t *base; /* aligned to TM_HUGE_BYTES */
	uint64_t bytes;
	int fd;    /* close-on-exec */
	bool huge; /* the file system hands out huge pages for it */
};

/* Reserve `bytes` (a multiple of the page size); `want_huge` asks for huge pages, which is never an
 * error not to get. 0 and *ret_memory, or -errno. */
int tm_memory_open(uint64_t bytes, bool want_huge, struct tm_memory *ret_memory);
/* The same on a file made by tm_memory_open, perhaps in another process, of whatever size it has.
 * On success the descriptor is the memory's. */
int tm_memory_attach(int fd, struct tm_memory *ret_memory);
void tm_memory_detach(struct tm_memory *m); /* unmap only: the descriptor stays open */
void tm_memory_close(struct tm_memory *m);

/* The first page at or behind `offset` that holds something, or `bytes` when there is none. */
uint64_t tm_memory_next(const struct tm_memory *m, uint64_t offset);

/* Make the range present, as the faults of touching it all would: nothing in it changes. 0; -ENOMEM
 * (the range may be present in part). May wait for memory as long as the kernel does. */
int tm_memory_populate(struct tm_memory *m, uint64_t offset, uint64_t bytes);

/* Hand the range back to the operating system; it reads as zeros afterwards. Thread safe. Dear
 * where it cuts huge pages: give whole, aligned segments. */
void tm_memory_release(struct tm_memory *m, uint64_t offset, uint64_t bytes);

#endif
