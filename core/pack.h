/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pack.h - the second codec: zstd, for pages that nobody has asked for in a while
 *
 * Both sides need working memory, so they are objects, where codec.h has functions. The packer
 * belongs to the one thread that recompresses. Everybody may unpack: there is a workspace for each
 * processor, made before the first page is packed, so that reading one allocates nothing.
 *
 * Locking: one lock per workspace (TM_LOCK_WORKSPACE), the last of all.
 */
#ifndef TM_PACK_H
#define TM_PACK_H

#include <stdint.h>

#include "core/budget.h"

struct tm_unpacker;
struct tm_packer;

/* Workspaces for `readers` threads at a time (about 96 KiB each), present in memory. 0; -ENOMEM.
 * `b` outlives it. */
int tm_unpacker_create(
	struct tm_budget *b, unsigned int readers, struct tm_unpacker **ret_unpacker);
void tm_unpacker_destroy(struct tm_unpacker *u); /* may be NULL */

/* Rebuild a page of exactly `page_bytes`. 0; -EIO when the payload cannot give that. Never reads
 * outside the payload nor writes outside the page, whatever the bytes. Any thread. */
int tm_unpack(struct tm_unpacker *u, const void *payload, uint32_t bytes, void *ret_page,
	uint32_t page_bytes);

/* Working memory, and a buffer of `buffer_bytes` beside it. 0; -ENOMEM. `b` outlives it. */
int tm_packer_create(struct tm_budget *b, uint32_t buffer_bytes, struct tm_packer **ret_packer);
void tm_packer_destroy(struct tm_packer *k); /* may be NULL */
uint8_t *tm_packer_buffer(struct tm_packer *k);

/* Compress a page (at most 64 KiB) to at most `room` bytes. How many it took; 0 when they do not
 * do. */
uint32_t tm_pack(struct tm_packer *k, const void *page, uint32_t page_bytes, void *ret_payload,
	uint32_t room);

#endif
