/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * commands.c - what tmemd can be asked for
 *
 * tools/common/commands.def declares every command once: its name, who may run it, its arguments
 * with their types. Checking, the refusal of unknown keys, and query-schema all come from it.
 *
 *      message -> tm_proto_parse_request -> find -> arguments_check -> run_ID -> reply
 *
 * A `run` function gets arguments of the right types, and returns 0 with call->result set, -EINVAL
 * with call->error set, -ENOMEM, or CALL_WAITS when wait.c will reply.
 */
#include "tools/tmemd/commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/common/schema.h"
#include "tools/tmemd/describe.h"
#include "tools/tmemd/door.h"
#include "tools/tmemd/fdstore.h"
#include "tools/tmemd/join.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/orders.h"
#include "tools/tmemd/policy.h"
#include "tools/tmemd/session.h"
#include "tools/tmemd/snapshot.h"
#include "tools/tmemd/wait.h"
#include "tools/tmemd/watch.h"

#define CALL_WAITS 1

struct call {
	struct tm_host *host;
	struct tm_session *session;
	struct tm_request request;
	json_t *result; /* NULL: {} */
	int result_fd;  /* goes with it; -1: none; borrowed */
	struct tm_error error;
};

static json_t *arg(const struct call *call, const char *name)
{
	return json_object_get(call->request.arguments, name);
}

/* The client that argument `client` means, or NULL when there is no such argument. */
static int arg_client(struct call *call, struct tm_client **ret_client)
{
	const json_t *reference = arg(call, "client");

	*ret_client = NULL;
	if (!reference)
		return 0;
	return tm_registry_find(call->host->registry, reference, ret_client, &call->error);
}

/* --- the commands ----------------------------------------------------------------------------- */

static int run_join(struct call *call)
{
	struct tm_join join = {
		.name = json_string_value(arg(call, "name")),
		.type = json_string_value(arg(call, "type")),
		.pid = json_integer_value(arg(call, "pid")),
		.protocol = json_integer_value(arg(call, "protocol")),
		.weight = arg(call, "weight"),
		.successor = json_is_true(arg(call, "successor")),
	};
	unsigned int id;
	int rc = tm_join(call->host, call->session, &join, &id, &call->error);

	if (rc == 0)
		call->result = json_pack("{s:i}", "id", (int)id);
	return rc;
}

static int run_released(struct call *call)
{
	json_int_t bytes = json_integer_value(arg(call, "bytes"));
	json_int_t ticket = json_integer_value(arg(call, "ticket"));

	/* Too late is no error: who asked has had its reply. */
	tm_wait_released(
		call->host, tm_session_client(call->session), (uint64_t)ticket, (uint64_t)bytes);
	return 0;
}

static const char *const kept_names[TM_KEPT_COUNT] = {
	[TM_KEPT_STORE] = "store",
	[TM_KEPT_STATE] = "state",
};

static int arg_kept(struct call *call, enum tm_kept *ret_kept)
{
	const char *what = json_string_value(arg(call, "what"));

	for (int i = 0; i < TM_KEPT_COUNT; i++) {
		if (strcmp(kept_names[i], what) == 0) {
			*ret_kept = (enum tm_kept)i;
			return 0;
		}
	}
	return tm_error_set(&call->error, TM_ERROR_PARAMETER, "what is store or state");
}

static int name_is_taken(struct call *call, const char *name)
{
	char text[TM_NAME_MAX + 1];

	return tm_error_set(&call->error, TM_ERROR_BUSY,
		"another client called '%s' keeps its memory here",
		tm_printable(text, sizeof(text), name, SIZE_MAX));
}

static int run_keep(struct call *call)
{
	struct tm_client *client = tm_session_client(call->session), *other;
	enum tm_kept kept;
	int rc = arg_kept(call, &kept), fd;

	if (rc < 0)
		return rc;
	other = tm_registry_keeper(call->host->registry, client->name, client->type, client->uid);
	if (other && other != client)
		return name_is_taken(call, client->name);
	fd = tm_session_take_fd(call->session);
	if (fd < 0)
		return tm_error_set(
			&call->error, TM_ERROR_PARAMETER, "keep has to carry a descriptor");
	if (client->kept[kept] >= 0)
		close(client->kept[kept]);
	client->kept[kept] = fd;
	client->cache = json_is_true(arg(call, "cache"));
	/* A cache is lost with its host. */
	if (client->cache)
		return 0;
	tm_fdstore_keep(call->host, client, kept);
	if (kept == TM_KEPT_STORE)
		tm_orders_found(call->host, client);
	return 0;
}

static int run_leave(struct call *call)
{
	tm_session_client(call->session)->took_leave = true;
	return 0;
}

