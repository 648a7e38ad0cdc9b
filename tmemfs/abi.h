/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * abi.h - what <linux/fuse.h> has of FUSE over io_uring (Linux 6.14), of passthrough (6.9), of
 * O_DIRECT (6.6) and of O_TMPFILE (6.1), for older headers
 *
 * Documentation/filesystems/fuse/fuse-io-uring.rst says how it works.
 */
#ifndef TMEMFS_ABI_H
#define TMEMFS_ABI_H

#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>

/* Flags of the first request and answer, both words of them together. */
#define TM_FUSE_INIT_EXT (1ull << 30)
#define TM_FUSE_DIRECT_IO_ALLOW_MMAP                                                               \
	(1ull << 36) /* mappings of a file that is open with O_DIRECT */
#define TM_FUSE_PASSTHROUGH   (1ull << 37)
#define TM_FUSE_OVER_IO_URING (1ull << 41)

#define TM_FUSE_TMPFILE 51

/* Of an open file. */
#define TM_FOPEN_PARALLEL_DIRECT_WRITES (1u << 6)
#define TM_FOPEN_PASSTHROUGH            (1u << 7)

/* Passthrough: a word of the first answer, and one of that to an open, the file's id. */
#define TM_STACK_DEPTH    1u /* the backing is no stacked file system */
#define TM_STACK_DEPTH_AT (offsetof(struct fuse_init_out, flags2) + sizeof(uint32_t))
#define TM_BACKING_ID_AT  (sizeof(struct fuse_open_out) - sizeof(uint32_t))

/* io_uring: commands, and what follows one in its 128 bytes. */
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
