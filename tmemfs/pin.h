/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pin.h - files that are kept warm
 *
 * A pin is care, not a reservation. A thread looks after the pinned files all the time: pages that
 * are there count as used, so that eviction takes others first; pages that are not there (given up
 * for want of memory, or of a version that is no more) are read again. Between its rounds, and as
 * long as the host gives no room, any of them may be missing. What that costs is bounded: in bytes
 * pinned, in processor time, and in how often files are read again that do not stay.
 *
 * A pin belongs to the file, and follows its name when another file takes that (an editor, rsync
 * and package managers replace files so). It ends with the file, with tm_pins_remove(), or with the
 * mount.
 *
 * Any thread may call anything at any time; nothing here waits for the backing.
 */
#ifndef TMEMFS_PIN_H
#define TMEMFS_PIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_inode;
struct tm_mount;
struct tm_pins;

/* Starts a thread: after the last fork. At most `max_bytes` can be pinned. 0; -ENOMEM; the errno of
 * pthread_create. */
int tm_pins_start(struct tm_mount *mount, uint64_t max_bytes, struct tm_pins **ret_pins);

/* Ends all pins. Waits for what the thread is reading. NULL is fine. */
void tm_pins_stop(struct tm_pins *pins);

/* Pin a regular file of `size` bytes. 0 and *ret_bytes, what it takes of the limit, also if it was
 * pinned already; -ENOSPC the limit; -ENOMEM. */
int tm_pins_add(struct tm_pins *pins, struct tm_inode *inode, uint64_t size, uint64_t *ret_bytes);

/* 0 whether or not it was pinned. */
void tm_pins_remove(struct tm_pins *pins, struct tm_inode *inode);
void tm_pins_remove_all(struct tm_pins *pins);

struct tm_pins_total {
	uint64_t max_bytes, bytes, files;
};
struct tm_pins_total tm_pins_total(struct tm_pins *pins);

struct tm_pinned {
	uint64_t number; /* grows from one to the next */
	uint64_t bytes;  /* of the limit */
	uint64_t kept;   /* that were there at the last look, or TM_FSCTL_NO_LOOK */
	char *path; /* from the root, where it was last seen; "" unknown; the caller's to free */
};

/* The first `max` pins after number `after`. 0 and *ret_count, or -ENOMEM, when some paths are
 * NULL.
 */
int tm_pins_list(struct tm_pins *pins, uint64_t after, unsigned int max,
	struct tm_pinned *ret_pinned, unsigned int *ret_count);

#endif
