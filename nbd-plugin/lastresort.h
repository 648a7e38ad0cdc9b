/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lastresort.h - what a server does for its machine when there is nowhere left to swap to
 *
 * A write that fails for want of room tells the kernel to keep the page. It then tries the next
 * one, for ever: the OOM killer is called only by an allocation that may wait for I/O and finds
 * none to wait for, while whoever needs memory waits for a page that is still to be swapped in, and
 * the server, which would bring it, may not wait for I/O. So the server asks for the OOM killer
 * itself, by way of /proc/sysrq-trigger, when for four seconds nearly all writes are refused and
 * next to no memory is available.
 *
 * Thread safe; nothing here waits or allocates.
 */
#ifndef TM_LASTRESORT_H
#define TM_LASTRESORT_H

#include <stdbool.h>

/* Be ready for it; until then the calls below do nothing. False, with errno set, when the kernel or
 * a capability is missing. */
bool tm_lastresort_open(void);
void tm_lastresort_close(void);

/* A write was stored, or refused for want of room. True: the OOM killer has just been asked. */
void tm_lastresort_stored(void);
bool tm_lastresort_refused(void);

#endif
