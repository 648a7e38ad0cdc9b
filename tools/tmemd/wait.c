/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wait.c - commands whose reply has to wait for clients
 *
 * A flush goes in rounds: ask, collect, and ask again for what is missing as long as the last round
 * brought something (clients give back whole segments, so a first answer may fall short):
 *
 *      start -> round -> every client answered, left or timed out -> enough, or nothing came ->
 * reply
 *                 ^-------------------------------------------------- else
 *
 * A cap waits for threads of the client that may go by an older grant: the ledger tells, not the
 * client. A destroy is one round with one client, whose answer is that it leaves. A transfer is
 * one, too, and has no deadline; its answer comes from snapshot.c.
 *
 * Invariants
 *   1. One wait per session, each but for a transfer ends within TM_WAIT_NS: a stuck client delays
 * only who asked.
 *   2. An answer counts once, and only with the ticket of a wait that asked this client.
 */
#include "tools/tmemd/wait.h"

#include <errno.h>
#include <stdlib.h>

#include "core/util.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/leftover.h"
#include "tools/tmemd/policy.h"
#include "tools/tmemd/session.h"

enum wait_kind {
	WAIT_FLUSH,
	WAIT_DESTROY,
	WAIT_CAP,
	WAIT_TRANSFER,
};

struct tm_wait {
	LIST_ENTRY(tm_wait) link; /* in host->waits */
	struct tm_host *host;
	struct tm_session *session;
	json_t *id; /* of the request; NULL: none */
	enum wait_kind kind;
	uint64_t ticket, deadline;
	unsigned int only;               /* id of the one client to ask; 0: all */
	bool asked[TM_CLIENTS_MAX + 1];  /* by client id: its answer is missing */
	bool silent[TM_CLIENTS_MAX + 1]; /* it does not read its events */
	size_t missing;                  /* how many of asked[] are set */
	uint64_t goal, released, round;  /* bytes; `round` came in the present one */
	size_t unanswered;               /* clients that were given up */
	bool destroyed;
};

static struct tm_wait *wait_new(struct tm_host *host, struct tm_session *session, const json_t *id)
{
	static uint64_t tickets;
	struct tm_wait *wait = calloc(1, sizeof(*wait));

	if (!wait)
		return NULL;
	wait->host = host;
	wait->session = session;
	wait->id = json_incref((json_t *)id);
	wait->ticket = ++tickets;
	wait->deadline = tm_now_ns() + TM_WAIT_NS;
	LIST_INSERT_HEAD(&host->waits, wait, link);
	tm_session_set_wait(session, wait);
	return wait;
}

void tm_wait_cancel(struct tm_wait *wait)
{
	LIST_REMOVE(wait, link);
	tm_session_set_wait(wait->session, NULL);
	json_decref(wait->id);
	free(wait);
}

/* Reply and be done. */
static void wait_finish(struct tm_wait *wait)
{
	static const struct tm_error ended = {TM_ERROR_TRANSFER, "the client's process has ended"};
	static const struct tm_error stuck = {
		TM_ERROR_BUSY, "the client is stopped; its cap holds from when it goes on"};
	const struct tm_error *error = wait->kind == WAIT_TRANSFER ? &ended
		: wait->kind == WAIT_CAP && wait->missing > 0      ? &stuck
								   : NULL;
	json_t *result;

	if (error) {
		tm_session_send(wait->session, tm_proto_error(error, wait->id));
		tm_wait_cancel(wait);
		return;
	}
	if (wait->kind == WAIT_CAP)
		result = json_object();
	else if (wait->kind == WAIT_FLUSH)
		result = json_pack("{s:I,s:I}", "released_bytes", (json_int_t)wait->released,
			"unanswered_clients", (json_int_t)(wait->unanswered + wait->missing));
	else
		result = json_pack("{s:b}", "destroyed", wait->destroyed);
	tm_session_send(wait->session, result ? tm_proto_return(result, wait->id) : NULL);
	tm_wait_cancel(wait);
}

static void wait_ask(struct tm_wait *wait, struct tm_client *client, uint64_t bytes)
{
	json_t *data = json_pack(
		"{s:I,s:I}", "bytes", (json_int_t)bytes, "ticket", (json_int_t)wait->ticket);

	if (data && tm_session_event(client->session, "release", data)) {
		wait->asked[client->id] = true;
		wait->missing++;
	} else {
		wait->silent[client->id] = true;
		wait->unanswered++;
	}
}

/* Ask for what is still missing. */
static void flush_round(struct tm_wait *wait)
{
	struct tm_client *clients[TM_CLIENTS_MAX];
	uint64_t freeable[TM_CLIENTS_MAX], ask[TM_CLIENTS_MAX];
	uint32_t weight[TM_CLIENTS_MAX];
	size_t count = 0;

	for (struct tm_client *c = NULL; (c = tm_registry_next(wait->host->registry, c));) {
		if ((wait->only && c->id != wait->only) || wait->silent[c->id])
			continue;
		freeable[count] = tm_client_read(&c->ledger->freeable_bytes);
		weight[count] = c->weight;
		clients[count++] = c;
	}
	wait->round = 0;
	tm_policy_release(freeable, weight, count, wait->goal - wait->released, ask);
	for (size_t i = 0; i < count; i++)
		if (ask[i] > 0)
			wait_ask(wait, clients[i], ask[i]);
}

