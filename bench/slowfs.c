/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slowfs.c - a directory as slow as a network makes it
 *
 *   slowfs [-f] [-o delay_us=1000,bandwidth=100M,attr_timeout=1,ro,allow_other] SOURCE MOUNTPOINT
 *
 * Passes everything through to SOURCE, but sleeps `delay_us` in every operation and lets no more
 * than `bandwidth` bytes a second be read. The kernel keeps none of its data (direct I/O), so each
 * read that reaches it was really asked for. What it saw is in extended attributes of its root:
 *
 *   user.slowfs.reads, user.slowfs.read_bytes, user.slowfs.ops     decimal
 *   user.slowfs.reset                                              setting it makes them zero
 *
 * and what shall go wrong, for tests:
 *
 *   user.slowfs.hang    setting it to "/a/file" stops whoever looks at, opens, lists, reads or
 * writes that file, until it is set to something else user.slowfs.error   setting it to 5 makes all
 * of these fail with errno 5, until it is set to 0
 *
 * Locking: the counters are atomic; `pace.lock` guards when the line is free again, `fault.lock`
 * what goes wrong. SOURCE is opened before the mount, so the two may be the same directory.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <time.h>

#include "core/util.h"

#define NS_PER_SEC 1000000000ull
#define XATTR      "user.slowfs."

static struct {
	unsigned int delay_us;
	char *bandwidth_text;
	uint64_t bandwidth; /* bytes a second; 0: no limit */
	double attr_timeout;
	char *source;
	int root;
} conf = {.delay_us = 1000, .attr_timeout = 1, .root = -1};

static atomic_ullong ops, reads, read_bytes;

static struct {
	pthread_mutex_t lock;
	uint64_t free_at; /* tm_now_ns() when the line has carried all that was asked for */
} pace = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void sleep_until(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		continue;
}

/* What an operation costs that moves `bytes`. */
static void take_time(uint64_t bytes)
{
	uint64_t now = tm_now_ns(), until = now + conf.delay_us * 1000ull;

	atomic_fetch_add(&ops, 1);
	if (bytes && conf.bandwidth) {
		pthread_mutex_lock(&pace.lock);
		pace.free_at = TM_MAX(pace.free_at, now) + bytes * NS_PER_SEC / conf.bandwidth;
		until = TM_MAX(until, pace.free_at);
		pthread_mutex_unlock(&pace.lock);
	}
	if (until > now)
		sleep_until(until);
}

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char *hang; /* NULL, or the path */
	int error;
} fault = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0};

/* Wait as long as `path` hangs. 0, or the error that everything meets now. */
static int fault_meet(const char *path)
{
	int rc;

	pthread_mutex_lock(&fault.lock);
	while (path && fault.hang && strcmp(path, fault.hang) == 0)
		pthread_cond_wait(&fault.changed, &fault.lock);
	rc = path && !path[1] ? 0 : -fault.error; /* the root is where it is switched off */
	pthread_mutex_unlock(&fault.lock);
	return rc;
}

static void fault_set(char **hang, const int *error)
{
	pthread_mutex_lock(&fault.lock);
	if (hang) {
		free(fault.hang);
		fault.hang = *hang;
	}
	if (error)
		fault.error = *error;
	pthread_cond_broadcast(&fault.changed);
	pthread_mutex_unlock(&fault.lock);
}

/* Below the root's descriptor: paths never leave it. */
static const char *below(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static int rc_of(int result)
{
	return result < 0 ? -errno : 0;
}

static int rc_of_size(ssize_t result)
{
	return result < 0 ? -errno : (int)result;
}

static int fd_of(const struct fuse_file_info *fi)
{
	return (int)fi->fh;
}

static int slow_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	int rc;
	rc = fault_meet(path);
	if (rc < 0)
		return rc;
	take_time(0);
	return rc_of(fi ? fstat(fd_of(fi), st)
			: fstatat(conf.root, below(path), st, AT_SYMLINK_NOFOLLOW));
}