/* The user is who the kernel says the peer is: nobody gets another user's memory. */
static int run_reclaim(struct call *call)
{
	const char *name = json_string_value(arg(call, "name"));
	const char *type = json_string_value(arg(call, "type"));
	struct tm_registry *registry = call->host->registry;
	struct tm_client *orphan;
	enum tm_kept kept;
	struct ucred peer;
	int rc = arg_kept(call, &kept);

	if (rc < 0)
		return rc;
	tm_session_peer(call->session, &peer);
	if (tm_registry_keeper(registry, name, type, peer.uid))
		return name_is_taken(call, name);
	orphan = tm_registry_orphan(registry, name, type, peer.uid);
	if (!orphan && tm_orders_lost(call->host, name, type, peer.uid))
		return tm_error_set(&call->error, TM_ERROR_NO_CLIENT,
			"what was left here is lost: the host that kept it was killed, too");
	if (!orphan || orphan->kept[kept] < 0)
		return tm_error_set(&call->error, TM_ERROR_NO_CLIENT, "nothing was left here");
	call->result_fd = orphan->kept[kept];
	call->result = json_pack("{s:I}", "segment_bytes",
		(json_int_t)tm_client_read(&orphan->ledger->segment_bytes));
	return call->result ? 0 : -ENOMEM;
}

static int run_list(struct call *call)
{
	/* Nobody keeps the total up to date while nobody has a share of it. */
	if (tm_registry_count(call->host->registry) == 0)
		tm_lease_update(call->host);
	call->result = tm_describe_list(call->host);
	return call->result ? 0 : -ENOMEM;
}

static int set_frozen(struct call *call, bool frozen)
{
	struct tm_client *only;
	int changed = 0, rc = arg_client(call, &only);

	if (rc < 0)
		return rc;
	if (!only) {
		call->host->all_frozen = frozen;
		tm_orders_keep(call->host);
	}
	for (struct tm_client *c = NULL; (c = tm_registry_next(call->host->registry, c));) {
		if (only && c != only)
			continue;
		if (!frozen && !tm_snapshot_resume(c))
			return tm_error_set(&call->error, TM_ERROR_BUSY,
				"client '%s' does not read what the host tells it", c->name);
		atomic_store(&c->ledger->frozen, frozen);
		changed++;
	}
	tm_watch_client(call->host, frozen ? "frozen" : "thawed", only);
	call->result = json_pack("{s:i}", "clients", changed);
	return 0;
}

static int run_freeze(struct call *call)
{
	return set_frozen(call, true);
}

static int run_thaw(struct call *call)
{
	return set_frozen(call, false);
}

static int run_freeable(struct call *call)
{
	struct tm_client *only;
	int rc = arg_client(call, &only);

	if (rc < 0)
		return rc;
	call->result = tm_describe_freeable(call->host, only);
	return call->result ? 0 : -ENOMEM;
}

static int run_flush(struct call *call)
{
	uint64_t bytes = (uint64_t)json_integer_value(arg(call, "bytes"));
	struct tm_client *only;
	int rc = arg_client(call, &only);

	if (rc == 0)
		rc = tm_wait_flush(call->host, call->session, call->request.id, bytes, only);
	return rc < 0 ? rc : CALL_WAITS;
}

static int run_policy(struct call *call)
{
	call->result = tm_describe_policy(call->host);
	return call->result ? 0 : -ENOMEM;
}

/* The policy is the host's: it goes alone. */
static int set_policy(struct call *call, const char *name)
{
	enum tm_policy policy;

	if (json_object_size(call->request.arguments) != 1)
		return tm_error_set(&call->error, TM_ERROR_PARAMETER,
			"policy is the host's, and set takes it alone");
	if (tm_policy_parse(name, &policy) < 0)
		return tm_error_set(
			&call->error, TM_ERROR_PARAMETER, "policy has to be 'weight' or 'benefit'");
	tm_lease_set_policy(call->host, policy);
	tm_orders_keep(call->host);
	tm_log("memory that is short goes by %s", tm_policy_names[policy]);
	tm_lease_update(call->host);
	return 0;
}

