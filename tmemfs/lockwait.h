/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lockwait.h - asking for a lock, and waiting until it is free
 *
 *   request --try--> have it, or an error --------------------------> answer
 *               +--> taken, and it waits --> line --try, again and again--^
 *
 * A thread for each that waits would be one that the unlocking request may lack. So one thread
 * tries for all who wait, in the order they came: at once when anybody here has unlocked anything,
 * and every 1 to 250 ms, since nobody tells of unlocking elsewhere. (Linux's NFSv4 client asks its
 * server every 1 to 15 s.) While a try of its hangs, others that wait do so longer; nobody else.
 *
 * Two things more are as on NFS. Who gets a lock sees what others wrote before they gave it up:
 * the file is compared with what is cached, as when it is opened, and the kernel's pages go first
 * if it changed. And a signal ends the wait (EINTR).
 *
 * Of an flock(2) that must not wait, a conflict with a lock of this mount is believed after 50 ms
 * only: the kernel lets a process close its file, or end, before we hear of it (RELEASE).
 *
 * Locking: one mutex for the line; neither a lock of the backing's nor the kernel is asked under
 * it.
 */
#ifndef TMEMFS_LOCKWAIT_H
#define TMEMFS_LOCKWAIT_H

#include <fuse_lowlevel.h>

#include "tmemfs/fs.h"

struct tm_lockwait;

/* Starts a thread: after the last fork. `mount`'s locks and notifiers outlive it. 0; -ENOMEM; the
 * errno of pthread_create. */
int tm_lockwait_start(struct tm_mount *mount, struct tm_lockwait **ret_line);

/* When no request comes any more: those who still wait are answered ENOTCONN. NULL is fine. */
void tm_lockwait_stop(struct tm_lockwait *line);

/* What is asked for. */
struct tm_lock_ask {
	fuse_req_t req; /* answered: 0, or -EAGAIN, -EINTR, -ENOLCK, what tm_locks_set() says */
	struct tm_file *file;
	bool waits;
	int operation;      /* of flock(2), or -1: */
	uint64_t owner;     /* fcntl(2)'s */
	struct flock range; /* fcntl(2)'s */
};
void tm_lock_ask(struct tm_lockwait *line, const struct tm_lock_ask *ask);

/* Somebody gave a lock up. */
void tm_lockwait_kick(struct tm_lockwait *line);

#endif
