/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inode_names.c - where inodes are, and those that only we remember
 *
 *   places[hash(parent, name)] -> inode -> inode ...     each inode with a parent, at its last
 * place kept_newest <-> ... <-> kept_oldest                  inodes that the kernel has forgotten
 *
 * The kernel forgets an inode when it is short of memory; what is known of it (name, attributes,
 * facts, which pages are its own) is still good for a while. So a bounded number of them stays.
 *
 * Invariants
 *   1. An inode is in the hash of places exactly while it has a parent and a reference.
 *   2. A place is certain (place_ns > 0) only if no change of our own to a name in that directory
 *      was under way or began since the backing was asked; and for one inode a name at most.
 *   3. A kept inode has no look-ups, and its descriptor is closed unless somebody is using it:
 *      nothing of the backing is held on its account. But where files have no lasting handle (FUSE:
 *      sshfs, rclone) the descriptor is all that keeps the backing from giving the file another
 *      number, by which it is not known again: there it stays until others need it.
 *   4. Following `parent` always ends: a link that would close a ring is cut.
 *
 * Locking: the table's mutex.
 */
#include "tmemfs/inode_table.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define DEPTH_MAX 4096 /* longest chain that is searched for a ring */

/* --- places ------------------------------------------------------------------------------- */

struct tm_inode **tm_place_bucket(
	struct tm_inodes *table, const struct tm_inode *parent, const char *name)
{
	uint64_t h = XXH3_64bits_withSeed(name, strlen(name), (uintptr_t)parent);

	return &table->places[h & (table->bucket_count - 1)];
}

void tm_place_hash_locked(struct tm_inode *inode)
{
	struct tm_inode **head = tm_place_bucket(inode->table, inode->parent, inode->name);

	inode->next_name = *head;
	*head = inode;
}

void tm_place_unhash_locked(struct tm_inode *inode)
{
	struct tm_inode **p;

	if (!inode->parent)
		return;
	p = tm_place_bucket(inode->table, inode->parent, inode->name);
	while (*p != inode)
		p = &(*p)->next_name;
	*p = inode->next_name;
}

/* The first inode from `inode` on that was last seen as `name` in `parent`. */
static struct tm_inode *at_place(
	struct tm_inode *inode, const struct tm_inode *parent, const char *name)
{
	while (inode && (inode->parent != parent || strcmp(inode->name, name) != 0))
		inode = inode->next_name;
	return inode;
}

/* Nobody is certain to be there any more. */
static void doubt_locked(struct tm_inode *parent, const char *name)
{
	struct tm_inode *inode = *tm_place_bucket(parent->table, parent, name);

	while ((inode = at_place(inode, parent, name))) {
		inode->place_ns = 0;
		inode = inode->next_name;
	}
}

struct tm_inode *tm_place_set_locked(
	struct tm_inode *inode, struct tm_inode *parent, const char *name, uint64_t place_ns)
{
	struct tm_inode *old = inode->parent, *up;
	unsigned int depth = 0;

	if (inode == inode->table->root)
		return NULL;
	if (place_ns > 0)
		doubt_locked(parent, name);
	if (old && old == parent && strcmp(inode->name, name) == 0) {
		inode->place_ns = place_ns;
		return NULL;
	}
	/* A stale link further up could lead back here; then this inode gets no path at all. */
	for (up = parent; up && up != inode && depth < DEPTH_MAX; depth++)
		up = up->parent;
	tm_place_unhash_locked(inode);
	free(inode->name);
	inode->name = up ? NULL : strdup(name);
	inode->parent = inode->name ? parent : NULL;
	inode->place_ns = inode->name ? place_ns : 0;
	if (inode->parent) {
		parent->refs++;
		tm_place_hash_locked(inode);
	}
	return tm_inode_unref_locked(old);
}

void tm_inode_moved(struct tm_inode *inode, struct tm_inode *parent, const char *name)
{
	struct tm_inode *dead;

	pthread_mutex_lock(&inode->table->lock);
	dead = tm_place_set_locked(inode, parent, name, 0);
	pthread_mutex_unlock(&inode->table->lock);
	tm_inode_free(dead);
}

void tm_inode_doubt(struct tm_inode *inode)
{
	pthread_mutex_lock(&inode->table->lock);
	inode->place_ns = 0;
	pthread_mutex_unlock(&inode->table->lock);
}

bool tm_inode_place(struct tm_inode *inode, struct tm_inode **ret_parent, char **ret_name)
{
	struct tm_inode *parent;
	char *name;

	pthread_mutex_lock(&inode->table->lock);
	parent = inode->parent;
	name = parent ? strdup(inode->name) : NULL;
	if (name)
		parent->refs++;
	pthread_mutex_unlock(&inode->table->lock);
	*ret_parent = parent;
	*ret_name = name;
	return name;
}

