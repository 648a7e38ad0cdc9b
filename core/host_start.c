/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host_start.c - run tmemd when nobody listens on the socket
 *
 * posix_spawn, not fork: the front end may be large, multi-threaded and locked in memory, and a
 * fork would copy its page tables and could run into its locks. tmemd returns once it listens (its
 * child goes on as the host), so waiting for the process is waiting for the socket.
 *
 * Where tmemd is: beside ourselves. In the nbdkit plugin "ourselves" is not /proc/self/exe, and the
 * name the loader knows may be relative to a directory that is no longer ours; /proc/self/maps has
 * the absolute path of whatever file this function was mapped from, in both cases.
 *
 * Locking: none; everything is local.
 */
#include "core/host_start.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/util.h"

#define START_TIMEOUT_MS 5000
#define SBIN_DIRS        "/usr/local/sbin:/usr/sbin:/sbin"

extern char **environ;

/* The directory of the file this code was mapped from, malloc'ed; NULL when it cannot be told. */
static char *own_directory(void)
{
	uintptr_t self = (uintptr_t)own_directory;
	TM_AUTO_FREE char *line = NULL;
	char *found = NULL;
	size_t size = 0;
	FILE *maps = fopen("/proc/self/maps", "re");

	if (!maps)
		return NULL;
	while (!found && getline(&line, &size, maps) > 0) {
		unsigned long start, end;
		char *path = strchr(line, '/');
		char *slash = strrchr(line, '/');

		if (!path || sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		if (self >= start && self < end)
			found = strndup(path, (size_t)(slash - path));
	}
	fclose(maps);
	return found;
}

/* `dir`/`name` when it can be executed, malloc'ed; else NULL. */
static char *executable_in(const char *dir, size_t dir_length, const char *name)
{
	char *path;

	if (dir_length == 0 || asprintf(&path, "%.*s/%s", (int)dir_length, dir, name) < 0)
		return NULL;
	if (access(path, X_OK) == 0)
		return path;
	free(path);
	return NULL;
}

/* tmemd in one of a colon-separated list of directories. */
static char *executable_in_list(const char *dirs)
{
	char *found = NULL;

	while (dirs && *dirs && !found) {
		size_t length = strcspn(dirs, ":");

		found = executable_in(dirs, length, "tmemd");
		dirs += length + (dirs[length] == ':');
	}
	return found;
}

int tm_host_find(char **ret_path)
{
	TM_AUTO_FREE char *own = own_directory();
	const char *named = getenv("TMEM_TMEMD");
	char *path = NULL;

	if (named && *named) {
		/* Whoever names one wants that one or none. */
		if (access(named, X_OK) < 0)
			return -ENOENT;
		path = strdup(named);
		if (!path)
			return -ENOMEM;
	}
	if (!path && own)
		path = executable_in(own, strlen(own), "tmemd");
	if (!path && own)
		path = executable_in(own, strlen(own), "../sbin/tmemd");
	if (!path)
		path = executable_in_list(getenv("PATH"));
	if (!path)
		path = executable_in_list(SBIN_DIRS);
	if (!path)
		return -ENOENT;
	*ret_path = path;
	return 0;
}

/* A session of its own, stdio on /dev/null, no other descriptor, default signals, no special
 * priority: nothing of the front end's. */
static int spawn_detached(char *const argv[], pid_t *ret_pid)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t set;
	int rc;

	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	rc = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
	for (int fd = 1; fd <= 2 && !rc; fd++)
		rc = posix_spawn_file_actions_adddup2(&files, 0, fd);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(&files, 3);
	sigemptyset(&set);
	posix_spawnattr_setsigmask(&attr, &set);
	sigfillset(&set);
	posix_spawnattr_setsigdefault(&attr, &set);
	posix_spawnattr_setschedpolicy(&attr, SCHED_OTHER);
	posix_spawnattr_setschedparam(&attr, &(struct sched_param){.sched_priority = 0});
	posix_spawnattr_setflags(&attr,
		POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
			POSIX_SPAWN_SETSCHEDULER);
	if (!rc)
		rc = posix_spawn(ret_pid, argv[0], &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return -rc;
}

/* Wait for `pid` and reap it; kill it first when it takes too long or the link has to stop. */
static int wait_for(pid_t pid, int stop_fd)
{
	TM_AUTO_CLOSE int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd fds[] = {{pid_fd, POLLIN, 0}, {stop_fd, POLLIN, 0}};
	int status = 0, rc = pid_fd < 0 ? 1 : poll(fds, TM_ARRAY_SIZE(fds), START_TIMEOUT_MS);

	if (rc <= 0 || !(pid_fd < 0 || fds[0].revents)) {
		kill(pid, SIGKILL);
		rc = rc == 0 ? -ETIMEDOUT : -ECANCELED;
	}
	/* -ECHILD: the program ignores SIGCHLD, or waits for children it does not know. */
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return rc < 0 ? rc : 0;
	if (rc < 0)
		return rc;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

int tm_host_start(const char *socket, int stop_fd)
{
	TM_AUTO_FREE char *path = NULL;
	pid_t pid;
	int rc = tm_host_find(&path);

	if (rc < 0)
		return rc;
	char *argv[] = {path, "--on-demand", "-S", (char *)socket, NULL};

	rc = spawn_detached(argv, &pid);
	return rc < 0 ? rc : wait_for(pid, stop_fd);
}
