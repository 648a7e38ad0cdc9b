/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lease.c - from the state of the machine to the numbers in the ledgers
 *
 *      machine, used_bytes of all -> policy -> total -> policy -> granted_bytes of each
 *
 * Runs every 50 ms while there are clients, and at once when one joins, leaves or is changed, or
 * the kernel reports pressure.
 *
 * Invariant: the sum of the grants never exceeds the total. Grants that fall are written before
 * grants that rise, so this holds at every moment between.
 */
#include "tools/tmemd/lease.h"

#include "core/util.h"
#include "tools/tmemd/policy.h"
#include "tools/tmemd/session.h"

#define SHRINK_AGAIN_NS 1000000000ull

/* No client has more than all of RAM, whatever it says. */
static uint64_t believable(const _Atomic uint64_t *field)
{
	return TM_MIN(tm_client_read(field), tm_ram_bytes());
}

uint64_t tm_lease_used(struct tm_host *host)
{
	uint64_t sum = 0;

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));)
		sum += believable(&c->ledger->used_bytes);
	return sum;
}

uint64_t tm_lease_granted(struct tm_host *host)
{
	uint64_t sum = 0;

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));)
		sum += believable(&c->ledger->granted_bytes);
	return sum;
}

/* Ask for a shrink when the grant has just fallen, and again every second until it has helped. */
static void ask_to_shrink(struct tm_client *c, bool fell, uint64_t now)
{
	if (!fell && now - c->shrink_asked_ns < SHRINK_AGAIN_NS)
		return;
	if (tm_session_event(c->session, "shrink", NULL))
		c->shrink_asked_ns = now;
}

void tm_lease_look(struct tm_host *host)
{
	const struct tm_config *config = &host->config;

	tm_machine_read(host->machine, &host->memory);
	host->limit = config->limit == TM_CONFIG_SHARE ? host->memory.total / 2 : config->limit;
	host->reserve =
		config->reserve == TM_CONFIG_SHARE ? host->memory.total / 10 : config->reserve;
}

static uint64_t total(struct tm_host *host, uint64_t now)
{
	const struct tm_outlook look = {
		.now_ns = now,
		.ram = host->memory.total,
		.used = tm_lease_used(host),
		.available = host->memory.available,
		.reserve = host->reserve,
		.limit = host->limit,
		.pressed = host->pressed,
	};

	host->pressed = false;
	return tm_policy_total(&host->trend, &look);
}

void tm_lease_update(struct tm_host *host)
{
	struct tm_share shares[TM_CLIENTS_MAX];
	struct tm_client *clients[TM_CLIENTS_MAX];
	uint64_t now = tm_now_ns();
	size_t count = 0;

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));) {
		uint64_t limit = tm_client_read(&c->ledger->limit_bytes);
		uint64_t ceiling = TM_MIN(c->cap, limit);

		shares[count] = (struct tm_share){
			.weight = c->weight,
			.want = tm_client_read(&c->ledger->want_bytes),
			.persistent = tm_client_read(&c->ledger->persistent_bytes),
			.ceiling = ceiling,
			/* Only root's swap is the machine's. */
			.urgent = atomic_load(&c->ledger->resident) && c->uid == 0,
		};
		clients[count++] = c;
	}
	tm_lease_look(host);
	host->total = TM_MAX(total(host, now), tm_policy_urgent(shares, count, host->limit));
	tm_policy_divide(shares, count, host->total);
	/* With nobody here nobody looks: whoever comes finds another machine. */
	if (count == 0)
		host->trend.known = false;

	for (int rising = 0; rising <= 1; rising++) {
		for (size_t i = 0; i < count; i++) {
			struct tm_ledger *ledger = clients[i]->ledger;
			uint64_t before = atomic_load(&ledger->granted_bytes);
			bool fell = shares[i].granted < before;

			if (fell == rising)
				continue;
			atomic_store(&ledger->granted_bytes, shares[i].granted);
			if (tm_client_read(&ledger->used_bytes) > shares[i].granted)
				ask_to_shrink(clients[i], fell, now);
		}
	}
}
