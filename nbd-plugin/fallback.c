/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/fallback.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "core/util.h"

#define MAGIC   "tmem fallback\n"
#define VERSION 1u

struct header {
	char magic[16];
	uint32_t version;
	uint32_t page_bytes;
	uint64_t pages;
};

struct tm_fallback {
	int fd;
	bool direct;
	bool regular; /* else a block device */
	_Atomic bool dirty;
};

static off_t place(uint64_t n)
{
	return (off_t)((n + 1) * TM_FALLBACK_PAGE);
}

static int write_at(int fd, const void *page, off_t at)
{
	ssize_t n = pwrite(fd, page, TM_FALLBACK_PAGE, at);

	if (n < 0)
		return -errno;
	return n == TM_FALLBACK_PAGE ? 0 : -EIO;
}

static int read_at(int fd, void *ret_page, off_t at)
{
	ssize_t n = pread(fd, ret_page, TM_FALLBACK_PAGE, at);

	if (n < 0)
		return -errno;
	return n == TM_FALLBACK_PAGE ? 0 : -EIO;
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, TM_FALLBACK_PAGE - 1) == 0;
}

/* Nothing in it, or our own header. */
static int check_content(int fd, uint64_t bytes)
{
	_Alignas(TM_FALLBACK_PAGE) uint8_t page[TM_FALLBACK_PAGE];
	int rc;

	if (bytes == 0)
		return 0;
	if (bytes < TM_FALLBACK_PAGE)
		return -EEXIST;
	rc = read_at(fd, page, 0);
	if (rc < 0)
		return rc;
	return is_zero(page) || memcmp(page, MAGIC, sizeof(MAGIC)) == 0 ? 0 : -EEXIST;
}

/* Size a regular file, check the size of a device. */
static int make_room(const struct tm_fallback *f, uint64_t have, uint64_t pages)
{
	uint64_t want = (pages + 1) * TM_FALLBACK_PAGE;

	if (!f->regular)
		return have < want ? -ENOSPC : 0;
	/* Old content means nothing to a new device: start from holes. */
	if (ftruncate(f->fd, 0) < 0 || ftruncate(f->fd, (off_t)want) < 0)
		return -errno;
	return 0;
}

static int write_header(const struct tm_fallback *f, uint64_t pages)
{
	_Alignas(TM_FALLBACK_PAGE) uint8_t page[TM_FALLBACK_PAGE] = {0};
	struct header h = {.magic = MAGIC, VERSION, TM_FALLBACK_PAGE, pages};

	memcpy(page, &h, sizeof(h));
	return write_at(f->fd, page, 0);
}

static int open_file(const char *path, bool *ret_direct)
{
	int flags = O_RDWR | O_CREAT | O_CLOEXEC;
	int fd = open(path, flags | O_DIRECT, 0600);

	*ret_direct = fd >= 0;
	if (fd < 0 && errno == EINVAL)
		fd = open(path, flags, 0600);
	return fd < 0 ? -errno : fd;
}

/* What the file is and whether we may have it; all before anything in it changes. */
static int claim(struct tm_fallback *f, uint64_t *ret_bytes)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return -errno;
	f->regular = S_ISREG(st.st_mode);
	if (!f->regular && !S_ISBLK(st.st_mode))
		return -EINVAL;
	if (flock(f->fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	*ret_bytes = (uint64_t)st.st_size;
	if (!f->regular && ioctl(f->fd, BLKGETSIZE64, ret_bytes) < 0)
		return -errno;
	return check_content(f->fd, *ret_bytes);
}

static const char *reason_for(int rc)
{
	switch (rc) {
	case -EBUSY:
		return "another server uses it";
	case -EEXIST:
		return "it holds something that is not tmem's; remove it or name another file";
	case -EINVAL:
		return "it is neither a regular file nor a block device";
	default:
		return strerror(-rc);
	}
}

int tm_fallback_open(const char *path, uint64_t pages, struct tm_fallback **ret_fallback,
	char ret_reason[static TM_FALLBACK_REASON_MAX])
{
	struct tm_fallback *f = calloc(1, sizeof(*f));
	uint64_t bytes = 0;
	int rc;

	if (!f) {
		snprintf(ret_reason, TM_FALLBACK_REASON_MAX, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	f->fd = open_file(path, &f->direct);
	rc = f->fd < 0 ? f->fd : claim(f, &bytes);
	if (rc == 0)
		rc = make_room(f, bytes, pages);
	if (rc == 0)
		rc = write_header(f, pages);
	snprintf(ret_reason, TM_FALLBACK_REASON_MAX, "%s", rc < 0 ? reason_for(rc) : "");
	if (rc < 0) {
		if (f->fd >= 0)
			close(f->fd);
		free(f);
		return rc;
	}
	*ret_fallback = f;
	return 0;
}

void tm_fallback_close(struct tm_fallback *f)
{
	if (!f)
		return;
	/* Without the pages in RAM what lies here is of no use to anybody. */
	if (f->regular && ftruncate(f->fd, TM_FALLBACK_PAGE) < 0)
		f->dirty = false; /* the space stays taken until the next start */
	close(f->fd);
	free(f);
}

int tm_fallback_read(struct tm_fallback *f, uint64_t n, void *ret_page)
{
	return read_at(f->fd, ret_page, place(n));
}

int tm_fallback_write(struct tm_fallback *f, uint64_t n, const void *page)
{
	atomic_store(&f->dirty, true);
	return write_at(f->fd, page, place(n));
}

void tm_fallback_discard(struct tm_fallback *f, uint64_t n)
{
	/* Best effort: where it cannot be done the blocks just stay ours. */
	(void)!fallocate(
		f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, place(n), TM_FALLBACK_PAGE);
}

int tm_fallback_sync(struct tm_fallback *f)
{
	if (!atomic_exchange(&f->dirty, false))
		return 0;
	if (fdatasync(f->fd) == 0)
		return 0;
	atomic_store(&f->dirty, true);
	return -errno;
}

bool tm_fallback_is_direct(const struct tm_fallback *f)
{
	return f->direct;
}
