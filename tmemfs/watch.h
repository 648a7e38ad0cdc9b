/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * watch.h - hearing of changes that others make in the backing
 *
 * One fanotify mark on the backing's file system tells of every change in it, by the directory's
 * file handle and the name; our own are told apart by the process. What is known of the file goes,
 * ours and the kernel's.
 */
#ifndef TMEMFS_WATCH_H
#define TMEMFS_WATCH_H

#include "tmemfs/fs.h"

struct tm_watch;

/*
 * Watch the file system that `root_fd` is on, for `mount`, until tm_watch_stop(). Starts a thread:
 * after the last fork, before the first request. 0; -EPERM without CAP_SYS_ADMIN; -ENODEV,
 * -EOPNOTSUPP, -EXDEV, -EINVAL a file system or kernel that cannot be watched; -ENOMEM; other errno
 * of fanotify_init, fanotify_mark, pthread_create.
 */
int tm_watch_start(struct tm_mount *mount, int root_fd, struct tm_watch **ret_watch);

/* No event is handled any more. NULL is fine. */
void tm_watch_stop(struct tm_watch *watch);

#endif
