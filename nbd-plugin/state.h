/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state.h - where each page of a device is, in memory that outlives the server
 *
 *      | head: what device this is | one byte a page: see chunk.h |        a memfd
 *
 * The host keeps its descriptor beside the store's. A server that is started after another one was
 * killed takes both over, and only if they fit: same size, same fallback file.
 *
 * Crash order: a page's byte changes after its new place holds it and before the old one is given
 * up (device.h, invariant 1), so after a kill the byte is right; what lies in tmem for a page whose
 * byte says otherwise was never answered for, or given up already.
 */
#ifndef TM_STATE_H
#define TM_STATE_H

#include <stdint.h>

#define TM_STATE_REASON_MAX  128
#define TM_FALLBACK_ID_BYTES 16 /* zeros: no fallback */

struct tm_state;

/* Every page nowhere. 0; -errno. */
int tm_state_create(
	uint64_t pages, const uint8_t id[static TM_FALLBACK_ID_BYTES], struct tm_state **ret_state);

/* Take over another server's; `fd` becomes the state's on success. 0; -EINVAL it is not for this
 * device, with one line in ret_reason; -errno. */
int tm_state_adopt(int fd, uint64_t pages, const uint8_t id[static TM_FALLBACK_ID_BYTES],
	struct tm_state **ret_state, char ret_reason[static TM_STATE_REASON_MAX]);

void tm_state_destroy(struct tm_state *s);

_Atomic uint8_t *tm_state_map(struct tm_state *s); /* [pages] */
int tm_state_fd(const struct tm_state *s);         /* stays the state's */

#endif
