/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * locks.h - the locks of the mount's users, as locks of the backing
 *
 *   flock(2)   is an open file's: a tm_file that was locked has a descriptor for that, opened for
 *              it alone, since an open file description is what such a lock belongs to.
 *   fcntl(2)   is a process's, or with F_OFD_SETLK an open file's: the kernel's lock owner, a
 *              number. Each pair (inode, owner) that was locked has a descriptor whose OFD locks
 *              stand for the owner's. All locks of an owner go when that descriptor is closed:
 *
 *      bucket of the inode -> owner (fd) -> owner (fd) -> ...
 *
 * Nothing here waits for a lock: see lockwait.h.
 *
 * Invariants
 *   1. Whoever asks for a lock is the kernel, for a file that is open: so no file is released, and
 *      no inode forgotten, while a call for it is under way.
 *   2. An owner's descriptor is closed when the owner is dropped and no call uses it.
 *
 * Locking: a mutex for the table; opening, closing and locking happen outside it.
 */
#ifndef TMEMFS_LOCKS_H
#define TMEMFS_LOCKS_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>

struct tm_file;
struct tm_inode;
struct tm_locks;

/* Of the descriptors this process may have, owners take a quarter at most. NULL without memory. */
struct tm_locks *tm_locks_new(void);

/* Drops what there still is. NULL is fine. */
void tm_locks_free(struct tm_locks *locks);

/*
 * fcntl(F_SETLK): set or remove `owner`'s lock, asked for through `file`. `lock` as the kernel has
 * it: l_whence is SEEK_SET. 0; -EAGAIN somebody else has it; -ENOLCK too many owners, or what the
 * backing says; the errno of opening the file. May block on the backing.
 */
int tm_locks_set(
	struct tm_locks *locks, struct tm_file *file, uint64_t owner, const struct flock *lock);

/*
 * fcntl(F_GETLK): 0, and *lock is what is in the way, or F_UNLCK. l_pid is the process if it uses
 * this mount and is the only one that has locked the file here, -1 if it is another file's lock;
 * else 0.
 */
int tm_locks_test(struct tm_locks *locks, struct tm_file *file, uint64_t owner, struct flock *lock);

/* flock(2): LOCK_SH, LOCK_EX or LOCK_UN, never waiting. 0; -EWOULDBLOCK; as above. */
int tm_locks_flock(struct tm_file *file, int operation);

/* A process has closed a descriptor of the file, which takes all its fcntl locks on it. True if
 * there may have been any. */
bool tm_locks_drop_owner(struct tm_locks *locks, struct tm_inode *inode, uint64_t owner);

/* The file's last descriptor is closed: its own locks are gone, and those that were asked for
 * through it. True if there may have been any. */
bool tm_locks_drop_file(struct tm_locks *locks, struct tm_file *file);

/* Somebody who has the inode open here has locked it with flock(2). */
bool tm_locks_flocked(struct tm_inode *inode);

#endif
