/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * call.c - who answers: the operation, or the interrupt
 *
 * Locking: one atomic decides. libfuse calls interrupted() with the request's own lock held and
 * fuse_req_interrupt_func() takes that lock, so none is under way once that has returned.
 */
#include "tmemfs/call.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* SIGKILL is pending, which is also how every other deadly signal ends. */
static bool killed(pid_t thread)
{
	char path[32], text[4096], *line;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)thread);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return true; /* gone meanwhile */
	text[len] = '\0';
	line = strstr(text, "\nSigPnd:");
	return line &&
		strtoull(line + strlen("\nSigPnd:"), NULL, 16) & UINT64_C(1) << (SIGKILL - 1);
}

static void interrupted(fuse_req_t req, void *data)
{
	struct tm_call *call = data;

	if (killed(fuse_req_ctx(req)->pid) && !atomic_exchange(&call->answered, true))
		fuse_reply_err(req, EINTR);
}

void tm_call_begin(fuse_req_t req, struct tm_call *call)
{
	atomic_init(&call->answered, false);
	fuse_req_interrupt_func(req, interrupted, call);
}

bool tm_call_end(fuse_req_t req, struct tm_call *call)
{
	if (atomic_exchange(&call->answered, true))
		return false;
	fuse_req_interrupt_func(req, NULL, NULL);
	return true;
}
