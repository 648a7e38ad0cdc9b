/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * identity.c - who a descriptor's file is
 *
 * A number alone does not tell: the backing gives it to another file once the first is gone. A file
 * handle (name_to_handle_at) carries the backing's generation too, costs one system call and no
 * descriptor, and can be opened again later.
 *
 * Locking: the table's mutex for what is remembered of each file system.
 */
#include "tmemfs/inode_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#include "tmemfs/scope.h"

#define HANDLE_BYTES MAX_HANDLE_SZ
#define FUSE_MAGIC   0x65735546 /* linux/magic.h has had it only since 6.0 */

void tm_identity_cleanup(struct tm_identity *id)
{
	free(id->handle);
	id->handle = NULL;
}

static struct tm_traits traits_of(struct tm_inodes *table, dev_t dev, int fd)
{
	struct tm_traits traits = {.lasting = false};
	struct statfs fs;

	pthread_mutex_lock(&table->lock);
	for (unsigned int i = 0; i < table->volume_count; i++) {
		if (table->volumes[i].dev == dev) {
			traits = table->volumes[i].traits;
			pthread_mutex_unlock(&table->lock);
			return traits;
		}
	}
	pthread_mutex_unlock(&table->lock);

	/* A server that does not answer now may do so later. */
	if (fstatfs(fd, &fs) < 0)
		return traits;
	/* FUSE hands out handles that end with its own inodes: they neither identify nor open for
	 * long. */
	traits.lasting = fs.f_type != FUSE_MAGIC;
	traits.nfs = fs.f_type == TM_NFS_MAGIC;
	pthread_mutex_lock(&table->lock);
	if (table->volume_count < TM_VOLUMES_MAX) {
		table->volumes[table->volume_count].dev = dev;
		table->volumes[table->volume_count++].traits = traits;
	}
	pthread_mutex_unlock(&table->lock);
	return traits;
}

int tm_identify(struct tm_inodes *table, int fd, struct tm_identity *ret_id)
{
	union {
		struct file_handle fh;
		char space[sizeof(struct file_handle) + HANDLE_BYTES];
	} u;
	struct tm_identity id = {.mount_id = -1};
	bool has;

	/* The mount id before anything that would ask our own mount for an answer. */
	u.fh.handle_bytes = HANDLE_BYTES;
	has = name_to_handle_at(fd, "", &u.fh, &id.mount_id, AT_EMPTY_PATH) == 0;
	if (has && id.mount_id == table->own_mount_id)
		return -ELOOP;
	if (fstat(fd, &id.st) < 0)
		return -errno;
	id.traits = traits_of(table, id.st.st_dev, fd);
	if (has && id.traits.lasting) {
		size_t bytes = sizeof(u.fh) + u.fh.handle_bytes;

		id.handle = malloc(bytes);
		if (!id.handle)
			return -ENOMEM;
		memcpy(id.handle, &u.fh, bytes);
		id.by_handle = id.mount_id == table->root_mount_id;
	}
	*ret_id = id;
	return 0;
}

static bool handle_equal(const struct file_handle *a, const struct file_handle *b)
{
	if (!a || !b)
		return a == b;
	return a->handle_type == b->handle_type && a->handle_bytes == b->handle_bytes &&
		memcmp(a->f_handle, b->f_handle, a->handle_bytes) == 0;
}

bool tm_identity_is(const struct tm_identity *id, const struct tm_inode *inode)
{
	return id->st.st_ino == inode->ino && id->st.st_dev == inode->dev &&
		(id->st.st_mode & S_IFMT) == inode->type && handle_equal(id->handle, inode->handle);
}

const void *tm_inode_identity(const struct tm_inode *inode, size_t *ret_len)
{
	*ret_len = inode->handle ? inode->handle->handle_bytes : 0;
	return inode->handle ? inode->handle->f_handle : NULL;
}
