/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ledger.h - the numbers a client and its host share
 *
 * One small sealed memfd per client. The client creates it, so it outlives any host; the host
 * maps the descriptor it is handed at join. Leasing, freezing and counting cost no message:
 *
 *      host writes                     client writes
 *      granted_bytes, frozen,          limit, used, want, freeable, segments,
 *      compress, recompress,           every pool's name, flags and counters,
 *      weight, cap                     the counters of its miss-ratio curve,
 *                                      charges under way
 *
 * Invariants
 *   1. The size never changes (F_SEAL_SHRINK | F_SEAL_GROW), so neither side can fault the other.
 *   2. Each field has one writer. Every field is read as untrusted by the other side: a wild number
 *      makes a wrong report, never a wrong address.
 *   3. A pool slot is read only while its state is TM_LEDGER_POOL_LIVE.
 *   4. What cap_bytes says, holds: granted_bytes is never above it, and whoever has read it and
 *      charges after that goes by such a grant. So a cap that falls is written after the grant has
 *      fallen and no charge is under way (`charging`) that has seen the old one; a cap that rises
 *      before the grant does.
 *
 * Locking: none. Fields that change are atomic and independent; a reader sees each at some
 * recent moment, not all at one moment.
 */
#ifndef TM_LEDGER_H
#define TM_LEDGER_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/curve.h"
#include "core/tmem.h"

#define TM_LEDGER_MAGIC   0x72646c6dU /* "mldr" */
#define TM_LEDGER_VERSION 5u

enum tm_ledger_pool_state {
	TM_LEDGER_POOL_FREE,
	TM_LEDGER_POOL_LIVE,
};

enum tm_compress {
	TM_COMPRESS_LZ4,
	TM_COMPRESS_NONE, /* `tmemctl set CLIENT compress=none`: new pages are stored raw */
};

struct tm_ledger_pool {
	_Atomic uint32_t state; /* enum tm_ledger_pool_state; written last when a pool appears */
	uint32_t flags;
	uint32_t attrs;
	char name[TM_NAME_MAX + 1];
	_Atomic uint64_t stat[TM_STAT_COUNT];
};

struct tm_ledger {
	uint32_t magic, version;

	/* Host. */
	_Atomic uint64_t granted_bytes; /* UINT64_MAX until a host said otherwise */
	_Atomic uint32_t frozen;        /* 0 or 1 */
	_Atomic uint32_t compress;      /* enum tm_compress */
	_Atomic uint32_t recompress;    /* 0 or 1; at first the client's wish */
	/* What an operator said, for the next host: this one may be killed. */
	_Atomic uint64_t cap_bytes; /* UINT64_MAX: none */
	_Atomic uint32_t weight;    /* 0: nothing was said */

	/* Client. */
	_Atomic uint32_t charging;    /* threads between reading the grant and taking bytes */
	_Atomic uint64_t limit_bytes; /* the client's own limit; the host can only lower it */
	_Atomic uint64_t used_bytes;  /* segments, index and everything else the store has */
	_Atomic uint64_t want_bytes;  /* what it could make use of now, asked ahead of need */
	_Atomic uint64_t ahead_bytes; /* so much of that is a guess: it may be less for who idles */
	_Atomic uint64_t
		freeable_bytes; /* what it could release without losing a persistent page */
	_Atomic uint64_t persistent_bytes; /* the part of used_bytes it cannot give up */
	_Atomic uint64_t segment_bytes;    /* size of a segment */
	_Atomic uint32_t huge_pages;       /* 1: the segments are huge pages */
	_Atomic uint32_t resident;         /* 1: the machine itself may be swapping to it */

	/* Client, from its sampler: how many references it has looked at, and how many hits of its
	 * ephemeral pools need so much memory. They only ever grow; the host looks at how much. */
	_Atomic uint64_t samples;
	_Atomic uint64_t curve[TM_CURVE_POINTS];

	struct tm_ledger_pool pools[TM_POOLS_MAX];
};

/* Create a sealed ledger with nothing granted against it (granted_bytes = UINT64_MAX).
 * 0, *ret_ledger (unmap with tm_ledger_unmap) and *ret_fd (caller closes); -errno. */
int tm_ledger_create(struct tm_ledger **ret_ledger, int *ret_fd);

/* Map a ledger made by another process. -EPERM: not sealed against shrinking; -EINVAL: wrong size
 * or magic; -EPROTO: another version; -errno. The descriptor stays the caller's. */
int tm_ledger_map(int fd, struct tm_ledger **ret_ledger);

void tm_ledger_unmap(struct tm_ledger *ledger);

#endif
