/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring_abi.h - what Linux 6.14's <linux/fuse.h> has of FUSE over io_uring, and 6.1's of O_TMPFILE,
 * for older headers
 *
 * Documentation/filesystems/fuse/fuse-io-uring.rst says how it works.
 */
#ifndef TMEMFS_RING_ABI_H
#define TMEMFS_RING_ABI_H

#include <linux/fuse.h>
#include <stdint.h>

#define TM_FUSE_TMPFILE       51
#define TM_FUSE_INIT_EXT      (1u << 30)
#define TM_FUSE_OVER_IO_URING (1ull << 41) /* of both words of flags together */

/* Commands, and what follows one in its 128 bytes. */
#define TM_RING_REGISTER 1 /* here is an entry's memory: bring a request */
#define TM_RING_COMMIT   2 /* here is the answer: bring another request */

struct tm_ring_command {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid;
	uint8_t padding[6];
};

/* The part of an entry that is not payload. */
struct tm_ring_header {
	union {
		struct fuse_in_header in;
		struct fuse_out_header out;
		char in_out[128];
	};
	char op_in[128]; /* the operation's own header */
	struct {
		uint64_t flags;
		uint64_t commit_id;
		uint32_t payload_bytes;
		uint32_t padding;
		uint64_t reserved;
	} entry;
};

_Static_assert(sizeof(struct tm_ring_command) == 24, "as the kernel has it");
_Static_assert(sizeof(struct tm_ring_header) == 288, "as the kernel has it");

#endif
