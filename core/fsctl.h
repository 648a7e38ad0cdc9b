/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fsctl.h - what a program may ask a tmemfs mount: ioctl(2) on a file or directory opened through
 * it
 *
 *   TM_FSCTL_ABOUT    anything       is this tmemfs, and how much can be pinned
 *   TM_FSCTL_WARM     file, read     read a range into tmem, or only look what is there of it
 *   TM_FSCTL_PIN      file, owner    keep the file warm from now on
 *   TM_FSCTL_UNPIN    file, owner    do so no more; on the mount's root: of every file
 *   TM_FSCTL_PINNED   anything, owner  which files are pinned
 *
 * What is asked is said of the open file, never of a path: who asks has opened it, with the rights
 * that this takes. `owner` is root, or the user that runs the mount; others get EPERM. Other file
 * systems answer ENOTTY. Structures have no padding and the same layout for all programs of a
 * machine.
 */
#ifndef TM_FSCTL_H
#define TM_FSCTL_H

#include <linux/ioctl.h>
#include <stdint.h>

#define TM_FSCTL_MAGIC   0x7366656d746d6574ull
#define TM_FSCTL_VERSION 1u

struct tm_fsctl_about {
	uint64_t magic;
	uint32_t version;
	uint32_t page_bytes;   /* what is cached, is cached in pages of this size */
	uint64_t pins_bytes;   /* most that can be pinned */
	uint64_t pinned_bytes; /* that is pinned */
	uint64_t pinned_files;
};

#define TM_FSCTL_WARM_MAX (1u << 20) /* longest range of one call */

#define TM_FSCTL_CHECK 1u /* flag: read nothing */

enum tm_fsctl_verdict {
	TM_FSCTL_KEEPS,   /* what is read of the file is kept, while there is room */
	TM_FSCTL_YOUNG,   /* it changed just now: ask again in wait_ms */
	TM_FSCTL_NEVER,   /* it is excluded, or too long */
	TM_FSCTL_CHANGED, /* it changed while it was read: some of it is not kept */
};

/* All but the first three are answers. */
struct tm_fsctl_warm {
	uint64_t off, len; /* in bytes; of whole pages, or up to the file's end, it is all kept */
	uint32_t flags;
	uint32_t verdict; /* enum tm_fsctl_verdict */
	uint32_t wait_ms;
	uint32_t full;  /* the cache is: what is put takes the place of something else */
	uint64_t size;  /* of the file */
	uint64_t found; /* bytes of the range that were there; of a file's last page, what it has */
	uint64_t stored;  /* that were read and put */
	uint64_t refused; /* that were read, and for which the host gives no room */
};

struct tm_fsctl_pin {
	uint64_t bytes; /* of the limit that the file takes */
};

#define TM_FSCTL_PINNED_BYTES 15360

struct tm_fsctl_pinned {
	uint64_t after; /* 0, or what the last answer said, to go on from there */
	uint32_t count; /* entries in `data`; 0: there are no more */
	uint32_t used;  /* bytes of `data` */
	char data[TM_FSCTL_PINNED_BYTES];
};

#define TM_FSCTL_NO_LOOK UINT64_MAX

/* One of them; the next follows at a multiple of 8. */
struct tm_fsctl_pinned_entry {
	uint64_t bytes;   /* of the limit */
	uint64_t kept;    /* that were there at the last look; TM_FSCTL_NO_LOOK: none yet */
	uint32_t length;  /* of the path, with its NUL */
	uint32_t skipped; /* 0 */
	char path[]; /* where it was last seen, from the mount's root; "" when that is unknown */
};

#define TM_FSCTL_ABOUT  _IOR(0xf5, 0xe0, struct tm_fsctl_about)
#define TM_FSCTL_WARM   _IOWR(0xf5, 0xe1, struct tm_fsctl_warm)
#define TM_FSCTL_PIN    _IOR(0xf5, 0xe2, struct tm_fsctl_pin)
#define TM_FSCTL_UNPIN  _IO(0xf5, 0xe3)
#define TM_FSCTL_PINNED _IOWR(0xf5, 0xe4, struct tm_fsctl_pinned)

#endif
