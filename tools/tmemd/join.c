/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * join.c - how a connection becomes a client
 *
 * The kernel says who the peer is; what the peer says itself is a name for people. What operators
 * said (frozen, compress, cap, weight) stands in the ledger and stays in force under the next host,
 * so killing tmemd neither thaws anybody nor lifts a cap. A successor takes its place with what its
 * predecessor had.
 */
#include "tools/tmemd/join.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/tmemd/fdstore.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/leftover.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/policy.h"
#include "tools/tmemd/session.h"
#include "tools/tmemd/watch.h"

static int check_text(const char *what, const char *text, struct tm_error *error)
{
	size_t length = strlen(text);

	if (length >= 1 && length <= TM_NAME_MAX)
		return 0;
	return tm_error_set(
		error, TM_ERROR_PARAMETER, "%s has to have 1 to %d bytes", what, TM_NAME_MAX);
}

int tm_join_weight(const json_t *weight, uint32_t *ret_weight, struct tm_error *error)
{
	json_int_t value = json_integer_value(weight);

	if (value < TM_WEIGHT_MIN || value > TM_WEIGHT_MAX)
		return tm_error_set(error, TM_ERROR_PARAMETER, "weight has to be %d to %d",
			TM_WEIGHT_MIN, TM_WEIGHT_MAX);
	*ret_weight = (uint32_t)value;
	return 0;
}

/* *ret_fd is -1 unless `keep`. */
static int map_ledger(struct tm_session *session, bool keep, struct tm_ledger **ret_ledger,
	int *ret_fd, struct tm_error *error)
{
	TM_AUTO_CLOSE int fd = tm_session_take_fd(session);
	int rc;

	if (fd < 0)
		return tm_error_set(
			error, TM_ERROR_PARAMETER, "join has to carry the ledger's descriptor");
	rc = tm_ledger_map(fd, ret_ledger);
	if (rc == -EPROTO)
		return tm_error_set(error, TM_ERROR_VERSION, "the ledger has another version");
	if (rc < 0)
		return tm_error_set(error, TM_ERROR_PARAMETER,
			"the descriptor is no sealed ledger (%s)", strerror(-rc));
	*ret_fd = keep ? fd : -1;
	if (keep)
		fd = -1;
	return 0;
}

/* Who took over what an orphan left takes its place here too. The descriptors stay: until the
 * successor has sent its own, its death must not cost them. */
static void succeed(struct tm_host *host, struct tm_client *orphan, const struct tm_client *model)
{
	const struct tm_ledger *left = orphan->ledger;

	orphan->weight = model->weight;
	tm_client_read_orders(
		left, orphan); /* the cap comes into the ledger with the grant (lease.c) */
	atomic_store(&model->ledger->weight, atomic_load(&left->weight));
	atomic_store(&model->ledger->frozen, atomic_load(&left->frozen));
	atomic_store(&model->ledger->compress, atomic_load(&left->compress));
	tm_ledger_unmap(orphan->ledger);
	orphan->ledger = model->ledger;
	orphan->pid = model->pid;
	orphan->session = model->session;
	orphan->shrink_asked_ns = 0;
	tm_fdstore_renew(host, orphan, model->ledger_fd);
}

static int join_checked(struct tm_host *host, struct tm_session *session,
	const struct tm_join *join, unsigned int *ret_id, struct tm_error *error)
{
	struct tm_client model = {.weight = TM_WEIGHT_DEFAULT, .cap = TM_CAP_NONE};
	struct tm_client *client;
	struct ucred peer;
	int rc;

	if (join->protocol != TM_PROTO_VERSION)
		return tm_error_set(error, TM_ERROR_VERSION,
			"this host speaks protocol %d, the client %lld", TM_PROTO_VERSION,
			(long long)join->protocol);
	rc = check_text("name", join->name, error);
	if (rc == 0)
		rc = check_text("type", join->type, error);
	if (rc == 0 && join->weight)
		rc = tm_join_weight(join->weight, &model.weight, error);
	if (rc == 0)
		rc = map_ledger(session, host->fdstore, &model.ledger, &model.ledger_fd, error);
	if (rc < 0)
		return rc;

	tm_client_read_orders(model.ledger, &model);
	tm_session_peer(session, &peer);
	tm_printable(model.name, sizeof(model.name), join->name, SIZE_MAX);
	tm_printable(model.type, sizeof(model.type), join->type, SIZE_MAX);
	/* A peer in a pid namespace of its own has no pid here: then its own word has to do. */
	model.pid = peer.pid ? peer.pid : (pid_t)join->pid;
	model.uid = peer.uid;
	model.session = session;
	model.kept[TM_KEPT_STORE] = model.kept[TM_KEPT_STATE] = -1;
	client = tm_registry_orphan(host->registry, model.name, model.type, model.uid);
	if (client && client->cache && !join->successor) {
		tm_leftover_drop(host, client, "another client of its name begins anew");
		client = NULL;
	}
	if (!client && tm_registry_count(host->registry) >= host->config.max_clients)
		rc = -ENOSPC;
	else if (!client)
		rc = tm_registry_add(host->registry, &model, &client);
	else if (join->successor)
		succeed(host, client, &model);
	else
		rc = -EBUSY;
	if (rc < 0) {
		tm_ledger_unmap(model.ledger);
		if (model.ledger_fd >= 0)
			close(model.ledger_fd);
	}
	if (rc == -EBUSY)
		return tm_error_set(error, TM_ERROR_BUSY,
			"what an earlier client called '%s' left is still here", model.name);
	if (rc == -ENOSPC)
		return tm_error_set(error, TM_ERROR_BUSY, "there are %u clients already",
			host->config.max_clients);
	if (rc < 0)
		return rc;
	tm_session_set_client(session, client);
	if (host->all_frozen)
		atomic_store(&client->ledger->frozen, 1);
	tm_log("client %u '%s' (%s, pid %d) joined", client->id, client->name, client->type,
		(int)client->pid);
	host->counters.joins++;
	tm_watch_client(host, "joined", client);
	tm_lease_update(host);
	*ret_id = client->id;
	return 0;
}

int tm_join(struct tm_host *host, struct tm_session *session, const struct tm_join *join,
	unsigned int *ret_id, struct tm_error *error)
{
	int rc = join_checked(host, session, join, ret_id, error);
	struct ucred peer;

	if (rc == -EINVAL) {
		tm_session_peer(session, &peer);
		host->counters.clients_refused++;
		tm_watch_refused(host, &peer, error);
	}
	return rc;
}
