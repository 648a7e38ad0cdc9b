/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cgroup.h - the memory limits of the control groups this process runs in
 */
#ifndef TM_CGROUP_H
#define TM_CGROUP_H

#include <stdint.h>

struct tm_cgroup;

/* Bytes; UINT64_MAX where there is no limit. */
struct tm_cgroup_memory {
	uint64_t limit;     /* the least of all levels */
	uint64_t available; /* the least of limit - usage + clean file cache of all levels */
};

/* Open the files of every level from our group to the top of the hierarchy that is mounted: version
 * 2 if it limits memory here, else version 1. `root` as in tm_machine_open(). 0, also without any
 * cgroup; -ENOMEM. The group is the one of this moment: a process that is moved keeps the limits it
 * had. */
int tm_cgroup_open(const char *root, struct tm_cgroup **ret_cgroup);

/* NULL is allowed. */
void tm_cgroup_close(struct tm_cgroup *cgroup);

/* What the limits leave now. Limits may change while groups run; that is seen within 20 calls. */
void tm_cgroup_read(struct tm_cgroup *cgroup, struct tm_cgroup_memory *ret_memory);

#endif
