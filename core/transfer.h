/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * transfer.h - a save or a restore of a store, over a socket, in a thread of its own
 *
 * One at a time. The thread writes to or reads from the socket it is given and nothing else; when
 * the socket is shut down, be it by the other end, by tm_transfer_cancel() or because the other end
 * died, the transfer fails as save and restore fail: nothing has changed.
 *
 * Thread safety: start, cancel and stop may be called by any thread; stop once.
 */
#ifndef TM_TRANSFER_H
#define TM_TRANSFER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/move.h"

struct tm_transfer;

struct tm_transfer_request {
	bool restore;
	bool live, hold; /* of a save: see struct tm_save_params */
	int fd;          /* a stream socket */
};

/* Called once for each transfer that was started, from its thread. `rc` is 0 or a negative errno;
 * result->why says why. */
typedef void tm_transfer_done_fn(void *opaque, int rc, const struct tm_move_result *result);

/* The strings and what `who` points at are borrowed, as the store is. 0; -ENOMEM. */
int tm_transfer_create(
	struct tm_store *s, const struct tm_move_params *who, struct tm_transfer **ret_transfer);

/* Start one. The descriptor is the transfer's on success. 0; -EBUSY one is under way; -ENOTSOCK;
 * -ESHUTDOWN after stop; errno of pthread_create. */
int tm_transfer_start(struct tm_transfer *t, const struct tm_transfer_request *request,
	tm_transfer_done_fn *done, void *opaque);

/* What is under way fails soon. */
void tm_transfer_cancel(struct tm_transfer *t);

/* Cancel, wait for the end, start none any more; then destroy frees it. NULL is fine. */
void tm_transfer_stop(struct tm_transfer *t);
void tm_transfer_destroy(struct tm_transfer *t);

#endif
