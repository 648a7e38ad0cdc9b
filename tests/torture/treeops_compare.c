/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * treeops_compare.c - two trees, whole
 */
#include "tests/torture/treeops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "core/util.h"

#define LIST_MAX 65536

/* A file as both sides number it: names that are one file here must be one there. */
struct pair {
	ino_t side[SIDES];
};

static struct pair *pairs;
static size_t pair_count;
static unsigned int differences;

__attribute__((format(printf, 2, 3))) static void differ(const char *path, const char *format, ...)
{
	va_list args;

	differences++;
	printf("%s: ", path);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

static void remember(ino_t a, ino_t b)
{
	if ((pair_count & (pair_count - 1)) == 0)
		pairs = realloc(pairs, (pair_count ? pair_count * 2 : 1) * sizeof(*pairs));
	if (!pairs)
		abort();
	pairs[pair_count++] = (struct pair){{a, b}};
}

static int sort_side;

static int by_side(const void *a, const void *b)
{
	ino_t x = ((const struct pair *)a)->side[sort_side];
	ino_t y = ((const struct pair *)b)->side[sort_side];

	return x < y ? -1 : x > y;
}

/* One number on one side is one number on the other. */
static void compare_links(void)
{
	for (sort_side = 0; sort_side < SIDES; sort_side++) {
		int other = !sort_side;

		qsort(pairs, pair_count, sizeof(*pairs), by_side);
		for (size_t i = 1; i < pair_count; i++)
			if (pairs[i].side[sort_side] == pairs[i - 1].side[sort_side] &&
				pairs[i].side[other] != pairs[i - 1].side[other])
				differ(".", "inode %lu is one file on one side only",
					(unsigned long)pairs[i].side[sort_side]);
	}
}

static void compare_stat(const char *path, const struct stat *a, const struct stat *b)
{
	if (a->st_mode != b->st_mode)
		differ(path, "mode %o, %o", a->st_mode, b->st_mode);
	if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
		differ(path, "owner %u:%u, %u:%u", a->st_uid, a->st_gid, b->st_uid, b->st_gid);
	if (a->st_nlink != b->st_nlink)
		differ(path, "links %lu, %lu", (unsigned long)a->st_nlink,
			(unsigned long)b->st_nlink);
	if (a->st_rdev != b->st_rdev)
		differ(path, "device %lx, %lx", (unsigned long)a->st_rdev,
			(unsigned long)b->st_rdev);
	if (!S_ISDIR(a->st_mode) && a->st_size != b->st_size)
		differ(path, "size %lld, %lld", (long long)a->st_size, (long long)b->st_size);
	/* A fifo's are the kernel's own, and what FUSE does of them is another thing. */
	if (!S_ISFIFO(a->st_mode) && (a->st_mtime < 1000000000 || b->st_mtime < 1000000000) &&
		(a->st_mtime != b->st_mtime || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec))
		differ(path, "time %lld.%09ld, %lld.%09ld", (long long)a->st_mtime,
			a->st_mtim.tv_nsec, (long long)b->st_mtime, b->st_mtim.tv_nsec);
}

static void compare_content(const char *path, int a, int b)
{
	static char buf[SIDES][1 << 16];
	TM_AUTO_CLOSE int fa = openat(a, path, O_RDONLY | O_CLOEXEC);
	TM_AUTO_CLOSE int fb = openat(b, path, O_RDONLY | O_CLOEXEC);
	off_t off = 0;

	if (fa < 0 || fb < 0) {
		differ(path, "opening: %d, %d (%s)", fa, fb, strerror(errno));
		return;
	}
	for (;;) {
		ssize_t n = pread(fa, buf[0], sizeof(buf[0]), off);
		ssize_t m = pread(fb, buf[1], sizeof(buf[1]), off);

		if (n != m || (n > 0 && memcmp(buf[0], buf[1], (size_t)n) != 0)) {
			differ(path, "content at %lld (%zd, %zd bytes)", (long long)off, n, m);
			return;
		}
		if (n <= 0)
			return;
		off += n;
	}
}

static void proc_path(char *buf, size_t size, int root, const char *path)
{
	snprintf(buf, size, "/proc/self/fd/%d/%s", root, path);
}

/* Every name of `a` has the same value on `b`; called both ways round. */
static void compare_xattrs(const char *path, int a, int b)
{
	static char names[LIST_MAX], value[SIDES][LIST_MAX];
	char at[SIDES][4200];
	ssize_t len;

	proc_path(at[0], sizeof(at[0]), a, path);
	proc_path(at[1], sizeof(at[1]), b, path);
	len = llistxattr(at[0], names, sizeof(names));
	for (const char *name = names; name < names + len; name += strlen(name) + 1) {
		ssize_t n = lgetxattr(at[0], name, value[0], LIST_MAX);
		ssize_t m = lgetxattr(at[1], name, value[1], LIST_MAX);

		if (n != m || (n > 0 && memcmp(value[0], value[1], (size_t)n) != 0))
			differ(path, "attribute %s: %zd, %zd bytes", name, n, m);
	}
}

static void compare_dir(const char *path, int a, int b);

static void compare_entry(const char *path, int a, int b)
{
	char target[SIDES][4096];
	struct stat st[SIDES];

	if (fstatat(a, path, &st[0], AT_SYMLINK_NOFOLLOW) < 0 ||
		fstatat(b, path, &st[1], AT_SYMLINK_NOFOLLOW) < 0) {
		differ(path, "on one side only");
		return;
	}
	compare_stat(path, &st[0], &st[1]);
	remember(st[0].st_ino, st[1].st_ino);
	compare_xattrs(path, a, b);
	compare_xattrs(path, b, a);
	if ((st[0].st_mode & S_IFMT) != (st[1].st_mode & S_IFMT))
		return;
	if (S_ISREG(st[0].st_mode))
		compare_content(path, a, b);
	if (S_ISDIR(st[0].st_mode))
		compare_dir(path, a, b);
	if (S_ISLNK(st[0].st_mode)) {
		ssize_t n = readlinkat(a, path, target[0], sizeof(target[0]));
		ssize_t m = readlinkat(b, path, target[1], sizeof(target[1]));

		if (n != m || memcmp(target[0], target[1], (size_t)TM_MAX(n, 0)) != 0)
			differ(path, "target");
	}
}

static DIR *open_dir(int root, const char *path)
{
	int fd = openat(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? NULL : fdopendir(fd);
}

static void compare_dir(const char *path, int a, int b)
{
	DIR *dir = open_dir(a, path), *other = open_dir(b, path);
	size_t here = 0, there = 0;
	struct dirent *d;

	while (other && readdir(other))
		there++;
	while (dir && (d = readdir(dir))) {
		TM_AUTO_FREE char *below = NULL;

		here++;
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		if (asprintf(&below, "%s/%s", path, d->d_name) < 0)
			abort();
		compare_entry(below, a, b);
	}
	if (!dir || !other || here != there)
		differ(path, "%zu, %zu entries", here, there);
	if (dir)
		closedir(dir);
	if (other)
		closedir(other);
}

unsigned int tree_compare(int a, int b)
{
	differences = 0;
	pair_count = 0;
	compare_entry(".", a, b);
	compare_links();
	free(pairs);
	pairs = NULL;
	return differences;
}
