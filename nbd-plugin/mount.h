/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mount.h - the devices as files, for kernels without nbd
 *
 *      process -> swap -> loop device -> FUSE -> here               instead of
 *      process -> swap -> loop device -> FUSE -> nbdfuse -> socket -> nbdkit -> plugin
 *
 * A page of swap that comes back is waited for, and each program on its way costs a change of
 * process or two. So where a loop device has to do, this server carries its files itself: one for
 * each export, DIR/NAME, `disk` for the export without a name. What is asked of a file goes the way
 * of an NBD request from there on, and may be asked of both at once.
 *
 * As in all of the plugin nothing allocates or faults while it serves: a fixed number of threads,
 * each with its buffers. What libfuse itself allocates, a few hundred bytes a request, comes from
 * the heap that tm_heap_settle() keeps.
 *
 * Locking: none of its own; libfuse's.
 */
#ifndef TM_MOUNT_H
#define TM_MOUNT_H

struct nbdkit_plugin;

/* Mount at `dir`; requests are those of `plugin`, with an export as handle. After the last fork.
 * 0; -errno, libfuse has said more on standard error. */
int tm_mount_start(const char *dir, const struct nbdkit_plugin *plugin);

/* Unmount: who still has a file open gets errors. Nothing when there is none. */
void tm_mount_stop(void);

#endif
