/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slot.h - the 8 bytes the index keeps of a page
 *
 *      63        62..39       38..20       19..5       4..2    1..0
 *      present   segment id   offset / 4   bytes / 4   codec   hits, saturating
 *
 * Where it is, what its entry takes there, so that the accounts need not look at the entry (which
 * is a cache miss, and may be damaged), and how often it was hit.
 *
 * A location is unique while a reference pins its segment, so comparing locations tells whether a
 * handle still has the version that was looked at.
 */
#ifndef TM_SLOT_H
#define TM_SLOT_H

#include <stdint.h>

#include "core/codec.h"

#define TM_SLOT_NONE     0ull
#define TM_SLOT_PRESENT  (1ull << 63)
#define TM_SLOT_HITS_MAX 3u /* S3-FIFO needs no more */

#define TM_SLOT_SEGMENTS_MAX (1u << 24) /* 32 TiB of segments of 2 MiB */

#define TM_SLOT_SEGMENT_SHIFT 39
#define TM_SLOT_OFFSET_SHIFT  20
#define TM_SLOT_TOTAL_SHIFT   5
#define TM_SLOT_CODEC_SHIFT   2
#define TM_SLOT_OFFSET_MASK   0x7ffffu
#define TM_SLOT_TOTAL_MASK    0x7fffu

/* `offset` and `total` are multiples of 4, below 2 MiB and 128 KiB; a total or codec that cannot
 * be, of a damaged entry, becomes another one. */
static inline uint64_t tm_slot(
	uint32_t segment, uint32_t offset, uint32_t total, enum tm_codec codec)
{
	return TM_SLOT_PRESENT | (uint64_t)segment << TM_SLOT_SEGMENT_SHIFT |
		(uint64_t)(offset / 4) << TM_SLOT_OFFSET_SHIFT |
		(uint64_t)(total / 4 & TM_SLOT_TOTAL_MASK) << TM_SLOT_TOTAL_SHIFT |
		(uint64_t)(codec & 7) << TM_SLOT_CODEC_SHIFT;
}

static inline uint32_t tm_slot_segment(uint64_t slot)
{
	return (uint32_t)(slot >> TM_SLOT_SEGMENT_SHIFT) & (TM_SLOT_SEGMENTS_MAX - 1);
}

static inline uint32_t tm_slot_offset(uint64_t slot)
{
	return ((uint32_t)(slot >> TM_SLOT_OFFSET_SHIFT) & TM_SLOT_OFFSET_MASK) * 4;
}

/* Bytes of the entry, header and padding included. */
static inline uint32_t tm_slot_total(uint64_t slot)
{
	return ((uint32_t)(slot >> TM_SLOT_TOTAL_SHIFT) & TM_SLOT_TOTAL_MASK) * 4;
}

static inline enum tm_codec tm_slot_codec(uint64_t slot)
{
	return (enum tm_codec)(slot >> TM_SLOT_CODEC_SHIFT & 7);
}

static inline uint32_t tm_slot_hits(uint64_t slot)
{
	return (uint32_t)slot & 3u;
}

static inline uint64_t tm_slot_hit(uint64_t slot)
{
	return tm_slot_hits(slot) < TM_SLOT_HITS_MAX ? slot + 1 : slot;
}

static inline uint64_t tm_slot_location(uint64_t slot)
{
	return slot & ~((1ull << TM_SLOT_OFFSET_SHIFT) - 1);
}

static inline uint64_t tm_location(uint32_t segment, uint32_t offset)
{
	return tm_slot_location(tm_slot(segment, offset, 0, 0));
}

#endif
