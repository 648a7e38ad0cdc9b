/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * treeops_ops.c - the operations of treeops
 */
#include "tests/torture/treeops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "core/util.h"

#define DATA_MAX 60000

static int result(long rc)
{
	return rc < 0 ? -errno : (int)rc;
}

static const char *data_of(const struct args *a)
{
	static char data[DATA_MAX];
	uint64_t word = a->seed;

	for (size_t i = 0; i + 8 <= sizeof(data); i += 8) {
		word = word * 6364136223846793005u + 1442695040888963407u;
		memcpy(data + i, &word, 8);
	}
	return data;
}

static void show(struct side *side, const void *data, size_t len)
{
	len = TM_MIN(len, OUT_MAX - side->out_len);
	memcpy(side->out + side->out_len, data, len);
	side->out_len += len;
}

/* --- files -------------------------------------------------------------------------------- */

static int op_create(struct side *side, const struct args *a)
{
	static const int kinds[] = {O_EXCL, 0, O_TRUNC, O_NOFOLLOW, O_APPEND};
	int flags = O_CREAT | O_RDWR | O_CLOEXEC | kinds[a->pick % TM_ARRAY_SIZE(kinds)];
	TM_AUTO_CLOSE int fd = open(a->path, flags, a->mode);
	struct stat st;

	(void)side;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	/* A fifo that nobody reads fills up. */
	return S_ISREG(st.st_mode) ? result(write(fd, data_of(a), a->len)) : 0;
}

static int op_write(struct side *side, const struct args *a)
{
	TM_AUTO_CLOSE int fd = open(a->path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);

	(void)side;
	return fd < 0 ? -errno : result(pwrite(fd, data_of(a), a->len, a->off));
}