static int slow_readlink(const char *path, char *buf, size_t size)
{
	int rc;
	ssize_t n;

	rc = fault_meet(path);
	if (rc < 0)
		return rc;
	take_time(0);
	n = readlinkat(conf.root, below(path), buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return 0;
}

static int slow_open(const char *path, struct fuse_file_info *fi)
{
	int rc;
	int fd;

	rc = fault_meet(path);
	if (rc < 0)
		return rc;
	take_time(0);
	fd = openat(conf.root, below(path), (fi->flags & ~O_DIRECT) | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	fi->fh = (uint64_t)fd;
	return 0;
}

static int slow_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	int fd;

	take_time(0);
	fd = openat(conf.root, below(path), (fi->flags & ~O_DIRECT) | O_CREAT | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	fi->fh = (uint64_t)fd;
	return 0;
}

static int slow_release(const char *path, struct fuse_file_info *fi)
{
	(void)path;
	close(fd_of(fi));
	return 0;
}

static int slow_read(const char *path, char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	int rc = fault_meet(path);
	ssize_t n = rc < 0 ? rc : pread(fd_of(fi), buf, size, off);

	if (n < 0)
		return rc < 0 ? rc : -errno;
	take_time((uint64_t)n);
	atomic_fetch_add(&reads, 1);
	atomic_fetch_add(&read_bytes, (unsigned long long)n);
	return (int)n;
}

static int slow_write(
	const char *path, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	int rc;
	ssize_t n;

	(void)path;
	rc = fault_meet(path);
	if (rc < 0)
		return rc;
	take_time(0);
	n = pwrite(fd_of(fi), buf, size, off);
	return n < 0 ? -errno : (int)n;
}

static int slow_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	TM_AUTO_CLOSE int fd = -1;

	take_time(0);
	if (fi)
		return rc_of(ftruncate(fd_of(fi), size));
	fd = openat(conf.root, below(path), O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : rc_of(ftruncate(fd, size));
}

static int slow_fsync(const char *path, int datasync, struct fuse_file_info *fi)
{
	(void)path;
	take_time(0);
	return rc_of(datasync ? fdatasync(fd_of(fi)) : fsync(fd_of(fi)));
}

static int slow_fallocate(
	const char *path, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	(void)path;
	take_time(0);
	return rc_of(fallocate(fd_of(fi), mode, off, len));
}

static off_t slow_lseek(const char *path, off_t off, int whence, struct fuse_file_info *fi)
{
	off_t found;

	(void)path;
	take_time(0);
	found = lseek(fd_of(fi), off, whence);
	return found < 0 ? -errno : found;
}

static int slow_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t off,
	struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
	int fd = openat(conf.root, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *d;

	(void)off, (void)fi, (void)flags;
	take_time(0);
	if (!dir) {
		int rc = -errno;

		if (fd >= 0)
			close(fd);
		return rc;
	}
	while ((d = readdir(dir))) {
		struct stat st = {.st_ino = d->d_ino, .st_mode = DTTOIF(d->d_type)};

		if (fill(buf, d->d_name, &st, 0, 0))
			break;
	}
	closedir(dir);
	return 0;
}

static int slow_mknod(const char *path, mode_t mode, dev_t rdev)
{
	take_time(0);
	return rc_of(mknodat(conf.root, below(path), mode, rdev));
}

static int slow_mkdir(const char *path, mode_t mode)
{
	take_time(0);
	return rc_of(mkdirat(conf.root, below(path), mode));
}

static int slow_unlink(const char *path)
{
	take_time(0);
	return rc_of(unlinkat(conf.root, below(path), 0));
}

static int slow_rmdir(const char *path)
{
	take_time(0);
	return rc_of(unlinkat(conf.root, below(path), AT_REMOVEDIR));
}

static int slow_symlink(const char *target, const char *path)
{
	take_time(0);
	return rc_of(symlinkat(target, conf.root, below(path)));
}

static int slow_link(const char *from, const char *to)
{
	take_time(0);
	return rc_of(linkat(conf.root, below(from), conf.root, below(to), 0));
}

static int slow_rename(const char *from, const char *to, unsigned int flags)
{
	take_time(0);
	return rc_of(renameat2(conf.root, below(from), conf.root, below(to), flags));
}

static int slow_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	(void)fi;
	take_time(0);
	return rc_of(fchmodat(conf.root, below(path), mode, 0));
}

static int slow_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *fi)
{
	(void)fi;
	take_time(0);
	return rc_of(fchownat(conf.root, below(path), uid, gid, AT_SYMLINK_NOFOLLOW));
}

static int slow_utimens(const char *path, const struct timespec ts[2], struct fuse_file_info *fi)
{
	(void)fi;
	take_time(0);
	return rc_of(utimensat(conf.root, below(path), ts, AT_SYMLINK_NOFOLLOW));
}

static int slow_statfs(const char *path, struct statvfs *fs)
{
	(void)path;
	take_time(0);
	return rc_of(fstatvfs(conf.root, fs));
}

/* The path by which the calls for extended attributes find it, since they take no descriptor. */
static const char *by_path(const char *path, char buf[static PATH_MAX])
{
	snprintf(buf, PATH_MAX, "/proc/self/fd/%d/%s", conf.root, below(path));
	return buf;
}

/* One of our own counters as text, at no cost; or an attribute of the file. */
static int slow_getxattr(const char *path, const char *name, char *value, size_t size)
{
	char text[24], full[PATH_MAX];
	unsigned long long n;
	int len;

	if (strcmp(path, "/") != 0 || strncmp(name, XATTR, strlen(XATTR)) != 0) {
		take_time(0);
		return rc_of_size(lgetxattr(by_path(path, full), name, value, size));
	}
	if (strcmp(name, XATTR "reads") == 0)
		n = atomic_load(&reads);
	else if (strcmp(name, XATTR "read_bytes") == 0)
		n = atomic_load(&read_bytes);
	else if (strcmp(name, XATTR "ops") == 0)
		n = atomic_load(&ops);
	else
		return -ENODATA;
	len = snprintf(text, sizeof(text), "%llu", n);
	if (size == 0)
		return len;
	if (size < (size_t)len)
		return -ERANGE;
	memcpy(value, text, (size_t)len);
	return len;
}

