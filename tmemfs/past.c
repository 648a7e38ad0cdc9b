/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * past.c - which opens go past us
 *
 *   nobody has it open --first open, for writing--> past us --last close--> nobody
 *                      --another first open-------> through us --last close--> nobody
 *
 * The kernel (fs/fuse/iomode.c) has an inode either in cached mode or in passthrough mode, all
 * opens alike and with the same backing file; what does not fit makes its open fail with EIO. It
 * counts an open when it has our answer, and discounts it before it tells us of the close. We count
 * from before the answer until after we were told: so whatever it has open, we know of.
 *
 * Invariants
 *   1. From the first answer that says so to the last close, `id` is the kernel's, and a change of
 *      the whole file is under way for the cache and for what is known.
 *   2. `id` is given up before another one is asked for.
 *
 * Not past us: O_DIRECT, which would need buffers as the backing wants them (if others go past us
 * already, its reads and writes come here, and only its mappings are the backing's); and files with
 * set-user-id or set-group-id bits. Bits that are set later go with the next write, even root's:
 * the kernel writes as who registered the file, and that is us without CAP_FSETID.
 *
 * Locking: the mount's past_lock, then whatever cache.c and known.c lock.
 */
#include "tmemfs/past.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#include "tmemfs/fs.h"
#include "tmemfs/killpriv.h"

/* As <linux/fuse.h> has it since 6.9. */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

/* The kernel's name of the file; 0: it does not want to. */
static int backing_open(const struct tm_mount *mount, int fd)
{
	TM_AUTO_KILLPRIV struct tm_killpriv killpriv = tm_killpriv_begin(NULL, true);
	struct backing_map map = {.fd = fd};
	int id = ioctl(mount->device, BACKING_OPEN, &map);

	return id > 0 ? id : 0;
}

static bool wanted(const struct tm_mount *mount, const struct tm_inode *inode, int flags)
{
	return mount->past && inode->past.opens == 1 && inode->type == S_IFREG &&
		(flags & O_ACCMODE) != O_RDONLY && !(flags & O_DIRECT) &&
		!atomic_load(&inode->sxid);
}

static void begin_locked(struct tm_mount *mount, struct tm_inode *inode, int fd)
{
	int id = backing_open(mount, fd);

	if (!id)
		return;
	tm_meta_change_begin(mount->meta, inode);
	tm_cache_change_begin(mount->cache, inode, 0, TM_WHOLE_FILE);
	tm_cache_invalidate(mount->cache, inode);
	inode->past.id = id;
}

static void end_locked(struct tm_mount *mount, struct tm_inode *inode, int fd)
{
	struct stat st;
	uint32_t id = (uint32_t)inode->past.id;
	bool known = fd >= 0 && fstat(fd, &st) == 0;

	(void)ioctl(mount->device, BACKING_CLOSE, &id);
	inode->past.id = 0;
	tm_cache_change_end(mount->cache, inode, known ? st.st_size : 0, !known);
	tm_meta_change_end(mount->meta, inode);
}

int tm_past_open(struct tm_mount *mount, struct tm_inode *inode, int fd, int flags)
{
	int id;

	pthread_mutex_lock(&mount->past_lock);
	inode->past.opens++;
	if (!inode->past.id && wanted(mount, inode, flags))
		begin_locked(mount, inode, fd);
	id = inode->past.id;
	pthread_mutex_unlock(&mount->past_lock);
	return id;
}

void tm_past_close(struct tm_mount *mount, struct tm_inode *inode, int fd)
{
	pthread_mutex_lock(&mount->past_lock);
	if (--inode->past.opens == 0 && inode->past.id)
		end_locked(mount, inode, fd);
	pthread_mutex_unlock(&mount->past_lock);
}

bool tm_past_us(struct tm_mount *mount, struct tm_inode *inode)
{
	bool past;

	if (!mount->past)
		return false;
	pthread_mutex_lock(&mount->past_lock);
	past = inode->past.id;
	pthread_mutex_unlock(&mount->past_lock);
	return past;
}
