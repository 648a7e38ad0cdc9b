/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/unsent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/slot.h"

void tm_unsent_init(struct tm_unsent *p, struct tm_arena *a)
{
	*p = (struct tm_unsent){.arena = a};
	tm_lock_init(&p->lock, TM_LOCK_UNSENT);
}

void tm_unsent_destroy(struct tm_unsent *p)
{
	tm_lock_destroy(&p->lock);
}

int tm_unsent_open(struct tm_unsent *p, size_t max)
{
	struct tm_unsent_page *list = malloc(max * sizeof(*list));

	if (!list)
		return -ENOMEM;
	memset(list, 0, max * sizeof(*list)); /* nothing is faulted in during the pause */
	p->list = list;
	return 0;
}

static void unpin_from(struct tm_unsent *p, size_t first)
{
	for (size_t i = first; i < p->count; i++)
		if (p->list[i].slot != TM_SLOT_NONE) {
			tm_segment_unref(p->arena, tm_slot_segment(p->list[i].slot));
			p->list[i].slot = TM_SLOT_NONE;
		}
}

void tm_unsent_close(struct tm_unsent *p)
{
	struct tm_unsent_page *list;

	tm_lock(&p->lock);
	unpin_from(p, p->next);
	list = p->list;
	p->list = NULL;
	p->count = p->next = 0;
	p->offered = p->given_up = false;
	tm_unlock(&p->lock);
	free(list);
}

void tm_unsent_add(struct tm_unsent *p, const struct tm_unsent_page *page)
{
	p->list[p->count++] = *page;
}

void tm_unsent_release(struct tm_unsent *p)
{
	unpin_from(p, 0);
}

void tm_unsent_offer(struct tm_unsent *p)
{
	tm_lock(&p->lock);
	p->offered = true;
	tm_unlock(&p->lock);
}

bool tm_unsent_next(struct tm_unsent *p, struct tm_unsent_page *ret_page)
{
	bool there;

	tm_lock(&p->lock);
	there = !p->given_up;
	if (there)
		*ret_page = p->list[p->next++];
	tm_unlock(&p->lock);
	return there;
}

bool tm_unsent_give_way(struct tm_unsent *p)
{
	bool gave;

	tm_lock(&p->lock);
	gave = p->offered && !p->given_up && p->next < p->count;
	if (gave) {
		unpin_from(p, p->next);
		p->given_up = true;
	}
	tm_unlock(&p->lock);
	return gave;
}
