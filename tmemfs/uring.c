/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uring.c - the system calls behind uring.h
 *
 * Both rings are in one mapping (Linux 5.4). An index is read and written by one side each: whoever
 * publishes stores with release, whoever consumes loads with acquire.
 */
#include "tmemfs/uring.h"

#include <errno.h>
#include <linux/time_types.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/util.h"

#define SQE_BYTES 128
#define NS        1000000000ull

static void *map(int fd, size_t bytes, off_t what)
{
	void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

	return mem == MAP_FAILED ? NULL : mem;
}

int tm_uring_open(unsigned int commands, struct tm_uring *ret_uring)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
			IORING_SETUP_DEFER_TASKRUN,
	};
	struct tm_uring u = {.fd = (int)syscall(SYS_io_uring_setup, commands, &params)};
	unsigned int *indexes;
	char *rings;
	int rc;

	if (u.fd < 0)
		return -errno;
	u.rings_bytes = TM_MAX(params.sq_off.array + params.sq_entries * sizeof(unsigned int),
		params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe));
	u.sqes_bytes = (size_t)params.sq_entries * SQE_BYTES;
	u.rings = map(u.fd, u.rings_bytes, IORING_OFF_SQ_RING);
	u.sqes = map(u.fd, u.sqes_bytes, IORING_OFF_SQES);
	if (!u.rings || !u.sqes) {
		rc = -errno;
		tm_uring_close(&u);
		return rc;
	}
	rings = u.rings;
	u.sq_head = (unsigned int *)(rings + params.sq_off.head);
	u.sq_tail = (unsigned int *)(rings + params.sq_off.tail);
	u.cq_head = (unsigned int *)(rings + params.cq_off.head);
	u.cq_tail = (unsigned int *)(rings + params.cq_off.tail);
	u.sq_mask = params.sq_entries - 1;
	u.cq_mask = params.cq_entries - 1;
	u.cqes = (struct io_uring_cqe *)(rings + params.cq_off.cqes);
	indexes = (unsigned int *)(rings + params.sq_off.array);
	for (unsigned int i = 0; i < params.sq_entries; i++)
		indexes[i] = i;
	*ret_uring = u;
	return 0;
}

void tm_uring_close(struct tm_uring *uring)
{
	if (uring->rings)
		munmap(uring->rings, uring->rings_bytes);
	if (uring->sqes)
		munmap(uring->sqes, uring->sqes_bytes);
	close(uring->fd);
}

struct io_uring_sqe *tm_uring_prepare(struct tm_uring *uring)
{
	unsigned int tail = *uring->sq_tail;
	char *sqe = (char *)uring->sqes + (size_t)(tail & uring->sq_mask) * SQE_BYTES;

	memset(sqe, 0, SQE_BYTES);
	/* The kernel looks only when we call it. */
	__atomic_store_n(uring->sq_tail, tail + 1, __ATOMIC_RELEASE);
	return (struct io_uring_sqe *)sqe;
}

static unsigned int prepared(const struct tm_uring *uring)
{
	return *uring->sq_tail - __atomic_load_n(uring->sq_head, __ATOMIC_ACQUIRE);
}

void tm_uring_submit(struct tm_uring *uring)
{
	/* What fails is still there for tm_uring_wait(). */
	(void)syscall(SYS_io_uring_enter, uring->fd, prepared(uring), 0, 0, NULL, 0);
}

int tm_uring_wait(struct tm_uring *uring, uint64_t timeout_ns)
{
	struct __kernel_timespec ts = {
		.tv_sec = (long long)(timeout_ns / NS), .tv_nsec = (long long)(timeout_ns % NS)};
	struct io_uring_getevents_arg arg = {
		.ts = timeout_ns == TM_URING_FOREVER ? 0 : (uint64_t)(uintptr_t)&ts};

	/* What is wrong with a command is said by its event. */
	if (syscall(SYS_io_uring_enter, uring->fd, prepared(uring), 1,
		    IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof(arg)) < 0)
		return -errno;
	return 0;
}

bool tm_uring_next(struct tm_uring *uring, uint64_t *ret_data, int *ret_res)
{
	unsigned int head = *uring->cq_head;
	const struct io_uring_cqe *cqe;

	if (head == __atomic_load_n(uring->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	cqe = &uring->cqes[head & uring->cq_mask];
	*ret_data = cqe->user_data;
	*ret_res = cqe->res;
	__atomic_store_n(uring->cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}
