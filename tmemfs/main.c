/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * main.c - tmemfs: mount, go to the background, serve, leave
 *
 * Order matters: BACKING is opened before anything is mounted, since MOUNTPOINT may hide it;
 * threads are started after the fork; and the parent waits until the kernel has had its first
 * answer, so that whoever started us finds a mount that works.
 */
#include <errno.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "tmemfs/creds.h"
#include "tmemfs/fs.h"
#include "tmemfs/killpriv.h"
#include "tmemfs/locks.h"
#include "tmemfs/lockwait.h"
#include "tmemfs/loop.h"
#include "tmemfs/options.h"
#include "tmemfs/pin.h"
#include "tmemfs/recover.h"
#include "tmemfs/remount.h"
#include "tmemfs/ring.h"
#include "tmemfs/session.h"
#include "tmemfs/watch.h"

#define WORKERS_MAX    4
#define BACKGROUND_MAX 65535u

/* Of the limit, this part may go on top for inodes that only we remember, and as much for facts. */
#define KNOWN_PART  64
#define INODE_BYTES 1024 /* about what one takes, with its name and handle */

/* What one run holds on to. Released in reverse order by serve(). */
struct run {
	struct tm_fs_options options;
	char *backing;    /* absolute */
	char *mountpoint; /* absolute */
	int root_fd;      /* BACKING; the table's later */
	int ready_fd;     /* -1, or where the parent waits */
	struct tm_mount mount;
	struct tm_watch *watch;
};

static char libfuse_said[256]; /* its last message, for our own line */

static void complain(const char *what, const char *subject, const char *why)
{
	fprintf(stderr, "tmemfs: %s%s%s: %s\n", what, *what ? " " : "", subject, why);
}

static void keep_message(enum fuse_log_level level, const char *format, va_list ap)
{
	char *end;

	if (level > FUSE_LOG_WARNING)
		return;
	vsnprintf(libfuse_said, sizeof(libfuse_said), format, ap);
	end = strchr(libfuse_said, '\n');
	if (end)
		*end = '\0';
}

static const char *libfuse_reason(void)
{
	const char *colon = strstr(libfuse_said, ": ");

	return !*libfuse_said ? "libfuse does not say why" : colon ? colon + 2 : libfuse_said;
}

/* --- before the fork ---------------------------------------------------------------------- */

static int resolve(struct run *run)
{
	struct stat st;

	run->root_fd = open(run->options.backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	run->backing = realpath(run->options.backing, NULL);
	if (run->root_fd < 0 || !run->backing) {
		complain("", run->options.backing, strerror(errno));
		return -errno;
	}
	run->mountpoint = realpath(run->options.mountpoint, NULL);
	if (!run->mountpoint || stat(run->mountpoint, &st) < 0) {
		complain("", run->options.mountpoint, strerror(errno));
		return -errno;
	}
	if (!S_ISDIR(st.st_mode)) {
		complain("", run->options.mountpoint, strerror(ENOTDIR));
		return -ENOTDIR;
	}
	return 0;
}

/* In the child: 0. In the parent: never returns, exits with how the child fared. */
static int go_background(struct run *run)
{
	int ends[2], null;
	char ready;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid > 0) {
		close(ends[1]);
		_exit(read(ends[0], &ready, 1) == 1 ? 0 : 1);
	}
	close(ends[0]);
	run->ready_fd = ends[1];
	setsid();
	if (chdir("/") < 0)
		return -errno;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		close(null);
	}
	return 0;
}

/* The kernel has its first answer: let the parent go, and what it wrote to. */
static void on_ready(void *opaque)
{
	struct run *run = opaque;
	int null;

	if (run->ready_fd < 0)
		return;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
	}
	if (write(run->ready_fd, "", 1) < 0) {
		/* The parent was killed meanwhile; the mount works all the same. */
	}
	close(run->ready_fd);
	run->ready_fd = -1;
}

/* --- the parts of a mount ------------------------------------------------------------------ */

