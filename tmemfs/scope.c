/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scope.c - which file system a file lies in, beyond its number
 *
 *   shared    UUID, type and device number (btrfs: and subvolume), else the id of its mount, which
 * is never given twice while the machine runs; but then each mount of it is another one. lasting
 * UUID and type (btrfs: and subvolume), as long as the file system exists; NFS: server and path, as
 * the server's own file handles say the rest; else the device number, if it is that of a device;
 *             else as mounted.
 *   mounted   the id of its mount, and the machine's of this boot.
 *
 * Copies of a file system have its UUID, and programs that make images can give two of them the
 * same one, with the same inode numbers and times. Only a clock tells those apart: tm_scope_own()
 * asks if one has stamped the file.
 */
#include "tmemfs/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <xxhash.h>

#include "core/util.h"

/* linux/fs.h has had it only since 6.9, linux/stat.h the other since 6.8. */
struct fs_uuid {
	uint8_t length;
	uint8_t bytes[16];
};
#define GET_FS_UUID   _IOR(0x15, 0, struct fs_uuid)
#define MNT_ID_UNIQUE 0x4000u

#define BTRFS_MAGIC 0x9123683e

#define BOOT_ID_BYTES 36

/* Names a file system with no padding, since it is hashed. */
struct name {
	uint64_t kind; /* no two kinds of names are equal */
	uint64_t dev, type, mount_id, part, source;
	uint8_t uuid[16];
	char boot[40];
};

enum kind {
	KIND_SHARED,
	KIND_UUID,
	KIND_NFS,
	KIND_DEVICE,
	KIND_MOUNT,
	KIND_BOOT,
};

static uint64_t hash_of(const struct name *name)
{
	return XXH3_64bits(name, sizeof(*name));
}

size_t tm_scope_source(const char *mountinfo, int mount_id, const char **ret_source)
{
	const char *line = mountinfo, *end, *p;
	char *after;

	for (; *line; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		if (strtol(line, &after, 10) != mount_id || after == line)
			continue;
		/* ID PARENT DEV ROOT MOUNTPOINT OPTIONS [FIELD...] - TYPE SOURCE OPTIONS; a blank
		 * within any of them is written \\040. */
		p = strstr(line, " - ");
		p = p && p < end ? strchr(p + 3, ' ') : NULL;
		if (!p || p >= end)
			return 0;
		*ret_source = p + 1;
		return strcspn(p + 1, " \n");
	}
	return 0;
}

/* All of a small file of /proc as a string, or NULL. The caller frees it. */
static char *read_proc(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	size_t room = 0;

	if (!file)
		return NULL;
	if (getdelim(&text, &room, '\0', file) < 0) {
		free(text);
		text = NULL;
	}
	fclose(file);
	return text;
}

/* What NFS calls its server and path, hashed; false if that is not known. */
static bool nfs_source(int dir_fd, uint64_t *ret_source)
{
	TM_AUTO_FREE char *mountinfo = NULL;
	const char *source;
	struct statx sx;
	size_t len;

	if (statx(dir_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &sx) < 0 ||
		!(sx.stx_mask & STATX_MNT_ID))
		return false;
	mountinfo = read_proc("/proc/self/mountinfo");
	len = mountinfo ? tm_scope_source(mountinfo, (int)sx.stx_mnt_id, &source) : 0;
	if (len == 0)
		return false;
	*ret_source = XXH3_64bits(source, len);
	return true;
}

/* The id of the mount, if it is one that is never given again before the next boot. */
static bool unique_mount(int dir_fd, uint64_t *ret_id)
{
	struct statx sx;

	if (statx(dir_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, MNT_ID_UNIQUE, &sx) < 0 ||
		!(sx.stx_mask & MNT_ID_UNIQUE))
		return false;
	*ret_id = sx.stx_mnt_id;
	return true;
}

/* Until when the machine's present names hold: of this boot, or random. 0 or -errno. */
static int boot_of(char ret_boot[static BOOT_ID_BYTES])
{
	TM_AUTO_FREE char *id = read_proc("/proc/sys/kernel/random/boot_id");

	if (id && strlen(id) >= BOOT_ID_BYTES)
		memcpy(ret_boot, id, BOOT_ID_BYTES);
	else if (getrandom(ret_boot, BOOT_ID_BYTES, 0) != BOOT_ID_BYTES)
		return -errno;
	return 0;
}

