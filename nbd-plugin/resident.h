/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * resident.h - a process that its own machine may swap to
 *
 * When a machine has run out of memory, whoever serves its swap must not wait for memory: not for a
 * page of its own that was swapped out or never touched, and not in an allocation that waits for
 * swapping. So everything the process has or will have is locked, what requests touch is present
 * before they come, the kernel is told not to start I/O on our behalf (PR_SET_IO_FLUSHER), the OOM
 * killer takes somebody else, and the buffers of our socket may come out of the kernel's reserve,
 * which it opens to real-time tasks.
 *
 * The right to all of it is asked for in the foreground, where somebody reads what is missing;
 * locks end at a fork, so they are taken after the last one and before the first thread.
 */
#ifndef TM_RESIDENT_H
#define TM_RESIDENT_H

#include <stdbool.h>
#include <stdint.h>

#define TM_RESIDENT_REASON_MAX 192

/* Threads made from here on have small stacks: they are locked whole. Before the first thread. */
void tm_resident_stacks(void);

/* Do what outlives a fork, and try the rest; `own_swap`: what only a machine wants that surely
 * swaps to us, real-time priority, too. False, with all that is missing in one line and the rest
 * done, when this process may not do all of it. */
bool tm_resident_ask(bool own_swap, char ret_missing[static TM_RESIDENT_REASON_MAX]);

/* Lock what there is and what will come, each page when it is first touched, as far as we may. */
void tm_resident_lock(void);

/* Touch everything that is private to the process (code, data, heap, stacks), and from here on new
 * mappings when they are made. Returns the bytes that are locked now; 0 when the kernel does not
 * tell. */
uint64_t tm_resident_settle(void);

#endif