/* One answer less is missing: the next round, the reply, or nothing yet. */
static void wait_advance(struct tm_wait *wait)
{
	if (wait->missing > 0)
		return;
	if (wait->kind == WAIT_FLUSH && wait->round > 0 && wait->released < wait->goal)
		flush_round(wait);
	if (wait->missing == 0)
		wait_finish(wait);
}

int tm_wait_flush(struct tm_host *host, struct tm_session *session, const json_t *id,
	uint64_t bytes, struct tm_client *only)
{
	struct tm_wait *wait = wait_new(host, session, id);

	if (!wait)
		return -ENOMEM;
	wait->kind = WAIT_FLUSH;
	wait->goal = bytes;
	wait->only = only ? only->id : 0;
	/* What nobody uses goes first. */
	wait->released = tm_leftover_release(host, wait->only, bytes);
	if (wait->released < wait->goal)
		flush_round(wait);
	wait_advance(wait);
	return 0;
}

int tm_wait_destroy(struct tm_host *host, struct tm_session *session, const json_t *id,
	struct tm_client *client)
{
	struct tm_wait *wait = wait_new(host, session, id);

	if (!wait)
		return -ENOMEM;
	wait->kind = WAIT_DESTROY;
	if (!tm_session_event(client->session, "destroy", NULL)) {
		tm_wait_cancel(wait);
		return -EAGAIN;
	}
	wait->asked[client->id] = true;
	wait->missing = 1;
	return 0;
}

int tm_wait_cap(struct tm_host *host, struct tm_session *session, const json_t *id,
	const struct tm_client *client)
{
	struct tm_wait *wait = wait_new(host, session, id);

	if (!wait)
		return -ENOMEM;
	wait->kind = WAIT_CAP;
	wait->only = client->id;
	wait->asked[client->id] = true;
	wait->missing = 1;
	return 0;
}

static bool cap_holds(const struct tm_wait *wait)
{
	struct tm_client *c = NULL;

	while ((c = tm_registry_next(wait->host->registry, c)) && c->id != wait->only)
		;
	return !c || tm_lease_cap_holds(c);
}

uint64_t tm_wait_transfer(struct tm_host *host, struct tm_session *session, const json_t *id,
	const struct tm_client *client)
{
	struct tm_wait *wait = wait_new(host, session, id);

	if (!wait)
		return 0;
	wait->kind = WAIT_TRANSFER;
	wait->deadline = UINT64_MAX;
	wait->asked[client->id] = true;
	wait->missing = 1;
	return wait->ticket;
}

static struct tm_wait *find_ticket(struct tm_host *host, uint64_t ticket)
{
	struct tm_wait *wait = LIST_FIRST(&host->waits);

	while (wait && wait->ticket != ticket)
		wait = LIST_NEXT(wait, link);
	return wait;
}

bool tm_wait_transferred(
	struct tm_host *host, uint64_t ticket, json_t *result, const struct tm_error *error)
{
	struct tm_wait *wait = find_ticket(host, ticket);

	if (!wait) {
		json_decref(result);
		return false;
	}
	tm_session_send(wait->session,
		error ? tm_proto_error(error, wait->id) : tm_proto_return(result, wait->id));
	tm_wait_cancel(wait);
	return true;
}

void tm_wait_give_up(struct tm_host *host, uint64_t ticket)
{
	struct tm_wait *wait = find_ticket(host, ticket);

	if (wait)
		tm_wait_cancel(wait);
}

bool tm_wait_released(
	struct tm_host *host, const struct tm_client *client, uint64_t ticket, uint64_t bytes)
{
	for (struct tm_wait *wait = LIST_FIRST(&host->waits); wait; wait = LIST_NEXT(wait, link)) {
		if (wait->ticket != ticket || !wait->asked[client->id] || wait->kind != WAIT_FLUSH)
			continue;
		bytes = TM_MIN(bytes, tm_ram_bytes());
		wait->asked[client->id] = false;
		wait->missing--;
		wait->released += bytes;
		wait->round += bytes;
		wait_advance(wait);
		return true;
	}
	return false;
}

void tm_wait_client_gone(struct tm_host *host, const struct tm_client *client)
{
	struct tm_wait *wait = LIST_FIRST(&host->waits), *next;

	for (; wait; wait = next) {
		next = LIST_NEXT(wait, link);
		if (!wait->asked[client->id])
			continue;
		wait->asked[client->id] = false;
		wait->missing--;
		/* It is still in the registry: the next round must not ask it. */
		wait->silent[client->id] = true;
		wait->destroyed = wait->kind == WAIT_DESTROY;
		wait_advance(wait);
	}
}

void tm_wait_tick(struct tm_host *host, uint64_t now)
{
	struct tm_wait *wait = LIST_FIRST(&host->waits), *next;

	for (; wait; wait = next) {
		next = LIST_NEXT(wait, link);
		if (wait->kind == WAIT_CAP && cap_holds(wait))
			wait->missing = 0;
		if (wait->missing == 0 || now >= wait->deadline)
			wait_finish(wait);
	}
}
