/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * codec.h - how a page becomes a payload
 *
 *   SAME  the page repeats one 8-byte word; the payload is that word (zero pages are the usual
 * case) LZ4   the payload is an LZ4 block (liblz4: the fastest decoder among the kept libraries)
 *   RAW   the page did not compress by at least 1/16, or the pool's compression is off
 *   ZSTD  the payload is a zstd frame, made and read by pack.h
 *   DUP   the page is the same as another one, which the payload names (dedup.c)
 *
 * Stateless and thread safe.
 */
#ifndef TM_CODEC_H
#define TM_CODEC_H

#include <stdbool.h>
#include <stdint.h>

enum tm_codec {
	TM_CODEC_RAW = 1,
	TM_CODEC_SAME = 2,
	TM_CODEC_LZ4 = 3,
	TM_CODEC_ZSTD = 4,
	TM_CODEC_DUP = 5,
};

/* A buffer for tm_codec_encode must have room for a whole page. */
struct tm_encoded {
	enum tm_codec codec;
	uint32_t bytes;
	const void *payload; /* in `buf`, or the page itself when RAW */
};

/* Encode `page` (a multiple of 8 bytes, at most 64 KiB). `buf` has room for `page_bytes`. Cannot
 * fail: what does not compress is RAW. */
struct tm_encoded tm_codec_encode(const void *page, uint32_t page_bytes, bool compress, void *buf);

/* Rebuild a page of exactly `page_bytes`, of any codec but ZSTD and DUP. 0; -EIO when codec or
 * payload cannot give that. Never reads outside the payload nor writes outside the page, whatever
 * the bytes. */
int tm_codec_decode(enum tm_codec codec, const void *payload, uint32_t bytes, void *ret_page,
	uint32_t page_bytes);

#endif
