/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * known.h - what can be said of an inode without asking the backing
 *
 *   attributes   the last stat, good for the mount's attribute timeout.
 *   fact         some bytes (or an error) that the backing once answered: an extended attribute, a
 *                link's target, a directory's listing. Good while the attributes are, and gone when
 *                a stat shows another ctime, as each of these changes moves it.
 *   asked        the moment before the backing was asked. An answer is kept only if nothing that
 *                it could contradict has happened since.
 *
 * Part of an inode (struct tm_inode); the functions live in struct tm_meta, one a mount. All of
 * them may be called by any thread at any time, for an inode that the caller holds; none blocks.
 */
#ifndef TMEMFS_KNOWN_H
#define TMEMFS_KNOWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct tm_inode;
struct tm_meta;
struct tm_fact;

/* All fields: the mount's struct tm_meta. */
struct tm_known {
	struct stat st;       /* meaningful if `valid` */
	uint64_t checked_ns;  /* tm_now_ns() before the last stat that showed it */
	uint64_t learned_at;  /* tick at which its ctime was first seen to be settled */
	uint64_t changed_at;  /* tick of the last change of our own, or news of another's */
	unsigned int changes; /* changes of our own under way */
	bool valid;
	bool settled; /* the ctime was older than its clock's tick: another change will differ */
	struct tm_fact *facts;
	uint64_t
		plain_ns; /* tm_now_ns() before it was seen to have no capabilities; 0: not known */
	uint64_t xattrs_at; /* tick of the last change of its extended attributes */
};

struct tm_asked {
	uint64_t tick;
	uint64_t mono_ns;
	int64_t wall_ns;
};

/* Attributes whose ctime was not settled when they were seen let no facts be kept. They are good
 * for this long at most: then another look shows them settled. */
#define TM_YOUNG_NS 1000000000ull

/* Attributes are good for `ttl_ns`; facts of all inodes together take at most `bytes_max`. NULL
 * without memory. */
struct tm_meta *tm_meta_new(uint64_t ttl_ns, uint64_t bytes_max);
void tm_meta_free(struct tm_meta *meta); /* after the last inode is gone; NULL is fine */

/* Call before asking the backing anything whose answer is to be kept. */
struct tm_asked tm_meta_ask(struct tm_meta *meta);

/* The backing's stat said this. False if that may be old already, and is not kept. */
bool tm_meta_learn(struct tm_meta *meta, struct tm_inode *inode, const struct tm_asked *asked,
	const struct stat *st);

/* The backing cannot be asked just now: for a second, age does not count. */
#define TM_STALE_NS 1000000000ull
void tm_meta_unreachable(struct tm_meta *meta);
bool tm_meta_stale(struct tm_meta *meta); /* such a second has not passed */

/* The attributes, if they are still good: for *ret_left_ns more. */
bool tm_meta_stat(
	struct tm_meta *meta, struct tm_inode *inode, struct stat *ret_st, uint64_t *ret_left_ns);

/* The attributes are known, and young. */
bool tm_meta_young(struct tm_meta *meta, struct tm_inode *inode);

/* Around a change of our own: what is known until, and asked before, its end is forgotten. */
void tm_meta_change_begin(struct tm_meta *meta, struct tm_inode *inode);
void tm_meta_change_end(struct tm_meta *meta, struct tm_inode *inode);

/* Somebody else changed it: forget what is known. */
void tm_meta_forget(struct tm_meta *meta, struct tm_inode *inode);

/* True if there is a fact `key`, which may be old. */
bool tm_meta_has(struct tm_meta *meta, struct tm_inode *inode, const char *key);

#define TM_FACT_MAX (1u << 20) /* longest value of a fact */

/*
 * The fact `key`, if it is known: true, *ret_rc what the backing answered (a length, or -errno),
 * and *ret_value a copy of that many bytes, the caller's to free (NULL if there are none).
 */
bool tm_meta_recall(struct tm_meta *meta, struct tm_inode *inode, const char *key, int *ret_rc,
	void **ret_value);

/* The backing answered `rc`: the length of `value`, or -errno. */
void tm_meta_remember(struct tm_meta *meta, struct tm_inode *inode, const struct tm_asked *asked,
	const char *key, int rc, const void *value);

/*
 * The kernel asks for a file's capabilities before each write to it. That there are none stays true
 * over our own writes, which give it another ctime and so cost it its facts: it is remembered
 * apart, for as long as attributes are, but at most TM_PLAIN_NS.
 */
#define TM_PLAIN_NS 1000000000ull
bool tm_meta_plain(struct tm_meta *meta, struct tm_inode *inode);
void tm_meta_learn_plain(
	struct tm_meta *meta, struct tm_inode *inode, const struct tm_asked *asked);

/* We have changed an extended attribute: before that is answered. */
void tm_meta_xattrs_changed(struct tm_meta *meta, struct tm_inode *inode);

/* The inode goes. */
void tm_meta_drop(struct tm_meta *meta, struct tm_inode *inode);

#endif
