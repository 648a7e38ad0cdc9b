/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/tmemd/leftover.h"

#include "core/util.h"
#include "tools/tmemd/fdstore.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/watch.h"

void tm_leftover_drop(struct tm_host *host, struct tm_client *orphan, const char *why)
{
	tm_log("client %u '%s': its cache is dropped: %s", orphan->id, orphan->name, why);
	orphan->took_leave = true;
	tm_watch_client(host, "left", orphan);
	host->counters.caches_dropped++;
	tm_registry_remove(host->registry, orphan);
}

/* The one that died first, of those that have an id of `only` (0: any); NULL: there is none. */
static struct tm_client *oldest(struct tm_host *host, unsigned int only)
{
	struct tm_client *found = NULL;

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));)
		if (!c->session && c->cache && (!only || c->id == only) &&
			(!found || c->orphaned_ns < found->orphaned_ns))
			found = c;
	return found;
}

void tm_leftover_review(struct tm_host *host, uint64_t now, bool short_of)
{
	uint64_t keep_ns = host->config.keep_caches * 1000000000ull;
	struct tm_client *c;

	while ((c = oldest(host, 0)) && now - c->orphaned_ns >= keep_ns)
		tm_leftover_drop(host, c, "nobody came back for it");
	if (c && short_of)
		tm_leftover_drop(host, c, "the memory is needed");
}

uint64_t tm_leftover_release(struct tm_host *host, unsigned int only, uint64_t bytes)
{
	uint64_t released = 0;
	struct tm_client *c;

	while (released < bytes && (c = oldest(host, only))) {
		released += TM_MIN(tm_client_read(&c->ledger->used_bytes), tm_ram_bytes());
		tm_leftover_drop(host, c, "the memory was asked for");
	}
	return released;
}
