/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/changes.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/entry.h"
#include "core/locks.h"
#include "core/util.h"

/* --- changes ---------------------------------------------------------------------------------- */

/* Open addressing, filled to a half at most. Two tables: one is noted in, one is being looked at.
 */
struct tm_changes {
	uint64_t places;                 /* of each table; a power of two */
	struct tm_changed_run *table[2]; /* table[0] is noted in */

	struct tm_lock lock; /* of what follows and of table[0] */
	uint64_t runs, pages;
	bool overflow;
};

#define PLACES_MIN (1ull << 10)
#define PLACES_MAX (1ull << 20) /* 48 MiB a table */

int tm_changes_create(uint64_t runs, struct tm_changes **ret_changes)
{
	struct tm_changes *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->places = PLACES_MIN;
	while (c->places < PLACES_MAX && c->places < runs * 2)
		c->places *= 2;
	tm_lock_init(&c->lock, TM_LOCK_CHANGES);
	for (int i = 0; i < 2; i++) {
		c->table[i] = malloc(c->places * sizeof(*c->table[i]));
		if (!c->table[i]) {
			tm_changes_destroy(c);
			return -ENOMEM;
		}
		memset(c->table[i], 0, c->places * sizeof(*c->table[i]));
	}
	*ret_changes = c;
	return 0;
}

void tm_changes_destroy(struct tm_changes *c)
{
	if (!c)
		return;
	free(c->table[0]);
	free(c->table[1]);
	tm_lock_destroy(&c->lock);
	free(c);
}

static bool is_run(const struct tm_changed_run *a, const struct tm_changed_run *b)
{
	return a->hash == b->hash && a->run == b->run && a->pool == b->pool &&
		tm_oid_equal(&a->oid, &b->oid);
}

void tm_changes_note(struct tm_changes *c, const struct tm_changed_run *run, unsigned int page)
{
	uint64_t mask = c->places - 1, bit = 1ull << page;
	struct tm_changed_run *place;

	tm_lock(&c->lock);
	place = &c->table[0][run->hash & mask];
	while (place->pages && !is_run(place, run))
		place = &c->table[0][(uint64_t)(place - c->table[0] + 1) & mask];
	if (place->pages) {
		c->pages += !(place->pages & bit);
		place->pages |= bit;
	} else if (c->runs < c->places / 2) {
		*place = *run;
		place->pages = bit;
		c->runs++;
		c->pages++;
	} else {
		c->overflow = true;
	}
	tm_unlock(&c->lock);
}

uint64_t tm_changes_count(struct tm_changes *c, bool *ret_overflow)
{
	uint64_t pages;

	tm_lock(&c->lock);
	pages = c->pages;
	*ret_overflow = c->overflow;
	tm_unlock(&c->lock);
	return pages;
}

const struct tm_changed_run *tm_changes_take(struct tm_changes *c, uint64_t *ret_places)
{
	struct tm_changed_run *taken;

	/* The other table is nobody's: it was taken before, and is done with. */
	memset(c->table[1], 0, c->places * sizeof(*taken));
	tm_lock(&c->lock);
	taken = c->table[0];
	c->table[0] = c->table[1];
	c->table[1] = taken;
	c->runs = c->pages = 0;
	tm_unlock(&c->lock);
	*ret_places = c->places;
	return taken;
}

/* --- marks ------------------------------------------------------------------------------------ */

struct tm_marks {
	struct tm_budget *budget;
	uint64_t words; /* a power of two */
	_Atomic uint64_t bits[];
};

#define WORDS_MIN (1ull << 7)
#define WORDS_MAX (1ull << 20)

static size_t marks_bytes(uint64_t words)
{
	return sizeof(struct tm_marks) + words * sizeof(uint64_t);
}

int tm_marks_create(struct tm_budget *b, uint64_t limit, struct tm_marks **ret_marks)
{
	uint64_t words = WORDS_MIN;
	struct tm_marks *m;

	while (words < WORDS_MAX && words < limit >> 16)
		words *= 2;
	m = tm_node_alloc(b, NULL, marks_bytes(words));
	if (!m)
		return -ENOMEM;
	m->budget = b;
	m->words = words;
	*ret_marks = m;
	return 0;
}

void tm_marks_destroy(struct tm_marks *m)
{
	if (m)
		tm_node_free(m->budget, NULL, m, marks_bytes(m->words));
}

void tm_marks_set(struct tm_marks *m, uint64_t hash)
{
	_Atomic uint64_t *word = &m->bits[hash >> 6 & (m->words - 1)];
	uint64_t bit = 1ull << (hash & 63);

	if (!(atomic_load_explicit(word, memory_order_relaxed) & bit))
		atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
}

bool tm_marks_has(struct tm_marks *m, uint64_t hash)
{
	return atomic_load_explicit(&m->bits[hash >> 6 & (m->words - 1)], memory_order_relaxed) >>
		(hash & 63) &
		1;
}
