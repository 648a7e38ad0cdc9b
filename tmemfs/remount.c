/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tmemfs/remount.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "core/util.h"

#define FUSE_MAGIC 0x65735546

static const struct {
	const char *name;
	unsigned long flag;
	bool set;
} words[] = {
	{"ro", MS_RDONLY, true},
	{"rw", MS_RDONLY, false},
	{"nosuid", MS_NOSUID, true},
	{"suid", MS_NOSUID, false},
	{"nodev", MS_NODEV, true},
	{"dev", MS_NODEV, false},
	{"noexec", MS_NOEXEC, true},
	{"exec", MS_NOEXEC, false},
	{"sync", MS_SYNCHRONOUS, true},
	{"async", MS_SYNCHRONOUS, false},
	{"dirsync", MS_DIRSYNC, true},
	{"noatime", MS_NOATIME, true},
	{"atime", MS_NOATIME, false},
};

/* What statvfs() says, as mount() wants it. */
static unsigned long flags_of(unsigned long present)
{
	static const struct {
		unsigned long present, flag;
	} same[] = {
		{ST_RDONLY, MS_RDONLY},
		{ST_NOSUID, MS_NOSUID},
		{ST_NODEV, MS_NODEV},
		{ST_NOEXEC, MS_NOEXEC},
		{ST_SYNCHRONOUS, MS_SYNCHRONOUS},
		{ST_NOATIME, MS_NOATIME},
		{ST_NODIRATIME, MS_NODIRATIME},
		{ST_RELATIME, MS_RELATIME},
	};
	unsigned long flags = 0;

	for (size_t i = 0; i < TM_ARRAY_SIZE(same); i++)
		if (present & same[i].present)
			flags |= same[i].flag;
	return flags;
}

int tm_remount(const char *mountpoint, const char *options)
{
	TM_AUTO_FREE char *copy = strdup(options);
	char *rest = copy, *word;
	struct statvfs present;
	unsigned long flags;
	struct statfs fs;

	if (!copy)
		return -ENOMEM;
	if (statfs(mountpoint, &fs) < 0 || statvfs(mountpoint, &present) < 0)
		return -errno;
	if (fs.f_type != FUSE_MAGIC)
		return -EINVAL;
	flags = flags_of(present.f_flag);
	while ((word = strsep(&rest, ",")))
		for (size_t i = 0; i < TM_ARRAY_SIZE(words); i++)
			if (strcmp(word, words[i].name) == 0)
				flags = words[i].set ? flags | words[i].flag
						     : flags & ~words[i].flag;
	return mount("none", mountpoint, NULL, MS_REMOUNT | flags, NULL) == 0 ? 0 : -errno;
}
