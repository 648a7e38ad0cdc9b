/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/resident.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "core/util.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* LZ4's tables (16 KiB), a few pages, nbdkit's frames and TLS under them: a third of this. */
#define STACK_BYTES (256u << 10)

void tm_resident_stacks(void)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
}

/* Have the capability in force if it may be. */
static bool raise_capability(cap_value_t value)
{
	cap_t caps = cap_get_proc();
	cap_flag_value_t on = CAP_CLEAR;
	bool raised = false;

	if (!caps)
		return false;
	if (cap_get_flag(caps, value, CAP_EFFECTIVE, &on) == 0 && on == CAP_SET)
		raised = true;
	else if (cap_get_flag(caps, value, CAP_PERMITTED, &on) == 0 && on == CAP_SET)
		raised = cap_set_flag(caps, CAP_EFFECTIVE, 1, &value, CAP_SET) == 0 &&
			cap_set_proc(caps) == 0;
	cap_free(caps);
	return raised;
}

static bool lower_oom_score(void)
{
	TM_AUTO_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	return fd >= 0 && write(fd, "-1000", 5) == 5;
}

#define LOCK_FLAGS (MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)

void tm_resident_lock(void)
{
	(void)mlockall(LOCK_FLAGS); /* tm_resident_ask() has said so if it cannot be done */
}

/* Of the real-time tasks that there are the least: it is not for the processor's sake, but since
 * they may take from what the kernel keeps free. Threads made from here on inherit it. */
static bool raise_priority(void)
{
	struct sched_param least = {.sched_priority = sched_get_priority_min(SCHED_RR)};

	return sched_setscheduler(0, SCHED_RR, &least) == 0;
}

/* Append what is missing to a list. */
static void miss(char *list, const char *what)
{
	size_t n = strlen(list);

	snprintf(list + n, TM_RESIDENT_REASON_MAX - n, "%s%s", n ? ", " : "", what);
}

bool tm_resident_ask(bool own_swap, char ret_missing[static TM_RESIDENT_REASON_MAX])
{
	bool resource = raise_capability(CAP_SYS_RESOURCE);
	bool lock = raise_capability(CAP_IPC_LOCK);

	*ret_missing = '\0';
	/* Without the capability RLIMIT_MEMLOCK may still be generous enough. */
	if (mlockall(LOCK_FLAGS) < 0)
		miss(ret_missing,
			lock ? "memory cannot be locked"
			     : "memory cannot be locked without CAP_IPC_LOCK");
	munlockall();
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		miss(ret_missing,
			resource ? "this kernel has no PR_SET_IO_FLUSHER (Linux 5.6)"
				 : "PR_SET_IO_FLUSHER needs CAP_SYS_RESOURCE");
	if (!lower_oom_score())
		miss(ret_missing, "the OOM score needs CAP_SYS_RESOURCE");
	raise_capability(CAP_SYS_NICE);
	if (own_swap && !raise_priority())
		miss(ret_missing, "real-time priority needs CAP_SYS_NICE");
	return !*ret_missing;
}

/* nbdkit has some 200 MB of zeros (.bss) that hardly any request comes to: they are locked page by
 * page as they are touched. */
#define TOUCH_MAX (64ul << 20)

/* Touch one line of /proc/self/maps: "from-to rwxp offset device inode path". */
static void touch(const char *line)
{
	unsigned long from, to;
	char mode[5];

	if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) != 3 || mode[3] != 'p' ||
		mode[0] != 'r' || to - from > TOUCH_MAX)
		return;
	/* Older kernels do not know the call; there MCL_FUTURE covers what is made later. */
	(void)madvise(
		(void *)from, to - from, mode[1] == 'w' ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

static uint64_t locked_bytes(void)
{
	FILE *rollup = fopen("/proc/self/smaps_rollup", "re");
	unsigned long kib = 0;
	char line[512];

	while (rollup && fgets(line, sizeof(line), rollup) &&
		sscanf(line, "Locked: %lu", &kib) != 1)
		;
	if (rollup)
		fclose(rollup);
	return (uint64_t)kib << 10;
}

uint64_t tm_resident_settle(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];

	while (maps && fgets(line, sizeof(line), maps))
		touch(line);
	if (maps)
		fclose(maps);
	mlockall(MCL_FUTURE);
	return locked_bytes();
}