static int op_read(struct side *side, const struct args *a)
{
	static char buf[DATA_MAX];
	TM_AUTO_CLOSE int fd = open(a->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = pread(fd, buf, a->len, a->off);
	if (n > 0)
		show(side, buf, (size_t)n);
	return result(n);
}

static int op_truncate(struct side *side, const struct args *a)
{
	(void)side;
	return result(truncate(a->path, a->off));
}

static int op_allocate(struct side *side, const struct args *a)
{
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE};
	TM_AUTO_CLOSE int fd = open(a->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	(void)side;
	if (fd < 0)
		return -errno;
	return result(fallocate(fd, modes[a->pick % TM_ARRAY_SIZE(modes)], a->off, (off_t)a->len));
}

static int op_copy(struct side *side, const struct args *a)
{
	TM_AUTO_CLOSE int from = open(a->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	TM_AUTO_CLOSE int to = open(a->path2, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	off_t in = 0, out = a->off;

	(void)side;
	return from < 0 || to < 0 ? -errno
				  : result(copy_file_range(from, &in, to, &out, a->len, 0));
}

/* --- names -------------------------------------------------------------------------------- */

static int op_mkdir(struct side *side, const struct args *a)
{
	(void)side;
	return result(mkdir(a->path, a->mode | 0300));
}

static int op_rmdir(struct side *side, const struct args *a)
{
	(void)side;
	return result(rmdir(a->path));
}

static int op_unlink(struct side *side, const struct args *a)
{
	(void)side;
	return result(unlink(a->path));
}

static int op_link(struct side *side, const struct args *a)
{
	(void)side;
	return result(linkat(
		AT_FDCWD, a->path, AT_FDCWD, a->path2, a->pick % 4 == 0 ? AT_SYMLINK_FOLLOW : 0));
}

static int op_symlink(struct side *side, const struct args *a)
{
	/* The last part only: it leads to a neighbour, or into a ring. */
	const char *base = strrchr(a->path2, '/') + 1;

	(void)side;
	return result(symlink(a->pick % 8 == 0 ? a->path2 : base, a->path));
}

static int op_readlink(struct side *side, const struct args *a)
{
	char target[4096];
	ssize_t n = readlink(a->path, target, sizeof(target));

	if (n > 0)
		show(side, target, (size_t)n);
	return result(n);
}

static int op_rename(struct side *side, const struct args *a)
{
	static const unsigned int flags[] = {
		0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE};

	(void)side;
	return result(renameat2(
		AT_FDCWD, a->path, AT_FDCWD, a->path2, flags[a->pick % TM_ARRAY_SIZE(flags)]));
}

/* Devices that nothing happens to: null, zero and full, and blocks of no driver. */
static int op_mknod(struct side *side, const struct args *a)
{
	static const mode_t kinds[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG};
	mode_t kind = kinds[a->pick % TM_ARRAY_SIZE(kinds)];
	dev_t device = kind == S_IFCHR ? makedev(1, 3 + a->pick % 3 * 2) : makedev(4000, a->pick);

	(void)side;
	return result(mknod(a->path, a->mode | kind, device));
}

/* --- attributes --------------------------------------------------------------------------- */

static int op_chmod(struct side *side, const struct args *a)
{
	(void)side;
	/* Never without the right to come back. */
	return result(chmod(a->path, a->mode | 0300));
}

static int op_chown(struct side *side, const struct args *a)
{
	(void)side;
	return result(
		fchownat(AT_FDCWD, a->path, a->uid, a->gid, a->pick % 2 ? AT_SYMLINK_NOFOLLOW : 0));
}

static int op_utime(struct side *side, const struct args *a)
{
	struct timespec times[2] = {{a->time, 1234567}, {a->time, (long)a->len}};

	(void)side;
	if (a->pick % 4 == 0)
		times[0].tv_nsec = UTIME_OMIT;
	if (a->pick % 8 == 1)
		times[1].tv_nsec = UTIME_NOW;
	return result(utimensat(AT_FDCWD, a->path, times, a->pick % 2 ? AT_SYMLINK_NOFOLLOW : 0));
}

static int show_stat(struct side *side, long rc, const struct stat *st)
{
	char line[200];
	bool sized = S_ISREG(st->st_mode) || S_ISLNK(st->st_mode);

	if (rc < 0)
		return -errno;
	snprintf(line, sizeof(line), "mode %o links %lu owner %u:%u size %lld device %lx set %lld",
		st->st_mode, (unsigned long)st->st_nlink, st->st_uid, st->st_gid,
		sized ? (long long)st->st_size : 0, (unsigned long)st->st_rdev,
		st->st_mtime < 1000000000 && !S_ISFIFO(st->st_mode) ? (long long)st->st_mtime : 0);
	show(side, line, strlen(line));
	return 0;
}

static int op_stat(struct side *side, const struct args *a)
{
	struct stat st = {0};

	return show_stat(side, a->pick % 4 ? lstat(a->path, &st) : stat(a->path, &st), &st);
}

static int op_access(struct side *side, const struct args *a)
{
	(void)side;
	return result(faccessat(AT_FDCWD, a->path, (int)(a->pick % 8), AT_EACCESS));
}

static const char *xattr_name(const struct args *a)
{
	static const char *const names[] = {"user.one", "user.two", "user.a name with spaces",
		"trusted.three", "security.four", "nonsense", "user."};

	return names[a->pick % TM_ARRAY_SIZE(names)];
}

static int op_setxattr(struct side *side, const struct args *a)
{
	static const int flags[] = {0, 0, XATTR_CREATE, XATTR_REPLACE};

	(void)side;
	return result(
		lsetxattr(a->path, xattr_name(a), data_of(a), a->len % 900, flags[a->slot % 4]));
}

static int op_getxattr(struct side *side, const struct args *a)
{
	char value[1024];
	ssize_t n = lgetxattr(a->path, xattr_name(a), value, a->slot == 0 ? 0 : sizeof(value));

	if (n > 0 && a->slot != 0)
		show(side, value, (size_t)n);
	return result(n);
}

static int op_removexattr(struct side *side, const struct args *a)
{
	(void)side;
	return result(lremovexattr(a->path, xattr_name(a)));
}

/* An ACL in the kernel's form: owner, one user, group, mask, others. */
static int op_acl(struct side *side, const struct args *a)
{
	struct {
		uint32_t version;
		struct {
			uint16_t tag, perm;
			uint32_t id;
		} entries[5];
	} acl = {2,
		{{1, 7, UINT32_MAX}, {2, a->pick & 7, 2001 + a->pick % 3},
			{4, a->mode >> 3 & 7, UINT32_MAX}, {16, a->mode >> 6 & 7, UINT32_MAX},
			{32, a->mode & 7, UINT32_MAX}}};

	(void)side;
	return result(setxattr(a->path,
		a->slot % 2 ? "system.posix_acl_default" : "system.posix_acl_access", &acl,
		sizeof(acl), 0));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int op_list(struct side *side, const struct args *a)
{
	char *names[512];
	size_t count = 0;
	struct dirent *d;
	DIR *dir = opendir(a->path);

	if (!dir)
		return -errno;
	while ((d = readdir(dir)) && count < TM_ARRAY_SIZE(names))
		if (asprintf(&names[count], "%s %u\n", d->d_name, d->d_type) >= 0)
			count++;
	closedir(dir);
	qsort(names, count, sizeof(*names), by_name);
	for (size_t i = 0; i < count; i++) {
		show(side, names[i], strlen(names[i]));
		free(names[i]);
	}
	return (int)count;
}

/* --- descriptors that are kept ------------------------------------------------------------- */

static int op_hold(struct side *side, const struct args *a)
{
	static const int flags[] = {O_RDWR, O_RDWR | O_APPEND, O_RDONLY, O_RDWR | O_CREAT};
	int *fd = &side->held[a->slot];

	if (*fd >= 0)
		close(*fd);
	*fd = open(a->path, flags[a->pick % 4] | O_CLOEXEC | O_NONBLOCK, a->mode);
	return *fd < 0 ? -errno : 0;
}

static int op_held_write(struct side *side, const struct args *a)
{
	return result(pwrite(side->held[a->slot], data_of(a), a->len, a->off));
}

static int op_held_read(struct side *side, const struct args *a)
{
	static char buf[DATA_MAX];
	ssize_t n = pread(side->held[a->slot], buf, a->len, a->off);

	if (n > 0)
		show(side, buf, (size_t)n);
	return result(n);
}

static int op_held_stat(struct side *side, const struct args *a)
{
	struct stat st = {0};

	return show_stat(side, fstat(side->held[a->slot], &st), &st);
}

static int op_held_change(struct side *side, const struct args *a)
{
	int fd = side->held[a->slot];

	switch (a->pick % 4) {
	case 0:
		return result(ftruncate(fd, a->off));
	case 1:
		return result(fchmod(fd, a->mode | 0300));
	case 2:
		return result(fsetxattr(fd, "user.held", data_of(a), a->len % 100, 0));
	default:
		return result(fchown(fd, a->uid, a->gid));
	}
}

const struct tree_op tree_ops[] = {
	{"create", 120, op_create},
	{"write", 60, op_write},
	{"read", 80, op_read},
	{"truncate", 20, op_truncate},
	{"allocate", 10, op_allocate},
	{"copy", 10, op_copy},
	{"mkdir", 60, op_mkdir},
	{"rmdir", 20, op_rmdir},
	{"unlink", 50, op_unlink},
	{"link", 40, op_link},
	{"symlink", 30, op_symlink},
	{"readlink", 20, op_readlink},
	{"rename", 100, op_rename},
	{"mknod", 15, op_mknod},
	{"chmod", 30, op_chmod},
	{"chown", 20, op_chown},
	{"utime", 30, op_utime},
	{"stat", 120, op_stat},
	{"access", 20, op_access},
	{"setxattr", 20, op_setxattr},
	{"getxattr", 20, op_getxattr},
	{"removexattr", 8, op_removexattr},
	{"acl", 8, op_acl},
	{"list", 30, op_list},
	{"hold", 30, op_hold},
	{"held_write", 30, op_held_write},
	{"held_read", 40, op_held_read},
	{"held_stat", 30, op_held_stat},
	{"held_change", 15, op_held_change},
	{NULL, 0, NULL},
};
