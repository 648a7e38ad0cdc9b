/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * describe.c - the state of the host as JSON
 *
 * Every number is read live from the ledgers; nothing is kept here. Keys never vary: what a client
 * does not have is null or 0. The keys of a pool's counters come from core/stats.def.
 */
#include "tools/tmemd/describe.h"

#include "core/util.h"
#include "tools/tmemd/benefit.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/watch.h"

static json_t *ledger_number(const _Atomic uint64_t *field)
{
	return json_integer((json_int_t)tm_client_read(field));
}

static json_t *describe_pool(const struct tm_client *client, unsigned int id)
{
	const struct tm_ledger_pool *slot = &client->ledger->pools[id];
	char name[TM_NAME_MAX + 1];
	uint32_t flags = slot->flags;
	json_t *pool = json_pack("{s:s,s:i,s:s,s:s,s:i,s:i}", "client", client->name, "client_id",
		(int)client->id, "name",
		tm_printable(name, sizeof(name), slot->name, sizeof(slot->name)), "type",
		flags & TM_POOL_PERSIST ? "persistent" : "ephemeral", "id", (int)id, "order",
		(int)((flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT));

	for (size_t i = 0; i < TM_STAT_COUNT; i++)
		if (json_object_set_new(pool, tm_stat_descs[i].key, ledger_number(&slot->stat[i])) <
			0)
			break;
	return pool;
}

static bool pool_is_live(const struct tm_client *client, unsigned int id)
{
	return atomic_load(&client->ledger->pools[id].state) == TM_LEDGER_POOL_LIVE;
}

static json_t *describe_client(const struct tm_client *client)
{
	struct tm_ledger *l = client->ledger;
	json_t *pools = json_array();
	json_t *cap =
		client->cap == TM_CAP_NONE ? json_null() : json_integer((json_int_t)client->cap);

	for (unsigned int i = 0; i < TM_POOLS_MAX; i++)
		if (pool_is_live(client, i))
			json_array_append_new(pools, describe_pool(client, i));
	return json_pack(
		"{s:i,s:s,s:s,s:i,s:i,s:i,s:o,s:s,s:b,s:b,s:b,s:b,s:b,s:o,s:o,s:o,s:o,s:o,s:o,"
		"s:o,s:i,s:o}",
		"id", (int)client->id, "name", client->name, "type", client->type, "pid",
		(int)client->pid, "uid", (int)client->uid, "weight", (int)client->weight,
		"cap_bytes", cap, "compress",
		atomic_load(&l->compress) == TM_COMPRESS_NONE ? "none" : "lz4", "recompress",
		atomic_load(&l->recompress) != 0, "frozen", atomic_load(&l->frozen) != 0, "alive",
		client->session != NULL, "kept", client->kept[TM_KEPT_STORE] >= 0, "held",
		client->held, "granted_bytes", ledger_number(&l->granted_bytes), "used_bytes",
		ledger_number(&l->used_bytes), "limit_bytes", ledger_number(&l->limit_bytes),
		"want_bytes", ledger_number(&l->want_bytes), "freeable_bytes",
		ledger_number(&l->freeable_bytes), "persistent_bytes",
		ledger_number(&l->persistent_bytes), "segment_bytes",
		ledger_number(&l->segment_bytes), "huge_pages",
		(int)(atomic_load(&l->huge_pages) != 0), "pools", pools);
}

static json_t *describe_host(struct tm_host *host)
{
	const struct tm_machine_memory *memory = &host->memory;
	json_t *cgroup = memory->cgroup == UINT64_MAX ? json_null()
						      : json_integer((json_int_t)memory->cgroup);

	json_t *json = json_pack("{s:s,s:i,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:b,s:b,s:i}",
		"version", TM_VERSION, "pid", (int)getpid(), "socket", host->config.socket,
		"limit_bytes", (json_int_t)host->limit, "reserve_bytes", (json_int_t)host->reserve,
		"total_bytes", (json_int_t)host->total, "granted_bytes",
		(json_int_t)tm_lease_granted(host), "used_bytes", (json_int_t)tm_lease_used(host),
		"available_bytes", (json_int_t)TM_MIN(memory->available, (uint64_t)INT64_MAX),
		"memory_bytes", (json_int_t)memory->total, "cgroup_limit_bytes", cgroup, "psi",
		tm_machine_pressure_fd(host->machine) >= 0, "frozen", host->all_frozen, "clients",
		(int)tm_registry_count(host->registry));

	json_object_set_new(json, "policy", json_string(tm_policy_names[host->policy]));
	json_object_set_new(json, "watchers", json_integer((json_int_t)tm_watch_count(host)));
#define TM_HOST_COUNTER(id, help)                                                                  \
	json_object_set_new(json, #id, json_integer((json_int_t)host->counters.id));
#include "tools/common/counters.def"
#undef TM_HOST_COUNTER
	return json;
}

json_t *tm_describe_list(struct tm_host *host)
{
	json_t *clients = json_array();

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));)
		if (json_array_append_new(clients, describe_client(c)) < 0)
			break;
	return json_pack("{s:o,s:o}", "host", describe_host(host), "clients", clients);
}

json_t *tm_describe_freeable(struct tm_host *host, struct tm_client *only)
{
	json_t *clients = json_array();
	uint64_t sum = 0;

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));) {
		uint64_t freeable = tm_client_read(&c->ledger->freeable_bytes);

		if (only && c != only)
			continue;
		sum += TM_MIN(freeable, tm_ram_bytes());
		json_array_append_new(clients,
			json_pack("{s:i,s:s,s:I}", "id", (int)c->id, "name", c->name,
				"freeable_bytes", (json_int_t)freeable));
	}
	return json_pack("{s:I,s:o}", "freeable_bytes", (json_int_t)sum, "clients", clients);
}

/* What a client's references would hit with its aim, in percent of what they would with any memory;
 * null when that is not known. */
static json_t *describe_hits(const struct tm_client *c)
{
	uint64_t hits = 0, all = 0;

	if (!tm_history_is_known(c->history))
		return json_null();
	for (uint32_t i = 0; i < TM_CURVE_POINTS; i++) {
		all += c->history->hits[i];
		hits += tm_curve_bytes(i) <= c->aim ? c->history->hits[i] : 0;
	}
	return json_integer(all ? (json_int_t)(hits * 100 / all) : 0);
}

json_t *tm_describe_policy(struct tm_host *host)
{
	json_t *clients = json_array();

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));)
		json_array_append_new(clients,
			json_pack("{s:i,s:s,s:i,s:b,s:I,s:I,s:o,s:o,s:o}", "id", (int)c->id, "name",
				c->name, "weight", (int)c->weight, "known",
				tm_history_is_known(c->history), "floor_bytes",
				(json_int_t)c->floor, "aim_bytes", (json_int_t)c->aim,
				"aim_hits_percent", describe_hits(c), "granted_bytes",
				ledger_number(&c->ledger->granted_bytes), "samples",
				ledger_number(&c->ledger->samples)));
	return json_pack("{s:s,s:o}", "policy", tm_policy_names[host->policy], "clients", clients);
}

bool tm_describe_has_persistent(const struct tm_client *client)
{
	for (unsigned int i = 0; i < TM_POOLS_MAX; i++) {
		const struct tm_ledger_pool *pool = &client->ledger->pools[i];

		if (pool_is_live(client, i) && pool->flags & TM_POOL_PERSIST &&
			tm_client_read(&pool->stat[TM_STAT_PAGES]) > 0)
			return true;
	}
	return false;
}
