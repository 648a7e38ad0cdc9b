/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * known.c - attributes and facts, and when they may be used
 *
 *   inode.known.facts -> fact -> fact ...           the facts of one inode
 *   meta.newest <-> fact <-> ... <-> meta.oldest    all facts, by last use; the oldest go first
 *
 * A tick counts what happened: each end of a change and each newly settled ctime.
 *
 * Invariants
 *   1. Attributes are kept only if no change of our own was under way or began after they were
 *      asked for.
 *   2. A fact is kept only if it was asked for after a settled ctime had been seen, and is dropped
 *      with that ctime: whatever changes it later leaves another ctime behind. (version.h, trust)
 *
 * Locking: one mutex, held for a few instructions or one copy. A leaf.
 */
#include "tmemfs/known.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tmemfs/inode.h"

#define FACTS_MAX 32 /* of one inode */

struct tm_fact {
	struct tm_fact *next; /* of the inode */
	struct tm_fact *newer, *older;
	struct tm_inode *inode;
	int rc;
	size_t bytes; /* of all this */
	char *value;  /* rc bytes, in text[] */
	char text[];  /* key, NUL, value */
};

struct tm_meta {
	/* Constant. */
	uint64_t ttl_ns;
	uint64_t bytes_max;

	pthread_mutex_t lock;

	/* lock */
	uint64_t tick;
	uint64_t stale_until_ns;
	uint64_t bytes;
	struct tm_fact *newest, *oldest;
};

struct tm_meta *tm_meta_new(uint64_t ttl_ns, uint64_t bytes_max)
{
	struct tm_meta *meta = calloc(1, sizeof(*meta));

	if (!meta)
		return NULL;
	meta->ttl_ns = ttl_ns;
	meta->bytes_max = bytes_max;
	pthread_mutex_init(&meta->lock, NULL);
	return meta;
}

void tm_meta_free(struct tm_meta *meta)
{
	if (!meta)
		return;
	pthread_mutex_destroy(&meta->lock);
	free(meta);
}

/* --- facts -------------------------------------------------------------------------------- */

static void list_remove_locked(struct tm_meta *meta, struct tm_fact *fact)
{
	*(fact->newer ? &fact->newer->older : &meta->newest) = fact->older;
	*(fact->older ? &fact->older->newer : &meta->oldest) = fact->newer;
}

static void list_add_locked(struct tm_meta *meta, struct tm_fact *fact)
{
	fact->newer = NULL;
	fact->older = meta->newest;
	*(meta->newest ? &meta->newest->newer : &meta->oldest) = fact;
	meta->newest = fact;
}

static void fact_free_locked(struct tm_meta *meta, struct tm_fact *fact)
{
	struct tm_fact **p = &fact->inode->known.facts;

	while (*p != fact)
		p = &(*p)->next;
	*p = fact->next;
	list_remove_locked(meta, fact);
	meta->bytes -= fact->bytes;
	free(fact);
}

static void facts_drop_locked(struct tm_meta *meta, struct tm_inode *inode)
{
	while (inode->known.facts)
		fact_free_locked(meta, inode->known.facts);
}

static struct tm_fact *find_locked(struct tm_inode *inode, const char *key)
{
	struct tm_fact *fact = inode->known.facts;

	while (fact && strcmp(fact->text, key) != 0)
		fact = fact->next;
	return fact;
}

/* One inode has only so many, as they are searched one by one: the oldest go. */
static void drop_surplus_locked(struct tm_meta *meta, struct tm_inode *inode)
{
	struct tm_fact *fact = inode->known.facts;
	unsigned int n = 1;

	while (fact && n++ < FACTS_MAX - 1)
		fact = fact->next;
	while (fact && fact->next)
		fact_free_locked(meta, fact->next);
}

static struct tm_fact *fact_new(struct tm_inode *inode, const char *key, int rc, const void *value)
{
	size_t key_len = strlen(key) + 1, len = rc > 0 ? (size_t)rc : 0;
	struct tm_fact *fact = malloc(sizeof(*fact) + key_len + len);

