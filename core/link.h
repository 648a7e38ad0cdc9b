/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * link.h - a client's connection to its host
 *
 * One thread per client joins the host, hands it the ledger's descriptor, carries out what the
 * host asks for, and joins again whenever the host comes back. Nobody ever waits for it: without
 * a host the ledger keeps its last grant.
 *
 *      start -> connecting -> joined -> (host gone) connecting -> ... -> stop
 *                    \-> (destroyed by an operator) -> ended
 */
#ifndef TM_LINK_H
#define TM_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/tmem.h"

struct tm_link;

/* The host wants the client's pools saved to, or restored from, a socket. */
struct tm_link_transfer {
	uint64_t ticket; /* for the answer */
	bool restore;
	bool live, hold; /* of a save: see core/move.h */
	int fd;          /* -1: the host sent none */
};

/* How it ended. */
struct tm_link_answer {
	uint64_t ticket;
	bool failed;
	uint64_t pages, skipped, bytes, pause_ns;
	char why[TM_WHY_MAX]; /* when it failed: one line */
};

/* What the host may ask of a client. Called from the link's thread, one at a time. */
struct tm_link_ops {
	/* Give at least `bytes` of ephemeral memory back to the operating system if there is that
	 * much; return what was given back. */
	uint64_t (*release)(void *opaque, uint64_t bytes);

	/* granted_bytes fell below used_bytes: shrink as far as ephemeral pages allow. */
	void (*shrink)(void *opaque);

	/* Drop every pool for good. The link ends itself afterwards and does not join again. */
	void (*destroy)(void *opaque);

	/* Start a transfer, which takes the descriptor over, and give the answer to `link` when it
	 * has ended. NULL or a negative errno: it cannot be done. */
	int (*transfer)(
		void *opaque, struct tm_link *link, const struct tm_link_transfer *transfer);

	/* Changes that a save has made wait may go on. */
	void (*resume)(void *opaque);

	void *opaque;
};

struct tm_link_params {
	const char *name;   /* of the client */
	const char *type;   /* of front end */
	const char *socket; /* NULL: tm_socket_path() */
	uint32_t weight;    /* 0: the host's default */
	int ledger_fd;      /* borrowed: must stay open until tm_link_stop() */
	bool start_host;    /* run tmemd when nothing listens */

	/* For the server of a shared pool. Not NULL: a host connects to us, on listen_fd
	 * (borrowed), and none is dialled. Called like those of `ops`: a sharer of user `uid` is at
	 * the other end of `fd`, the callee's; or, with -1, that user is no longer let in. */
	void (*sharer)(void *opaque, int fd, uid_t uid);
	int listen_fd;

	/* What the host shall keep when this process dies without tm_link_stop(): the mapping of
	 * the store and the front end's own state. Borrowed like ledger_fd; -1: nothing. */
	int store_fd, state_fd;
	bool successor; /* they are what tm_link_reclaim() gave */
	bool cache;     /* nothing depends on it: a host that does not keep it will do as well */

	struct tm_link_ops ops;
};

/* What a client of the same name, type and user left with the host when its process died. */
struct tm_legacy {
	int store_fd, state_fd; /* the caller's; state_fd may be -1 */
	uint32_t segment_bytes; /* of the store */
};

/* Ask the host for it. Waits for the host at most 2 s a question, and, if `patient`, so long for
 * another one where one was killed; if not, a moment for the client to be gone that left it.
 * Starts no host. 0 and *ret_legacy;
 * -ENOENT nothing there; -EBUSY such a client is alive; -ENOENT, -ECONNREFUSED no host; -ETIMEDOUT,
 * -EAGAIN a host too busy to say; -errno. */
int tm_link_reclaim(const char *socket, const char *name, const char *type, bool patient,
	struct tm_legacy *ret_legacy);

/* Start the thread; all strings are copied. 0; -ENOMEM; -ENAMETOOLONG a socket path that does not
 * fit a sockaddr_un; errno of pthread_create. */
int tm_link_start(const struct tm_link_params *params, struct tm_link **ret_link);

/* Tell the host how a transfer ended. Any thread, until tm_link_stop(); what nobody is there to
 * hear is forgotten. */
void tm_link_answer(struct tm_link *link, const struct tm_link_answer *answer);

/* What happened to a link so far. `version_mismatches` counts hosts of another protocol version:
 * the client works on without a host and asks again every 10 s. */
struct tm_link_counters {
	uint64_t joins;
	uint64_t refusals; /* the host answered join with an error */
	uint64_t version_mismatches;
	uint64_t host_starts; /* tmemd run by this link, whether or not it stayed */
};

/* Any thread, any time. */
void tm_link_count(struct tm_link *link, struct tm_link_counters *ret_counters);

/* Leave the host and join the thread. Must not be called from a tm_link_ops function. */
void tm_link_stop(struct tm_link *link);

#endif
