/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * notify.h - telling the kernel that what it cached is old
 *
 * A notification sent by a thread that serves requests, or with a lock held, can wait for a page
 * whose read waits for that very thread: the mount hangs. So one thread of its own, without any
 * lock, does it. A mount has two: dropping pages waits for reads of them, and a backing that hangs
 * in one must not keep the opens of other files waiting.
 */
#ifndef TMEMFS_NOTIFY_H
#define TMEMFS_NOTIFY_H

#include <fuse_lowlevel.h>

struct tm_notifier;
struct tm_opened;

/* Starts a thread: after the last fork. 0; -ENOMEM; the errno of pthread_create. */
int tm_notifier_start(struct fuse_session *session, struct tm_notifier **ret_notifier);

/* Before the unmount, which closes what notifications are written to: does what is queued, for at
 * most a second, as it may wait for requests that nobody answers any more. NULL is fine. */
void tm_notifier_drain(struct tm_notifier *notifier);

/* After the unmount, which ends whatever was waiting. NULL is fine. */
void tm_notifier_stop(struct tm_notifier *notifier);

/*
 * Make the kernel ask for the attributes of `ino` again, then answer its open with `fi` and `how`.
 * `opened` gets the outcome of the answer (0 or -errno) and `opened_arg`, without locks. Without
 * memory: answers at once.
 */
void tm_notify_open(struct tm_notifier *notifier, fuse_req_t req, fuse_ino_t ino,
	const struct fuse_file_info *fi, const struct tm_opened *how,
	void (*opened)(void *arg, int rc), void *opened_arg);

/* Make the kernel drop the pages and attributes of `ino`, soon. */
void tm_notify_pages(struct tm_notifier *notifier, fuse_ino_t ino);

/* The same, and then call `done`, without locks: with 0, or -ENOMEM when nothing was dropped. */
void tm_notify_pages_then(
	struct tm_notifier *notifier, fuse_ino_t ino, void (*done)(void *arg, int rc), void *arg);

/* The same for the pages of a range that is not empty. */
void tm_notify_range(struct tm_notifier *notifier, fuse_ino_t ino, off_t from, off_t len);

/* Only the attributes. */
void tm_notify_attributes(struct tm_notifier *notifier, fuse_ino_t ino);

/* The same before it returns: for threads that serve requests, too, as it waits for nothing. */
void tm_notify_attributes_now(struct tm_notifier *notifier, fuse_ino_t ino);

/* Make the kernel look `name` in `parent` up again. */
void tm_notify_name(struct tm_notifier *notifier, fuse_ino_t parent, const char *name);

#endif
