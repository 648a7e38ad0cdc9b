/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log.c - what tmemd has to say
 *
 * tmemd has one thread, so there is nothing to lock.
 */
#include "tools/tmemd/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <syslog.h>

static bool use_syslog;

void tm_log_to_syslog(void)
{
	openlog("tmemd", LOG_PID, LOG_DAEMON);
	use_syslog = true;
}

void tm_log(const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (use_syslog)
		syslog(LOG_NOTICE, "%s", line);
	else
		fprintf(stderr, "tmemd: %s\n", line);
}
