/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fileops_ops.c - the operations of fileops: each does the same to the file and to the array
 */
#include "tests/torture/fileops.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Pages that went between finding data and the hole behind it, in one look. */
#define GONE_MAX 1000

/* --- which part of the file -------------------------------------------------- */

/* A length: mostly small, now and then many pages. */
static size_t rnd_len(struct run *r)
{
	static const size_t most[] = {16, 300, 5000, 20000, 70000, LEN_MAX};

	return 1 + rnd(r, most[rnd(r, TM_ARRAY_SIZE(most))]);
}

/* A place below `end`, now and then at a page's border. */
static size_t rnd_off(struct run *r, size_t end)
{
	size_t off = rnd(r, end);

	return rnd(r, 4) == 0 ? off / PAGE * PAGE : off;
}

/* A range of the file that exists: false if it is empty. */
static bool pick_inside(struct run *r, struct did *d)
{
	if (r->size == 0)
		return false;
	d->off = rnd_off(r, r->size);
	d->len = TM_MIN(rnd_len(r), r->size - d->off);
	return true;
}

/* A range that may lie beyond the end, but within the most there may be. */
static void pick_anywhere(struct run *r, struct did *d)
{
	size_t end = rnd(r, 10) == 0 ? r->max : TM_MIN(r->size + PAGE, r->max);

	d->off = rnd_off(r, end);
	d->len = TM_MIN(rnd_len(r), r->max - d->off);
}

static void fill(struct run *r, char *data, size_t len)
{
	bool repeats = rnd(r, 4) == 0;
	uint64_t word = r->random;

	for (size_t i = 0; i < len; i += 8) {
		if (!repeats)
			word = word * 6364136223846793005u + 1442695040888963407u;
		memcpy(data + i, &word, TM_MIN(len - i, (size_t)8));
	}
}

/* --- the array's side --------------------------------------------------------------------- */

static void good_write(struct run *r, size_t off, const char *data, size_t len)
{
	memcpy(r->good + off, data, len);
	r->size = TM_MAX(r->size, off + len);
}

static void good_truncate(struct run *r, size_t size)
{
	if (size < r->size)
		memset(r->good + size, 0, r->size - size);
	r->size = size;
}

/* --- reading ------------------------------------------------------------------------------ */

static void op_read(struct run *r, struct did *d)
{
	if (pick_inside(r, d))
		read_all(r, rnd(r, 2) ? r->fd : r->append, d->off, d->len, "read");
}

static void op_read_direct(struct run *r, struct did *d)
{
	ssize_t n;

	if (r->direct < 0 || !pick_inside(r, d))
		return;
	d->off = d->off / PAGE * PAGE;
	d->len = TM_MIN(TM_ALIGN(d->len, (size_t)PAGE), (size_t)LEN_MAX);
	n = pread(r->direct, r->buf, d->len, (off_t)d->off);
	CHECK(r, n >= 0);
	if ((size_t)n != TM_MIN(d->len, r->size - d->off))
		fail(r, d->off, "direct read of %zu bytes, file %zu: %zd", d->len, r->size, n);
	compare(r, r->buf, d->off, (size_t)n, "direct read");
}

/* Map the pages of a range. */
static char *map(struct run *r, const struct did *d, int protection, size_t *ret_len)
{
	size_t start = d->off / PAGE * PAGE;
	char *at;

	*ret_len = d->off + d->len - start;
	at = mmap(NULL, *ret_len, protection, MAP_SHARED, r->fd, (off_t)start);
	CHECK(r, at != MAP_FAILED);
	return at;
}

static void op_read_mapped(struct run *r, struct did *d)
{
	size_t len, end, past;
	char *at;

	if (!pick_inside(r, d))
		return;
	at = map(r, d, PROT_READ, &len);
	end = d->off + d->len;
	compare(r, at + d->off % PAGE, d->off, d->len, "mapped read");
	/* The last page is zero behind the end. */
	past = end == r->size ? TM_ALIGN(len, (size_t)PAGE) : len;
	for (size_t i = len; i < past; i++)
		if (at[i])
			fail(r, r->size, "the last page is not zero %zu behind the end", i - len);
	munmap(at, len);
}

/*
 * Every hole reads as zeros, data and holes take turns up to the end. Space that was allocated and
 * never written is data as long as a page of it is cached: when that goes between the two calls,
 * there is a hole where data was found. tmemfs lets go of such pages itself, as do others who drop
 * caches.
 */
