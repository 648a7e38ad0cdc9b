/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fdstore.h - systemd's descriptor store: what clients left with this tmemd, beyond its own death
 *
 * Where systemd runs tmemd and keeps descriptors for it (FileDescriptorStoreMax=), it gets those of
 * each client that left its store here, and hands them to the next tmemd, which lists the client as
 * an orphan until it joins again or its successor does. So a server and tmemd may both be killed.
 *
 *      KEY-ledger  KEY-store  KEY-state  KEY-who     KEY: the inode of the ledger
 *                                        "who" is a memfd of three lines: name, type, uid
 *
 * Locking: none; tmemd has one thread. Nothing here waits for systemd.
 */
#ifndef TM_FDSTORE_H
#define TM_FDSTORE_H

#include "tools/tmemd/registry.h"

struct tm_host;
struct tm_fdstore;

/* Look at the environment, which forgets it. NULL: no systemd, or no memory. Before any fork, and
 * before anything is opened: descriptors 3 to 2 + tm_fdstore_passed() are what was handed over. */
struct tm_fdstore *tm_fdstore_new(void);
int tm_fdstore_passed(const struct tm_fdstore *store); /* NULL: 0 */
void tm_fdstore_free(struct tm_fdstore *store);        /* the descriptors stay there */

/* Register what was handed over. host->fdstore may be NULL, here and below. */
void tm_fdstore_load(struct tm_host *host);

/* Tell systemd that tmemd serves. */
void tm_fdstore_ready(struct tm_host *host);

/* Go on telling systemd what it had no room for. True while that is not all of it. */
bool tm_fdstore_tick(struct tm_host *host);

/* A client has left a descriptor here, or another one than before. */
void tm_fdstore_keep(struct tm_host *host, struct tm_client *client, enum tm_kept kept);

/* The client's descriptors are of no use any more, or `ledger_fd` (taken over; may be -1) takes the
 * place of its ledger's. */
void tm_fdstore_forget(struct tm_host *host, struct tm_client *client);
void tm_fdstore_renew(struct tm_host *host, struct tm_client *client, int ledger_fd);

#endif