static int run_set(struct call *call)
{
	const json_t *weight = arg(call, "weight"), *cap = arg(call, "cap");
	const json_t *recompress = arg(call, "recompress");
	const char *compress = json_string_value(arg(call, "compress"));
	const char *policy = json_string_value(arg(call, "policy"));
	struct tm_client *client;
	uint32_t new_weight;
	int rc = arg_client(call, &client);

	if (rc < 0)
		return rc;
	if (policy)
		return set_policy(call, policy);
	if (!client)
		return tm_error_set(&call->error, TM_ERROR_PARAMETER,
			"set needs 'client', unless it is the policy that changes");
	if (!weight && !cap && !compress && !recompress)
		return tm_error_set(&call->error, TM_ERROR_PARAMETER,
			"set needs weight, cap, compress or recompress");
	if (weight && tm_join_weight(weight, &new_weight, &call->error) < 0)
		return -EINVAL;
	if (compress && strcmp(compress, "lz4") && strcmp(compress, "none"))
		return tm_error_set(
			&call->error, TM_ERROR_PARAMETER, "compress has to be 'lz4' or 'none'");
	if (weight) {
		client->weight = new_weight;
		atomic_store(&client->ledger->weight, new_weight);
	}
	if (cap)
		client->cap = json_is_null(cap) ? TM_CAP_NONE : (uint64_t)json_integer_value(cap);
	if (compress)
		atomic_store(&client->ledger->compress,
			strcmp(compress, "lz4") ? TM_COMPRESS_NONE : TM_COMPRESS_LZ4);
	if (recompress)
		atomic_store(&client->ledger->recompress, json_is_true(recompress));
	call->host->benefit_stale = true;
	tm_lease_update(call->host);
	if (tm_lease_cap_holds(client))
		return 0;
	rc = tm_wait_cap(call->host, call->session, call->request.id, client);
	return rc < 0 ? rc : CALL_WAITS;
}

static int run_destroy(struct call *call)
{
	struct tm_client *client;
	int rc = arg_client(call, &client);

	if (rc < 0)
		return rc;
	if (!json_is_true(arg(call, "force")) && tm_describe_has_persistent(client))
		return tm_error_set(&call->error, TM_ERROR_PERMISSION,
			"client '%s' has persistent pages, which would be lost: needs force",
			client->name);
	if (!client->session) {
		tm_watch_client(call->host, "destroyed", client);
		tm_log("the memory of client %u '%s' was dropped", client->id, client->name);
		tm_fdstore_forget(call->host, client);
		tm_registry_remove(call->host->registry, client);
		tm_orders_keep(call->host);
		tm_lease_update(call->host);
		call->result = json_pack("{s:b}", "destroyed", true);
		return call->result ? 0 : -ENOMEM;
	}
	rc = tm_wait_destroy(call->host, call->session, call->request.id, client);
	if (rc == -EAGAIN)
		return tm_error_set(&call->error, TM_ERROR_BUSY,
			"client '%s' does not read what the host tells it", client->name);
	if (rc == 0) {
		tm_watch_client(call->host, "destroyed", client);
		tm_log("client %u '%s' was told to drop its pools", client->id, client->name);
	}
	return rc < 0 ? rc : CALL_WAITS;
}

static int run_snapshot(struct call *call, bool restore)
{
	struct tm_snapshot snapshot = {.restore = restore,
		.live = json_is_true(arg(call, "live")),
		.hold = json_is_true(arg(call, "hold"))};
	int rc = arg_client(call, &snapshot.client);

	if (rc < 0)
		return rc;
	snapshot.fd = tm_session_take_fd(call->session);
	rc = tm_snapshot_start(
		call->host, call->session, call->request.id, &snapshot, &call->error);
	return rc < 0 ? rc : CALL_WAITS;
}

static int run_save(struct call *call)
{
	return run_snapshot(call, false);
}

static int run_restore(struct call *call)
{
	return run_snapshot(call, true);
}

static int run_transferred(struct call *call)
{
	tm_snapshot_end(call->host, tm_session_client(call->session), call->request.arguments);
	return 0;
}

static int run_shared_auth(struct call *call)
{
	if (!call->host->door)
		return tm_error_set(&call->error, TM_ERROR_BUSY,
			"this host could not open its door to sharers");
	return tm_door_auth(call->host->door, json_string_value(arg(call, "action")),
		json_string_value(arg(call, "uuid")), arg(call, "uid"), &call->result,
		&call->error);
}

static int run_watch(struct call *call)
{
	return tm_watch_start(call->host, call->session);
}

static json_t *describe_command(const struct tm_command_desc *command)
{
	json_t *args = json_array();

	for (const struct tm_arg_desc *a = command->args; a->name; a++)
		json_array_append_new(args,
			json_pack("{s:s,s:s,s:b,s:s}", "name", a->name, "type",
				tm_arg_type_names[a->type], "required", a->required, "help",
				a->help));
	return json_pack("{s:s,s:s,s:s,s:o}", "name", command->name, "by",
		tm_who_names[command->who], "help", command->help, "arguments", args);
}

