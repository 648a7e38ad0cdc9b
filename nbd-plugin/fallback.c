/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/fallback.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <xxhash.h>

#include "core/util.h"
#include "nbd-plugin/crypt.h"

#define MAGIC   "tmem fallback\n"
#define VERSION 1u

#define PROBE_BYTES (1u << 20) /* that must be empty in a file that is not ours yet */

struct header {
	char magic[16];
	uint32_t version;
	uint32_t page_bytes;
	uint64_t pages;
	uint8_t id[TM_FALLBACK_ID_BYTES];
};

struct tm_fallback {
	int fd;
	bool direct;
	bool regular; /* else a block device */
	uint64_t pages;
	uint8_t id[TM_FALLBACK_ID_BYTES]; /* zeros: the file has no header yet */
	struct tm_crypt *crypt;           /* NULL: pages lie there as they are */
	struct tm_state *state;           /* since tm_fallback_bind; not ours */
	/* Writes that have returned, and how many of them a sync has covered: a flag that a sync
	 * clears would forget the write that returns while the sync runs. */
	_Atomic uint64_t written, synced;
};

static off_t place(uint64_t n)
{
	return (off_t)((n + 1) * TM_FALLBACK_PAGE);
}

/* All of it, or an error. A short transfer goes on at the last whole page, as O_DIRECT wants it. */
static int write_at(int fd, const void *pages, size_t bytes, off_t at)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pwrite(fd, (const char *)pages + done, bytes - done, at + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n < (ssize_t)TM_FALLBACK_PAGE)
			return -ENOSPC;
		done += (size_t)n / TM_FALLBACK_PAGE * TM_FALLBACK_PAGE;
	}
	return 0;
}