bool tm_inode_recall(struct tm_inode *parent, const char *name, uint64_t ttl_ns,
	struct tm_inode **ret_inode, uint64_t *ret_left_ns)
{
	struct tm_inodes *table = parent->table;
	uint64_t now = tm_now_ns();
	struct tm_inode *inode;
	bool known = false;

	pthread_mutex_lock(&table->lock);
	inode = *tm_place_bucket(table, parent, name);
	while ((inode = at_place(inode, parent, name)) && inode->place_ns == 0)
		inode = inode->next_name;
	if (inode && !inode->replaced && inode->place_ns > parent->names_doubted_ns &&
		now - inode->place_ns < ttl_ns) {
		known = true;
		*ret_left_ns = ttl_ns - (now - inode->place_ns);
		*ret_inode = inode;
		tm_inode_count_locked(inode);
	}
	pthread_mutex_unlock(&table->lock);
	return known;
}

void tm_names_change_begin(struct tm_inode *dir, const char *name)
{
	pthread_mutex_lock(&dir->table->lock);
	dir->name_changes++;
	dir->names_changed_at = ++dir->table->name_tick;
	doubt_locked(dir, name);
	pthread_mutex_unlock(&dir->table->lock);
}

void tm_names_change_end(struct tm_inode *dir, const char *name)
{
	pthread_mutex_lock(&dir->table->lock);
	dir->name_changes--;
	dir->names_changed_at = ++dir->table->name_tick;
	doubt_locked(dir, name);
	pthread_mutex_unlock(&dir->table->lock);
}

void tm_names_doubt_all(struct tm_inode *dir)
{
	pthread_mutex_lock(&dir->table->lock);
	dir->names_changed_at = ++dir->table->name_tick;
	dir->names_doubted_ns = tm_now_ns();
	pthread_mutex_unlock(&dir->table->lock);
}

struct tm_inode *tm_names_doubt(struct tm_inode *dir, const char *name)
{
	struct tm_inode *inode, *certain;

	pthread_mutex_lock(&dir->table->lock);
	dir->names_changed_at = ++dir->table->name_tick;
	certain = inode = at_place(*tm_place_bucket(dir->table, dir, name), dir, name);
	while (inode) {
		if (inode->place_ns > 0)
			certain = inode;
		inode = at_place(inode->next_name, dir, name);
	}
	doubt_locked(dir, name);
	if (certain)
		certain->refs++;
	pthread_mutex_unlock(&dir->table->lock);
	return certain;
}

/* --- kept inodes -------------------------------------------------------------------------- */

void tm_inode_unkeep_locked(struct tm_inode *inode)
{
	struct tm_inodes *table = inode->table;

	*(inode->kept_newer ? &inode->kept_newer->kept_older : &table->kept_newest) =
		inode->kept_older;
	*(inode->kept_older ? &inode->kept_older->kept_newer : &table->kept_oldest) =
		inode->kept_newer;
	inode->kept_newer = inode->kept_older = NULL;
	inode->kept = false;
	table->kept_inodes--;
}

/* Drop the oldest if there are more than `max`. Returns it if that was the last reference. */
static struct tm_inode *drop_oldest_locked(struct tm_inodes *table, size_t max)
{
	struct tm_inode *oldest = table->kept_oldest;

	if (table->kept_inodes <= max)
		return NULL;
	tm_inode_unkeep_locked(oldest);
	return tm_inode_unref_locked(oldest);
}

void tm_inode_count_locked(struct tm_inode *inode)
{
	if (inode->nlookup++ > 0)
		return;
	if (inode->kept)
		tm_inode_unkeep_locked(inode); /* that reference is the kernel's now */
	else
		inode->refs++;
}

bool tm_inode_keep_locked(struct tm_inode *inode, int *ret_fd, struct tm_inode **ret_dead)
{
	struct tm_inodes *table = inode->table;

	if (table->kept_inodes_max == 0 || !inode->parent || inode->replaced || inode->unlinked ||
		inode->keep_fd)
		return false;
	inode->kept = true;
	inode->kept_older = table->kept_newest;
	*(table->kept_newest ? &table->kept_newest->kept_newer : &table->kept_oldest) = inode;
	table->kept_newest = inode;
	table->kept_inodes++;
	if (inode->fd_pins == 0 && inode->handle)
		*ret_fd = tm_inode_take_fd_locked(inode);
	*ret_dead = drop_oldest_locked(table, table->kept_inodes_max);
	return true;
}

void tm_inodes_keep(struct tm_inodes *table, size_t max)
{
	bool more = true;

	while (more) {
		struct tm_inode *dead;

		pthread_mutex_lock(&table->lock);
		table->kept_inodes_max = max;
		dead = drop_oldest_locked(table, max);
		more = table->kept_inodes > max;
		pthread_mutex_unlock(&table->lock);
		tm_inode_free(dead);
	}
}
