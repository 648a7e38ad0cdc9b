/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/tmemd/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemd/cgroup.h"

struct tm_machine {
	int meminfo_fd, pressure_fd;
	uint64_t ram;
	struct tm_cgroup *cgroup;
};

/* Stall of `some` task within a window, in microseconds. Kernels refuse windows that they hold to
 * be dear (unprivileged ones any but multiples of 2 s), so there is a choice. */
static const struct {
	unsigned int stall, window;
} triggers[] = {{50000, 500000}, {100000, 1000000}, {150000, 2000000}};

static int open_pressure(const char *root)
{
	TM_AUTO_FREE char *path = NULL;
	char text[32];

	if (asprintf(&path, "%s/proc/pressure/memory", root) < 0)
		return -1;
	for (size_t i = 0; i < TM_ARRAY_SIZE(triggers); i++) {
		int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		int length = snprintf(
			text, sizeof(text), "some %u %u", triggers[i].stall, triggers[i].window);

		if (fd < 0)
			return -1;
		/* The kernel wants the NUL too. */
		if (write(fd, text, (size_t)length + 1) == length + 1)
			return fd;
		close(fd); /* a descriptor that was refused once takes no other trigger */
	}
	return -1;
}

int tm_machine_open(const char *root, struct tm_machine **ret_machine)
{
	struct tm_machine *m = calloc(1, sizeof(*m));
	TM_AUTO_FREE char *path = NULL;
	int rc;

	if (!m)
		return -ENOMEM;
	rc = asprintf(&path, "%s/proc/meminfo", root) < 0 ? -ENOMEM : 0;
	if (rc == 0)
		rc = tm_cgroup_open(root, &m->cgroup);
	if (rc < 0) {
		free(m);
		return rc;
	}
	m->meminfo_fd = open(path, O_RDONLY | O_CLOEXEC);
	m->pressure_fd = open_pressure(root);
	m->ram = tm_ram_bytes();
	*ret_machine = m;
	return 0;
}

void tm_machine_close(struct tm_machine *m)
{
	if (!m)
		return;
	if (m->meminfo_fd >= 0)
		close(m->meminfo_fd);
	if (m->pressure_fd >= 0)
		close(m->pressure_fd);
	tm_cgroup_close(m->cgroup);
	free(m);
}

/* MemAvailable in bytes; 0 when it cannot be read. It is among the first lines. */
static uint64_t mem_available(int fd)
{
	static const char key[] = "MemAvailable:";
	char text[512];
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
	const char *line;

	if (n <= 0)
		return 0;
	text[n] = '\0';
	line = strstr(text, key);
	return line ? strtoull(line + strlen(key), NULL, 10) << 10 : 0;
}

void tm_machine_read(struct tm_machine *m, struct tm_machine_memory *ret_memory)
{
	struct tm_cgroup_memory cgroup;

	tm_cgroup_read(m->cgroup, &cgroup);
	*ret_memory = (struct tm_machine_memory){
		.total = TM_MIN(m->ram, cgroup.limit),
		.available = TM_MIN(mem_available(m->meminfo_fd), cgroup.available),
		.cgroup = cgroup.limit,
	};
}

int tm_machine_pressure_fd(const struct tm_machine *m)
{
	return m->pressure_fd;
}

void tm_machine_pressure_lost(struct tm_machine *m)
{
	if (m->pressure_fd >= 0)
		close(m->pressure_fd);
	m->pressure_fd = -1;
}
