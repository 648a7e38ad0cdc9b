/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * orders.h - what operators told this host about itself, for the tmemd that comes after it
 *
 *      control.sock.orders    0600: "policy NAME instead of NAME", "frozen"
 *
 * What they told it about a client stands in the client's ledger (join.c), who may share what in a
 * file of its own (auth.h). The last word counts: a policy that was set live stays in force under
 * the next tmemd, until the configuration says another than it did then.
 */
#ifndef TM_ORDERS_H
#define TM_ORDERS_H

struct tm_host;
struct tm_orders;

/* Open the directory of host->config.socket and follow what is found there: host->policy and
 * host->all_frozen. NULL without it, after a line in the log: then nothing is remembered. */
struct tm_orders *tm_orders_open(struct tm_host *host);
void tm_orders_close(struct tm_orders *orders);

/* Remember what the host goes by now. What fails is logged. */
void tm_orders_keep(const struct tm_host *host);

#endif
