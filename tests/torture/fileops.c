/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fileops.c - everything that can be done to the bytes of one file, compared with memory
 *
 * fileops [-n OPS] [-s SEED] [-p PROCESSES] [-l LENGTH] [-b BELOW] [-v] FILE
 *
 * Does OPS random operations on FILE (and FILE.new, FILE.other), which each process calls FILE.0,
 * FILE.1 ..., and does the same to an array. Whatever is read must be what the array holds. With -b
 * the directory BELOW, in which FILE's own last part names the same file, is changed and compared
 * as well, while nobody has FILE open.
 *
 * The first difference ends it: the seed, which operation, where, and the operations before that
 * touched the place, so that the same arguments repeat it. -v prints every operation as it begins.
 * What the file system does not have is left out from then on, and said at the end.
 *
 * The idea is that of fsx; a shared mapping, O_DIRECT and O_APPEND descriptors of the same file are
 * used in turn, and DONTNEED makes reads reach the file system below the page cache.
 */
#include "tests/torture/fileops.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG_SHOW 40 /* operations printed at a difference */

/* --- failing ------------------------------------------------------------------------------ */

static bool touches(const struct did *d, size_t at)
{
	return (at >= d->off && at < d->off + d->len) || d->size < d->off ||
		strcmp(d->op->name, "truncate") == 0;
}

void fail(struct run *r, size_t at, const char *format, ...)
{
	uint64_t first = r->n < LOG_SIZE ? 0 : r->n + 1 - LOG_SIZE, shown = 0;
	va_list args;

	fprintf(stderr, "%s: seed %llu, operation %llu: ", r->path, (unsigned long long)r->seed,
		(unsigned long long)r->n);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nbackwards, those that may have touched %zu:\n", at);
	for (uint64_t n = r->n + 1; n-- > first && shown < LOG_SHOW;) {
		const struct did *d = &r->log[n % LOG_SIZE];

		if (n != r->n && !touches(d, at))
			continue;
		fprintf(stderr, "  %llu %s %zu+%zu (from %zu), file %zu long\n",
			(unsigned long long)d->n, d->op->name, d->off, d->len, d->from, d->size);
		shown++;
	}
	exit(1);
}

void compare(struct run *r, const char *data, size_t off, size_t len, const char *how)
{
	size_t i = 0, bad = 0;

	if (memcmp(data, r->good + off, len) == 0)
		return;
	while (data[i] == r->good[off + i])
		i++;
	for (size_t k = i; k < len; k++)
		bad += data[k] != r->good[off + k];
	fail(r, off + i, "%s of %zu+%zu: at %zu is 0x%02x, not 0x%02x; %zu bytes differ", how, off,
		len, off + i, (uint8_t)data[i], (uint8_t)r->good[off + i], bad);
}

uint64_t rnd(struct run *r, uint64_t below)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return (r->random >> 11) % below;
}

/* --- opening and closing ------------------------------------------------------------------ */

void close_all(struct run *r)
{
	CHECK(r, close(r->fd) == 0 && close(r->append) == 0);
	CHECK(r, r->direct < 0 || close(r->direct) == 0);
}

void open_all(struct run *r)
{
	CHECK(r, (r->fd = open(r->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0);
	CHECK(r, (r->append = open(r->path, O_RDWR | O_APPEND | O_CLOEXEC)) >= 0);
	r->direct = open(r->path, O_RDWR | O_DIRECT | O_CLOEXEC);
	CHECK(r, r->direct >= 0 || errno == EINVAL);
}

void read_all(struct run *r, int fd, size_t off, size_t len, const char *how)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, r->buf + done, len - done, (off_t)(off + done));

		CHECK(r, n >= 0);
		if (n == 0)
			fail(r, off + done, "%s of %zu+%zu ends at %zu", how, off, len, off + done);
		done += (size_t)n;
	}
	compare(r, r->buf, off, len, how);
}

void check_file(struct run *r, int fd, const char *how)
{
	struct stat st;

	CHECK(r, fstat(fd, &st) == 0);
	if ((size_t)st.st_size != r->size)
		fail(r, r->size, "%s: %zu bytes, not %zu", how, (size_t)st.st_size, r->size);
	read_all(r, fd, 0, r->size, how);
	CHECK(r, pread(fd, r->buf, 1, (off_t)r->size) == 0);
}

