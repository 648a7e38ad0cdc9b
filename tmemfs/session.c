/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.c - the first request, and where answers go
 */
#include "tmemfs/session.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tmemfs/fs.h"
#include "tmemfs/ring.h"
#include "tmemfs/abi.h"

#define TM_INTERRUPT_BIT 1  /* of the number of a request: it is about the one without */
#define PAGES_UNSAID     32 /* what the kernel takes for max_pages when nothing is said */

/* What the kernel's first request offers, both words of flags; 0: this thread's is another one. */
static _Thread_local uint64_t offered;

static _Thread_local bool nameless;
static _Thread_local struct tm_opened opened; /* tm_session_opened()'s */

static void note_first(const struct fuse_init_in *init)
{
	offered = init->flags;
	if (init->flags & TM_FUSE_INIT_EXT)
		offered |= (uint64_t)init->flags2 << 32;
}

void tm_session_note(struct fuse_buf *request)
{
	struct fuse_in_header *in = request->mem;

	offered = 0;
	nameless = false;
	if (!(request->flags & FUSE_BUF_IS_FD) && request->size >= sizeof(*in)) {
		if (in->opcode == FUSE_INIT &&
			request->size >= sizeof(*in) + sizeof(struct fuse_init_in))
			note_first((const struct fuse_init_in *)(in + 1));
		nameless = in->opcode == TM_FUSE_TMPFILE;
		if (nameless)
			in->opcode = FUSE_CREATE;
	}
	tm_killpriv_note(request);
}

bool tm_session_nameless(void)
{
	return nameless;
}

static ssize_t receive(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, buf, len);
}

static size_t payload_of(const struct fuse_init_out *init)
{
	size_t pages = init->flags & FUSE_MAX_PAGES ? init->max_pages : PAGES_UNSAID;

	size_t most = TM_MAX((size_t)init->max_write, pages * TM_PAGE_SIZE);

	return TM_MAX(most, (size_t)FUSE_MIN_READ_BUFFER);
}

/* The first answer is a header and what we want. */
static ssize_t answer_first(struct tm_mount *mount, int fd, const struct iovec iov[2])
{
	struct fuse_init_out init = {.flags = 0};
	size_t len = TM_MIN(iov[1].iov_len, sizeof(init));
	struct iovec own[2] = {iov[0], {&init, len}};
	uint64_t want = FUSE_HANDLE_KILLPRIV_V2;
	uint32_t depth = TM_STACK_DEPTH;
	ssize_t n;

	memcpy(&init, iov[1].iov_base, len);
	if (len == sizeof(init))
		want |= TM_FUSE_DIRECT_IO_ALLOW_MMAP | (mount->past ? TM_FUSE_PASSTHROUGH : 0) |
			(mount->ring ? TM_FUSE_OVER_IO_URING : 0);
	want &= offered;
	mount->direct = want & TM_FUSE_DIRECT_IO_ALLOW_MMAP;
	mount->past = want & TM_FUSE_PASSTHROUGH;
	if (mount->past)
		memcpy((char *)&init + TM_STACK_DEPTH_AT, &depth, sizeof(depth));
	init.flags |= (uint32_t)want | (want >> 32 ? TM_FUSE_INIT_EXT : 0);
	init.flags2 |= want >> 32;
	n = writev(fd, own, 2);
	if (mount->ring)
		tm_ring_begin(
			mount->ring, want & TM_FUSE_OVER_IO_URING && n >= 0, payload_of(&init));
	offered = 0;
	return n;
}

/*
 * An interrupt that libfuse saw before its request is given back to the kernel (EAGAIN), which
 * would send it again, but not for requests that came by io_uring: so libfuse gets it again from
 * us.
 */
static bool interrupt_again(struct tm_mount *mount, const struct fuse_out_header *out)
{
	struct {
		struct fuse_in_header in;
		struct fuse_interrupt_in interrupt;
	} again = {.in = {.len = sizeof(again), .opcode = FUSE_INTERRUPT, .unique = out->unique},
		.interrupt.unique = out->unique & ~(uint64_t)TM_INTERRUPT_BIT};
	struct fuse_buf request = {.size = sizeof(again), .mem = &again, .fd = -1};

	if (!mount->ring || out->error != -EAGAIN || !(out->unique & TM_INTERRUPT_BIT) ||
		!tm_ring_pending(mount->ring, again.interrupt.unique))
		return false;
	fuse_session_process_buf(mount->session, &request);
	return true;
}

void tm_session_opened(const struct tm_opened *how)
{
	opened = *how;
}

/* The answer to an open ends with a struct fuse_open_out. */
static void say_opened(const struct iovec *iov)
{
	struct fuse_open_out out;
	char *at = (char *)iov->iov_base + iov->iov_len - sizeof(out);

	memcpy(&out, at, sizeof(out));
	if (opened.parallel)
		out.open_flags |= TM_FOPEN_PARALLEL_DIRECT_WRITES;
	if (opened.past) {
		out.open_flags &= ~(uint32_t)FOPEN_KEEP_CACHE;
		out.open_flags |= TM_FOPEN_PASSTHROUGH;
	}
	memcpy(at, &out, sizeof(out));
	if (opened.past)
		memcpy(at + TM_BACKING_ID_AT, &opened.past, sizeof(opened.past));
}

static ssize_t answer(int fd, struct iovec *iov, int count, void *userdata)
{
	struct tm_mount *mount = userdata;
	ssize_t rc;

	if (offered && count == 2)
		return answer_first(mount, fd, iov);
	if ((opened.parallel || opened.past) && count == 2 &&
		iov[1].iov_len >= sizeof(struct fuse_open_out))
		say_opened(&iov[1]);
	opened = (struct tm_opened){false, 0};
	if (interrupt_again(mount, iov[0].iov_base))
		return (ssize_t)iov[0].iov_len;
	if (mount->ring && tm_ring_answer(mount->ring, iov, count, &rc))
		return rc;
	return writev(fd, iov, count);
}

int tm_session_take(struct fuse_session *session)
{
	static const struct fuse_custom_io io = {.read = receive, .writev = answer};

	return fuse_session_custom_io(session, &io, fuse_session_fd(session));
}