static int slow_setxattr(
	const char *path, const char *name, const char *value, size_t size, int flags)
{
	char full[PATH_MAX], *text;
	int error;

	if (strcmp(path, "/") != 0 || strncmp(name, XATTR, strlen(XATTR)) != 0) {
		take_time(0);
		return rc_of(lsetxattr(by_path(path, full), name, value, size, flags));
	}
	text = strndup(value, size);
	if (!text)
		return -ENOMEM;
	if (strcmp(name, XATTR "hang") == 0) {
		fault_set(&text, NULL);
		return 0;
	}
	error = atoi(text);
	free(text);
	if (strcmp(name, XATTR "error") == 0) {
		fault_set(NULL, &error);
		return 0;
	}
	atomic_store(&ops, 0);
	atomic_store(&reads, 0);
	atomic_store(&read_bytes, 0);
	return 0;
}

static int slow_listxattr(const char *path, char *list, size_t size)
{
	char full[PATH_MAX];

	take_time(0);
	return rc_of_size(llistxattr(by_path(path, full), list, size));
}

static int slow_removexattr(const char *path, const char *name)
{
	char full[PATH_MAX];

	take_time(0);
	return rc_of(lremovexattr(by_path(path, full), name));
}

static void *slow_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
	(void)conn;
	cfg->use_ino = 1;
	cfg->direct_io = 1;
	cfg->attr_timeout = cfg->entry_timeout = conf.attr_timeout;
	cfg->negative_timeout = 0;
	return NULL;
}

static const struct fuse_operations slow_ops = {
	.init = slow_init,
	.getattr = slow_getattr,
	.readlink = slow_readlink,
	.open = slow_open,
	.create = slow_create,
	.release = slow_release,
	.read = slow_read,
	.write = slow_write,
	.truncate = slow_truncate,
	.fsync = slow_fsync,
	.fallocate = slow_fallocate,
	.lseek = slow_lseek,
	.readdir = slow_readdir,
	.mknod = slow_mknod,
	.mkdir = slow_mkdir,
	.unlink = slow_unlink,
	.rmdir = slow_rmdir,
	.symlink = slow_symlink,
	.link = slow_link,
	.rename = slow_rename,
	.chmod = slow_chmod,
	.chown = slow_chown,
	.utimens = slow_utimens,
	.statfs = slow_statfs,
	.getxattr = slow_getxattr,
	.setxattr = slow_setxattr,
	.listxattr = slow_listxattr,
	.removexattr = slow_removexattr,
};

static const struct fuse_opt options[] = {
	{"delay_us=%u", offsetof(__typeof__(conf), delay_us), 0},
	{"bandwidth=%s", offsetof(__typeof__(conf), bandwidth_text), 0},
	{"attr_timeout=%lf", offsetof(__typeof__(conf), attr_timeout), 0},
	FUSE_OPT_END,
};

/* The first argument that is no option is SOURCE, the rest is libfuse's. */
static int take_source(void *data, const char *arg, int key, struct fuse_args *rest)
{
	(void)data, (void)rest;
	if (key != FUSE_OPT_KEY_NONOPT || conf.source)
		return 1;
	conf.source = realpath(arg, NULL);
	if (!conf.source)
		fprintf(stderr, "slowfs: %s: %s\n", arg, strerror(errno));
	return conf.source ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct fuse_args args = FUSE_ARGS_INIT(argc, argv);
	struct rlimit files;
	int rc;

	if (fuse_opt_parse(&args, &conf, options, take_source) < 0)
		return 2;
	if (!conf.source) {
		fprintf(stderr,
			"usage: slowfs [-f] [-o delay_us=N,bandwidth=SIZE,...] SOURCE "
			"MOUNTPOINT\n");
		return 2;
	}
	if (conf.bandwidth_text && tm_size_parse(conf.bandwidth_text, &conf.bandwidth) < 0) {
		fprintf(stderr, "slowfs: bad bandwidth '%s'\n", conf.bandwidth_text);
		return 2;
	}
	conf.root = open(conf.source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (conf.root < 0) {
		fprintf(stderr, "slowfs: %s: %s\n", conf.source, strerror(errno));
		return 1;
	}
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	fuse_opt_add_arg(
		&args, "-ofsname=slowfs,subtype=slowfs,default_permissions,max_threads=256");
	umask(0);
	rc = fuse_main(args.argc, args.argv, &slow_ops, NULL);
	fuse_opt_free_args(&args);
	free(conf.source);
	return rc ? 1 : 0;
}
