/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lease.h - from the state of the machine to the numbers in the ledgers
 */
#ifndef TM_LEASE_H
#define TM_LEASE_H

#include "tools/tmemd/host.h"

/* Look at the machine only: host->memory, limit, reserve. */
void tm_lease_look(struct tm_host *host);

/* Look at the machine and at every ledger, divide the memory, write the grants, and ask whoever has
 * more than its grant to shrink. host->lease_ns is when to do it again. */
void tm_lease_update(struct tm_host *host);

/* Has no thread of the client seen a grant from before its cap was lowered? A lease or two after
 * that it is so, unless the client is stopped. */
bool tm_lease_cap_holds(const struct tm_client *client);

/* Begin to divide by another policy; for the lease after this. Curves begin anew. */
void tm_lease_set_policy(struct tm_host *host, enum tm_policy policy);

/* Sums over all clients as of now. */
uint64_t tm_lease_used(struct tm_host *host);
uint64_t tm_lease_granted(struct tm_host *host);

#endif
