/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * registry.c - the clients that have joined
 *
 * An array by id: slot i holds the client with id i + 1, or NULL.
 *
 * Locking: none; tmemd has one thread. The ledgers are written by other processes meanwhile, hence
 * every field is loaded once, atomically, and taken for what it may be: any number.
 */
#include "tools/tmemd/registry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

struct tm_registry {
	struct tm_client *slots[TM_CLIENTS_MAX];
	size_t count;
};

int tm_registry_new(struct tm_registry **ret_registry)
{
	struct tm_registry *registry = calloc(1, sizeof(*registry));

	if (!registry)
		return -ENOMEM;
	*ret_registry = registry;
	return 0;
}

void tm_registry_free(struct tm_registry *registry)
{
	if (!registry)
		return;
	for (size_t i = 0; i < TM_CLIENTS_MAX; i++)
		if (registry->slots[i])
			tm_registry_remove(registry, registry->slots[i]);
	free(registry);
}

int tm_registry_add(
	struct tm_registry *registry, const struct tm_client *model, struct tm_client **ret_client)
{
	struct tm_client *client;
	size_t slot = 0;

	while (slot < TM_CLIENTS_MAX && registry->slots[slot])
		slot++;
	if (slot == TM_CLIENTS_MAX)
		return -ENOSPC;
	client = malloc(sizeof(*client));
	if (!client)
		return -ENOMEM;
	*client = *model;
	client->id = (unsigned int)slot + 1;
	registry->slots[slot] = client;
	registry->count++;
	*ret_client = client;
	return 0;
}

void tm_registry_remove(struct tm_registry *registry, struct tm_client *client)
{
	registry->slots[client->id - 1] = NULL;
	registry->count--;
	tm_ledger_unmap(client->ledger);
	free(client->history);
	for (int i = 0; i < TM_KEPT_COUNT; i++)
		if (client->kept[i] >= 0)
			close(client->kept[i]);
	if (client->ledger_fd >= 0)
		close(client->ledger_fd);
	free(client);
}

size_t tm_registry_count(const struct tm_registry *registry)
{
	return registry->count;
}

struct tm_client *tm_registry_next(struct tm_registry *registry, const struct tm_client *client)
{
	for (size_t i = client ? client->id : 0; i < TM_CLIENTS_MAX; i++)
		if (registry->slots[i])
			return registry->slots[i];
	return NULL;
}

static bool is_called(const struct tm_client *c, const char *name, const char *type, uid_t uid)
{
	return c->uid == uid && strcmp(c->name, name) == 0 && strcmp(c->type, type) == 0;
}

struct tm_client *tm_registry_orphan(
	struct tm_registry *registry, const char *name, const char *type, uid_t uid)
{
	for (struct tm_client *c = NULL; (c = tm_registry_next(registry, c));)
		if (!c->session && is_called(c, name, type, uid))
			return c;
	return NULL;
}

struct tm_client *tm_registry_keeper(
	struct tm_registry *registry, const char *name, const char *type, uid_t uid)
{
	for (struct tm_client *c = NULL; (c = tm_registry_next(registry, c));)
		if (c->session && c->kept[TM_KEPT_STORE] >= 0 && is_called(c, name, type, uid))
			return c;
	return NULL;
}

/* The id in `reference`, or 0. */
static unsigned int reference_id(const json_t *reference)
{
	json_int_t id = json_integer_value(reference);
	const char *text = json_string_value(reference);

	if (text && *text && strspn(text, "0123456789") == strlen(text))
		id = strtoll(text, NULL, 10);
	return id > 0 && id <= TM_CLIENTS_MAX ? (unsigned int)id : 0;
}

int tm_registry_find(struct tm_registry *registry, const json_t *reference,
	struct tm_client **ret_client, struct tm_error *error)
{
	const char *name = json_string_value(reference);
	unsigned int id = reference_id(reference);
	struct tm_client *found = NULL;
	size_t matches = 0;
	char text[TM_NAME_MAX + 1];

	if (!json_is_string(reference) && !json_is_integer(reference))
		return tm_error_set(error, TM_ERROR_PARAMETER, "a client is an id or a name");
	for (struct tm_client *c = NULL; (c = tm_registry_next(registry, c));) {
		if (c->id != id && !(name && strcmp(c->name, name) == 0))
			continue;
		found = c;
		matches++;
	}
	if (matches == 1) {
		*ret_client = found;
		return 0;
	}
	if (name)
		tm_printable(text, sizeof(text), name, SIZE_MAX);
	else
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(reference));
	if (matches == 0)
		return tm_error_set(error, TM_ERROR_NO_CLIENT, "no client '%s'", text);
	return tm_error_set(error, TM_ERROR_AMBIGUOUS, "%zu clients are called '%s': use the id",
		matches, text);
}

uint64_t tm_client_read(const _Atomic uint64_t *field)
{
	uint64_t value = atomic_load_explicit(field, memory_order_relaxed);

	return TM_MIN(value, (uint64_t)INT64_MAX);
}

void tm_client_read_orders(const struct tm_ledger *ledger, struct tm_client *ret_client)
{
	uint32_t weight = atomic_load(&ledger->weight);

	ret_client->cap = atomic_load(&ledger->cap_bytes);
	if (weight >= TM_WEIGHT_MIN && weight <= TM_WEIGHT_MAX)
		ret_client->weight = weight;
}

void tm_client_orphaned(struct tm_client *client)
{
	struct tm_ledger *l = client->ledger;

	client->session = NULL;
	client->pid = 0;
	client->orphaned_ns = tm_now_ns();
	atomic_store(&l->freeable_bytes, client->cache ? tm_client_read(&l->used_bytes) : 0);
	atomic_store(&l->persistent_bytes, client->cache ? 0 : tm_client_read(&l->used_bytes));
	atomic_store(&l->want_bytes, tm_client_read(&l->used_bytes));
}

bool tm_client_is_persistent(const struct tm_client *client)
{
	for (unsigned int i = 0; i < TM_POOLS_MAX; i++) {
		const struct tm_ledger_pool *pool = &client->ledger->pools[i];

		if (atomic_load(&pool->state) == TM_LEDGER_POOL_LIVE &&
			pool->flags & TM_POOL_PERSIST)
			return true;
	}
	return false;
}
