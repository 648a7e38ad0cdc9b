/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tmemfs/recover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOUNTS_MAX 64 /* dead ones, one over the other */

/* 1: dead; 0: not; -errno: it cannot be told. */
static int dead(const char *mountpoint)
{
	struct statx sx;

	/* Not from the kernel's memory, which may outlive the server by a second. */
	if (statx(AT_FDCWD, mountpoint, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &sx) == 0)
		return 0;
	return errno == ENOTCONN ? 1 : -errno;
}

/* As root does, by the program that may. */
static int unmount_as_user(const char *mountpoint)
{
	char *const argv[] = {"fusermount3", "-u", "-z", "--", (char *)mountpoint, NULL};
	pid_t pid;
	int status, rc = -posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);

	if (rc < 0)
		return rc;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

int tm_recover_mount(const char *mountpoint)
{
	int rc = 0;

	for (unsigned int i = 0; i < MOUNTS_MAX; i++) {
		rc = dead(mountpoint);
		if (rc <= 0)
			return rc;
		rc = umount2(mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) == 0 ? 0 : -errno;
		if (rc == -EPERM)
			rc = unmount_as_user(mountpoint);
		if (rc < 0)
			return rc;
	}
	return -EBUSY;
}
