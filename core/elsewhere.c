/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/elsewhere.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/codec.h"

int tm_elsewhere_open(
	const struct tm_move_params *who, uint32_t copies, struct tm_elsewhere *ret_elsewhere)
{
	struct tm_elsewhere e = {.opaque = who->opaque, .count = copies};
	size_t bytes = (copies + 1) * (size_t)TM_PAGE_SIZE;

	e.ops = who->ops ? who->ops->elsewhere : NULL;
	if (e.ops) {
		e.copies = aligned_alloc(TM_PAGE_SIZE, bytes);
		if (!e.copies)
			return -ENOMEM;
		memset(e.copies, 0, bytes);
	}
	*ret_elsewhere = e;
	return 0;
}

void tm_elsewhere_close(struct tm_elsewhere *e)
{
	free(e->copies);
	e->copies = NULL;
}

bool tm_elsewhere_knows(const struct tm_elsewhere *e, const struct tm_pool *p)
{
	return e->ops && tm_pool_is_persistent(p) && p->page_bytes == TM_PAGE_SIZE;
}

void tm_elsewhere_hold(const struct tm_elsewhere *e)
{
	if (e->ops)
		e->ops->hold(e->opaque);
}

void tm_elsewhere_release(const struct tm_move_params *who)
{
	if (who->ops && who->ops->elsewhere)
		who->ops->elsewhere->release(who->opaque);
}

uint64_t tm_elsewhere_pages(const struct tm_elsewhere *e, const struct tm_pool *p)
{
	return tm_elsewhere_knows(e, p) ? e->ops->count(e->opaque, (int)p->id) : 0;
}

void tm_elsewhere_encode(const struct tm_elsewhere *e, uint32_t n, struct tm_stream_page *ret_page)
{
	struct tm_encoded c = tm_codec_encode(
		tm_elsewhere_copy(e, n), TM_PAGE_SIZE, true, tm_elsewhere_copy(e, e->count));

	ret_page->codec = c.codec;
	ret_page->bytes = c.bytes;
	ret_page->payload = c.payload;
}
