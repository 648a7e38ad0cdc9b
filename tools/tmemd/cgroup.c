/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cgroup.c - the memory limits of the control groups this process runs in
 *
 *      /proc/self/cgroup     0::/system/tmem              our group
 *      /proc/self/mountinfo  ... /sys/fs/cgroup ... cgroup2   where the tree is
 *
 *      /sys/fs/cgroup/system/tmem/memory.max       level 0
 *      /sys/fs/cgroup/system/memory.max            level 1
 *      /sys/fs/cgroup                              the top has no limit of its own
 *
 * What a level would still give is its limit less the usage, plus file pages that nobody used
 * lately, as those go first. Pages of tmem are no such pages: they are shared memory.
 *
 * Every look reads the usage of each level that has a limit. What changes rarely is read again
 * after REST_LOOKS looks: the limits (2 us a level), and the file pages (20 us), unless the usage
 * moved.
 *
 * Locking: none.
 */
#include "tools/tmemd/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"

#define LEVELS_MAX      16
#define REST_LOOKS      20
#define CHANGE_FRACTION 512

/* The same things under the names of each version. */
struct names {
	const char *fstype, *controller; /* controller NULL: one hierarchy for all */
	const char *limit, *high, *usage, *stat;
	const char *file_key; /* in stat, groups below included */
};

static const struct names versions[] = {
	{"cgroup2", NULL, "memory.max", "memory.high", "memory.current", "memory.stat",
		"inactive_file "},
	{"cgroup", "memory", "memory.limit_in_bytes", NULL, "memory.usage_in_bytes", "memory.stat",
		"total_inactive_file "},
};

struct level {
	int limit_fd, high_fd, usage_fd, stat_fd; /* high_fd may be -1 */
	/* As of some look ago, and for how many more they will do. */
	uint64_t limit;                  /* UINT64_MAX: none */
	uint64_t file_pages, stat_usage; /* bytes, and the usage when they were so many */
	unsigned int limit_rest, stat_rest;
};

struct tm_cgroup {
	const struct names *names;
	struct level levels[LEVELS_MAX];
	size_t count;
};

/* --- finding them ----------------------------------------------------------------------------- */

/* The path of our group in the hierarchy of `names`, malloc'ed; NULL when there is none. */
static char *own_group(const char *root, const struct names *names)
{
	TM_AUTO_FREE char *path = NULL, *line = NULL;
	char *found = NULL;
	size_t size = 0;
	FILE *file;

	if (asprintf(&path, "%s/proc/self/cgroup", root) < 0)
		return NULL;
	file = fopen(path, "re");
	/* "4:memory:/group" or "0::/group" */
	while (file && !found && getline(&line, &size, file) > 0) {
		char *controllers = strchr(line, ':');
		char *group = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!group)
			continue;
		*group++ = '\0';
		group[strcspn(group, "\n")] = '\0';
		if (strcmp(controllers + 1, names->controller ? names->controller : "") == 0)
			found = strdup(group);
	}
	if (file)
		fclose(file);
	return found;
}

static bool has_word(const char *list, const char *word)
{
	size_t length = strlen(word);

	for (const char *at = strstr(list, word); at; at = strstr(at + 1, word))
		if ((at == list || at[-1] == ',') && (at[length] == ',' || !at[length]))
			return true;
	return false;
}

/* Where the hierarchy is mounted (malloc'ed), and which of its groups is there. False: nowhere. */
static bool find_mount(
	const char *root, const struct names *names, char **ret_point, char **ret_group)
{
	TM_AUTO_FREE char *path = NULL, *line = NULL;
	bool found = false;
	size_t size = 0;
	FILE *file;

	if (asprintf(&path, "%s/proc/self/mountinfo", root) < 0)
		return false;
	file = fopen(path, "re");
	while (file && !found && getline(&line, &size, file) > 0) {
		TM_AUTO_FREE char *group = NULL, *point = NULL, *fstype = NULL, *options = NULL;
		const char *tail = strstr(line, " - ");

		if (!tail || sscanf(line, "%*s %*s %*s %ms %ms", &group, &point) != 2 ||
			sscanf(tail, " - %ms %*s %ms", &fstype, &options) != 2 ||
			strcmp(fstype, names->fstype) != 0 ||
			(names->controller && !has_word(options, names->controller)))
			continue;
		found = asprintf(ret_point, "%s%s", root, point) >= 0;
		if (found) {
			*ret_group = group;
			group = NULL;
		}
	}
	if (file)
		fclose(file);
	return found;
}