static void op_seek(struct run *r, struct did *d)
{
	unsigned int gone = 0;
	off_t at = 0, data, hole;

	(void)d;
	CHECK(r, fsync(r->fd) == 0);
	while ((size_t)at < r->size) {
		data = lseek(r->fd, at, SEEK_DATA);
		CHECK(r, data >= at || errno == ENXIO);
		if (data < 0)
			data = (off_t)r->size;
		for (off_t i = at; i < data; i++)
			if (r->good[i])
				fail(r, (size_t)i, "hole %lld to %lld has data", (long long)at,
					(long long)data);
		if ((size_t)data == r->size)
			return;
		hole = lseek(r->fd, data, SEEK_HOLE);
		if (hole < data || (size_t)hole > r->size || (hole == data && ++gone > GONE_MAX))
			fail(r, (size_t)data,
				"from %lld on: data at %lld, hole behind it at %lld of %zu (%s), "
				"%u times "
				"it had gone",
				(long long)at, (long long)data, (long long)hole, r->size,
				hole < 0 ? strerror(errno) : "no error", gone);
		if (hole > data)
			at = hole;
	}
}

/* --- writing ------------------------------------------------------------------------------ */

static void write_all(struct run *r, int fd, const char *data, size_t len, size_t off)
{
	ssize_t n = pwrite(fd, data, len, (off_t)off);

	if (n != (ssize_t)len)
		fail(r, off, "write of %zu: %zd (%s)", len, n, strerror(errno));
}

static void op_write(struct run *r, struct did *d)
{
	pick_anywhere(r, d);
	fill(r, r->buf, d->len);
	write_all(r, r->fd, r->buf, d->len, d->off);
	good_write(r, d->off, r->buf, d->len);
}

static void op_write_direct(struct run *r, struct did *d)
{
	if (r->direct < 0)
		return;
	pick_anywhere(r, d);
	d->off = d->off / PAGE * PAGE;
	d->len = TM_ALIGN(d->len, (size_t)PAGE);
	if (d->off + d->len > r->max)
		return;
	fill(r, r->buf, d->len);
	write_all(r, r->direct, r->buf, d->len, d->off);
	good_write(r, d->off, r->buf, d->len);
}

static void op_append(struct run *r, struct did *d)
{
	d->off = r->size;
	d->len = rnd_len(r);
	if (d->off + d->len > r->max)
		return;
	fill(r, r->buf, d->len);
	CHECK(r, write(r->append, r->buf, d->len) == (ssize_t)d->len);
	good_write(r, d->off, r->buf, d->len);
}

static void op_write_mapped(struct run *r, struct did *d)
{
	size_t len;
	char *at;

	if (!pick_inside(r, d))
		return;
	fill(r, r->buf, d->len);
	at = map(r, d, PROT_READ | PROT_WRITE, &len);
	memcpy(at + d->off % PAGE, r->buf, d->len);
	if (rnd(r, 4) == 0)
		CHECK(r, msync(at, len, rnd(r, 2) ? MS_SYNC : MS_ASYNC) == 0);
	munmap(at, len);
	good_write(r, d->off, r->buf, d->len);
}

static void op_truncate(struct run *r, struct did *d)
{
	d->off = rnd(r, 12) == 0 ? 0
				 : rnd_off(r, rnd(r, 3) ? TM_MIN(r->size * 2 + 1, r->max) : r->max);
	CHECK(r,
		(rnd(r, 2) ? ftruncate(r->fd, (off_t)d->off) : truncate(r->path, (off_t)d->off)) ==
			0);
	good_truncate(r, d->off);
}

static void op_fallocate(struct run *r, struct did *d)
{
	int mode = d->op->mode;
	bool whole_blocks = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);

	pick_anywhere(r, d);
	if (whole_blocks) {
		d->off = d->off / PAGE * PAGE;
		d->len = TM_ALIGN(d->len, (size_t)PAGE);
		if (d->off + d->len >= r->size || r->size + d->len > r->max)
			return;
	}
	if (fallocate(r->fd, mode, (off_t)d->off, (off_t)d->len) < 0) {
		CHECK(r, errno == EOPNOTSUPP);
		r->missing |= 1ull << (d->op - file_ops);
		return;
	}
	if (mode & FALLOC_FL_COLLAPSE_RANGE) {
		memmove(r->good + d->off, r->good + d->off + d->len, r->size - d->off - d->len);
		good_truncate(r, r->size - d->len);
	} else if (mode & FALLOC_FL_INSERT_RANGE) {
		memmove(r->good + d->off + d->len, r->good + d->off, r->size - d->off);
		memset(r->good + d->off, 0, d->len);
		r->size += d->len;
	} else if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
		memset(r->good + d->off, 0, d->len);
	}
	if (!whole_blocks && !(mode & FALLOC_FL_KEEP_SIZE))
		r->size = TM_MAX(r->size, d->off + d->len);
}

static void op_copy_range(struct run *r, struct did *d)
{
	off_t from, to;
	size_t left;

	if (!pick_inside(r, d))
		return;
	d->from = d->off;
	d->off = rnd_off(r, r->max - d->len);
	if (d->off < d->from + d->len && d->from < d->off + d->len)
		return;
	from = (off_t)d->from, to = (off_t)d->off, left = d->len;
	while (left > 0) {
		ssize_t n = copy_file_range(r->fd, &from, r->fd, &to, left, 0);

		CHECK(r, n > 0);
		left -= (size_t)n;
	}
	good_write(r, d->off, r->good + d->from, d->len);
}

