/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * idle.c - the number of running threads, as /proc/loadavg has it: "0.20 0.18 0.12 1/80 11206"
 */
#include "core/idle.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"

void tm_idle_open(struct tm_idle *ret_idle)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	ret_idle->processors = (unsigned int)TM_MAX(processors, 1l);
	ret_idle->fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
}

void tm_idle_close(struct tm_idle *idle)
{
	if (idle->fd >= 0)
		close(idle->fd);
	idle->fd = -1;
}

bool tm_idle(const struct tm_idle *idle)
{
	char text[128];
	unsigned int running;
	ssize_t len = idle->fd < 0 ? -1 : pread(idle->fd, text, sizeof(text) - 1, 0);

	if (len <= 0)
		return true;
	text[len] = '\0';
	return sscanf(text, "%*s %*s %*s %u/", &running) != 1 || running <= idle->processors;
}
