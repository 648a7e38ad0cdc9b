/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * leftover.h - caches whose process died
 *
 * An orphan (registry.h) with persistent pages stays until its successor comes or an operator
 * destroys it. What only caches is worth something to its successor, and nothing to anybody else:
 * it goes after `keep-caches` seconds, when an operator wants memory, when another client begins
 * anew under its name, and, the one first that died first, as soon as a client gets less than it
 * asks for or memory is short. It goes whole: nobody is left who could make it smaller.
 */
#ifndef TM_LEFTOVER_H
#define TM_LEFTOVER_H

#include "tools/tmemd/host.h"

/* Forget a cache without a process, and free its memory. */
void tm_leftover_drop(struct tm_host *host, struct tm_client *orphan, const char *why);

/* Drop what is too old, and one more if memory is `short_of`. */
void tm_leftover_review(struct tm_host *host, uint64_t now, bool short_of);

/* Drop caches without a process, `only` that client's unless it is 0, until they had `bytes`.
 * Returns what they had. */
uint64_t tm_leftover_release(struct tm_host *host, unsigned int only, uint64_t bytes);

#endif