/* From a second file, so that the source is one that is read only here. */
static void op_copy_other(struct run *r, struct did *d)
{
	TM_AUTO_CLOSE int other = open(r->other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	off_t from = 0, to;
	size_t left;

	CHECK(r, other >= 0);
	pick_anywhere(r, d);
	fill(r, r->buf, d->len);
	write_all(r, other, r->buf, d->len, 0);
	to = (off_t)d->off, left = d->len;
	while (left > 0) {
		ssize_t n = copy_file_range(other, &from, r->fd, &to, left, 0);

		CHECK(r, n > 0);
		left -= (size_t)n;
	}
	good_write(r, d->off, r->buf, d->len);
}

/* --- around the file ---------------------------------------------------------------------- */

static void op_sync(struct run *r, struct did *d)
{
	(void)d;
	CHECK(r, (rnd(r, 2) ? fsync(r->fd) : fdatasync(r->fd)) == 0);
}

/* The kernel's clean pages go, so that the next read asks the file system. */
static void op_forget(struct run *r, struct did *d)
{
	(void)d;
	/* Not fdatasync: the disk is nobody's business here, and slow. */
	if (rnd(r, 2))
		CHECK(r, sync_file_range(r->fd, 0, 0, SYNC_FILE_RANGE_WRITE_AND_WAIT) == 0);
	CHECK(r, posix_fadvise(r->fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
}

/* Old enough that what stat says is trusted: what is read now is kept, and read again. */
static void op_settle(struct run *r, struct did *d)
{
	const struct timespec moment = {.tv_nsec = 25000000};

	close_all(r);
	nanosleep(&moment, NULL);
	open_all(r);
	for (int i = 0; i < 3; i++) {
		check_file(r, r->fd, "settled");
		op_forget(r, d);
	}
}

/* Others write while nobody has it open. */
static void op_below(struct run *r, struct did *d)
{
	int fd;

	if (!r->has_below)
		return;
	close_all(r);
	CHECK(r, (fd = open(r->below, O_RDWR | O_CLOEXEC)) >= 0);
	pick_anywhere(r, d);
	fill(r, r->buf, d->len);
	write_all(r, fd, r->buf, d->len, d->off);
	good_write(r, d->off, r->buf, d->len);
	if (rnd(r, 4) == 0) {
		d->from = rnd_off(r, r->max);
		CHECK(r, ftruncate(fd, (off_t)d->from) == 0);
		good_truncate(r, d->from);
	}
	close(fd);
	open_all(r);
	check_file(r, r->fd, "after a change below");
}

/* Another file takes the name; the old one goes on while it is open. */
static void op_replace(struct run *r, struct did *d)
{
	bool unlinks = rnd(r, 2);
	int fd;

	if (unlinks)
		CHECK(r, unlink(r->path) == 0);
	d->len = rnd_len(r);
	CHECK(r,
		(fd = open(unlinks ? r->path : r->renewed, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
			 0600)) >= 0);
	fill(r, r->buf + r->max, d->len);
	write_all(r, fd, r->buf + r->max, d->len, 0);
	close(fd);
	if (!unlinks)
		CHECK(r, rename(r->renewed, r->path) == 0);
	check_file(r, r->fd, "the replaced file");
	close_all(r);
	good_truncate(r, 0);
	good_write(r, 0, r->buf + r->max, d->len);
	open_all(r);
	check_file(r, r->fd, "the new file");
}

/* --- the table ------------------------------------------------------------ */

const struct op file_ops[] = {
	{"read", 120, op_read, 0},
	{"read_direct", 30, op_read_direct, 0},
	{"read_mapped", 80, op_read_mapped, 0},
	{"seek", 2, op_seek, 0},
	{"write", 80, op_write, 0},
	{"write_direct", 25, op_write_direct, 0},
	{"append", 10, op_append, 0},
	{"write_mapped", 80, op_write_mapped, 0},
	{"truncate", 25, op_truncate, 0},
	{"allocate", 5, op_fallocate, 0},
	{"allocate_keep", 5, op_fallocate, FALLOC_FL_KEEP_SIZE},
	{"punch", 25, op_fallocate, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE},
	{"zero", 15, op_fallocate, FALLOC_FL_ZERO_RANGE},
	{"zero_keep", 10, op_fallocate, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE},
	{"collapse", 5, op_fallocate, FALLOC_FL_COLLAPSE_RANGE},
	{"insert", 5, op_fallocate, FALLOC_FL_INSERT_RANGE},
	{"copy_range", 25, op_copy_range, 0},
	{"copy_other", 5, op_copy_other, 0},
	{"sync", 3, op_sync, 0},
	{"forget", 40, op_forget, 0},
	{"reopen", 4, op_reopen, 0},
	{"settle", 2, op_settle, 0},
	{"below", 3, op_below, 0},
	{"replace", 3, op_replace, 0},
	{NULL, 0, NULL, 0},
};
