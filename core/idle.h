/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * idle.h - does anybody wait for a processor?
 *
 * What can be done later, or not at all, is for processors that would be idle. A lower priority
 * would not do: who is preempted while holding a lock keeps it for as long as others are busy.
 */
#ifndef TM_IDLE_H
#define TM_IDLE_H

#include <stdbool.h>

struct tm_idle {
	int fd; /* of /proc/loadavg; -1: nobody can tell */
	unsigned int processors;
};

void tm_idle_open(struct tm_idle *ret_idle);
void tm_idle_close(struct tm_idle *idle);

/* All that run at this instant, the caller included, have a processor each; true also if nobody can
 * tell. One system call of a microsecond or two. Any thread. */
bool tm_idle(const struct tm_idle *idle);

#endif
