/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/pack.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/heap.h"
#include "core/locks.h"
#include "core/tmem.h"

/* Two thirds of LZ4's bytes on heaps. 1 gives 1.4% more bytes for 13% less time, 5 gives 3.3% fewer
 * for twice the time; see docs/store.md. */
#define LEVEL 3

/* --- reading ---------------------------------------------------------------------------------- */

struct workspace {
	struct tm_lock lock;
	ZSTD_DCtx *zstd; /* under lock */
};

struct tm_unpacker {
	struct tm_budget *budget;
	unsigned int readers, made;
	struct workspace workspaces[]; /* [readers], the first `made` of them are */
};

static size_t unpacker_bytes(unsigned int readers)
{
	return sizeof(struct tm_unpacker) + readers * sizeof(struct workspace);
}

static int workspace_init(struct tm_budget *b, struct workspace *w)
{
	ZSTD_DCtx *zstd = ZSTD_createDCtx();

	if (!zstd || tm_budget_charge(b, ZSTD_sizeof_DCtx(zstd), false) < 0) {
		ZSTD_freeDCtx(zstd);
		return -ENOMEM;
	}
	tm_heap_populate(zstd, ZSTD_sizeof_DCtx(zstd));
	tm_lock_init(&w->lock, TM_LOCK_WORKSPACE);
	w->zstd = zstd;
	return 0;
}

static void workspace_fini(struct tm_budget *b, struct workspace *w)
{
	tm_budget_credit(b, ZSTD_sizeof_DCtx(w->zstd));
	tm_lock_destroy(&w->lock);
	ZSTD_freeDCtx(w->zstd);
}

int tm_unpacker_create(struct tm_budget *b, unsigned int readers, struct tm_unpacker **ret_unpacker)
{
	struct tm_unpacker *u = tm_node_alloc(b, NULL, unpacker_bytes(readers));

	if (!u)
		return -ENOMEM;
	u->budget = b;
	u->readers = readers;
	while (u->made < readers) {
		if (workspace_init(b, &u->workspaces[u->made]) < 0) {
			tm_unpacker_destroy(u);
			return -ENOMEM;
		}
		u->made++;
	}
	*ret_unpacker = u;
	return 0;
}

void tm_unpacker_destroy(struct tm_unpacker *u)
{
	if (!u)
		return;
	while (u->made > 0)
		workspace_fini(u->budget, &u->workspaces[--u->made]);
	tm_node_free(u->budget, NULL, u, unpacker_bytes(u->readers));
}

int tm_unpack(struct tm_unpacker *u, const void *payload, uint32_t bytes, void *ret_page,
	uint32_t page_bytes)
{
	int cpu = sched_getcpu();
	struct workspace *w = &u->workspaces[cpu < 0 ? 0 : (unsigned int)cpu % u->readers];
	size_t n;

	tm_lock(&w->lock);
	n = ZSTD_decompressDCtx(w->zstd, ret_page, page_bytes, payload, bytes);
	tm_unlock(&w->lock);
	return n == page_bytes ? 0 : -EIO; /* an error is a very large number */
}

/* --- writing ---------------------------------------------------------------------------------- */

struct tm_packer {
	struct tm_budget *budget;
	ZSTD_CCtx *zstd;
	uint64_t charged;
	uint8_t buffer[];
};

static ZSTD_CCtx *compressor(void)
{
	ZSTD_CCtx *zstd = ZSTD_createCCtx();

	if (!zstd)
		return NULL;
	/* The entry knows the page's size, and has a checksum. */
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, LEVEL);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, 0);
	return zstd;
}

int tm_packer_create(struct tm_budget *b, uint32_t buffer_bytes, struct tm_packer **ret_packer)
{
	struct tm_packer *k = malloc(sizeof(*k) + buffer_bytes);
	uint8_t *largest = calloc(1, TM_PAGE_SIZE << TM_ORDER_MAX);
	ZSTD_CCtx *zstd = k && largest ? compressor() : NULL;

	/* Once the largest page was compressed it has all the memory it will ever want. */
	if (!zstd ||
		ZSTD_isError(ZSTD_compress2(
			zstd, k->buffer, buffer_bytes, largest, TM_PAGE_SIZE << TM_ORDER_MAX)))
		goto fail;
	k->budget = b;
	k->zstd = zstd;
	k->charged = tm_node_bytes(sizeof(*k) + buffer_bytes) + ZSTD_sizeof_CCtx(zstd);
	if (tm_budget_charge(b, k->charged, false) < 0)
		goto fail;
	free(largest);
	*ret_packer = k;
	return 0;

fail:
	ZSTD_freeCCtx(zstd);
	free(largest);
	free(k);
	return -ENOMEM;
}

void tm_packer_destroy(struct tm_packer *k)
{
	if (!k)
		return;
	tm_budget_credit(k->budget, k->charged);
	ZSTD_freeCCtx(k->zstd);
	free(k);
}

uint8_t *tm_packer_buffer(struct tm_packer *k)
{
	return k->buffer;
}

uint32_t tm_pack(struct tm_packer *k, const void *page, uint32_t page_bytes, void *ret_payload,
	uint32_t room)
{
	size_t n = ZSTD_compress2(k->zstd, ret_payload, room, page, page_bytes);

	return ZSTD_isError(n) ? 0 : (uint32_t)n;
}