static void check_below(struct run *r)
{
	TM_AUTO_CLOSE int fd = r->has_below ? open(r->below, O_RDONLY | O_CLOEXEC) : -1;

	if (!r->has_below)
		return;
	CHECK(r, fd >= 0);
	check_file(r, fd, "below");
}

void op_reopen(struct run *r, struct did *d)
{
	(void)d;
	close_all(r);
	check_below(r);
	open_all(r);
	check_file(r, r->fd, "after reopening");
}

/* --- the run ------------------------------------------------------------------------------ */

static const struct op *pick_op(struct run *r)
{
	const struct op *op;
	unsigned int total = 0, at;

	for (op = file_ops; op->run; op++)
		total += op->weight;
	at = (unsigned int)rnd(r, total);
	for (op = file_ops; at >= op->weight; op++)
		at -= op->weight;
	return op;
}

static void run(struct run *r)
{
	struct stat st;

	r->random = (r->seed + 1) * 0x9e3779b97f4a7c15ull;
	r->good = calloc(1, r->max);
	r->buf = aligned_alloc(PAGE, r->max * 2);
	CHECK(r, r->good && r->buf);
	unlink(r->path);
	open_all(r);
	for (r->n = 0; r->n < r->ops; r->n++) {
		struct did *d = &r->log[r->n % LOG_SIZE];

		*d = (struct did){.op = pick_op(r), .n = r->n, .size = r->size};
		if (r->verbose)
			fprintf(stderr, "%llu %s\n", (unsigned long long)r->n, d->op->name);
		if (!(r->missing >> (d->op - file_ops) & 1))
			d->op->run(r, d);
		CHECK(r, fstat(r->fd, &st) == 0);
		if ((size_t)st.st_size != r->size)
			fail(r, r->size, "the file has %zu bytes, not %zu", (size_t)st.st_size,
				r->size);
	}
	op_reopen(r, NULL);
	close_all(r);
	unlink(r->path);
	unlink(r->other);
	for (size_t i = 0; file_ops[i].run; i++)
		if (r->missing >> i & 1)
			printf("%s: the file system has no %s\n", r->path, file_ops[i].name);
}

static void usage(void)
{
	fprintf(stderr,
		"usage: fileops [-n OPS] [-s SEED] [-p PROCESSES] [-l LENGTH] [-b BELOW] [-v] "
		"FILE\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static struct run r = {.ops = 10000, .seed = 1, .max = 1 << 20};
	unsigned long processes = 1;
	const char *below = NULL;
	int opt, status, failed = 0;

	while ((opt = getopt(argc, argv, "n:s:p:l:b:v")) != -1) {
		switch (opt) {
		case 'n':
			r.ops = strtoull(optarg, NULL, 0);
			break;
		case 's':
			r.seed = strtoull(optarg, NULL, 0);
			break;
		case 'p':
			processes = strtoul(optarg, NULL, 0);
			break;
		case 'l':
			r.max = strtoull(optarg, NULL, 0);
			break;
		case 'b':
			below = optarg;
			break;
		case 'v':
			r.verbose = true;
			break;
		default:
			usage();
		}
	}
	if (argc - optind != 1 || r.max < 2 * LEN_MAX)
		usage();
	for (unsigned long i = 0; i < processes; i++) {
		if (fork() != 0)
			continue;
		r.seed += i;
		snprintf(r.path, sizeof(r.path), "%s.%lu", argv[optind], i);
		snprintf(r.other, sizeof(r.other), "%s.other", r.path);
		snprintf(r.renewed, sizeof(r.renewed), "%s.new", r.path);
		r.has_below = below;
		if (below)
			snprintf(
				r.below, sizeof(r.below), "%s/%s", below, basename(strdup(r.path)));
		run(&r);
		return 0;
	}
	while (wait(&status) > 0)
		failed |= status;
	if (!failed)
		printf("%lu x %llu operations, nothing differs\n", processes,
			(unsigned long long)r.ops);
	return failed ? 1 : 0;
}
