/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heapdump.c - the private anonymous pages of a running process, as a file
 *
 * heapdump PID FILE
 *
 * Writes every present 4 KiB page of each private anonymous writable mapping, in address order.
 * Pages never touched are left out: they would be zeros that nobody stored. The process is not
 * stopped; stop it first if the pages must belong together.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

#define PAGE    4096u
#define PRESENT (1ull << 63)

struct dump {
	int mem, pagemap;
	FILE *out;
	uint64_t pages;
};

/* "start-end perms offset dev inode path": private, writable, of no file. */
static bool is_heap(const char *line, uint64_t *ret_start, uint64_t *ret_end)
{
	char perms[5], path[16] = "";
	unsigned long inode;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %lu %15s", ret_start, ret_end, perms,
		    &inode, path) < 4)
		return false;
	return perms[1] == 'w' && perms[3] == 'p' && inode == 0 && strncmp(path, "[v", 2) != 0;
}

static int dump_range(struct dump *d, uint64_t start, uint64_t end)
{
	uint8_t page[PAGE];
	uint64_t entry;

	for (uint64_t at = start; at < end; at += PAGE) {
		if (pread(d->pagemap, &entry, sizeof(entry), (off_t)(at / PAGE * sizeof(entry))) !=
			sizeof(entry))
			return -1;
		if (!(entry & PRESENT) || pread(d->mem, page, PAGE, (off_t)at) != PAGE)
			continue;
		if (fwrite(page, PAGE, 1, d->out) != 1)
			return -1;
		d->pages++;
	}
	return 0;
}

static int open_proc(const char *pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	struct dump d = {.pages = 0};
	uint64_t start, end;
	char line[512];
	FILE *maps;
	int fd, rc = 0;

	if (argc != 3) {
		fprintf(stderr, "usage: heapdump PID FILE\n");
		return 2;
	}
	fd = open_proc(argv[1], "maps");
	maps = fd < 0 ? NULL : fdopen(fd, "r");
	d.mem = open_proc(argv[1], "mem");
	d.pagemap = open_proc(argv[1], "pagemap");
	d.out = fopen(argv[2], "w");
	if (!maps || d.mem < 0 || d.pagemap < 0 || !d.out) {
		perror("heapdump");
		return 1;
	}
	while (rc == 0 && fgets(line, sizeof(line), maps))
		if (is_heap(line, &start, &end))
			rc = dump_range(&d, start, end);
	if (fclose(d.out) != 0 || rc < 0) {
		perror("heapdump");
		return 1;
	}
	printf("%" PRIu64 " pages\n", d.pages);
	return 0;
}
