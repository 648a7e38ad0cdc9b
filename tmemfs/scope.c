/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scope.c - which file system a directory lies in, beyond its number
 *
 * Its UUID says so for as long as it exists. Where it has none, the id of its mount does, which is
 * never given twice while the machine runs; but then each mount of it is another one.
 */
#include "tmemfs/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <xxhash.h>

/* linux/fs.h has had it only since 6.9, linux/stat.h the other since 6.8. */
struct fs_uuid {
	uint8_t length;
	uint8_t bytes[16];
};
#define GET_FS_UUID   _IOR(0x15, 0, struct fs_uuid)
#define MNT_ID_UNIQUE 0x4000u

/* Names a file system with no padding, since it is hashed. */
struct name {
	uint64_t dev, type, mount_id;
	uint8_t uuid[16];
};

int tm_scope_of(int dir_fd, struct tm_scope *ret_scope)
{
	struct fs_uuid uuid = {0};
	struct name name = {0};
	struct tm_scope scope;
	struct statfs fs;
	struct stat st;
	struct statx sx;

	if (fstat(dir_fd, &st) < 0 || fstatfs(dir_fd, &fs) < 0 ||
		getrandom(&scope.other, sizeof(scope.other), 0) != (ssize_t)sizeof(scope.other))
		return -errno;
	name.dev = st.st_dev;
	name.type = (uint64_t)fs.f_type;
	if (ioctl(dir_fd, GET_FS_UUID, &uuid) == 0 && uuid.length == sizeof(uuid.bytes))
		memcpy(name.uuid, uuid.bytes, sizeof(name.uuid));
	else if (statx(dir_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, MNT_ID_UNIQUE, &sx) == 0 &&
		sx.stx_mask & MNT_ID_UNIQUE)
		name.mount_id = sx.stx_mnt_id;
	else
		return -EOPNOTSUPP;
	scope.dev = st.st_dev;
	scope.own = XXH3_64bits(&name, sizeof(name));
	*ret_scope = scope;
	return 0;
}

uint64_t tm_scope_dev(const struct tm_scope *scope, dev_t dev)
{
	return dev == scope->dev ? scope->own : scope->other ^ dev;
}
