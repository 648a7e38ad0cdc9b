/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * share.h - what both ends of a connection to a shared pool agree on
 *
 *      sharer                                             pool server
 *        |----- hello: version, token, uuid, flags ---------->|
 *        |<---- welcome: status, instance, lanes -------------|  + window, one socket a lane
 *        |                                                    |
 *        |  lane 0   request ------------------------------>  |  each lane: one request at a time,
 *        |           <--------------------------------- reply |  pages in its slot of the window
 *        |  lane 1   ...                                      |
 *        |<---- gone (destroyed by an operator) --------------|
 *
 * All sockets are SOCK_SEQPACKET, so a message is whole or not there. The window is a memfd of
 * `lanes` slots of TM_SHARE_SLOT bytes, made and sealed by the server: neither end can fault the
 * other. The server trusts nothing in it: what it stores it copies first, and lengths and
 * indices come from the message, which is its own copy.
 *
 * Both ends run on one machine: numbers are in its byte order.
 *
 * Thread safety: pure functions of their arguments.
 */
#ifndef TM_SHARE_H
#define TM_SHARE_H

#include <stddef.h>
#include <stdint.h>

#include "core/tmem.h"

#define TM_SHARE_MAGIC     0x72687374u /* "tshr" */
#define TM_SHARE_VERSION   1u
#define TM_SHARE_LANES_MAX 16u
#define TM_SHARE_SLOT      (1u << 20)
#define TM_SHARE_PAGES_MAX (TM_SHARE_SLOT / TM_PAGE_SIZE)

struct tm_share_hello {
	uint32_t magic, version;
	uint64_t token; /* of the sharer: its last connection has to have ended before it joins */
	struct tm_uuid uuid;
	uint32_t flags, attrs; /* as in struct tm_pool_params */
};

struct tm_share_welcome {
	uint32_t magic, version;
	int32_t status; /* 0, or why not: then there is nothing but `version` to it */
	uint32_t lanes;
	uint64_t instance; /* of the server's memory: another one has none of our pages */
};

/* The only message on the first socket after the welcome. */
struct tm_share_gone {
	uint32_t magic;
};

enum tm_share_op {
	TM_SHARE_GET, /* pages index .. index + count - 1; `pages` of the reply: the hits */
	TM_SHARE_PUT, /* the same; `pages`: those stored */
	TM_SHARE_FLUSH_PAGE,
	TM_SHARE_FLUSH_OBJECT,
	TM_SHARE_FLUSH_ALL,
	TM_SHARE_READ, /* `length` bytes at `offset` of a page, to or from the slot's start */
	TM_SHARE_WRITE,
	TM_SHARE_XCHG,
	TM_SHARE_COUNT, /* add `delta` to counter `stat` */
	TM_SHARE_USAGE, /* the reply's `usage` */
	TM_SHARE_OPS
};

struct tm_share_request {
	uint32_t op;
	uint32_t index, count;
	uint32_t offset, length;
	uint32_t stat;
	int64_t delta;
	struct tm_oid oid;
};

struct tm_share_reply {
	int32_t status; /* of the call; of GET and PUT with some pages done: 0 */
	uint32_t frozen;
	uint64_t live_bytes, limit_bytes;        /* USAGE */
	uint64_t pages[TM_SHARE_PAGES_MAX / 64]; /* bit i: page index + i */
};

/* May a sharer add to this counter? Only to those of front ends. */
bool tm_share_counts(uint32_t stat);

/* Make a sealed window of `lanes` slots and map it. 0, *ret_fd (the caller's) and *ret_window (for
 * tm_share_unmap); -errno. */
int tm_share_create(uint32_t lanes, int *ret_fd, uint8_t **ret_window);

/* Map one made by the other end. 0; -EPROTO it has another size or is not sealed; -errno. The
 * descriptor stays the caller's. */
int tm_share_map(int fd, uint32_t lanes, uint8_t **ret_window);

void tm_share_unmap(uint8_t *window, uint32_t lanes);

/* Send one message with `count` descriptors, waiting at most for the socket's own time. 0; -errno.
 * SIGPIPE is never raised. */
int tm_share_send(int fd, const void *message, size_t bytes, const int *fds, size_t count);

/* Receive one message of exactly `bytes`. *ret_count descriptors, at most `max`, become the
 * caller's; further ones are closed. 0; -EPIPE the peer is gone; -EPROTO another size; -EAGAIN
 * the socket's time is over; -errno: then there are no descriptors. */
int tm_share_receive(
	int fd, void *message, size_t bytes, int *ret_fds, size_t max, size_t *ret_count);

/* Let every send and receive on `fd` wait at most so long. */
int tm_share_set_patience(int fd, uint32_t ms);

#endif
