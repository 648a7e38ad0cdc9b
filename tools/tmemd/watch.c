/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * watch.c - who wants to be told what happens
 *
 * A watcher gets every event as one message, put into its queue at once: the host waits for nobody.
 * One that leaves more than QUEUE_MAX bytes unread is dropped rather than told half of what
 * happened; the 10 s of every peer that does not read hold as well (session.c).
 *
 * Locking: none; one thread.
 */
#include "tools/tmemd/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "core/util.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/session.h"

#define QUEUE_MAX        (64u << 10)
#define PRESSURE_EACH_NS 1000000000ull

struct tm_watcher {
	LIST_ENTRY(tm_watcher) link; /* in host->watchers */
	struct tm_session *session;
};

int tm_watch_start(struct tm_host *host, struct tm_session *session)
{
	struct tm_watcher *watcher;

	if (tm_session_watcher(session))
		return 0;
	watcher = malloc(sizeof(*watcher));
	if (!watcher)
		return -ENOMEM;
	watcher->session = session;
	LIST_INSERT_HEAD(&host->watchers, watcher, link);
	tm_session_set_watcher(session, watcher);
	return 0;
}

void tm_watch_stop(struct tm_watcher *watcher)
{
	if (!watcher)
		return;
	LIST_REMOVE(watcher, link);
	free(watcher);
}

size_t tm_watch_count(const struct tm_host *host)
{
	size_t count = 0;

	for (const struct tm_watcher *w = LIST_FIRST(&host->watchers); w; w = LIST_NEXT(w, link))
		count++;
	return count;
}

/* Steals `data`. */
static void tell(struct tm_host *host, const char *event, json_t *data)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	json_object_set_new(data, "time_ms",
		json_integer((json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000));
	for (struct tm_watcher *w = LIST_FIRST(&host->watchers); w; w = LIST_NEXT(w, link)) {
		if (tm_session_queued(w->session) > QUEUE_MAX) {
			host->counters.watchers_dropped++;
			tm_session_drop(w->session, "does not read the events it asked for");
		}
		tm_session_send(w->session, tm_proto_event(event, json_incref(data)));
	}
	json_decref(data);
}

void tm_watch_client(struct tm_host *host, const char *event, const struct tm_client *client)
{
	json_t *data;

	if (LIST_EMPTY(&host->watchers))
		return;
	if (client)
		data = json_pack("{s:s,s:i,s:s,s:i,s:b}", "client", client->name, "id",
			(int)client->id, "type", client->type, "pid", (int)client->pid, "kept",
			client->kept[TM_KEPT_STORE] >= 0 && !client->took_leave);
	else
		data = json_pack("{s:n}", "client");
	tell(host, event, data);
}

void tm_watch_refused(struct tm_host *host, const struct ucred *peer, const struct tm_error *error)
{
	if (!LIST_EMPTY(&host->watchers))
		tell(host, "refused",
			json_pack("{s:s,s:s,s:i,s:i}", "class", tm_error_descs[error->class].word,
				"desc", error->desc, "pid", (int)peer->pid, "uid", (int)peer->uid));
}

void tm_watch_pressure(struct tm_host *host)
{
	static uint64_t told_ns;
	uint64_t now = tm_now_ns();

	if (LIST_EMPTY(&host->watchers) || now - told_ns < PRESSURE_EACH_NS)
		return;
	told_ns = now;
	tell(host, "pressure",
		json_pack("{s:I,s:I}", "available_bytes", (json_int_t)host->memory.available,
			"total_bytes", (json_int_t)host->total));
}
