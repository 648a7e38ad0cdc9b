/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/tmemd/beside.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/util.h"

int tm_beside_save(int dir_fd, const char *name, void (*write)(FILE *file, const void *opaque),
	const void *opaque)
{
	TM_AUTO_FREE char *fresh = NULL;
	FILE *file;
	int fd, rc;

	if (asprintf(&fresh, "%s.new", name) < 0)
		return -ENOMEM;
	(void)unlinkat(dir_fd, fresh, 0);
	fd = openat(dir_fd, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	file = fdopen(fd, "w");
	if (!file) {
		close(fd);
		return -ENOMEM;
	}
	write(file, opaque);
	rc = fflush(file) == 0 && !ferror(file) ? 0 : -EIO;
	fclose(file);
	if (rc == 0 && renameat(dir_fd, fresh, dir_fd, name) < 0)
		rc = -errno;
	if (rc < 0)
		(void)unlinkat(dir_fd, fresh, 0);
	return rc;
}

int tm_beside_open(int dir_fd, const char *name, FILE **ret_file)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), rc = 0;
	struct stat st;
	FILE *file;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
		st.st_mode & (S_IWGRP | S_IWOTH))
		rc = -EPERM;
	file = rc < 0 ? NULL : fdopen(fd, "r");
	if (!file) {
		close(fd);
		return rc < 0 ? rc : -ENOMEM;
	}
	*ret_file = file;
	return 0;
}
