/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remount.h - mount -o remount, which for a FUSE file system runs its program again
 */
#ifndef TMEMFS_REMOUNT_H
#define TMEMFS_REMOUNT_H

/*
 * Give the tmemfs at `mountpoint` those of the comma-separated `options` that are the kernel's own
 * (ro, nosuid and so on); the rest stay as they are.
 * 0; -EINVAL it is no FUSE mount; -EBUSY files are open for writing; -EPERM; the errno of statfs.
 */
int tm_remount(const char *mountpoint, const char *options);

#endif
