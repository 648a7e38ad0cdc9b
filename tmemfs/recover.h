/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * recover.h - taking away what a killed server left: a mount point that answers to nobody
 */
#ifndef TMEMFS_RECOVER_H
#define TMEMFS_RECOVER_H

/*
 * Unmount `mountpoint` as long as it says "Transport endpoint is not connected". 0, also if there
 * was nothing to do; else -errno, of statx or umount2 (without root: what fusermount3 made of it is
 * -EPERM). A mount that is served is left alone.
 */
int tm_recover_mount(const char *mountpoint);

#endif
