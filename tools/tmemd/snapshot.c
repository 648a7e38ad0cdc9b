/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/tmemd/snapshot.h"

#include <errno.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/tmemd/describe.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/session.h"
#include "tools/tmemd/wait.h"

/* Why not, before anybody is asked. */
static int check(const struct tm_snapshot *snapshot, struct tm_error *error)
{
	const struct tm_client *client = snapshot->client;

	if (snapshot->fd < 0)
		return tm_error_set(
			error, TM_ERROR_PARAMETER, "this command has to carry a socket");
	if (!client->session)
		return tm_error_set(error, TM_ERROR_TRANSFER,
			"client '%s' is an orphan: start its program again first", client->name);
	if (client->transfer)
		return tm_error_set(error, TM_ERROR_BUSY, "client '%s' is being saved or restored",
			client->name);
	if (!snapshot->restore && !snapshot->live && atomic_load(&client->ledger->resident) &&
		tm_describe_has_persistent(client))
		return tm_error_set(error, TM_ERROR_PERMISSION,
			"client '%s' may be what this machine swaps to, and would wait for the "
			"reader: it has to be saved live",
			client->name);
	return 0;
}

static void forget(struct tm_client *client)
{
	if (client->transfer)
		close(client->transfer_fd);
	client->transfer = 0;
}

int tm_snapshot_start(struct tm_host *host, struct tm_session *session, const json_t *id,
	const struct tm_snapshot *snapshot, struct tm_error *error)
{
	struct tm_client *client = snapshot->client;
	int rc = check(snapshot, error);
	uint64_t ticket = 0;
	json_t *data = NULL;

	if (rc == 0) {
		ticket = tm_wait_transfer(host, session, id, client);
		rc = ticket ? 0 : -ENOMEM;
	}
	if (rc < 0) {
		if (snapshot->fd >= 0)
			close(snapshot->fd);
		return rc;
	}
	data = json_pack("{s:I}", "ticket", (json_int_t)ticket);
	if (!snapshot->restore) {
		json_object_set_new(data, "live", json_boolean(snapshot->live));
		json_object_set_new(data, "hold", json_boolean(snapshot->hold));
	}
	client->transfer = ticket;
	client->transfer_fd = snapshot->fd;
	client->transfer_hold = snapshot->hold;
	if (tm_session_event_fd(
		    client->session, snapshot->restore ? "restore" : "save", data, snapshot->fd))
		return 0;
	forget(client);
	tm_wait_give_up(host, ticket);
	return tm_error_set(error, TM_ERROR_BUSY,
		"client '%s' does not read what the host tells it", client->name);
}

void tm_snapshot_end(struct tm_host *host, struct tm_client *client, const json_t *arguments)
{
	uint64_t ticket = (uint64_t)json_integer_value(json_object_get(arguments, "ticket"));
	const json_t *failure = json_object_get(arguments, "error");
	struct tm_error error;
	json_t *result;
	bool told;

	if (ticket == 0 || ticket != client->transfer)
		return;
	forget(client);
	if (failure) {
		char text[TM_PROTO_TEXT_MAX];

		tm_error_set(&error, TM_ERROR_TRANSFER, "client '%s': %s", client->name,
			tm_printable(text, sizeof(text), json_string_value(failure), SIZE_MAX));
		tm_wait_transferred(host, ticket, NULL, &error);
		tm_log("client %u '%s': transfer failed", client->id, client->name);
		return;
	}
	result = json_pack("{s:O,s:O,s:O,s:O}", "pages", json_object_get(arguments, "pages"),
		"skipped", json_object_get(arguments, "skipped"), "bytes",
		json_object_get(arguments, "bytes"), "pause_ns",
		json_object_get(arguments, "pause_ns"));
	told = tm_wait_transferred(host, ticket, result, NULL);
	if (client->transfer_hold && !client->held) {
		client->held = true;
		if (!told) /* nobody is left who knows that it waits */
			tm_snapshot_resume(client);
	}
	tm_log("client %u '%s': transfer done", client->id, client->name);
}

bool tm_snapshot_resume(struct tm_client *client)
{
	if (!client->held)
		return true;
	if (!tm_session_event(client->session, "resume", NULL))
		return false;
	client->held = false;
	return true;
}

void tm_snapshot_client_gone(struct tm_client *client)
{
	forget(client);
	client->held = false;
}
