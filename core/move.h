/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * move.h - a store's pools to a stream (save.c) and from one (restore.c)
 *
 * Save, while the client runs:
 *
 *      tell the index to note changes -> seal the open segments -> send every sealed segment
 *        -> send what the front end has elsewhere (a swap device, on its fallback)
 *        -> send what changed meanwhile, again and again, until little is left
 *        -> shut the gate: pin what changed since -> open it -> send that, and END
 *
 * What the target then has is what the source had at one moment, when the gate was shut. Nothing is
 * sent, allocated or faulted in while it is: the pause is a look-up for each of at most LAST_MAX
 * pages, and reading at most ELSEWHERE_MAX that are elsewhere, however slow the reader. A save that
 * is not live shuts the gate first. The front end's own changes are held before the gate is shut
 * and released after it is open, so that none waits at the gate with locks that fetch needs.
 *
 * Restore, while the client runs:
 *
 *      append every page to the pool's own segments, in an index of its own (staged)
 *        -> the stream is whole and right -> publish: staged runs become the pool's
 *
 * Until then nobody finds a staged page, and what fails gives them all up again. A page of a
 * persistent pool that has no room, or that the pool does not want, is offered to the front end,
 * which keeps it elsewhere, staged likewise.
 *
 * Persistent pools come back whole or not at all, into an empty pool, with its gate shut. Of an
 * ephemeral pool comes back what has room, but nothing that this life of the pool ever put or
 * flushed (changes.h): what a handle stands for may have changed since the save, and whoever has
 * put or flushed it knows better than the stream.
 *
 * Locking: as any other call, plus the gate. One save or restore of a store at a time.
 */
#ifndef TM_MOVE_H
#define TM_MOVE_H

#include "core/store.h"
#include "core/stream.h"

struct tm_move_params {
	const char *name, *type;       /* of the client */
	const struct tm_move_ops *ops; /* the front end's; may be NULL */
	void *opaque;
};

struct tm_save_params {
	bool live;
	bool hold; /* on success leave the gate shut, until tm_store_resume() */
	tm_stream_write_fn *write;
	void *opaque;
};

struct tm_move_result {
	uint64_t pages;       /* saved, records of changes included; restored */
	uint64_t skipped;     /* of ephemeral pools: no room, or this life knows better */
	uint64_t bytes;       /* of the stream */
	uint64_t pause_ns;    /* how long changes of pages waited */
	char why[TM_WHY_MAX]; /* one line on a failure; always set then */
};

/*
 * Write every pool of the store to a stream. 0; -EIO a damaged page of a persistent pool; -EBUSY
 * it changes faster than the stream is taken; -ENOMEM; what the write function or the front end
 * returned. The store is as it was whatever happens, and the gate open, but after a success with
 * `hold`.
 */
int tm_store_save(struct tm_store *s, const struct tm_move_params *who,
	const struct tm_save_params *params, struct tm_move_result *ret_result);

/* Open the gate after a save with `hold`; otherwise nothing. */
void tm_store_resume(struct tm_store *s, const struct tm_move_params *who);

/*
 * Read a stream into the store's pools: the n-th of the stream's pools with some flags and
 * TM_POOL_RETAIN or not goes to the store's n-th such pool. 0; -EINVAL it does not fit this client;
 * -EEXIST a persistent pool is not empty; -ENOSPC no room for one; the errors of tm_stream_next();
 * what the front end returned. A failure has changed nothing.
 */
int tm_store_restore(struct tm_store *s, const struct tm_move_params *who, tm_stream_read_fn *read,
	void *opaque, struct tm_move_result *ret_result);

#endif
