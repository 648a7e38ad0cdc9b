/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine.h - how much memory there is and how much of it is left
 *
 *      /proc/meminfo ---------------------------\
 *      memory.max ... of our cgroup and above ---> the least of them      (polled)
 *      /proc/pressure/memory ------------------> a descriptor to wait for (wakes)
 *
 * All files are opened once and read with pread: looking costs 10 us, and still works when the
 * process has no descriptor, memory or permission left to open anything.
 *
 * Locking: none; one thread.
 */
#ifndef TM_MACHINE_H
#define TM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

struct tm_machine;

/* Bytes. */
struct tm_machine_memory {
	uint64_t total;     /* RAM, or the least limit of the cgroups we run in */
	uint64_t available; /* what the kernel, and these cgroups, would still give */
	uint64_t cgroup;    /* the least limit of the cgroups; UINT64_MAX: none */
};

/* Find and open all of it below the directory `root` ("" for the real one; tests make their own).
 * What this kernel does not have is done without. 0; -ENOMEM. */
int tm_machine_open(const char *root, struct tm_machine **ret_machine);

/* NULL is allowed. */
void tm_machine_close(struct tm_machine *machine);

/* Look. When /proc/meminfo cannot be read, nothing is available. */
void tm_machine_read(struct tm_machine *machine, struct tm_machine_memory *ret_memory);

/* A descriptor with POLLPRI when tasks had to wait for memory (PSI), or -1 where the kernel has
 * none. Stays the machine's. */
int tm_machine_pressure_fd(const struct tm_machine *machine);

/* The descriptor gives POLLERR: it is of no use any more. */
void tm_machine_pressure_lost(struct tm_machine *machine);

#endif
