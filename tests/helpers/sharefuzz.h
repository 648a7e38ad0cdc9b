/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sharefuzz.h - a sharer that says whatever it likes, for the unit tests and the program sharefuzz
 */
#ifndef TM_SHAREFUZZ_H
#define TM_SHAREFUZZ_H

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/share.h"

static inline uint64_t fuzz_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Any number, often one of those at which something ends. */
static inline uint32_t fuzz_number(uint64_t *state)
{
	static const uint32_t ends[] = {0, 1, 63, 64, 255, 256, 257, 4095, 4096, 4097, 16384, 65536,
		1u << 20, UINT32_MAX - 1, UINT32_MAX};
	uint64_t r = fuzz_random(state);

	return r % 4 ? ends[r / 4 % (sizeof(ends) / sizeof(ends[0]))] : (uint32_t)(r >> 32);
}

static inline void fuzz_bytes(uint64_t *state, void *buf, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)buf)[i] = (uint8_t)fuzz_random(state);
}

/* A request that is nearly one, or none at all; returns its bytes. */
static inline size_t fuzz_request(uint64_t *state, struct tm_share_request *q)
{
	uint64_t r = fuzz_random(state);

	if (r % 32 == 0) {
		fuzz_bytes(state, q, sizeof(*q));
		return r / 32 % (sizeof(*q) + 1);
	}
	*q = (struct tm_share_request){
		.op = (uint32_t)(r >> 8) % (TM_SHARE_OPS + 1),
		.index = fuzz_number(state),
		.count = fuzz_number(state),
		.offset = fuzz_number(state),
		.length = fuzz_number(state),
		.stat = fuzz_number(state),
		.delta = (int64_t)fuzz_random(state),
		.oid = {{r >> 16 & 1 ? UINT64_MAX : 7, r >> 17 & 1 ? UINT64_MAX : r >> 18 & 3,
			UINT64_MAX}},
	};
	if (q->op == TM_SHARE_FLUSH_ALL && r >> 40 & 63) /* it has to find something, too */
		q->op = TM_SHARE_PUT;
	return sizeof(*q);
}

/* Send requests on the lanes, not always waiting for replies, and write the window meanwhile. */
static inline void fuzz_lanes(
	uint64_t *state, const int *lanes, size_t count, uint8_t *window, int requests)
{
	for (int i = 0; i < requests; i++) {
		uint64_t r = fuzz_random(state);
		int fd = lanes[r % count];
		struct tm_share_request q;
		struct tm_share_reply reply;
		size_t bytes = fuzz_request(state, &q);

		if (send(fd, &q, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			return;
		if (window)
			fuzz_bytes(state, window + (r >> 8) % (count * TM_SHARE_SLOT - 64), 64);
		if (r >> 32 & 3)
			(void)!recv(fd, &reply, sizeof(reply), 0);
	}
}

/* One connection on `fd`, which is closed: a hello, right or wrong, then what follows from it. */
static inline void fuzz_connection(
	uint64_t *state, int fd, const struct tm_share_hello *right, int requests)
{
	struct tm_share_hello hello = *right;
	struct tm_share_welcome welcome;
	int fds[TM_SHARE_LANES_MAX + 1];
	uint8_t *window = NULL;
	uint64_t r = fuzz_random(state);
	size_t count = 0, bytes = sizeof(hello);

	hello.token = r;
	if (r % 8 == 0)
		fuzz_bytes(state, (uint8_t *)&hello + r / 8 % sizeof(hello) / 2, 8);
	if (r % 8 == 1)
		bytes = r / 8 % sizeof(hello);
	if (tm_share_send(fd, &hello, bytes, NULL, 0) == 0 &&
		tm_share_receive(
			fd, &welcome, sizeof(welcome), fds, TM_SHARE_LANES_MAX + 1, &count) == 0 &&
		count > 1) {
		if (tm_share_map(fds[0], (uint32_t)count - 1, &window) < 0)
			window = NULL;
		fuzz_lanes(state, fds + 1, count - 1, window, requests);
		if (r >> 20 & 1) /* which it must not */
			(void)tm_share_send(fd, &hello, sizeof(hello), fds, count);
		tm_share_unmap(window, (uint32_t)count - 1);
	}
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	close(fd);
}

#endif