/* The tail of the mount point, which says more than its head; only bytes that print. */
static void client_name(const struct run *run, char ret_name[static TM_NAME_MAX + 1])
{
	const char *from = run->options.name ? run->options.name : run->mountpoint;
	size_t len = strlen(from);

	if (len > TM_NAME_MAX && !run->options.name)
		from += len - TM_NAME_MAX;
	snprintf(ret_name, TM_NAME_MAX + 1, "%s", from);
	for (char *p = ret_name; *p; p++)
		if (*p <= ' ' || *p > '~')
			*p = '_';
}

/* What an error of tm_open_shared() means to who mounts. */
static const char *share_reason(int rc)
{
	switch (rc) {
	case -EACCES:
		return "this user may not (tmemctl shared-auth add)";
	case -EEXIST:
		return "it has pages of another size (option order)";
	case -EUSERS:
		return "it has as many sharers as it can";
	case -EINVAL:
		return "there is no host without a socket";
	case -ENOENT:
	case -ECONNREFUSED:
		return "no host answers on the socket";
	case -EPROTO:
		return "the host speaks another version";
	case -EAGAIN:
		return "the host is too busy";
	default:
		return strerror(-rc);
	}
}

static int open_cache(struct run *run)
{
	char name[TM_NAME_MAX + 1];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	long workers = TM_MAX(1l, TM_MIN(cpus, (long)WORKERS_MAX));
	struct tm_cache_params params = {
		.open =
			{
				.name = name,
				.type = "tmemfs",
				.socket = run->options.socket,
				.limit = run->options.limit ? run->options.limit
							    : tm_limit_default(),
				.start_host = true,
				.recompress = run->options.recompress,
				.warm = true,
			},
		.order = run->options.order,
		.dedup = run->options.dedup,
		.file_max = run->options.file_max,
		.queue_bytes = run->options.queue,
		.workers = (unsigned int)workers,
		.shared = run->options.share != NULL,
	};
	sigset_t all, old;
	int rc = 0;

	client_name(run, name);
	rc = tm_scope_of(run->root_fd, &params.scope);
	if (rc < 0) {
		complain("", run->backing, strerror(-rc));
		return rc;
	}
	if (params.shared && !params.scope.shareable) {
		complain("cannot share what is read from", run->backing,
			"nothing tells its file system from others");
		return -EOPNOTSUPP;
	}
	if (params.shared)
		(void)tm_uuid_parse(run->options.share, &params.share);
	/* Signals are for the main thread: the core's threads inherit this. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = tm_cache_open(&params, &run->mount.cache);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0 && params.shared)
		complain("cannot join shared pool", run->options.share, share_reason(rc));
	else if (rc < 0)
		complain("cannot open tmem for", run->mountpoint, strerror(-rc));
	return rc;
}

/* An inode goes: what a change of our own left in its object, nobody will ever find. */
static void on_inode_free(void *opaque, struct tm_inode *inode)
{
	struct run *run = opaque;

	if (inode->version.written)
		tm_cache_invalidate(run->mount.cache, inode);
	tm_meta_drop(run->mount.meta, inode);
}

/* Most bytes of pinned files: they take less than that in memory, but compression is no promise. */
static uint64_t pins_limit(const struct run *run)
{
	uint64_t limit = run->options.limit ? run->options.limit : tm_limit_default();

	return run->options.pins < UINT64_MAX ? run->options.pins : limit / 2;
}

static int open_inodes(struct run *run)
{
	uint64_t limit = run->options.limit ? run->options.limit : tm_limit_default();
	uint64_t known_bytes = TM_MAX(limit / KNOWN_PART, 2 * (uint64_t)TM_FACT_MAX);
	int rc = -ENOMEM;

	run->mount.meta = tm_meta_new(tm_fs_ns(run->mount.attr_timeout), known_bytes);
	if (!run->options.locks_here)
		run->mount.locks = tm_locks_new();
	if (run->mount.meta && (run->mount.locks || run->options.locks_here))
		rc = tm_inodes_open(run->root_fd, on_inode_free, run, &run->mount.inodes);
	else
		close(run->root_fd);
	if (rc < 0) {
		complain("", run->backing, strerror(-rc));
		tm_locks_free(run->mount.locks);
		return rc;
	}
	tm_inodes_keep(run->mount.inodes,
		run->options.inodes < UINT_MAX ? run->options.inodes : known_bytes / INODE_BYTES);
	return 0;
}

/* Append to a malloc'ed option string, escaping what libfuse would split at. */
static char *with_source(const char *options, const char *source)
{
	char *text = malloc(strlen(options) + 2 * strlen(source) + sizeof(",fsname="));
	char *p;

	if (!text)
		return NULL;
	p = text + sprintf(text, "%s,fsname=", options);
	for (; *source; source++) {
		if (*source == ',' || *source == '\\')
			*p++ = '\\';
		*p++ = *source;
	}
	*p = '\0';
	return text;
}

/* The server decides who may do what, and has to know who asks. */
static bool over_nfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == TM_NFS_MAGIC;
}