static int read_at(int fd, void *ret_pages, size_t bytes, off_t at)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pread(fd, (char *)ret_pages + done, bytes - done, at + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n < (ssize_t)TM_FALLBACK_PAGE)
			return -EIO;
		done += (size_t)n / TM_FALLBACK_PAGE * TM_FALLBACK_PAGE;
	}
	return 0;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* Our own header, or nothing: no content at the start, where partition tables, file systems and
 * swap areas (btrfs' at 64 KiB the last of them) leave their marks. */
static int check_content(struct tm_fallback *f, uint64_t bytes)
{
	_Alignas(TM_FALLBACK_PAGE) uint8_t page[TM_FALLBACK_PAGE];
	uint64_t end = TM_MIN(bytes / TM_FALLBACK_PAGE * TM_FALLBACK_PAGE, (uint64_t)PROBE_BYTES);
	int rc;

	if (f->regular && bytes % TM_FALLBACK_PAGE != 0)
		return -EEXIST;
	for (uint64_t at = 0; at < end; at += TM_FALLBACK_PAGE) {
		rc = read_at(f->fd, page, TM_FALLBACK_PAGE, (off_t)at);
		if (rc < 0)
			return rc;
		if (at == 0 && memcmp(page, MAGIC, sizeof(MAGIC)) == 0) {
			memcpy(f->id, ((struct header *)page)->id, sizeof(f->id));
			return 0;
		}
		if (!is_zero(page, sizeof(page)))
			return -EEXIST;
	}
	return 0;
}

/* Go through the page cache if O_DIRECT could be asked for but wants more than page alignment. */
static int settle_direct(struct tm_fallback *f)
{
	_Alignas(TM_FALLBACK_PAGE) uint8_t page[TM_FALLBACK_PAGE];

	if (!f->direct || pread(f->fd, page, sizeof(page), 0) >= 0 || errno != EINVAL)
		return 0;
	f->direct = false;
	return fcntl(f->fd, F_SETFL, 0) < 0 ? -errno : 0;
}

/* Size a regular file, check the size of a device. */
static int make_room(const struct tm_fallback *f, uint64_t have)
{
	uint64_t want = (f->pages + 1) * TM_FALLBACK_PAGE;

	if (have >= want)
		return 0;
	if (!f->regular)
		return -ERANGE;
	return ftruncate(f->fd, (off_t)want) < 0 ? -errno : 0;
}

/* Make the file ours, with an id of its own. */
static int write_header(struct tm_fallback *f)
{
	_Alignas(TM_FALLBACK_PAGE) uint8_t page[TM_FALLBACK_PAGE] = {0};
	struct header h = {.magic = MAGIC, VERSION, TM_FALLBACK_PAGE, f->pages, {0}};

	if (getrandom(f->id, sizeof(f->id), 0) != sizeof(f->id))
		return -errno;
	memcpy(h.id, f->id, sizeof(h.id));
	memcpy(page, &h, sizeof(h));
	return write_at(f->fd, page, sizeof(page), 0);
}

/* A file with our header has shown that it can be written; a full disk shows at the first page. */
static int claim_header(struct tm_fallback *f)
{
	static const uint8_t none[TM_FALLBACK_ID_BYTES];

	return memcmp(f->id, none, sizeof(none)) == 0 ? write_header(f) : 0;
}

int tm_fallback_reset(struct tm_fallback *f)
{
	if (f->regular && ftruncate(f->fd, 0) < 0)
		return -errno;
	return make_room(f, f->regular ? 0 : UINT64_MAX) < 0 ? -errno : write_header(f);
}

int tm_fallback_bind(struct tm_fallback *f, struct tm_state *s)
{
	f->state = s;
	return f->crypt ? tm_crypt_key(f->crypt, tm_state_key(s)) : 0;
}

const uint8_t *tm_fallback_id(const struct tm_fallback *f)
{
	return f->id;
}

static int open_file(const char *path, bool *ret_direct)
{
	struct stat st;
	bool disk = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
	/* O_EXCL on a block device: nobody has it mounted, swaps to it, or opened it like this. */
	int flags = O_RDWR | O_CLOEXEC | (disk ? O_EXCL : O_CREAT);
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
	int rc;

	if (fstat(f->fd, &st) < 0)
		return -errno;
	f->regular = S_ISREG(st.st_mode);
	if (!f->regular && !S_ISBLK(st.st_mode))
		return -EINVAL;
	if (flock(f->fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	rc = settle_direct(f);
	if (rc < 0)
		return rc;
	*ret_bytes = (uint64_t)st.st_size;
	if (!f->regular && ioctl(f->fd, BLKGETSIZE64, ret_bytes) < 0)
		return -errno;
	return check_content(f, *ret_bytes);
}

static const char *reason_for(int rc)
{
	switch (rc) {
	case -EBUSY:
		return "another server uses it, or it is mounted or swapped to";
	case -EEXIST:
		return "it holds something that is not tmem's; remove it or name another file";
	case -ERANGE:
		return "too small for size= and one page more";
	case -ENOPKG:
		return "libcrypto has no AES-256-XTS here; encrypt=no does without";
	case -EINVAL:
		return "it is neither a regular file nor a block device";
	default:
		return strerror(-rc);
	}
}

static void free_fallback(struct tm_fallback *f)
{
	if (f->fd >= 0)
		close(f->fd);
	tm_crypt_destroy(f->crypt);
	free(f);
}

int tm_fallback_open(const char *path, uint64_t pages, bool encrypt,
	struct tm_fallback **ret_fallback, char ret_reason[static TM_FALLBACK_REASON_MAX])
{
	struct tm_fallback *f = calloc(1, sizeof(*f));
	uint64_t bytes = 0;
	int rc;

	if (!f) {
		snprintf(ret_reason, TM_FALLBACK_REASON_MAX, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	f->pages = pages;
	f->fd = open_file(path, &f->direct);
	rc = f->fd < 0 ? f->fd : claim(f, &bytes);
	if (rc == 0 && encrypt)
		rc = tm_crypt_create(&f->crypt);
	if (rc == 0)
		rc = make_room(f, bytes);
	if (rc == 0)
		rc = claim_header(f);
	snprintf(ret_reason, TM_FALLBACK_REASON_MAX, "%s", rc < 0 ? reason_for(rc) : "");
	if (rc < 0) {
		free_fallback(f);
		return rc;
	}
	*ret_fallback = f;
	return 0;
}

void tm_fallback_close(struct tm_fallback *f)
{
	if (!f)
		return;
	/* Without the pages in RAM what lies here is of no use to anybody. If it cannot be cut off,
	 * the space stays taken until the next start. What no device was bound to may be what a
	 * server that was killed left. */
	if (f->regular && f->state)
		(void)!ftruncate(f->fd, TM_FALLBACK_PAGE);
	free_fallback(f);
}

/* --- pages ------------------------------------------------------------------------------------ */

static uint32_t sum_of(const void *page)
{
	return (uint32_t)XXH3_64bits(page, TM_FALLBACK_PAGE);
}

int tm_fallback_read(struct tm_fallback *f, uint64_t n, unsigned int count, void *ret_pages)
{
	const uint8_t *page = ret_pages;
	int rc = read_at(f->fd, ret_pages, (size_t)count * TM_FALLBACK_PAGE, place(n));

	if (rc == 0 && f->crypt)
		rc = tm_crypt_unseal(f->crypt, n, count, ret_pages);
	for (unsigned int i = 0; i < count && rc == 0; i++, page += TM_FALLBACK_PAGE)
		if (!tm_state_fits(f->state, n + i, sum_of(page)))
			rc = -EBADMSG;
	return rc;
}

/* Page `n` is about to be written: an earlier write that failed, or that a kill interrupted, may
 * have left a page whose sum only the place that page `n` needs knows (state.h). If that page
 * cannot be read now it is as lost as it was before. */
static void settle(struct tm_fallback *f, uint64_t n)
{
	_Alignas(TM_FALLBACK_PAGE) uint8_t page[TM_FALLBACK_PAGE];
	uint64_t other;

	if (tm_state_unsettled(f->state, n, &other) && tm_fallback_read(f, other, 1, page) == 0)
		tm_state_settle(f->state, other, sum_of(page));
}

int tm_fallback_write(struct tm_fallback *f, uint64_t n, unsigned int count, void *pages)
{
	const uint8_t *page = pages;
	int rc = 0;

	for (unsigned int i = 0; i < count; i++, page += TM_FALLBACK_PAGE) {
		settle(f, n + i);
		tm_state_expect(f->state, n + i, sum_of(page));
	}
	if (f->crypt)
		rc = tm_crypt_seal(f->crypt, n, count, pages);
	if (rc == 0)
		rc = write_at(f->fd, pages, (size_t)count * TM_FALLBACK_PAGE, place(n));
	atomic_fetch_add(&f->written, 1);
	for (unsigned int i = 0; i < count && rc == 0; i++)
		tm_state_confirm(f->state, n + i);
	return rc;
}

void tm_fallback_discard(struct tm_fallback *f, uint64_t n, unsigned int count)
{
	/* Best effort: where it cannot be done the blocks just stay ours. */
	(void)!fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, place(n),
		(off_t)count * TM_FALLBACK_PAGE);
}

int tm_fallback_sync(struct tm_fallback *f)
{
	uint64_t written = atomic_load(&f->written), synced = atomic_load(&f->synced);

	if (synced >= written)
		return 0;
	if (fdatasync(f->fd) < 0)
		return -errno;
	while (synced < written && !atomic_compare_exchange_weak(&f->synced, &synced, written))
		;
	return 0;
}

bool tm_fallback_takes_memory(const struct tm_fallback *f)
{
	struct statfs fs;

	return !f->direct ||
		(f->regular && fstatfs(f->fd, &fs) == 0 &&
			(fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC));
}

bool tm_fallback_is_encrypted(const struct tm_fallback *f)
{
	return f->crypt != NULL;
}