/* The file system's UUID, if it has one. */
static bool uuid_of(int dir_fd, const struct statfs *fs, struct fs_uuid *ret_uuid)
{
	struct btrfs_ioctl_fs_info_args info = {0};

	if (ioctl(dir_fd, GET_FS_UUID, ret_uuid) == 0)
		return ret_uuid->length == sizeof(ret_uuid->bytes);
	/* Linux 6.18's btrfs does not answer that. */
	if (fs->f_type != BTRFS_MAGIC || ioctl(dir_fd, BTRFS_IOC_FS_INFO, &info) < 0)
		return false;
	ret_uuid->length = sizeof(ret_uuid->bytes);
	memcpy(ret_uuid->bytes, info.fsid, sizeof(ret_uuid->bytes));
	return true;
}

/* Subvolumes share the UUID, and number their inodes alike. */
static uint64_t part_of(const struct statfs *fs)
{
	uint64_t part = 0;

	if (fs->f_type == BTRFS_MAGIC)
		memcpy(&part, &fs->f_fsid, sizeof(part));
	return part;
}

/* What names it for as long as it exists; false if nothing does. */
static bool lasting_name(int dir_fd, const struct stat *st, const struct statfs *fs,
	const struct fs_uuid *uuid /* or NULL */, struct name *name)
{
	memset(name, 0, sizeof(*name));
	name->type = (uint64_t)fs->f_type;
	if (uuid) {
		name->kind = KIND_UUID;
		memcpy(name->uuid, uuid->bytes, sizeof(name->uuid));
		name->part = part_of(fs);
		return true;
	}
	if (fs->f_type == TM_NFS_MAGIC) {
		name->kind = KIND_NFS;
		return nfs_source(dir_fd, &name->source);
	}
	name->kind = KIND_DEVICE;
	name->dev = st->st_dev;
	return major(st->st_dev) != 0;
}

int tm_scope_of(int dir_fd, struct tm_scope *ret_scope)
{
	struct name mount = {.kind = KIND_MOUNT}, boot = {.kind = KIND_BOOT}, name;
	struct tm_scope scope = {.shareable = true};
	struct fs_uuid uuid = {0};
	bool unique, has_uuid;
	struct statfs fs;
	struct stat st;
	int rc;

	if (fstat(dir_fd, &st) < 0 || fstatfs(dir_fd, &fs) < 0 ||
		getrandom(&scope.other, sizeof(scope.other), 0) != (ssize_t)sizeof(scope.other) ||
		getrandom(&scope.mounted, sizeof(scope.mounted), 0) !=
			(ssize_t)sizeof(scope.mounted))
		return -errno;
	rc = boot_of(boot.boot);
	if (rc < 0)
		return rc;
	memcpy(mount.boot, boot.boot, sizeof(mount.boot));
	mount.dev = st.st_dev;
	mount.type = (uint64_t)fs.f_type;
	has_uuid = uuid_of(dir_fd, &fs, &uuid);
	unique = unique_mount(dir_fd, &mount.mount_id);

	scope.dev = st.st_dev;
	scope.booted = hash_of(&boot);
	if (unique)
		scope.mounted = hash_of(&mount);
	scope.lasting = lasting_name(dir_fd, &st, &fs, has_uuid ? &uuid : NULL, &name)
		? hash_of(&name)
		: scope.mounted;
	name = (struct name){.kind = KIND_SHARED,
		.dev = st.st_dev,
		.type = (uint64_t)fs.f_type,
		.part = part_of(&fs)};
	if (has_uuid)
		memcpy(name.uuid, uuid.bytes, sizeof(name.uuid));
	else if (unique)
		name.mount_id = mount.mount_id;
	else
		scope.shareable = false;
	scope.own = hash_of(&name);
	*ret_scope = scope;
	return 0;
}

uint64_t tm_scope_shared(const struct tm_scope *scope, dev_t dev)
{
	return dev == scope->dev ? scope->own : scope->other ^ dev;
}

uint64_t tm_scope_own(const struct tm_scope *scope, dev_t dev, bool certain)
{
	if (dev != scope->dev)
		return scope->booted ^ dev;
	return certain ? scope->lasting : scope->mounted;
}
