/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/util.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* 2^(10 * n) for the n-th unit; -1 when `c` is none. */
static int unit_power(char c)
{
	static const char units[] = "kmgtpe";
	const char *found = c ? strchr(units, c | 0x20) : NULL;

	return found ? 10 * (int)(found - units + 1) : -1;
}

int tm_size_parse(const char *text, uint64_t *ret_bytes)
{
	char *end;
	int power;

	/* strtold also takes signs, blanks, hex, inf and nan: none of them is a size. */
	if (text[0] < '0' || text[0] > '9' || (text[1] | 0x20) == 'x')
		return -EINVAL;
	long double value = strtold(text, &end);
	if (end[-1] < '0' || end[-1] > '9') /* "1e", "1." */
		return -EINVAL;
	if (strcspn(text, "eE") < (size_t)(end - text)) /* 1e9 is not how anybody writes a size */
		return -EINVAL;

	power = unit_power(*end);
	if (power >= 0) {
		value = ldexpl(value, power);
		end++;
		if (*end == 'i')
			end++;
	}
	if (*end == 'B' || *end == 'b')
		end++;
	if (*end != '\0')
		return -EINVAL;
	if (value >= ldexpl(1, 63))
		return -ERANGE;
	*ret_bytes = (uint64_t)value;
	return 0;
}

const char *tm_size_format(uint64_t bytes, char buf[static TM_SIZE_TEXT_MAX])
{
	double value = (double)bytes;
	size_t unit = 0;

	/* 999.5 and more would print as four digits. */
	while (value >= 999.5 && unit < 6) {
		value /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(buf, TM_SIZE_TEXT_MAX, "%u", (unsigned int)bytes);
	else
		snprintf(buf, TM_SIZE_TEXT_MAX, "%.*f%c",
			value < 9.995           ? 2
				: value < 99.95 ? 1
						: 0,
			value, "?KMGTPE"[unit]);
	return buf;
}

uint64_t tm_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t tm_ram_bytes(void)
{
	static _Atomic uint64_t known; /* sysconf asks the kernel each time */
	uint64_t bytes = known;

	if (bytes == 0) {
		long pages = sysconf(_SC_PHYS_PAGES);
		long size = sysconf(_SC_PAGESIZE);

		bytes = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 1ull << 30;
		known = bytes;
	}
	return bytes;
}

char *tm_socket_path(const char *override)
{
	const char *path = override ? override : getenv("TMEM_SOCKET");
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char *text;
	int n;

	if (path && *path)
		return strdup(path);
	if (geteuid() == 0)
		return strdup("/run/tmem/control.sock");
	if (runtime && *runtime)
		n = asprintf(&text, "%s/tmem/control.sock", runtime);
	else
		n = asprintf(&text, "/tmp/tmem-%u/control.sock", (unsigned int)geteuid());
	return n < 0 ? NULL : text;
}