static int run_query_schema(struct call *call)
{
	json_t *list = json_array(), *event_list = json_array(), *errors = json_array();

	for (size_t i = 0; i < TM_COMMAND_COUNT; i++)
		json_array_append_new(list, describe_command(&tm_command_descs[i]));
	for (const struct tm_event_desc *e = tm_event_descs; e->name; e++)
		json_array_append_new(event_list,
			json_pack("{s:s,s:s,s:s}", "name", e->name, "to",
				e->to_watchers ? "watcher" : "client", "help", e->help));
	for (size_t i = 0; i < TM_ERROR_COUNT; i++)
		json_array_append_new(errors,
			json_pack("{s:s,s:s}", "class", tm_error_descs[i].word, "help",
				tm_error_descs[i].help));
	call->result = json_pack(
		"{s:o,s:o,s:o}", "commands", list, "events", event_list, "errors", errors);
	return call->result ? 0 : -ENOMEM;
}

static int run_help(struct call *call)
{
	return run_query_schema(call);
}

#define TM_COMMAND(id, ...) [TM_COMMAND_##id] = run_##id,
static int (*const runs[TM_COMMAND_COUNT])(struct call *call) = {
#include "tools/common/commands.def"
};
#undef TM_COMMAND

/* --- checking and running --------------------------------------------------------------------- */

static bool arg_type_matches(enum tm_arg_type type, const json_t *value)
{
	switch (type) {
	case TM_ARG_CLIENT:
		return json_is_string(value) || json_is_integer(value);
	case TM_ARG_CAP:
		if (json_is_null(value))
			return true;
		/* fall through */
	case TM_ARG_BYTES:
		return json_is_integer(value) && json_integer_value(value) >= 0;
	case TM_ARG_INTEGER:
		return json_is_integer(value);
	case TM_ARG_STRING:
		return json_is_string(value);
	case TM_ARG_BOOLEAN:
		return json_is_boolean(value);
	case TM_ARG_TYPE_COUNT:
		break;
	}
	return false;
}

static int arguments_check(
	const struct tm_command_desc *command, json_t *arguments, struct tm_error *error)
{
	const char *key;
	json_t *value;
	char text[64];

	json_object_foreach (arguments, key, value) {
		const struct tm_arg_desc *a = command->args;

		while (a->name && strcmp(a->name, key))
			a++;
		if (!a->name)
			return tm_error_set(error, TM_ERROR_PARAMETER, "%s takes no argument '%s'",
				command->name, tm_printable(text, sizeof(text), key, SIZE_MAX));
		if (!arg_type_matches(a->type, value))
			return tm_error_set(error, TM_ERROR_PARAMETER, "%s: '%s' has to be %s",
				command->name, a->name, tm_arg_type_names[a->type]);
	}
	for (const struct tm_arg_desc *a = command->args; a->name; a++)
		if (a->required && !json_object_get(arguments, a->name))
			return tm_error_set(
				error, TM_ERROR_PARAMETER, "%s needs '%s'", command->name, a->name);
	return 0;
}

static int command_allowed(const struct tm_command_desc *command, struct call *call)
{
	bool joined = tm_session_client(call->session);
	enum tm_role role = tm_session_role(call->session);

	if (command->who == TM_BY_ANYBODY)
		return 0;
	if (role < (command->who == TM_BY_READER ? TM_ROLE_READ : TM_ROLE_MANAGE))
		return tm_error_set(&call->error, TM_ERROR_PERMISSION,
			"%s is for root and the user of this tmemd", command->name);
	if (joined == (command->who == TM_BY_CLIENT))
		return 0;
	return tm_error_set(&call->error, TM_ERROR_PERMISSION,
		joined ? "%s is not for a connection that has joined"
		       : "%s is for clients, after join",
		command->name);
}

void tm_command_run(struct tm_host *host, struct tm_session *session, json_t *message)
{
	struct call call = {.host = host, .session = session, .result_fd = -1};
	const struct tm_command_desc *command = NULL;
	char text[64];
	int rc = tm_proto_parse_request(message, &call.request, &call.error);

	if (rc == 0)
		command = tm_command_desc(call.request.execute);
	if (rc == 0 && !command)
		rc = tm_error_set(&call.error, TM_ERROR_NOT_FOUND, "no command '%s'",
			tm_printable(text, sizeof(text), call.request.execute, SIZE_MAX));
	if (rc == 0)
		rc = command_allowed(command, &call);
	if (rc == 0)
		rc = arguments_check(command, call.request.arguments, &call.error);
	if (rc == 0)
		rc = runs[command - tm_command_descs](&call);
	host->counters.requests++;
	host->counters.requests_refused += rc < 0;
	if (rc == CALL_WAITS)
		return;
	if (rc == -ENOMEM)
		tm_error_set(&call.error, TM_ERROR_MEMORY, "out of memory");
	if (rc == 0)
		tm_session_send_fd(
			session, tm_proto_return(call.result, call.request.id), call.result_fd);
	else
		tm_session_send(session, tm_proto_error(&call.error, call.request.id));
}
