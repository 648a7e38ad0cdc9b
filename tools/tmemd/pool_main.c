/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool_main.c - tmemd as the server of one shared pool
 *
 *      tmemd --fork, exec--> pool server: store, then no privileges, then sharers ... nobody left,
 * end
 *
 * To tmemd it is a client like any other, but for who calls whom: it listens on a socket that tmemd
 * made, since it could not open tmemd's own, and a tmemd that comes later finds it there. Nothing
 * that comes from a sharer is looked at before the privileges are gone.
 */
#include "tools/tmemd/filter.h"
#include "tools/tmemd/pool_main.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "core/util.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/pool.h"

#define IDLE_MS 5000
#define NOBODY  65534

struct server {
	struct tm_pool_server *pool;
	sem_t ready; /* `pool` is there and the privileges are not: sharers may come */
};

static void on_sharer(void *opaque, int fd, uid_t uid)
{
	struct server *s = opaque;

	while (sem_wait(&s->ready) < 0)
		;
	sem_post(&s->ready);
	if (fd < 0)
		tm_pool_server_drop(s->pool, uid);
	else
		(void)tm_pool_server_add(s->pool, fd, uid);
}

static void on_destroyed(void *opaque)
{
	struct server *s = opaque;

	while (sem_wait(&s->ready) < 0)
		;
	sem_post(&s->ready);
	tm_pool_server_gone(s->pool);
}

/* tmemd as a daemon has closed standard error and talks to syslog: so do we. */
static bool has_no_stderr(void)
{
	struct stat err, null;

	return fstat(STDERR_FILENO, &err) < 0 || stat("/dev/null", &null) < 0 ||
		(S_ISCHR(err.st_mode) && err.st_rdev == null.st_rdev);
}

/* tmemd has itself spared and preferred; its cache is the first thing that may go. */
static void be_ordinary(void)
{
	TM_AUTO_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)!write(fd, "0", 1);
	(void)setpriority(PRIO_PROCESS, 0, 0);
	(void)umask(077);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
}

/* Root becomes nobody, in every thread; anybody else stays who it is. No capability is left and
 * none comes back. */
static int drop_privileges(void)
{
	cap_t none = cap_init();
	int rc = 0;

	if (geteuid() == 0 &&
		(setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
			setresuid(NOBODY, NOBODY, NOBODY) < 0))
		rc = -errno;
	if (rc == 0 && (!none || cap_set_proc(none) < 0))
		rc = -errno;
	cap_free(none);
	/* Neither a debugger nor a core dump of the same user's. */
	if (rc == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		rc = -errno;
	if (rc == 0)
		rc = tm_filter_install();
	return rc == -ENOSYS ? 0 : rc; /* tmemd has said that there is none */
}

static int serve(struct server *s, const struct tm_uuid *uuid)
{
	char name[TM_UUID_TEXT_MAX];
	struct tm_open_params params = {
		.name = tm_uuid_format(uuid, name),
		.type = TM_POOL_TYPE,
		.on_sharer = on_sharer,
		.listen_fd = TM_POOL_FD,
		.on_destroyed = on_destroyed,
		.opaque = s,
	};
	struct tmem *tm;
	int rc = tm_open(&params, &tm);

	if (rc < 0)
		return rc;
	rc = tm_pool_server_new(tm, uuid, &s->pool);
	if (rc == 0)
		rc = drop_privileges();
	if (rc < 0) /* the link's thread may be waiting for us: the end of the process has to do */
		return rc;
	sem_post(&s->ready);
	tm_pool_server_wait(s->pool, IDLE_MS);
	tm->ops->close(tm);
	tm_pool_server_free(s->pool);
	return 0;
}

int tm_pool_main(const char *text)
{
	static struct server server;
	struct tm_uuid uuid;
	int rc = tm_uuid_parse(text, &uuid);

	if (rc == 0 && fcntl(TM_POOL_FD, F_SETFD, FD_CLOEXEC) < 0)
		rc = -errno;
	if (rc == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = -errno;
	if (has_no_stderr())
		tm_log_to_syslog();
	if (rc == 0) {
		be_ordinary();
		sem_init(&server.ready, 0, 0);
		rc = serve(&server, &uuid);
	}
	if (rc < 0)
		tm_log("shared pool %s: %s", text, strerror(-rc));
	return rc < 0;
}