static int open_in(const char *dir, const char *name)
{
	TM_AUTO_FREE char *path = NULL;

	if (!name || asprintf(&path, "%s/%s", dir, name) < 0)
		return -1;
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void level_close(struct level *level)
{
	int fds[] = {level->limit_fd, level->high_fd, level->usage_fd, level->stat_fd};

	for (size_t i = 0; i < TM_ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void add_level(struct tm_cgroup *c, const char *dir)
{
	struct level level = {
		.limit_fd = open_in(dir, c->names->limit),
		.high_fd = open_in(dir, c->names->high),
		.usage_fd = open_in(dir, c->names->usage),
		.stat_fd = open_in(dir, c->names->stat),
	};

	if (level.limit_fd < 0 || level.usage_fd < 0 || level.stat_fd < 0)
		level_close(&level); /* the top, or a group without the controller */
	else
		c->levels[c->count++] = level;
}

/* Every level from `dir` up to `top`, which is a prefix of it. */
static void add_levels(struct tm_cgroup *c, char *dir, size_t top)
{
	for (;;) {
		char *slash;

		if (c->count < LEVELS_MAX)
			add_level(c, dir);
		slash = strrchr(dir, '/');
		if (!slash || (size_t)(slash - dir) < top)
			return;
		*slash = '\0';
	}
}

static void find_levels(struct tm_cgroup *c, const char *root)
{
	TM_AUTO_FREE char *own = own_group(root, c->names);
	TM_AUTO_FREE char *point = NULL, *mounted = NULL, *dir = NULL;
	const char *below;
	size_t length;

	if (!own || !find_mount(root, c->names, &point, &mounted))
		return;
	/* A container may see only its part of the tree; what is not below that is its top. */
	length = strcmp(mounted, "/") ? strlen(mounted) : 0;
	below = strncmp(own, mounted, length) == 0 ? own + length : "";
	if (below[0] != '/' || !below[1] || strstr(below, ".."))
		below = "";
	if (asprintf(&dir, "%s%s", point, below) >= 0)
		add_levels(c, dir, strlen(point));
}

int tm_cgroup_open(const char *root, struct tm_cgroup **ret_cgroup)
{
	struct tm_cgroup *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	for (size_t i = 0; i < TM_ARRAY_SIZE(versions) && c->count == 0; i++) {
		c->names = &versions[i];
		find_levels(c, root);
	}
	*ret_cgroup = c;
	return 0;
}

void tm_cgroup_close(struct tm_cgroup *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->count; i++)
		level_close(&c->levels[i]);
	free(c);
}

/* --- reading them ----------------------------------------------------------------------------- */

/* The number in a file; UINT64_MAX for "max", and for what cannot be read. */
static uint64_t read_number(int fd)
{
	char text[32];
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return UINT64_MAX;
	text[n] = '\0';
	return *text >= '0' && *text <= '9' ? strtoull(text, NULL, 10) : UINT64_MAX;
}

static uint64_t read_limit(const struct level *level)
{
	uint64_t limit = TM_MIN(read_number(level->limit_fd), read_number(level->high_fd));

	/* Version 1 says "none" with the largest number of whole pages. */
	return limit >= INT64_MAX - 65536 ? UINT64_MAX : limit;
}

static uint64_t read_file_pages(int fd, const char *key)
{
	char text[4096];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	const char *at = text;

	if (n <= 0)
		return 0;
	text[n] = '\0';
	do {
		at += *at == '\n';
		if (strncmp(at, key, strlen(key)) == 0)
			return strtoull(at + strlen(key), NULL, 10);
		at = strchr(at, '\n');
	} while (at);
	return 0;
}

static uint64_t level_limit(struct level *level)
{
	if (level->limit_rest-- == 0) {
		level->limit_rest = REST_LOOKS;
		level->limit = read_limit(level);
	}
	return level->limit;
}

static uint64_t level_file_pages(struct level *level, const char *key, uint64_t usage)
{
	uint64_t change =
		usage > level->stat_usage ? usage - level->stat_usage : level->stat_usage - usage;

	if (level->stat_rest-- == 0 || change > level->limit / CHANGE_FRACTION) {
		level->stat_rest = REST_LOOKS;
		level->stat_usage = usage;
		level->file_pages = read_file_pages(level->stat_fd, key);
	}
	return level->file_pages;
}

void tm_cgroup_read(struct tm_cgroup *c, struct tm_cgroup_memory *ret_memory)
{
	*ret_memory = (struct tm_cgroup_memory){UINT64_MAX, UINT64_MAX};
	for (size_t i = 0; i < c->count; i++) {
		struct level *level = &c->levels[i];
		uint64_t limit = level_limit(level), usage, used, left;

		if (limit == UINT64_MAX)
			continue;
		usage = read_number(level->usage_fd);
		used = usage - TM_MIN(usage, level_file_pages(level, c->names->file_key, usage));
		left = limit - TM_MIN(limit, used);
		ret_memory->limit = TM_MIN(ret_memory->limit, limit);
		ret_memory->available = TM_MIN(ret_memory->available, left);
	}
}
