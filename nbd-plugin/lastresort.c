/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/lastresort.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"

#define PERIOD_NS 4000000000ull

static int trigger = -1, meminfo = -1; /* constant once there are requests */
static _Atomic uint64_t since, stored, refused;

static uint64_t number_in(const char *text, const char *name)
{
	const char *line = strstr(text, name);

	return line ? strtoull(line + strlen(name), NULL, 10) : UINT64_MAX;
}

/* Less than 1/32 of it is to be had. Reads what the first read has made buffers for. */
static bool memory_is_out(void)
{
	char text[1024];
	ssize_t n = pread(meminfo, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return false;
	text[n] = '\0';
	return number_in(text, "MemAvailable:") < number_in(text, "MemTotal:") / 32;
}

bool tm_lastresort_open(void)
{
	trigger = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
	meminfo = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	if (trigger < 0 || meminfo < 0)
		return false;
	(void)memory_is_out();
	return true;
}

void tm_lastresort_close(void)
{
	if (trigger >= 0)
		close(trigger);
	if (meminfo >= 0)
		close(meminfo);
	trigger = meminfo = -1;
}

void tm_lastresort_stored(void)
{
	/* Only a period that began with a refusal is of interest. */
	if (atomic_load_explicit(&since, memory_order_relaxed) != 0)
		atomic_fetch_add_explicit(&stored, 1, memory_order_relaxed);
}

static void begin_period(uint64_t now)
{
	atomic_store(&stored, 0);
	atomic_store(&refused, 0);
	atomic_store(&since, now);
}

bool tm_lastresort_refused(void)
{
	uint64_t began = atomic_load(&since), now = tm_now_ns();
	bool over;

	if (trigger < 0)
		return false;
	atomic_fetch_add(&refused, 1);
	if (began == 0 || now - began > 2 * PERIOD_NS) {
		begin_period(now); /* the last refusal was long ago */
		return false;
	}
	if (now - began < PERIOD_NS || !atomic_compare_exchange_strong(&since, &began, now))
		return false;
	over = atomic_load(&refused) / 8 > atomic_load(&stored) && memory_is_out();
	begin_period(now);
	return over && write(trigger, "f", 1) == 1;
}
