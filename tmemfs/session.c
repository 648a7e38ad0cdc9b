/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.c - the first request, and where answers go
 */
#include "tmemfs/session.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
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

/*
 * An interrupt that libfuse saw before its request is given back to the kernel (EAGAIN), which
 * would send it again, but not for a request that comes by io_uring: so libfuse gets it again from
 * us. Either at once, when the request is here, or just before it, when nobody has looked at its
 * entry so far. Whoever takes it out of the list gives it to libfuse; so whoever makes the request
 * known looks there afterwards, and whoever puts it there looks for the request afterwards.
 */
#define EARLY_MAX 64 /* the oldest are of requests that are long done */

static struct {
	pthread_mutex_t lock;
	uint64_t of[EARLY_MAX]; /* lock: numbers of requests; 0: none */
	unsigned int next;      /* lock */
	_Atomic bool any;
} early = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void early_put(uint64_t unique)
{
	pthread_mutex_lock(&early.lock);
	early.of[early.next++ % EARLY_MAX] = unique;
	atomic_store(&early.any, true);
	pthread_mutex_unlock(&early.lock);
}

static bool early_take(uint64_t unique)
{
	bool found = false;

	if (!atomic_load(&early.any))
		return false;
	pthread_mutex_lock(&early.lock);
	for (unsigned int i = 0; i < EARLY_MAX && !found; i++) {
		found = early.of[i] == unique;
		if (found)
			early.of[i] = 0;
	}
	pthread_mutex_unlock(&early.lock);
	return found;
}

static void interrupt(struct fuse_session *session, uint64_t unique)
{
	struct {
		struct fuse_in_header in;
		struct fuse_interrupt_in interrupt;
	} again = {.in = {.len = sizeof(again),
			   .opcode = FUSE_INTERRUPT,
			   .unique = unique | TM_INTERRUPT_BIT},
		.interrupt.unique = unique};
	struct fuse_buf request = {.size = sizeof(again), .mem = &again, .fd = -1};

	fuse_session_process_buf(session, &request);
}

/* libfuse gives an interrupt back: is that ours to keep? */
static bool interrupt_again(struct tm_mount *mount, const struct fuse_out_header *out)
{
	uint64_t unique = out->unique & ~(uint64_t)TM_INTERRUPT_BIT;

	if (!mount->ring || out->error != -EAGAIN || !(out->unique & TM_INTERRUPT_BIT))
		return false;
	early_put(unique);
	if (tm_ring_pending(mount->ring, unique) && early_take(unique))
		interrupt(mount->session, unique);
	return true;
}

void tm_session_note(struct fuse_session *session, struct fuse_buf *request)
{
	struct fuse_in_header *in = request->mem;

	offered = 0;
	nameless = false;
	if (!(request->flags & FUSE_BUF_IS_FD) && request->size >= sizeof(*in)) {
		if (early_take(in->unique))
			interrupt(session, in->unique);
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
