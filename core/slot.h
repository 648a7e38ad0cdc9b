/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slot.h - the 8 bytes the index keeps of a page: where it is, and how often it was hit
 *
 *      63        62..32       31..2          1..0
 *      present   segment id   offset / 4     hits, saturating
 *
 * A location is unique while a reference pins its segment, so comparing locations tells whether a
 * handle still has the version that was looked at.
 */
#ifndef TM_SLOT_H
#define TM_SLOT_H

#include <stdint.h>

#define TM_SLOT_NONE     0ull
#define TM_SLOT_PRESENT  (1ull << 63)
#define TM_SLOT_HITS_MAX 3u /* S3-FIFO needs no more */

static inline uint64_t tm_slot(uint32_t segment, uint32_t offset)
{
	return TM_SLOT_PRESENT | (uint64_t)segment << 32 | offset;
}

static inline uint32_t tm_slot_segment(uint64_t slot)
{
	return (uint32_t)(slot >> 32) & 0x7fffffffu;
}

static inline uint32_t tm_slot_offset(uint64_t slot)
{
	return (uint32_t)slot & ~3u;
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
	return slot & ~3ull;
}

#endif
