/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * commands.c - what tmemd can be asked for
 *
 * The table at the end declares every command once: its name, who may run it, its arguments with
 * their types. Checking, the refusal of unknown keys, and query-schema all come from it.
 *
 *      message -> tm_proto_parse_request -> command_find -> arguments_check -> run -> reply
 *
 * A `run` function gets arguments of the right types, and returns 0 with call->result set, -EINVAL
 * with call->error set, -ENOMEM, or CALL_WAITS when wait.c will reply.
 */
#include "tools/tmemd/commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemd/describe.h"
#include "tools/tmemd/door.h"
#include "tools/tmemd/join.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/policy.h"
#include "tools/tmemd/session.h"
#include "tools/tmemd/wait.h"

#define CALL_WAITS 1
#define ARGS_MAX   6

struct call {
	struct tm_host *host;
	struct tm_session *session;
	struct tm_request request;
	json_t *result; /* NULL: {} */
	int result_fd;  /* goes with it; -1: none; borrowed */
	struct tm_error error;
};

enum arg_type {
	ARG_CLIENT, /* id or name */
	ARG_BYTES,
	ARG_CAP, /* bytes, or null for none */
	ARG_INTEGER,
	ARG_STRING,
	ARG_BOOLEAN,
	ARG_TYPE_COUNT
};

static const char *const arg_type_names[ARG_TYPE_COUNT] = {
	[ARG_CLIENT] = "client: an id, or a string with a name or an id",
	[ARG_BYTES] = "bytes: an integer, not negative",
	[ARG_CAP] = "bytes, or null for none",
	[ARG_INTEGER] = "integer",
	[ARG_STRING] = "string",
	[ARG_BOOLEAN] = "boolean",
};

struct arg {
	const char *name;
	enum arg_type type;
	bool required;
	const char *help;
};

enum who {
	BY_ANYBODY,
	BY_OPERATOR, /* any connection that has not joined */
	BY_CLIENT,
};

