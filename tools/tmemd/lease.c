/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lease.c - from the state of the machine to the numbers in the ledgers
 *
 *      machine, used_bytes of all -> policy -> total -> policy -> granted_bytes of each
 *
 * Runs every 50 ms while there are clients, every 100 ms while there is much memory and none of
 * them grows, every 200 ms while each of them could besides grow for a while, and at once when one
 * joins, leaves or is changed, or the kernel reports pressure. While memory is on the move, because
 * somebody takes it or a client fills up its grant, every 10 ms: a GiB is allocated in half a
 * second, and puts come with 200 MB/s.
 *
 * Under the policy `benefit` the curves of the clients are looked at once a second, and so their
 * aims change; in between, and whatever clients want, the aims of the last look decide.
 *
 * Invariants
 *   1. The sum of the grants never exceeds the total. Grants that fall are written before grants
 *      that rise, so this holds at every moment between.
 *   2. What a ledger calls the client's cap, holds (core/ledger.h). One that was lowered is written
 *      when nobody goes by the old grant any more; with a client that is stopped just there, that
 *      is when it goes on.
 */
#include "tools/tmemd/lease.h"

#include <stdlib.h>

#include "core/util.h"
#include "tools/tmemd/benefit.h"
#include "tools/tmemd/leftover.h"
#include "tools/tmemd/policy.h"
#include "tools/tmemd/session.h"
#include "tools/tmemd/watch.h"

#define INTERVAL_NS      50000000ull
#define INTERVAL_FAST_NS 10000000ull
#define INTERVAL_CALM_NS 100000000ull
#define INTERVAL_IDLE_NS 200000000ull
#define SHRINK_AGAIN_NS  1000000000ull
#define BENEFIT_NS       1000000000ull

/* A client that has not grown for so long is idle. What it is granted ahead has to last for an
 * interval and then some: puts come with up to 200 MB a second. */
#define IDLE_NS    1000000000ull
#define IDLE_AHEAD (32ull << 20)

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
static void ask_to_shrink(struct tm_host *host, struct tm_client *c, bool fell, uint64_t now)
{
	if (!fell && now - c->shrink_asked_ns < SHRINK_AGAIN_NS)
		return;
	if (!tm_session_event(c->session, "shrink", NULL))
		return;
	c->shrink_asked_ns = now;
	host->counters.shrinks++;
}

/* What the client wants. Of what it asks for ahead of need, one that has not grown for a while gets
 * little, or idle clients would keep memory from busy ones: the rest follows within an interval
 * when it grows again. Swap of this machine always gets all of it. */
static uint64_t demand(struct tm_client *c, uint64_t now, bool urgent)
{
	uint64_t used = tm_client_read(&c->ledger->used_bytes);
	uint64_t want = tm_client_read(&c->ledger->want_bytes);
	uint64_t ahead = TM_MIN(tm_client_read(&c->ledger->ahead_bytes), want);

	if (used > c->used_seen)
		c->grew_ns = now;
	c->used_seen = used;
	if (urgent || now - c->grew_ns < IDLE_NS || ahead <= IDLE_AHEAD)
		return want;
	return want - (ahead - IDLE_AHEAD);
}

/* The part of `want` for pages it cannot give up. Freeable memory is the rest, and what it asks for
 * ahead of need is for the pages that are dearer to refuse. */
static uint64_t persistent_demand(const struct tm_client *c, uint64_t want)
{
	uint64_t has = tm_client_read(&c->ledger->persistent_bytes);
	uint64_t freeable = tm_client_read(&c->ledger->freeable_bytes);

	return tm_client_is_persistent(c) ? TM_MAX(has, want - TM_MIN(want, freeable)) : has;
}

/* Will it use up its grant within an interval or two? */
static bool is_nearly_full(const struct tm_client *c)
{
	return tm_client_read(&c->ledger->used_bytes) + IDLE_AHEAD >
		tm_client_read(&c->ledger->granted_bytes);
}

/* What no two processors can allocate in a calm interval, beyond all that is granted, and what no
 * client can put in an idle one. Waking up is most of what an idle host costs. */
