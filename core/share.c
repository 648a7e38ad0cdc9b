/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * share.c - what both ends of a connection to a shared pool agree on
 */
#include "core/share.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "core/util.h"

#define SEALS   (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FDS_MAX (TM_SHARE_LANES_MAX + 1)

bool tm_share_counts(uint32_t stat)
{
	return stat >= TM_STAT_BACKING_READS && stat <= TM_STAT_PUTS_DROPPED;
}

/* --- the window ------------------------------------------------------------------------------- */

static int map(int fd, uint32_t lanes, uint8_t **ret_window)
{
	size_t bytes = (size_t)lanes * TM_SHARE_SLOT;
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	madvise(p, bytes, MADV_DONTDUMP);
	madvise(p, bytes, MADV_DONTFORK);
	*ret_window = p;
	return 0;
}

int tm_share_create(uint32_t lanes, int *ret_fd, uint8_t **ret_window)
{
	TM_AUTO_CLOSE int fd = memfd_create("tmem-window", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int rc;

	if (fd < 0 || ftruncate(fd, (off_t)lanes * TM_SHARE_SLOT) < 0 ||
		fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return -errno;
	rc = map(fd, lanes, ret_window);
	if (rc < 0)
		return rc;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

int tm_share_map(int fd, uint32_t lanes, uint8_t **ret_window)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 ||
		st.st_size != (off_t)lanes * TM_SHARE_SLOT)
		return -EPROTO;
	return map(fd, lanes, ret_window);
}

void tm_share_unmap(uint8_t *window, uint32_t lanes)
{
	if (window)
		munmap(window, (size_t)lanes * TM_SHARE_SLOT);
}

/* --- messages --------------------------------------------------------------------------------- */

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
};

int tm_share_send(int fd, const void *message, size_t bytes, const int *fds, size_t count)
{
	union control control;
	struct iovec iov = {(void *)message, bytes};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (count > 0) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* Every descriptor of a message, in `fds`. Returns how many. */
static size_t collect_fds(struct msghdr *msg, int fds[static FDS_MAX])
{
	size_t count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = TM_MIN(n, FDS_MAX - count);
		memcpy(fds + count, CMSG_DATA(c), n * sizeof(int));
		count += n;
	}
	return count;
}

int tm_share_receive(
	int fd, void *message, size_t bytes, int *ret_fds, size_t max, size_t *ret_count)
{
	union control control;
	struct iovec iov = {message, bytes};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	int fds[FDS_MAX];
	size_t count;
	ssize_t n;
	int rc = 0;

	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	count = collect_fds(&msg, fds);
	if (n == 0)
		rc = -EPIPE;
	else if ((size_t)n != bytes || msg.msg_flags & MSG_TRUNC)
		rc = -EPROTO;
	for (size_t i = rc < 0 ? 0 : max; i < count; i++)
		close(fds[i]);
	if (rc < 0)
		return rc;
	count = TM_MIN(count, max);
	if (count > 0)
		memcpy(ret_fds, fds, count * sizeof(int));
	if (ret_count)
		*ret_count = count;
	return 0;
}

int tm_share_set_patience(int fd, uint32_t ms)
{
	struct timeval time = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)) < 0)
		return -errno;
	return 0;
}

/* --- names ------------------------------------------------------------------------------------ */

static bool is_dash(size_t at)
{
	return at == 8 || at == 13 || at == 18 || at == 23;
}

int tm_uuid_parse(const char *text, struct tm_uuid *ret_uuid)
{
	struct tm_uuid uuid = {0, 0};

	if (strlen(text) != TM_UUID_TEXT_MAX - 1)
		return -EINVAL;
	for (size_t i = 0; text[i]; i++) {
		char digit = (char)tolower((unsigned char)text[i]);

		if (is_dash(i) != (digit == '-') ||
			(digit != '-' && !isxdigit((unsigned char)digit)))
			return -EINVAL;
		if (digit == '-')
			continue;
		uuid.hi = uuid.hi << 4 | uuid.lo >> 60;
		uuid.lo = uuid.lo << 4 | (uint64_t)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
	}
	if (uuid.lo == 0 && uuid.hi == 0)
		return -EINVAL;
	*ret_uuid = uuid;
	return 0;
}

const char *tm_uuid_format(const struct tm_uuid *uuid, char buf[static TM_UUID_TEXT_MAX])
{
	snprintf(buf, TM_UUID_TEXT_MAX, "%08x-%04x-%04x-%04x-%012llx",
		(unsigned int)(uuid->hi >> 32), (unsigned int)(uuid->hi >> 16 & 0xffff),
		(unsigned int)(uuid->hi & 0xffff), (unsigned int)(uuid->lo >> 48),
		(unsigned long long)(uuid->lo & 0xffffffffffffull));
	return buf;
}