struct command {
	const char *name;
	enum who who;
	const char *help;
	int (*run)(struct call *call);
	struct arg args[ARGS_MAX + 1]; /* ends with a NULL name */
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
	if (!only)
		call->host->all_frozen = frozen;
	for (struct tm_client *c = NULL; (c = tm_registry_next(call->host->registry, c));) {
		if (only && c != only)
			continue;
		atomic_store(&c->ledger->frozen, frozen);
		changed++;
	}
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

static int run_set(struct call *call)
{
	const json_t *weight = arg(call, "weight"), *cap = arg(call, "cap");
	const char *compress = json_string_value(arg(call, "compress"));
	struct tm_client *client;
	uint32_t new_weight;
	int rc = arg_client(call, &client);

	if (rc < 0)
		return rc;
	if (!weight && !cap && !compress)
		return tm_error_set(
			&call->error, TM_ERROR_PARAMETER, "set needs weight, cap or compress");
	if (weight && tm_join_weight(weight, &new_weight, &call->error) < 0)
		return -EINVAL;
	if (compress && strcmp(compress, "lz4") && strcmp(compress, "none"))
		return tm_error_set(
			&call->error, TM_ERROR_PARAMETER, "compress has to be 'lz4' or 'none'");
	if (weight)
		client->weight = new_weight;
	if (cap)
		client->cap = json_is_null(cap) ? TM_CAP_NONE : (uint64_t)json_integer_value(cap);
	if (compress)
		atomic_store(&client->ledger->compress,
			strcmp(compress, "lz4") ? TM_COMPRESS_NONE : TM_COMPRESS_LZ4);
	tm_lease_update(call->host);
	return 0;
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
		tm_log("the memory of client %u '%s' was dropped", client->id, client->name);
		tm_registry_remove(call->host->registry, client);
		tm_lease_update(call->host);
		call->result = json_pack("{s:b}", "destroyed", true);
		return call->result ? 0 : -ENOMEM;
	}
	rc = tm_wait_destroy(call->host, call->session, call->request.id, client);
	if (rc == -EAGAIN)
		return tm_error_set(&call->error, TM_ERROR_BUSY,
			"client '%s' does not read what the host tells it", client->name);
	if (rc == 0)
		tm_log("client %u '%s' was told to drop its pools", client->id, client->name);
	return rc < 0 ? rc : CALL_WAITS;
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

static int run_query_schema(struct call *call);

#define CLIENT_OR_ALL                                                                              \
	{                                                                                          \
		"client", ARG_CLIENT, false, "without it: every client"                            \
	}
#define CLIENT                                                                                     \
	{                                                                                          \
		"client", ARG_CLIENT, true, "which one"                                            \
	}

static const struct command commands[] = {
	{"join", BY_OPERATOR, "Become a client; comes with the descriptor of a ledger", run_join,
		{{"name", ARG_STRING, true, "for people, 1 to 63 bytes"},
			{"type", ARG_STRING, true, "kind of front end, 1 to 63 bytes"},
			{"pid", ARG_INTEGER, true, "the client's process"},
			{"protocol", ARG_INTEGER, true, "version the client speaks"},
			{"weight", ARG_INTEGER, false, "as in set; without it 100"},
			{"successor", ARG_BOOLEAN, false,
				"it reclaimed what a client of its name left"}}},
	{"released", BY_CLIENT, "Answer the event release", run_released,
		{{"ticket", ARG_INTEGER, true, "the one of the event"},
			{"bytes", ARG_BYTES, true, "what went back to the operating system"}}},
	{"keep", BY_CLIENT, "Keep the descriptor that comes with this beyond the client's death",
		run_keep, {{"what", ARG_STRING, true, "store or state"}}},
	{"leave", BY_CLIENT, "About to go in peace: what was kept may go too", run_leave, {{0}}},
	{"reclaim", BY_OPERATOR,
		"Get a descriptor back that a dead client of this name and user left", run_reclaim,
		{{"name", ARG_STRING, true, "of the client"},
			{"type", ARG_STRING, true, "of the client"},
			{"what", ARG_STRING, true, "store or state"}}},
	{"list", BY_OPERATOR, "The host, every client and every pool", run_list, {{0}}},
	{"freeze", BY_OPERATOR, "Refuse new puts; without client also those of clients to come",
		run_freeze, {CLIENT_OR_ALL}},
	{"thaw", BY_OPERATOR, "End a freeze", run_thaw, {CLIENT_OR_ALL}},
	{"freeable", BY_OPERATOR, "Bytes that a flush could release", run_freeable,
		{CLIENT_OR_ALL}},
	{"flush", BY_OPERATOR, "Release ephemeral memory to the operating system", run_flush,
		{{"bytes", ARG_BYTES, true, "at least so much, if there is"}, CLIENT_OR_ALL}},
	{"set", BY_OPERATOR, "Change what a client is entitled to", run_set,
		{CLIENT, {"weight", ARG_INTEGER, false, "share of ephemeral memory, 1 to 10000"},
			{"cap", ARG_CAP, false, "most bytes it is ever granted"},
			{"compress", ARG_STRING, false, "lz4 or none, for new pages"}}},
	{"destroy", BY_OPERATOR, "Drop every pool of a client", run_destroy,
		{CLIENT, {"force", ARG_BOOLEAN, false, "persistent pages too"}}},
	{"shared-auth", BY_OPERATOR, "Who may join which shared pool", run_shared_auth,
		{{"action", ARG_STRING, true, "add, remove (connections end) or list"},
			{"uuid", ARG_STRING, false, "of the pool; for add and remove"},
			{"uid", ARG_INTEGER, false, "of the user; for add and remove"}}},
	{"query-schema", BY_ANYBODY, "This table", run_query_schema, {{0}}},
	{"help", BY_ANYBODY, "The same as query-schema", run_query_schema, {{0}}},
};

static const struct {
	const char *name, *help;
} events[] = {
	{"release", "data: bytes, ticket. Release so much ephemeral memory, answer with released"},
	{"shrink", "The grant is below what is used: release ephemeral memory down to it"},
	{"destroy", "Drop every pool for good, close the connection, do not join again"},
	{"sharer",
		"data: uid. To a shared pool's server: serve the socket that comes with this; "
		"without one, end that user's connections"},
};

static json_t *describe_command(const struct command *command)
{
	static const char *const who[] = {"anybody", "operator", "client"};
	json_t *args = json_array();

	for (const struct arg *a = command->args; a->name; a++)
		json_array_append_new(args,
			json_pack("{s:s,s:s,s:b,s:s}", "name", a->name, "type",
				arg_type_names[a->type], "required", a->required, "help", a->help));
	return json_pack("{s:s,s:s,s:s,s:o}", "name", command->name, "by", who[command->who],
		"help", command->help, "arguments", args);
}

static int run_query_schema(struct call *call)
{
	json_t *list = json_array(), *event_list = json_array(), *errors = json_array();

	for (size_t i = 0; i < TM_ARRAY_SIZE(commands); i++)
		json_array_append_new(list, describe_command(&commands[i]));
	for (size_t i = 0; i < TM_ARRAY_SIZE(events); i++)
		json_array_append_new(event_list,
			json_pack("{s:s,s:s}", "name", events[i].name, "help", events[i].help));
	for (size_t i = 0; i < TM_ERROR_COUNT; i++)
		json_array_append_new(errors,
			json_pack("{s:s,s:s}", "class", tm_error_descs[i].word, "help",
				tm_error_descs[i].help));
	call->result = json_pack(
		"{s:o,s:o,s:o}", "commands", list, "events", event_list, "errors", errors);
	return call->result ? 0 : -ENOMEM;
}

/* --- checking and running --------------------------------------------------------------------- */

static bool arg_type_matches(enum arg_type type, const json_t *value)
{
	switch (type) {
	case ARG_CLIENT:
		return json_is_string(value) || json_is_integer(value);
	case ARG_CAP:
		if (json_is_null(value))
			return true;
		/* fall through */
	case ARG_BYTES:
		return json_is_integer(value) && json_integer_value(value) >= 0;
	case ARG_INTEGER:
		return json_is_integer(value);
	case ARG_STRING:
		return json_is_string(value);
	case ARG_BOOLEAN:
		return json_is_boolean(value);
	case ARG_TYPE_COUNT:
		break;
	}
	return false;
}

static int arguments_check(const struct command *command, json_t *arguments, struct tm_error *error)
{
	const char *key;
	json_t *value;
	char text[64];

	json_object_foreach (arguments, key, value) {
		const struct arg *a = command->args;

		while (a->name && strcmp(a->name, key))
			a++;
		if (!a->name)
			return tm_error_set(error, TM_ERROR_PARAMETER, "%s takes no argument '%s'",
				command->name, tm_printable(text, sizeof(text), key, SIZE_MAX));
		if (!arg_type_matches(a->type, value))
			return tm_error_set(error, TM_ERROR_PARAMETER, "%s: '%s' has to be %s",
				command->name, a->name, arg_type_names[a->type]);
	}
	for (const struct arg *a = command->args; a->name; a++)
		if (a->required && !json_object_get(arguments, a->name))
			return tm_error_set(
				error, TM_ERROR_PARAMETER, "%s needs '%s'", command->name, a->name);
	return 0;
}

static int command_find(
	const char *name, const struct command **ret_command, struct tm_error *error)
{
	char text[64];

	for (size_t i = 0; i < TM_ARRAY_SIZE(commands); i++) {
		if (strcmp(commands[i].name, name) == 0) {
			*ret_command = &commands[i];
			return 0;
		}
	}
	return tm_error_set(error, TM_ERROR_NOT_FOUND, "no command '%s'",
		tm_printable(text, sizeof(text), name, SIZE_MAX));
}

static int command_allowed(const struct command *command, struct call *call)
{
	bool joined = tm_session_client(call->session);

	if (command->who == BY_ANYBODY || joined == (command->who == BY_CLIENT))
		return 0;
	return tm_error_set(&call->error, TM_ERROR_PERMISSION,
		joined ? "%s is not for a connection that has joined"
		       : "%s is for clients, after join",
		command->name);
}

void tm_command_run(struct tm_host *host, struct tm_session *session, json_t *message)
{
	struct call call = {.host = host, .session = session, .result_fd = -1};
	const struct command *command = NULL;
	int rc = tm_proto_parse_request(message, &call.request, &call.error);

	if (rc == 0)
		rc = command_find(call.request.execute, &command, &call.error);
	if (rc == 0)
		rc = command_allowed(command, &call);
	if (rc == 0)
		rc = arguments_check(command, call.request.arguments, &call.error);
	if (rc == 0)
		rc = command->run(&call);
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
