/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/heap.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/util.h"

void tm_heap_settle(void)
{
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, INT32_MAX);
#endif
}

bool tm_heap_reserve(size_t bytes)
{
	void *block = malloc(bytes);

	if (!block)
		return false;
	tm_heap_populate(block, bytes);
	free(block);
	return true;
}

void tm_heap_populate(void *block, size_t bytes)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t from = (uintptr_t)block & ~(page - 1);
	uintptr_t to = TM_ALIGN((uintptr_t)block + bytes, page);

	/* Locked memory is present already, and an older kernel does not know the call: then the
	 * heap is what it was. */
	(void)madvise((void *)from, to - from, MADV_POPULATE_WRITE);
}