#define CALM_BYTES (1ull << 30)
#define IDLE_BYTES (256ull << 20)

static uint64_t interval(struct tm_host *host, uint64_t used, uint64_t now)
{
	uint64_t granted = tm_lease_granted(host);
	uint64_t spoken_for = host->reserve + (granted - TM_MIN(granted, used));
	bool all_have_room = true;

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));) {
		uint64_t may = tm_client_read(&c->ledger->granted_bytes);
		uint64_t most = TM_MIN(c->cap, tm_client_read(&c->ledger->limit_bytes));

		if (now - c->grew_ns < IDLE_NS)
			return INTERVAL_NS;
		if (may < most && may < tm_client_read(&c->ledger->used_bytes) + IDLE_BYTES)
			all_have_room = false;
	}
	if (host->memory.available < spoken_for + CALM_BYTES)
		return INTERVAL_NS;
	return all_have_room && host->memory.available >= spoken_for + 2 * CALM_BYTES
		? INTERVAL_IDLE_NS
		: INTERVAL_CALM_NS;
}

void tm_lease_look(struct tm_host *host)
{
	const struct tm_config *config = &host->config;

	tm_machine_read(host->machine, &host->memory);
	host->limit = config->limit == TM_CONFIG_SHARE ? host->memory.total / 2 : config->limit;
	host->reserve =
		config->reserve == TM_CONFIG_SHARE ? host->memory.total / 10 : config->reserve;
}

static uint64_t total(struct tm_host *host, uint64_t used, uint64_t now)
{
	const struct tm_outlook look = {
		.now_ns = now,
		.ram = host->memory.total,
		.used = used,
		.available = host->memory.available,
		.reserve = host->reserve,
		.limit = host->limit,
		.pressed = host->pressed,
	};

	host->pressed = false;
	return tm_policy_total(&host->trend, &look);
}

/* --- the policy benefit ----------------------------------------------------------------------- */

/* Look at the curves when that is due. True when there is something new: a look, or a client. */
static bool look_at_curves(
	struct tm_host *host, struct tm_client **clients, size_t count, uint64_t now)
{
	bool due = now >= host->benefit_ns, news = due || count != host->benefit_count;

	for (size_t i = 0; i < count; i++) {
		struct tm_client *c = clients[i];

		/* Without memory for it the client has no curve, and its share is by weight. */
		if (!c->history) {
			c->history = calloc(1, sizeof(*c->history));
			news = true;
		}
		if (due && c->history)
			tm_history_look(c->history, c->ledger);
	}
	if (due)
		host->benefit_ns = now + BENEFIT_NS;
	host->benefit_count = count;
	return news;
}

/* Divide what persistent pages leave. */
static void divide_benefit(struct tm_client **clients, const struct tm_share *shares, size_t count,
	uint64_t total_bytes)
{
	struct tm_claim claims[TM_CLIENTS_MAX];
	uint64_t left = total_bytes;

	for (size_t i = 0; i < count; i++) {
		const struct tm_share *s = &shares[i];
		uint64_t wants = TM_MIN(s->want, s->ceiling);
		uint64_t base = s->urgent ? wants : TM_MIN(s->persistent, wants);
		bool known = tm_history_is_known(clients[i]->history);

		left -= TM_MIN(left, base);
		claims[i] = (struct tm_claim){.history = clients[i]->history,
			.weight = s->weight,
			.most = (known ? s->ceiling : wants) - base,
			.aim = clients[i]->aim};
	}
	tm_benefit_divide(claims, count, left);
	for (size_t i = 0; i < count; i++) {
		clients[i]->floor = claims[i].floor;
		clients[i]->aim = claims[i].aim;
	}
}

