/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * main.c - tmemd, the host of transcendent memory
 *
 *      config -> daemon -> launchers -> listen, door -> confine
 *             -> server (epoll) -> session -> commands
 *
 * See host.h for how the parts hang together.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemd/config.h"
#include "tools/tmemd/daemon.h"
#include "tools/tmemd/door.h"
#include "tools/tmemd/fdstore.h"
#include "tools/tmemd/filter.h"
#include "tools/tmemd/host.h"
#include "tools/tmemd/launch.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/listen.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/orders.h"
#include "tools/tmemd/peer.h"
#include "tools/tmemd/pool_main.h"
#include "tools/tmemd/server.h"

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGCHLD, SIG_IGN); /* the launchers */
}

/* Before there is anything that it should not have. Without it no shared pool can be begun, and
 * that is all. */
static void start_launcher(struct tm_host *host, bool foreground)
{
	int rc = tm_launch_start(foreground, &host->launch);

	if (rc < 0)
		tm_log("cannot fork: %s: shared pools cannot be begun", strerror(-rc));
}

/* Without it there are no shared pools, and that is all. */
static void open_door(struct tm_host *host)
{
	int rc = tm_door_open(host, &host->door);

	if (rc < 0)
		tm_log("%s%s: %s: shared pools cannot be joined", host->config.socket,
			TM_PROTO_DOOR, strerror(-rc));
}

/* What it does without a filter, it does with one. */
static int filter(void)
{
	int rc = tm_filter_install();

	if (rc == -ENOSYS)
		tm_log("no filter of system calls: this kernel or this build has none");
	return rc == -ENOSYS ? 0 : rc;
}

/* All that may fail, and all that needs a privilege. 0; -errno after a line in the log. */
static int prepare(struct tm_host *host, struct tm_listen **ret_listen)
{
	int rc;

	host->readers = tm_peer_readers();
	rc = tm_listen_open(host->config.socket, host->readers, ret_listen);
	if (rc < 0)
		return rc;
	rc = tm_registry_new(&host->registry);
	if (rc == 0)
		rc = tm_machine_open("", &host->machine);
	if (rc == 0) {
		host->orders = tm_orders_open(host);
		tm_fdstore_load(host);
		open_door(host);
	}
	if (rc == 0)
		rc = tm_daemon_confine();
	if (rc == 0)
		rc = filter();
	if (rc < 0)
		tm_log("%s", strerror(-rc));
	return rc;
}

static int serve(struct tm_host *host, struct tm_listen *listen)
{
	char limit[TM_SIZE_TEXT_MAX], reserve[TM_SIZE_TEXT_MAX];
	int rc;

	tm_lease_look(host);
	tm_log("serving %s: limit %s, reserve %s", host->config.socket,
		tm_size_format(host->limit, limit), tm_size_format(host->reserve, reserve));
	rc = tm_server_run(host, tm_listen_fd(listen));
	if (rc < 0)
		tm_log("%s", strerror(-rc));
	return rc < 0;
}

int main(int argc, char **argv)
{
	struct tm_host host = {.launch = NULL};
	struct tm_listen *listen = NULL;
	int status = 0, ready_fd = -1, rc = 0;

	if (argc == 3 && strcmp(argv[1], TM_POOL_OPTION) == 0)
		return tm_pool_main(argv[2]);
	if (tm_config_read(argc, argv, &host.config, &status))
		return status;
	host.policy = host.config.policy;
	host.fdstore = tm_fdstore_new();
	if (!host.config.foreground) {
		/* A daemon keeps nothing open for whoever started it. */
		close_range(3 + (unsigned int)tm_fdstore_passed(host.fdstore), ~0u, 0);
		rc = tm_daemon_fork(&ready_fd);
	}
	if (rc != 0) { /* the parent, or no child */
		if (rc < 0)
			tm_log("cannot fork: %s", strerror(-rc));
		tm_config_free(&host.config);
		return rc < 0 ? 1 : rc - 1;
	}
	block_signals();
	start_launcher(&host, ready_fd < 0);
	tm_daemon_stay();
	if (prepare(&host, &listen) == 0) {
		if (ready_fd >= 0)
			tm_daemon_ready(ready_fd);
		tm_fdstore_ready(&host);
		status = serve(&host, listen);
	} else {
		status = 1;
	}
	tm_door_close(host.door);
	tm_orders_close(host.orders);
	tm_fdstore_free(host.fdstore);
	tm_launch_close(host.launch);
	tm_machine_close(host.machine);
	tm_registry_free(host.registry);
	tm_listen_close(listen);
	tm_config_free(&host.config);
	return status;
}