static struct fuse_session *make_session(struct run *run)
{
	const struct fuse_lowlevel_ops *ops =
		over_nfs(run->root_fd) ? &tm_fs_caller_ops : &tm_fs_ops;
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_session *session = NULL;
	char *base = NULL, *all = NULL;

	if (asprintf(&base, "default_permissions%s%s%s%s",
		    run->options.subtype ? ",subtype=tmemfs" : "",
		    run->options.debug ? ",debug" : "", *run->options.mount_options ? "," : "",
		    run->options.mount_options) < 0)
		base = NULL;
	all = base ? with_source(base, run->options.fsname ? run->options.fsname : run->backing)
		   : NULL;
	if (all && fuse_opt_add_arg(&args, "tmemfs") == 0 && fuse_opt_add_arg(&args, "-o") == 0 &&
		fuse_opt_add_arg(&args, all) == 0)
		session = fuse_session_new(&args, ops, sizeof(*ops), &run->mount);
	fuse_opt_free_args(&args);
	free(base);
	free(all);
	return session;
}

/* Without it the mount works all the same. */
static void start_watch(struct run *run)
{
	int rc = tm_watch_start(&run->mount, run->root_fd, &run->watch);

	if (rc < 0)
		fprintf(stderr,
			"tmemfs: cannot watch %s: %s; what others change there is seen by %s\n",
			run->backing, strerror(-rc),
			run->mount.ask_on_open ? "the next open" : "the end of the timeouts");
}

/* Names that lead to where we are mounted must not lead back to us. */
static void know_own_mount(struct run *run)
{
	struct statx sx;

	if (statx(AT_FDCWD, run->mountpoint, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_MNT_ID,
		    &sx) == 0 &&
		sx.stx_mask & STATX_MNT_ID)
		tm_inodes_set_own_mount(run->mount.inodes, (int)sx.stx_mnt_id);
}

static void on_idle(void *opaque)
{
	tm_cache_rest(opaque);
}

/* Without it requests are read, as ever. */
static void start_ring(struct run *run, struct fuse_session *session)
{
	if (tm_ring_start(
		    session, run->options.threads, on_idle, run->mount.cache, &run->mount.ring) < 0)
		run->mount.ring = NULL;
}