static void apply_benefit(struct tm_host *host, struct tm_client **clients, struct tm_share *shares,
	size_t count, uint64_t now)
{
	bool news = look_at_curves(host, clients, count, now);

	for (size_t i = 0; i < count; i++)
		if (tm_history_is_known(clients[i]->history) &&
			!tm_client_is_persistent(clients[i]))
			shares[i].want = tm_benefit_want(
				tm_client_read(&clients[i]->ledger->used_bytes), shares[i].want);

	if (news || host->benefit_stale)
		divide_benefit(clients, shares, count, host->total);
	host->benefit_stale = false;
	for (size_t i = 0; i < count; i++) {
		shares[i].floor = clients[i]->floor;
		shares[i].part = tm_benefit_part(clients[i]->floor, clients[i]->aim);
	}
}

bool tm_lease_cap_holds(const struct tm_client *c)
{
	return atomic_load(&c->ledger->cap_bytes) == c->cap;
}

/* Before the grants are written, and after. */
static void write_higher_cap(struct tm_client *c)
{
	if (c->cap > atomic_load(&c->ledger->cap_bytes))
		atomic_store(&c->ledger->cap_bytes, c->cap);
}

/* An orphan's threads are gone, wherever they were. */
static void write_lower_cap(struct tm_client *c)
{
	if (c->cap < atomic_load(&c->ledger->cap_bytes) &&
		(!c->session || atomic_load(&c->ledger->charging) == 0))
		atomic_store(&c->ledger->cap_bytes, c->cap);
}

void tm_lease_set_policy(struct tm_host *host, enum tm_policy policy)
{
	host->policy = policy;
	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));) {
		free(c->history);
		c->history = NULL;
		c->floor = c->aim = 0;
	}
}

/* ---------------------------------------------------------------------------------------------- */

/* Does anybody alive get less than it could use? */
static bool is_short(struct tm_client **clients, const struct tm_share *shares, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (clients[i]->session &&
			shares[i].granted < TM_MIN(shares[i].want, shares[i].ceiling))
			return true;
	return false;
}

void tm_lease_update(struct tm_host *host)
{
	struct tm_share shares[TM_CLIENTS_MAX];
	struct tm_client *clients[TM_CLIENTS_MAX];
	uint64_t now = tm_now_ns();
	uint64_t before = host->total, used = tm_lease_used(host);
	size_t count = 0;
	bool restless = false;

	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));) {
		uint64_t limit = tm_client_read(&c->ledger->limit_bytes);
		/* Only root's swap is the machine's. */
		bool urgent = atomic_load(&c->ledger->resident) && c->uid == 0;
		uint64_t want = demand(c, now, urgent);

		restless |= c->grew_ns == now && is_nearly_full(c);
		shares[count] = (struct tm_share){
			.weight = c->weight,
			.want = want,
			.persistent = persistent_demand(c, want),
			.ceiling = TM_MIN(c->cap, limit),
			.urgent = urgent,
		};
		write_higher_cap(c);
		clients[count++] = c;
	}
	tm_lease_look(host);
	host->total = TM_MAX(total(host, used, now), tm_policy_urgent(shares, count, host->limit));
	if (host->policy == TM_POLICY_BENEFIT)
		apply_benefit(host, clients, shares, count, now);
	tm_policy_divide(shares, count, host->total);
	if (host->total < before && host->total < used)
		tm_watch_pressure(host);
	restless |= now < host->trend.restless_ns;
	host->lease_ns = now + (restless ? INTERVAL_FAST_NS : interval(host, used, now));
	/* With nobody here nobody looks: whoever comes finds another machine. */
	if (count == 0)
		host->trend.known = false;

	for (int rising = 0; rising <= 1; rising++) {
		for (size_t i = 0; i < count; i++) {
			struct tm_ledger *ledger = clients[i]->ledger;
			bool fell = shares[i].granted < atomic_load(&ledger->granted_bytes);

			if (fell == rising)
				continue;
			atomic_store(&ledger->granted_bytes, shares[i].granted);
			if (tm_client_read(&ledger->used_bytes) > shares[i].granted)
				ask_to_shrink(host, clients[i], fell, now);
		}
	}
	for (size_t i = 0; i < count; i++) {
		write_lower_cap(clients[i]);
		if (!tm_lease_cap_holds(clients[i]))
			host->lease_ns = now + INTERVAL_FAST_NS;
	}
	tm_leftover_review(host, now, host->total < used || is_short(clients, shares, count));
}
