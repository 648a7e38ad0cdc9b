/* SPDX-License-Identifier: GPL-2.0-or-later */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "nbd-plugin/mount.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/util.h"
#include "nbd-plugin/exports.h"

#define THREADS     4u         /* as many as a loop device keeps busy */
#define READ_MAX    (1u << 20) /* FUSE asks for 256 pages at most */
#define FOREVER     1e9
#define FIRST_INODE 2u /* of the exports, in their order; 1 is the directory */

struct server {
	pthread_t thread;
	struct fuse_buf request; /* libfuse allocates it, before the first request comes */
	uint8_t *answer;         /* [READ_MAX] */
};

static struct fuse_session *session;
static const struct nbdkit_plugin *requests;
static struct server servers[THREADS];
static unsigned int server_count;
static _Thread_local uint8_t *answer; /* the thread's own */

/* --- names ------------------------------------------------------------------------------------ */

static const char *name_of(const struct tm_export *e)
{
	return *e->name ? e->name : "disk";
}

static struct tm_export *export_at(fuse_ino_t ino)
{
	struct tm_export *e = NULL;
	fuse_ino_t at = FIRST_INODE;

	while ((e = tm_exports_next(e)) && at++ != ino)
		;
	return e;
}

static struct stat stat_of(fuse_ino_t ino)
{
	const struct tm_export *e = export_at(ino);

	return (struct stat){
		.st_ino = ino,
		.st_mode = e ? S_IFREG | 0600 : S_IFDIR | 0700,
		.st_nlink = 1,
		.st_size = e ? (off_t)e->size : 0,
		.st_blksize = TM_DEVICE_PAGE,
	};
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {
		.ino = FIRST_INODE, .attr_timeout = FOREVER, .entry_timeout = FOREVER};
	struct tm_export *e = NULL;

	while ((e = tm_exports_next(e)) && strcmp(name_of(e), name) != 0)
		entry.ino++;
	if (!e || parent != FUSE_ROOT_ID) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	entry.attr = stat_of(entry.ino);
	fuse_reply_entry(req, &entry);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st = stat_of(ino);

	(void)fi;
	fuse_reply_attr(req, &st, FOREVER);
}

static void do_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	fuse_ino_t at = FIRST_INODE + (fuse_ino_t)offset;
	struct tm_export *e;
	size_t used = 0;

	(void)ino, (void)fi;
	size = TM_MIN(size, (size_t)READ_MAX);
	for (; (e = export_at(at)); at++) {
		struct stat st = stat_of(at);
		size_t n = fuse_add_direntry(req, (char *)answer + used, size - used, name_of(e),
			&st, (off_t)(at - FIRST_INODE + 1));

		if (n > size - used)
			break;
		used += n;
	}
	fuse_reply_buf(req, (char *)answer, used);
}

/* --- requests --------------------------------------------------------------------------------- */

/* Past the page cache: the same pages may be written by NBD. */
static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->fh = (uintptr_t)export_at(ino);
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static struct tm_export *opened(const struct fuse_file_info *fi)
{
	return (struct tm_export *)(uintptr_t)fi->fh;
}

static bool is_inside(const struct tm_export *e, off_t offset, uint64_t count)
{
	return offset >= 0 && (uint64_t)offset <= e->size && count <= e->size - (uint64_t)offset &&
		count <= UINT32_MAX;
}

static void do_read(
	fuse_req_t req, fuse_ino_t ino, size_t count, off_t offset, struct fuse_file_info *fi)
{
	struct tm_export *e = opened(fi);

	(void)ino;
	if (!is_inside(e, offset, 0)) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	count = TM_MIN(count, e->size - (uint64_t)offset);
	count = TM_MIN(count, (size_t)READ_MAX);
	if (count > 0 && requests->pread(e, answer, (uint32_t)count, (uint64_t)offset, 0) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_buf(req, (char *)answer, count);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t count, off_t offset,
	struct fuse_file_info *fi)
{
	struct tm_export *e = opened(fi);

	(void)ino;
	if (!is_inside(e, offset, count))
		fuse_reply_err(req, EFBIG);
	else if (requests->pwrite(e, bytes, (uint32_t)count, (uint64_t)offset, 0) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, count);
}

/* How a loop device discards and writes zeros. */
static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
	struct fuse_file_info *fi)
{
	struct tm_export *e = opened(fi);
	uint64_t at = (uint64_t)offset, left = (uint64_t)length;
	int rc = 0;

	(void)ino;
	mode &= ~FALLOC_FL_KEEP_SIZE;
	if ((mode != FALLOC_FL_PUNCH_HOLE && mode != FALLOC_FL_ZERO_RANGE) || length < 0 ||
		!is_inside(e, offset, 0) || left > e->size - at) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	while (rc == 0 && left > 0) { /* zeros must be read afterwards, so a hole is no trim */
		uint32_t n = (uint32_t)TM_MIN(left, (uint64_t)1 << 30);

		rc = requests->zero(e, n, at, 0);
		at += n, left -= n;
	}
	fuse_reply_err(req, rc < 0 ? errno : 0);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino, (void)datasync;
	fuse_reply_err(req, requests->flush(opened(fi), 0) < 0 ? errno : 0);
}

static const struct fuse_lowlevel_ops ops = {
	.lookup = do_lookup,
	.getattr = do_getattr,
	.readdir = do_readdir,
	.open = do_open,
	.read = do_read,
	.write = do_write,
	.fallocate = do_fallocate,
	.fsync = do_fsync,
};

/* --- life ------------------------------------------------------------------------------------- */

/* libfuse's own loop makes and ends threads as it goes. This one is cancelled while it waits. */
static void *serve(void *arg)
{
	struct server *me = arg;
	int rc, old;

	answer = me->answer;
	do {
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
		rc = fuse_session_receive_buf(session, &me->request);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
		if (rc > 0)
			fuse_session_process_buf(session, &me->request);
	} while (rc > 0 || rc == -EINTR);
	return NULL;
}

static int start_server(struct server *me)
{
	int rc;

	me->answer = mmap(NULL, READ_MAX, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (me->answer == MAP_FAILED)
		return -ENOMEM;
	rc = -pthread_create(&me->thread, NULL, serve, me);
	if (rc < 0)
		munmap(me->answer, READ_MAX);
	return rc;
}

/* With all signals blocked: they are nbdkit's. */
static int start_servers(void)
{
	sigset_t all, old;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (rc == 0 && server_count < THREADS) {
		rc = start_server(&servers[server_count]);
		server_count += rc == 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

static void stop_server(struct server *me)
{
	pthread_cancel(me->thread);
	pthread_join(me->thread, NULL);
	free(me->request.mem);
	munmap(me->answer, READ_MAX);
	*me = (struct server){0};
}

int tm_mount_start(const char *dir, const struct nbdkit_plugin *plugin)
{
	char *argv[] = {(char *)"tmem", (char *)"-o", (char *)"fsname=tmem,subtype=tmem-disks"};
	struct fuse_args args = FUSE_ARGS_INIT(TM_ARRAY_SIZE(argv), argv);
	int rc = -EIO;

	requests = plugin;
	session = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (session && fuse_session_mount(session, dir) == 0)
		rc = start_servers();
	fuse_opt_free_args(&args);
	if (rc < 0)
		tm_mount_stop();
	return rc;
}

/* Unmounting alone would not end the threads: who has a file open keeps the connection. */
void tm_mount_stop(void)
{
	if (!session)
		return;
	while (server_count > 0)
		stop_server(&servers[--server_count]);
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	session = NULL;
}
