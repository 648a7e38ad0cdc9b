/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lanes.h - a connection to a shared pool's server that comes back
 *
 * A lane is a socket and a slot of the window, for one request at a time:
 *
 *      take -> [write the slot] -> exchange -> [read the slot] -> give
 *
 * When the connection fails, takes fail at once, and a thread joins again, with growing pauses.
 *
 * Thread safety: any thread may call take, slot, exchange and give; open and close take turns.
 */
#ifndef TM_LANES_H
#define TM_LANES_H

#include "core/share.h"

struct tm_lanes;

struct tm_lanes_params {
	/* Get a socket whose other end the pool's server has. 0 and *ret_fd, the caller's; the
	 * errors of tm_open_shared. May block, but ends soon (-ECANCELED) once `stop_fd` is
	 * readable. From tm_lanes_open and the thread, never at once. */
	int (*join)(void *opaque, const struct tm_uuid *uuid, int stop_fd, int *ret_fd);
	void *join_opaque;
	uint32_t patience_ms; /* most that an exchange waits */

	/* From the thread: now and then while connected; may use lanes. */
	void (*tick)(void *opaque);
	/* From the thread, when an operator destroyed the pool: it is not joined again. */
	void (*gone)(void *opaque);
	void *opaque;
};

/* Join and start the thread. `hello` is copied, its token is set. 0; the errors of tm_open_shared.
 */
int tm_lanes_open(const struct tm_lanes_params *params, const struct tm_share_hello *hello,
	struct tm_lanes **ret_lanes);

/* No lane may be taken. */
void tm_lanes_close(struct tm_lanes *lanes);

/* A lane, the caller's until tm_lanes_give(). Waits for others to give one. -ENOENT the pool was
 * destroyed; -EAGAIN nobody to talk to: then every page of object `lose` (or NULL) is flushed
 * before there is somebody again. */
int tm_lanes_take(struct tm_lanes *lanes, const struct tm_oid *lose);

/* TM_SHARE_SLOT bytes, of a lane that was taken. */
uint8_t *tm_lanes_slot(struct tm_lanes *lanes, int lane);

/* Send a request, wait for its reply. 0; -EAGAIN no reply: nobody knows what became of it. */
int tm_lanes_exchange(struct tm_lanes *lanes, int lane, const struct tm_share_request *request,
	struct tm_share_reply *ret_reply);

/* `broken`: the exchange failed; the connection ends, and of `lose` the same is true as above. */
void tm_lanes_give(struct tm_lanes *lanes, int lane, bool broken, const struct tm_oid *lose);

#endif