/* Everything between the fork and the end. 0 or -errno; complaints are printed. */
static int serve(struct run *run)
{
	struct fuse_session *session;
	int rc = open_cache(run);

	if (rc < 0) {
		close(run->root_fd);
		return rc;
	}
	rc = open_inodes(run);
	if (rc < 0)
		goto fail_inodes;
	rc = -EIO;
	session = make_session(run);
	if (!session) {
		complain("cannot mount", run->mountpoint, libfuse_reason());
		goto fail_session;
	}
	if (fuse_set_signal_handlers(session) < 0)
		goto fail_signals;
	if (fuse_session_mount(session, run->mountpoint) < 0) {
		complain("cannot mount", run->mountpoint, libfuse_reason());
		goto fail_mount;
	}
	know_own_mount(run);
	run->mount.session = session;
	run->mount.device = fuse_session_fd(session);
	rc = tm_session_take(session);
	if (rc == 0)
		rc = tm_notifier_start(session, &run->mount.notifier);
	if (rc == 0)
		rc = tm_notifier_start(session, &run->mount.invalidator);
	if (rc == 0 && run->mount.locks)
		rc = tm_lockwait_start(&run->mount, &run->mount.lockwait);
	if (rc == 0)
		rc = tm_pins_start(&run->mount, pins_limit(run), &run->mount.pins);
	if (rc == 0 && run->options.watch)
		start_watch(run);
	if (rc == 0 && run->options.uring)
		start_ring(run, session);
	if (rc == 0)
		rc = tm_loop(session, run->options.threads, on_idle, run->mount.cache);
	if (rc < 0)
		complain("", run->mountpoint, strerror(-rc));

	tm_ring_stop(run->mount.ring);
	tm_watch_stop(run->watch);
	tm_lockwait_stop(run->mount.lockwait);
	tm_notifier_drain(run->mount.notifier);
	tm_notifier_drain(run->mount.invalidator);
	fuse_session_unmount(session);
	tm_notifier_stop(run->mount.notifier);
	tm_notifier_stop(run->mount.invalidator);
	tm_pins_stop(run->mount.pins);
	tm_cache_quiesce(run->mount.cache);
	tm_ring_free(run->mount.ring);
fail_mount:
	fuse_remove_signal_handlers(session);
fail_signals:
	fuse_session_destroy(session);
fail_session:
	tm_locks_free(run->mount.locks);
	tm_inodes_close(run->mount.inodes);
fail_inodes:
	tm_meta_free(run->mount.meta);
	tm_cache_close(run->mount.cache);
	return rc;
}

static void raise_file_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

int main(int argc, char **argv)
{
	static struct run run = {.root_fd = -1, .ready_fd = -1};
	enum tm_parsed parsed = tm_fs_options_parse(argc, argv, &run.options);
	int rc;

	if (parsed != TM_PARSED_RUN)
		return parsed == TM_PARSED_DONE ? 0 : 2;
	if (run.options.recover) {
		rc = tm_recover_mount(run.options.mountpoint);
		if (rc < 0)
			complain("cannot recover", run.options.mountpoint, strerror(-rc));
		return rc < 0 ? 1 : 0;
	}
	if (run.options.remount) {
		rc = tm_remount(run.options.mountpoint, run.options.mount_options);
		if (rc < 0)
			complain("cannot remount", run.options.mountpoint, strerror(-rc));
		return rc < 0 ? 1 : 0;
	}
	if (resolve(&run) < 0)
		return 1;
	if (run.options.fake)
		return 0;
	raise_file_limit();
	umask(0); /* the callers' are applied */
	tm_creds_init();
	tm_killpriv_init();
	if (!run.options.debug)
		fuse_set_log_func(keep_message);
	run.mount.attr_timeout = run.options.attr_timeout;
	run.mount.entry_timeout = run.options.entry_timeout;
	run.mount.negative_timeout = run.options.negative_timeout;
	run.mount.stale_ok = run.options.stale_ok;
	run.mount.exclude = run.options.exclude;
	run.mount.ask_on_open = run.options.ask_on_open;
	pthread_mutex_init(&run.mount.volume.lock, NULL);
	pthread_mutex_init(&run.mount.past_lock, NULL);
	run.mount.past = run.options.passthrough;
	run.mount.background = TM_MIN(run.options.threads, BACKGROUND_MAX);
	run.mount.acl = geteuid() == 0;
	run.mount.on_ready = on_ready;
	run.mount.opaque = &run;
	if (!run.options.foreground) {
		rc = go_background(&run);
		if (rc < 0) {
			complain("", "cannot go to the background", strerror(-rc));
			return 1;
		}
	}
	rc = serve(&run);
	free(run.backing);
	free(run.mountpoint);
	free(run.options.mount_options);
	return rc < 0 ? 1 : 0;
}