	if (!fact)
		return NULL;
	fact->inode = inode;
	fact->rc = rc;
	fact->bytes = sizeof(*fact) + key_len + len;
	fact->value = fact->text + key_len;
	memcpy(fact->text, key, key_len);
	if (len)
		memcpy(fact->value, value, len);
	return fact;
}

/* --- attributes --------------------------------------------------------------------------- */

struct tm_asked tm_meta_ask(struct tm_meta *meta)
{
	struct tm_asked asked = {.mono_ns = tm_now_ns(), .wall_ns = tm_wall_ns()};

	pthread_mutex_lock(&meta->lock);
	asked.tick = meta->tick;
	pthread_mutex_unlock(&meta->lock);
	return asked;
}

static bool same_ctime(const struct stat *a, const struct stat *b)
{
	return a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static bool current_locked(const struct tm_known *known, const struct tm_asked *asked)
{
	return known->changes == 0 && known->changed_at <= asked->tick;
}

static uint64_t ttl_locked(const struct tm_meta *meta, const struct tm_known *known)
{
	return known->settled ? meta->ttl_ns : TM_MIN(meta->ttl_ns, TM_YOUNG_NS);
}

static bool good_locked(const struct tm_meta *meta, const struct tm_known *known, uint64_t now)
{
	return known->valid && known->changes == 0 &&
		(now - known->checked_ns < ttl_locked(meta, known) || now < meta->stale_until_ns);
}

bool tm_meta_learn(struct tm_meta *meta, struct tm_inode *inode, const struct tm_asked *asked,
	const struct stat *st)
{
	struct tm_validator v = tm_validator_of(st);
	struct tm_known *known = &inode->known;
	bool settled = asked->wall_ns >= tm_validator_trust_ns(&v), current;

	pthread_mutex_lock(&meta->lock);
	current = current_locked(known, asked);
	if (current && (!known->valid || asked->mono_ns >= known->checked_ns)) {
		if (!known->valid || !known->settled || !same_ctime(&known->st, st)) {
			facts_drop_locked(meta, inode);
			known->settled = settled;
			known->learned_at = ++meta->tick;
		}
		known->st = *st;
		known->checked_ns = asked->mono_ns;
		known->valid = true;
	}
	pthread_mutex_unlock(&meta->lock);
	return current;
}

bool tm_meta_stat(
	struct tm_meta *meta, struct tm_inode *inode, struct stat *ret_st, uint64_t *ret_left_ns)
{
	struct tm_known *known = &inode->known;
	uint64_t now = tm_now_ns();
	bool good;

	pthread_mutex_lock(&meta->lock);
	good = good_locked(meta, known, now);
	if (good) {
		*ret_st = known->st;
		*ret_left_ns = now - known->checked_ns < ttl_locked(meta, known)
			? ttl_locked(meta, known) - (now - known->checked_ns)
			: meta->stale_until_ns - now;
	}
	pthread_mutex_unlock(&meta->lock);
	return good;
}

bool tm_meta_young(struct tm_meta *meta, struct tm_inode *inode)
{
	bool young;

	pthread_mutex_lock(&meta->lock);
	young = inode->known.valid && !inode->known.settled;
	pthread_mutex_unlock(&meta->lock);
	return young;
}

void tm_meta_unreachable(struct tm_meta *meta)
{
	pthread_mutex_lock(&meta->lock);
	meta->stale_until_ns = tm_now_ns() + TM_STALE_NS;
	pthread_mutex_unlock(&meta->lock);
}

bool tm_meta_stale(struct tm_meta *meta)
{
	bool stale;

	pthread_mutex_lock(&meta->lock);
	stale = meta->stale_until_ns > 0 && tm_now_ns() < meta->stale_until_ns;
	pthread_mutex_unlock(&meta->lock);
	return stale;
}

static void forget_locked(struct tm_meta *meta, struct tm_inode *inode)
{
	inode->known.valid = false;
	inode->known.changed_at = ++meta->tick;
	facts_drop_locked(meta, inode);
}

void tm_meta_change_begin(struct tm_meta *meta, struct tm_inode *inode)
{
	pthread_mutex_lock(&meta->lock);
	inode->known.changes++;
	forget_locked(meta, inode);
	pthread_mutex_unlock(&meta->lock);
}

void tm_meta_change_end(struct tm_meta *meta, struct tm_inode *inode)
{
	pthread_mutex_lock(&meta->lock);
	inode->known.changes--;
	forget_locked(meta, inode);
	pthread_mutex_unlock(&meta->lock);
}

static void xattrs_changed_locked(struct tm_meta *meta, struct tm_inode *inode)
{
	inode->known.plain_ns = 0;
	inode->known.xattrs_at = ++meta->tick;
}

void tm_meta_forget(struct tm_meta *meta, struct tm_inode *inode)
{
	pthread_mutex_lock(&meta->lock);
	forget_locked(meta, inode);
	xattrs_changed_locked(meta, inode);
	pthread_mutex_unlock(&meta->lock);
}

bool tm_meta_plain(struct tm_meta *meta, struct tm_inode *inode)
{
	uint64_t ttl = TM_MIN(meta->ttl_ns, (uint64_t)TM_PLAIN_NS);
	bool plain;

	pthread_mutex_lock(&meta->lock);
	plain = inode->known.plain_ns > 0 && tm_now_ns() - inode->known.plain_ns < ttl;
	pthread_mutex_unlock(&meta->lock);
	return plain;
}

void tm_meta_learn_plain(struct tm_meta *meta, struct tm_inode *inode, const struct tm_asked *asked)
{
	pthread_mutex_lock(&meta->lock);
	if (inode->known.xattrs_at <= asked->tick)
		inode->known.plain_ns = asked->mono_ns;
	pthread_mutex_unlock(&meta->lock);
}

void tm_meta_xattrs_changed(struct tm_meta *meta, struct tm_inode *inode)
{
	pthread_mutex_lock(&meta->lock);
	xattrs_changed_locked(meta, inode);
	pthread_mutex_unlock(&meta->lock);
}

void tm_meta_drop(struct tm_meta *meta, struct tm_inode *inode)
{
	pthread_mutex_lock(&meta->lock);
	facts_drop_locked(meta, inode);
	pthread_mutex_unlock(&meta->lock);
}

bool tm_meta_has(struct tm_meta *meta, struct tm_inode *inode, const char *key)
{
	bool has;

	pthread_mutex_lock(&meta->lock);
	has = find_locked(inode, key);
	pthread_mutex_unlock(&meta->lock);
	return has;
}

bool tm_meta_recall(struct tm_meta *meta, struct tm_inode *inode, const char *key, int *ret_rc,
	void **ret_value)
{
	struct tm_fact *fact = NULL;
	void *copy = NULL;
	int rc = 0;

	pthread_mutex_lock(&meta->lock);
	if (good_locked(meta, &inode->known, tm_now_ns()))
		fact = find_locked(inode, key);
	if (fact) {
		list_remove_locked(meta, fact);
		list_add_locked(meta, fact);
		rc = fact->rc;
		copy = rc > 0 ? malloc((size_t)rc) : NULL;
		if (copy)
			memcpy(copy, fact->value, (size_t)rc);
	}
	pthread_mutex_unlock(&meta->lock);
	if (!fact || (rc > 0 && !copy))
		return false;
	*ret_rc = rc;
	*ret_value = copy;
	return true;
}

void tm_meta_remember(struct tm_meta *meta, struct tm_inode *inode, const struct tm_asked *asked,
	const char *key, int rc, const void *value)
{
	struct tm_known *known = &inode->known;
	struct tm_fact *fact, *old;

	if (rc > (int)TM_FACT_MAX)
		return;
	fact = fact_new(inode, key, rc, value);
	if (!fact)
		return;
	pthread_mutex_lock(&meta->lock);
	if (known->valid && known->settled && current_locked(known, asked) &&
		known->learned_at <= asked->tick && fact->bytes <= meta->bytes_max) {
		old = find_locked(inode, key);
		if (old)
			fact_free_locked(meta, old);
		while (meta->bytes + fact->bytes > meta->bytes_max)
			fact_free_locked(meta, meta->oldest);
		drop_surplus_locked(meta, inode);
		fact->next = known->facts;
		known->facts = fact;
		list_add_locked(meta, fact);
		meta->bytes += fact->bytes;
		fact = NULL;
	}
	pthread_mutex_unlock(&meta->lock);
	free(fact);
}
