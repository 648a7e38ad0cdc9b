/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pin.c - tmemctl unpin and pinned
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/fsctl.h"
#include "core/util.h"
#include "tools/common/grid.h"
#include "tools/tmemctl/ctl.h"
#include "tools/tmemctl/tree.h"

static const char *reason(int error)
{
	return error == ENOTTY ? "not in a mount of tmemfs" : strerror(error);
}

/* --- unpin ---------------------------------------------------------------------------------- */

static void unpin_failed(void *opaque, const char *path, int error)
{
	int *status = opaque;

	tm_tool_complain("%s: %s", path, reason(error));
	*status = TM_EXIT_FAILED;
}

static bool unpin_file(void *opaque, int fd, const char *path, const struct stat *st)
{
	(void)st;
	if (ioctl(fd, TM_FSCTL_UNPIN) < 0)
		unpin_failed(opaque, path, errno);
	close(fd);
	return true;
}

int ctl_unpin(struct ctl *ctl)
{
	static const struct tree_ops ops = {.file = unpin_file, .failed = unpin_failed};
	int status = TM_EXIT_OK;

	for (int i = 0; i < ctl->count; i++) {
		TM_AUTO_CLOSE int fd =
			open(ctl->args[i], O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);

		/* The root of the mount stands for all there is. */
		if (fd < 0 || ioctl(fd, TM_FSCTL_UNPIN) < 0)
			tree_walk(ctl->args[i], &ops, &status);
	}
	return status;
}

/* --- pinned --------------------------------------------------------------------------------- */

/* A path as JSON has it: what is not UTF-8 is shown as \xNN. */
static json_t *path_json(const char *path)
{
	json_t *json = json_string(path);
	TM_AUTO_FREE char *text = json ? NULL : malloc(strlen(path) * 4 + 1);
	char *p = text;

	if (json || !text)
		return json ? json : json_null();
	for (; *path; path++)
		p += (unsigned char)*path < 0x80 ? sprintf(p, "%c", *path)
						 : sprintf(p, "\\x%02x", (unsigned char)*path);
	*p = '\0';
	return json_string(text);
}

static void add_cells(struct tm_grid *table, const struct tm_fsctl_pinned_entry *e, char *path)
{
	char text[TM_SIZE_TEXT_MAX];

	tm_grid_add(table, tm_size_format(e->bytes, text));
	tm_grid_add(table, e->kept == TM_FSCTL_NO_LOOK ? "-" : tm_size_format(e->kept, text));
	for (char *p = path; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	tm_grid_add(table, *path ? path : "(unknown)");
}

/* Get all entries, for `table` or `array`. 0 or -errno. */
static int list(int fd, struct tm_grid *table, json_t *array)
{
	TM_AUTO_FREE struct tm_fsctl_pinned *part = calloc(1, sizeof(*part));

	if (!part)
		return -ENOMEM;
	do {
		char *p = part->data;

		if (ioctl(fd, TM_FSCTL_PINNED, part) < 0)
			return -errno;
		for (uint32_t i = 0; i < part->count; i++) {
			struct tm_fsctl_pinned_entry e;
			char *path = p + sizeof(e);

			memcpy(&e, p, sizeof(e));
			p += TM_ALIGN(sizeof(e) + e.length, sizeof(uint64_t));
			if (array)
				json_array_append_new(array,
					json_pack("{s:o,s:I,s:o}", "path", path_json(path), "bytes",
						(json_int_t)e.bytes, "cached_bytes",
						e.kept == TM_FSCTL_NO_LOOK
							? json_null()
							: json_integer((json_int_t)e.kept)));
			else
				add_cells(table, &e, path);
		}
	} while (part->count > 0);
	return 0;
}

int ctl_pinned(struct ctl *ctl)
{
	static const char *const titles[] = {">BYTES", ">CACHED", "PATH"};
	TM_AUTO_CLOSE int fd = open(ctl->args[0], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	json_t *array = ctl->json ? json_array() : NULL, *json;
	char pinned[TM_SIZE_TEXT_MAX], most[TM_SIZE_TEXT_MAX];
	struct tm_grid *table = NULL;
	struct tm_fsctl_about about;
	int rc = fd < 0 || ioctl(fd, TM_FSCTL_ABOUT, &about) < 0 ? -errno : 0;

	if (rc == 0 && about.magic != TM_FSCTL_MAGIC)
		rc = -ENOTTY;
	if (rc == 0 && !array) {
		table = tm_grid_new(titles, TM_ARRAY_SIZE(titles));
		rc = table ? 0 : -ENOMEM;
	}
	if (rc == 0)
		rc = list(fd, table, array);
	if (rc < 0) {
		tm_tool_complain("%s: %s", ctl->args[0], reason(-rc));
		json_decref(array);
		return TM_EXIT_FAILED;
	}
	if (array) {
		json = json_pack("{s:I,s:I,s:o}", "pinned_bytes", (json_int_t)about.pinned_bytes,
			"pins_bytes", (json_int_t)about.pins_bytes, "files", array);
		tm_tool_print_json(json);
		json_decref(json);
		return TM_EXIT_OK;
	}
	if (about.pinned_files > 0) {
		tm_grid_print(table);
		putchar('\n');
	}
	printf("%llu files, %s of at most %s\n", (unsigned long long)about.pinned_files,
		tm_size_format(about.pinned_bytes, pinned), tm_size_format(about.pins_bytes, most));
	return TM_EXIT_OK;
}
