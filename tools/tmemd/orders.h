/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * orders.h - what the tmemd that comes after this one has to know, whatever ends this one
 *
 *      control.sock.orders    0600: "policy NAME instead of NAME", "frozen", and tab separated
 *                             "kept UID TYPE NAME" for each client that left its store here
 *
 * What they told it about a client stands in the client's ledger (join.c), who may share what in a
 * file of its own (auth.h). The last word counts: a policy that was set live stays in force under
 * the next tmemd, until the configuration says another than it did then. Whose store was kept here
 * and is not any more, because its process and tmemd were both killed, is told so when it asks.
 */
#ifndef TM_ORDERS_H
#define TM_ORDERS_H

#include <stdbool.h>
#include <sys/types.h>

struct tm_client;
struct tm_host;
struct tm_orders;

/* Open the directory of host->config.socket and follow what is found there: host->policy and
 * host->all_frozen. NULL without it, after a line in the log: then nothing is remembered. */
struct tm_orders *tm_orders_open(struct tm_host *host);
void tm_orders_close(struct tm_orders *orders);

/* Remember what the host goes by, and whose stores it keeps, now. What fails is logged. */
void tm_orders_keep(struct tm_host *host);

/* The store of this client is here (again). */
void tm_orders_found(struct tm_host *host, const struct tm_client *client);

/* Was the store of such a client kept by an earlier tmemd, and lost with it? True once. */
bool tm_orders_lost(struct tm_host *host, const char *name, const char *type, uid_t uid);

#endif
