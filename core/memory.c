/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "core/tmem.h"
#include "core/util.h"

/* An unlinked file on a tmpfs of our own; -errno where we may not mount. The mount has no place in
 * the tree and lives as long as the file. */
static int tmpfs_file(uint64_t bytes, bool want_huge)
{
	TM_AUTO_CLOSE int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	TM_AUTO_CLOSE int mnt = -1;
	char size[24];
	int fd;

	snprintf(size, sizeof(size), "%llu", (unsigned long long)bytes);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "size", size, 0) < 0)
		return -errno;
	/* A kernel may have either or not: the file is as good without. */
	if (want_huge)
		fsconfig(fs, FSCONFIG_SET_STRING, "huge", "always", 0);
	fsconfig(fs, FSCONFIG_SET_FLAG, "noswap", NULL, 0);
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	mnt = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (mnt < 0)
		return -errno;
	fd = openat(mnt, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* tmpfs gives the size of a huge page as its block size where it hands huge pages out. */
static bool takes_huge_pages(struct tm_memory *m)
{
	struct stat st;

	return m->bytes >= TM_HUGE_BYTES && fstat(m->fd, &st) == 0 &&
		(uint64_t)st.st_blksize == TM_HUGE_BYTES;
}

/* Map `fd` at an address aligned to TM_HUGE_BYTES; NULL with errno set. */
static uint8_t *map_aligned(int fd, uint64_t bytes)
{
	uint64_t reserve = bytes + TM_HUGE_BYTES;
	uint8_t *raw =
		mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *base;

	if (raw == MAP_FAILED)
		return NULL;
	base = (uint8_t *)TM_ALIGN((uintptr_t)raw, TM_HUGE_BYTES);
	if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
		MAP_FAILED) {
		int saved = errno;

		munmap(raw, reserve);
		errno = saved;
		return NULL;
	}
	if (base > raw)
		munmap(raw, (size_t)(base - raw));
	munmap(base + bytes, (size_t)(raw + reserve - (base + bytes)));
	/* Not in core dumps; and a forked child has no business with it. */
	madvise(base, bytes, MADV_DONTDUMP);
	madvise(base, bytes, MADV_DONTFORK);
	return base;
}

int tm_memory_attach(int fd, struct tm_memory *ret_memory)
{
	struct tm_memory m = {.fd = fd};
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	m.bytes = (uint64_t)st.st_size;
	m.base = map_aligned(fd, m.bytes);
	if (!m.base)
		return -errno;
	m.huge = takes_huge_pages(&m);
	*ret_memory = m;
	return 0;
}

int tm_memory_open(uint64_t bytes, bool want_huge, struct tm_memory *ret_memory)
{
	TM_AUTO_CLOSE int fd = tmpfs_file(bytes, want_huge);
	int rc;

	if (fd < 0)
		fd = memfd_create("tmem-store", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return -errno;
	rc = tm_memory_attach(fd, ret_memory);
	if (rc == 0)
		fd = -1;
	return rc;
}

uint64_t tm_memory_next(const struct tm_memory *m, uint64_t offset)
{
	off_t at = lseek(m->fd, (off_t)offset, SEEK_DATA);

	return at < 0 ? m->bytes : TM_MIN((uint64_t)at, m->bytes);
}

void tm_memory_detach(struct tm_memory *m)
{
	if (m->base)
		munmap(m->base, m->bytes);
	m->base = NULL;
}

void tm_memory_close(struct tm_memory *m)
{
	if (!m->base)
		return;
	tm_memory_detach(m);
	close(m->fd);
}

int tm_memory_populate(struct tm_memory *m, uint64_t offset, uint64_t bytes)
{
	uint8_t *at = m->base + offset, *end = at + bytes;

	if (madvise(at, bytes, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return errno == EFAULT ? -ENOMEM : -errno;
	for (; at < end; at += TM_PAGE_SIZE) /* before Linux 5.14 */
		__atomic_fetch_or(at, 0, __ATOMIC_RELAXED);
	return 0;
}

void tm_memory_release(struct tm_memory *m, uint64_t offset, uint64_t bytes)
{
	/* On a file of our own in memory this cannot fail; if a kernel without it turns up, zeros
	 * are what counts: what was stored there must not be seen again. */
	if (fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		    (off_t)bytes) < 0)
		memset(m->base + offset, 0, bytes);
}
