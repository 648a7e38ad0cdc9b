/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_lock.c - flock(2) and fcntl(2) locks, where they are the backing's (-o locks=backing)
 */
#include "tmemfs/fs.h"

#include <sys/file.h>

#include "tmemfs/locks.h"
#include "tmemfs/lockwait.h"

void tm_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation)
{
	struct tm_lock_ask ask = {
		.req = req,
		.file = tm_file_of(fi),
		.waits = !(operation & LOCK_NB),
		.operation = operation & ~LOCK_NB,
	};

	(void)ino;
	tm_lock_ask(tm_mount_of(req)->lockwait, &ask);
}

void tm_op_setlk(
	fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep)
{
	struct tm_lock_ask ask = {
		.req = req,
		.file = tm_file_of(fi),
		.waits = sleep,
		.operation = -1,
		.owner = fi->lock_owner,
		.range = *lock,
	};

	(void)ino;
	tm_lock_ask(tm_mount_of(req)->lockwait, &ask);
}

void tm_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
	int rc = tm_locks_test(tm_mount_of(req)->locks, tm_file_of(fi), fi->lock_owner, lock);

	(void)ino;
	if (rc < 0)
		tm_reply_rc(req, rc);
	else
		fuse_reply_lock(req, lock);
}

void tm_fs_unlock_owner(struct tm_mount *mount, struct tm_inode *inode, uint64_t owner)
{
	if (mount->locks && tm_locks_drop_owner(mount->locks, inode, owner))
		tm_lockwait_kick(mount->lockwait);
}

void tm_fs_unlock_file(struct tm_mount *mount, struct tm_file *file)
{
	if (mount->locks && tm_locks_drop_file(mount->locks, file))
		tm_lockwait_kick(mount->lockwait);
}
