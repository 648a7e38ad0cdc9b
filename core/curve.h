/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * curve.h - the points of a miss-ratio curve: how many hits a client would have with how much
 * memory
 *
 * A curve is a counter for each point: hits that need more memory than the point before, and no
 * more than this one. So the hits with `bytes` of memory are the sum up to there, and whatever the
 * counters are, a curve never falls.
 *
 *      point  0 .. 15         multiples of 64 KiB
 *      point 16 ..            16 in each power of two: within 1/16 of what was measured
 */
#ifndef TM_CURVE_H
#define TM_CURVE_H

#include <stdint.h>

#define TM_CURVE_UNIT_SHIFT 16u
#define TM_CURVE_FINE_SHIFT 4u
#define TM_CURVE_FINE       (1u << TM_CURVE_FINE_SHIFT)
#define TM_CURVE_POINTS     400u /* the last one is 16 TiB, and whatever is more */

/* The bytes of memory that a point stands for, rounded up from what is counted there. */
static inline uint64_t tm_curve_bytes(uint32_t point)
{
	uint32_t octave = point >> TM_CURVE_FINE_SHIFT, fine = point & (TM_CURVE_FINE - 1);
	uint64_t units = octave == 0 ? fine : (uint64_t)(TM_CURVE_FINE + fine) << (octave - 1);
	uint64_t width = octave == 0 ? 1 : 1ull << (octave - 1);

	return (units + width) << TM_CURVE_UNIT_SHIFT;
}

/* The first point with at least so many bytes. */
static inline uint32_t tm_curve_point(uint64_t bytes)
{
	uint64_t units = bytes == 0 ? 0 : (bytes - 1) >> TM_CURVE_UNIT_SHIFT;
	uint32_t octave, point;

	if (units < TM_CURVE_FINE)
		return (uint32_t)units;
	octave = 63 - (uint32_t)__builtin_clzll(units) - TM_CURVE_FINE_SHIFT;
	point = ((octave + 1) << TM_CURVE_FINE_SHIFT) +
		(uint32_t)(units >> octave & (TM_CURVE_FINE - 1));
	return point < TM_CURVE_POINTS ? point : TM_CURVE_POINTS - 1;
}

#endif
