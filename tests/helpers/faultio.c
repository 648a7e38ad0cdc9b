/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * faultio.c - a disk that fails, for the tests: LD_PRELOAD=faultio.so in front of a server
 *
 * $FAULTIO is a file that says what goes wrong with the calls on $FAULTIO_TARGET, read anew at each
 * of them, so that a test breaks and mends the disk while the server runs. Words CALL=FAULT, where
 * CALL is pread, pwrite, fdatasync or fallocate and FAULT is
 *
 *      EIO, ENOSPC, ...  fail with that
 *      short             move only the first half
 *      drop              pwrite: say it is done; pread: say it is, and move nothing
 *      flip              pread: one bit is wrong
 *      stall             begin when the word is gone
 *      linger            pwrite: return when the word is gone
 *
 * $FAULTIO.waiting is there once a call has stalled or lingered.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Built like the server, with 64-bit offsets: pread here is pread64 to the linker, and so on. */
#define EXPORT __attribute__((visibility("default")))

EXPORT ssize_t pread(int fd, void *buf, size_t count, off_t offset);
EXPORT ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset);
EXPORT int fdatasync(int fd);
EXPORT int fallocate(int fd, int mode, off_t offset, off_t length);

static struct stat target; /* as first seen: it may be unlinked later */

static bool is_target(int fd)
{
	const char *path = getenv("FAULTIO_TARGET");
	struct stat st;

	if (target.st_ino == 0 && (!path || stat(path, &target) < 0))
		return false;
	return fstat(fd, &st) == 0 && st.st_ino == target.st_ino && st.st_dev == target.st_dev;
}

/* The fault that `call` has to suffer now, "" for none. */
static void look(const char *call, char ret_fault[static 32])
{
	const char *path = getenv("FAULTIO");
	FILE *f = path ? fopen(path, "re") : NULL;
	size_t n = strlen(call);
	char word[64];

	ret_fault[0] = 0;
	while (f && fscanf(f, "%63s", word) == 1)
		if (strncmp(word, call, n) == 0 && word[n] == '=')
			snprintf(ret_fault, 32, "%s", word + n + 1);
	if (f)
		fclose(f);
}

/* Wait as long as that is what `call` has to do. */
static void wait_for_end(const char *call, const char *fault)
{
	const struct timespec moment = {.tv_nsec = 10000000};
	char now[32], mark[4096];

	snprintf(mark, sizeof(mark), "%s.waiting", getenv("FAULTIO"));
	close(open(mark, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	do {
		nanosleep(&moment, NULL);
		look(call, now);
	} while (strcmp(now, fault) == 0);
}

/* Whether the call fails, with errno set; else what it has to do differently, "" for nothing. */
static bool suffer(const char *call, int fd, char ret_fault[static 32])
{
	ret_fault[0] = 0;
	if (!is_target(fd))
		return false;
	look(call, ret_fault);
	if (strcmp(ret_fault, "stall") == 0)
		wait_for_end(call, "stall");
	for (int err = 1; ret_fault[0] == 'E' && err < 134; err++) {
		const char *name = strerrorname_np(err);

		if (name && strcmp(name, ret_fault) == 0) {
			errno = err;
			return true;
		}
	}
	return false;
}

#define REAL(name, symbol) ((__typeof__(&name))dlsym(RTLD_NEXT, symbol))

ssize_t pread(int fd, void *buf, size_t count, off_t offset)
{
	char fault[32];
	ssize_t n;

	if (suffer("pread", fd, fault))
		return -1;
	if (strcmp(fault, "drop") == 0)
		return (ssize_t)count;
	if (strcmp(fault, "short") == 0)
		count /= 2;
	n = REAL(pread, "pread64")(fd, buf, count, offset);
	if (n > 0 && strcmp(fault, "flip") == 0)
		((char *)buf)[n / 2] ^= 1;
	return n;
}

ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset)
{
	char fault[32];
	ssize_t n;

	if (suffer("pwrite", fd, fault))
		return -1;
	if (strcmp(fault, "drop") == 0)
		return (ssize_t)count;
	if (strcmp(fault, "short") == 0)
		count /= 2;
	n = REAL(pwrite, "pwrite64")(fd, buf, count, offset);
	if (strcmp(fault, "linger") == 0)
		wait_for_end("pwrite", "linger");
	return n;
}

int fdatasync(int fd)
{
	char fault[32];

	return suffer("fdatasync", fd, fault) ? -1 : REAL(fdatasync, "fdatasync")(fd);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	char fault[32];

	return suffer("fallocate", fd, fault)
		? -1
		: REAL(fallocate, "fallocate64")(fd, mode, offset, length);
}
