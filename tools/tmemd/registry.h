/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * registry.h - the clients that have joined
 */
#ifndef TM_REGISTRY_H
#define TM_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/ledger.h"
#include "core/proto.h"

#define TM_CLIENTS_MAX 256u
#define TM_CAP_NONE    UINT64_MAX

struct tm_history;
struct tm_session;

/* What a client can leave with the host, so that it outlives the client's process. */
enum tm_kept {
	TM_KEPT_STORE, /* the mapping of its segments */
	TM_KEPT_STATE, /* what its front end has to know beside that */
	TM_KEPT_COUNT
};

/*
 * A client whose process died without taking leave, and which left its store here, stays: `session`
 * is NULL then. The client that reclaimed it takes its place by joining; destroy drops it.
 */
struct tm_client {
	unsigned int id; /* from 1, the lowest free */
	char name[TM_NAME_MAX + 1], type[TM_NAME_MAX + 1];
	pid_t pid;
	uid_t uid;
	uint32_t weight;
	uint64_t cap;                /* TM_CAP_NONE: none */
	struct tm_ledger *ledger;    /* shared with the client: no number in it can be trusted */
	struct tm_session *session;  /* its connection, for events; NULL: its process is gone */
	int kept[TM_KEPT_COUNT];     /* descriptors, or -1 */
	int ledger_fd;               /* its ledger's, for fdstore.c; -1 where that is not needed */
	bool fd_stored;              /* systemd has them, too */
	bool took_leave;             /* what was kept is of no use any more */
	bool cache;                  /* what is kept may go, see leftover.h */
	uint64_t orphaned_ns;        /* when its process died */
	uint64_t shrink_asked_ns;    /* when the last `shrink` went out; 0: never */
	uint64_t used_seen, grew_ns; /* used_bytes at the last look, and when it rose last */
	uint64_t transfer;           /* ticket of the save or restore under way; 0: none */
	int transfer_fd;             /* its socket, while there is one */
	bool transfer_hold;          /* it is a save with hold */
	bool held;                   /* changes of its pages wait since such a save */

	/* Under the policy `benefit`: what its curve was lately, or NULL, and what that led to. */
	struct tm_history *history;
	uint64_t floor, aim; /* bytes of ephemeral memory */
};

struct tm_registry;

int tm_registry_new(struct tm_registry **ret_registry);
void tm_registry_free(struct tm_registry *registry);

/* Add a client: everything in `model` but its id is copied; the ledger becomes the registry's. 0;
 * -ENOSPC TM_CLIENTS_MAX reached; -ENOMEM. After a failure the ledger is still the caller's. */
int tm_registry_add(
	struct tm_registry *registry, const struct tm_client *model, struct tm_client **ret_client);

/* Forget the client, unmap its ledger, close what it left here. */
void tm_registry_remove(struct tm_registry *registry, struct tm_client *client);

size_t tm_registry_count(const struct tm_registry *registry);

/* The client after `client` (NULL: the first) by id, or NULL. */
struct tm_client *tm_registry_next(struct tm_registry *registry, const struct tm_client *client);

/* The client that `reference` means: an id (integer), or a string with a name or an id. 0; -EINVAL
 * with *error set: no such client, more than one, or neither integer nor string. */
int tm_registry_find(struct tm_registry *registry, const json_t *reference,
	struct tm_client **ret_client, struct tm_error *error);

/* The client without a process that has this name, type and user; NULL when there is none. */
struct tm_client *tm_registry_orphan(
	struct tm_registry *registry, const char *name, const char *type, uid_t uid);

/* The client with a process that has left its store here under this name, type and user; NULL when
 * there is none. At most one: who would inherit it could not be told otherwise. */
struct tm_client *tm_registry_keeper(
	struct tm_registry *registry, const char *name, const char *type, uid_t uid);

/* A number of a client's ledger; what no client can have is cut to what JSON can carry. */
uint64_t tm_client_read(const _Atomic uint64_t *field);

/* What an operator said of a client, out of a ledger of its. */
void tm_client_read_orders(const struct tm_ledger *ledger, struct tm_client *ret_client);

/* Its process is gone, what it stored is not. Nobody is left who could free any of it. */
void tm_client_orphaned(struct tm_client *client);

/* Has the client a persistent pool? */
bool tm_client_is_persistent(const struct tm_client *client);

#endif
