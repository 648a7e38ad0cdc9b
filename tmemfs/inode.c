/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inode.c - the table of inodes
 *
 *   buckets[hash(dev, ino)] -> inode -> inode ...        hashed as long as it is referenced
 *   inode.parent -> inode ... -> root                    referenced: a path leads to each inode
 *   places, kept inodes: inode_names.c
 *
 * Invariants
 *   1. (dev, ino) is found at most once. A number that comes back with another handle is another
 *      file: the old inode is `replaced`, and only waits for the kernel to forget it.
 *   2. The last reference falls and the inode leaves the hash in one critical section, and a
 *      look-up finds and counts in one: the kernel never holds an inode that was freed, and a
 *      file has no second struct while somebody (a queued put, say) still has the first.
 *   3. Following `parent` always ends: a link that would close a ring is cut.
 *
 * Locking: the table's mutex, a leaf. Nothing blocks and nothing is closed under it.
 */
#include "tmemfs/inode_table.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define BUCKETS_FIRST 1024
#define FD_MAX        4096

static size_t bucket_of(const struct tm_inodes *table, dev_t dev, ino_t ino)
{
	uint64_t h = ((uint64_t)ino ^ (uint64_t)dev << 40) * 0x9e3779b97f4a7c15ull;

	return h >> 32 & (table->bucket_count - 1);
}

/* --- the hash ----------------------------------------------------------------------------- */

static struct tm_inode *find_locked(struct tm_inodes *table, const struct tm_identity *id)
{
	struct tm_inode *inode = table->buckets[bucket_of(table, id->st.st_dev, id->st.st_ino)];

	while (inode &&
		(inode->replaced || inode->ino != id->st.st_ino || inode->dev != id->st.st_dev))
		inode = inode->next_hash;
	return inode;
}

static void unhash_locked(struct tm_inode *inode)
{
	struct tm_inodes *table = inode->table;
	struct tm_inode **p = &table->buckets[bucket_of(table, inode->dev, inode->ino)];

	while (*p != inode)
		p = &(*p)->next_hash;
	*p = inode->next_hash;
	table->count--;
	tm_place_unhash_locked(inode);
}

/* More buckets when they fill up; without memory the chains just get longer. */
static void grow_locked(struct tm_inodes *table)
{
	size_t old_count = table->bucket_count;
	struct tm_inode **old = table->buckets;
	struct tm_inode **buckets = calloc(old_count * 2, sizeof(*buckets));
	struct tm_inode **places = calloc(old_count * 2, sizeof(*places));

	if (!buckets || !places) {
		free(buckets);
		free(places);
		return;
	}
	free(table->places);
	table->buckets = buckets;
	table->places = places;
	table->bucket_count = old_count * 2;
	for (size_t i = 0; i < old_count; i++) {
		for (struct tm_inode *inode = old[i], *next; inode; inode = next) {
			struct tm_inode **head = &buckets[bucket_of(table, inode->dev, inode->ino)];

			next = inode->next_hash;
			inode->next_hash = *head;
			*head = inode;
			if (inode->parent)
				tm_place_hash_locked(inode);
		}
	}
	free(old);
}

static void hash_locked(struct tm_inode *inode)
{
	struct tm_inodes *table = inode->table;
	struct tm_inode **head;

	if (table->count >= table->bucket_count)
		grow_locked(table);
	head = &table->buckets[bucket_of(table, inode->dev, inode->ino)];
	inode->next_hash = *head;
	*head = inode;
	table->count++;
}

/* --- references --------------------------------------------------------------------------- */

struct tm_inode *tm_inode_ref(struct tm_inode *inode)
{
	pthread_mutex_lock(&inode->table->lock);
	inode->refs++;
	pthread_mutex_unlock(&inode->table->lock);
	return inode;
}

struct tm_inode *tm_inode_unref_locked(struct tm_inode *inode)
{
	if (!inode || --inode->refs > 0)
		return NULL;
	unhash_locked(inode);
	return inode;
}

/* Frees the chain of parents that this was the last child of, too. */
void tm_inode_free(struct tm_inode *inode)
{
	while (inode) {
		struct tm_inodes *table = inode->table;
		struct tm_inode *parent;
		int fd;

		table->on_free(table->opaque, inode);
		pthread_mutex_lock(&table->lock);
		fd = tm_inode_take_fd_locked(inode);
		parent = tm_inode_unref_locked(inode->parent);
		pthread_mutex_unlock(&table->lock);
		if (fd >= 0)
			close(fd);
		if (atomic_load(&inode->held_fd) >= 0)
			close(atomic_load(&inode->held_fd));
		free(inode->name);
		free(inode->handle);
		free(inode);
		inode = parent;
	}
}

void tm_inode_unref(struct tm_inode *inode)
{
	struct tm_inode *dead;

	if (!inode)
		return;
	pthread_mutex_lock(&inode->table->lock);
	dead = tm_inode_unref_locked(inode);
	pthread_mutex_unlock(&inode->table->lock);
	tm_inode_free(dead);
}

void tm_inode_forget(struct tm_inode *inode, uint64_t nlookup)
{
	struct tm_inodes *table = inode->table;
	struct tm_inode *dead = NULL;
	int fd = -1;

	pthread_mutex_lock(&table->lock);
	if (inode != table->root && inode->nlookup > 0) {
		inode->nlookup -= TM_MIN(nlookup, inode->nlookup);
		if (inode->nlookup == 0 && !tm_inode_keep_locked(inode, &fd, &dead))
			dead = tm_inode_unref_locked(inode);
	}
	pthread_mutex_unlock(&table->lock);
	if (fd >= 0)
		close(fd);
	tm_inode_free(dead);
}

void tm_inode_set_unlinked(struct tm_inode *inode)
{
	pthread_mutex_lock(&inode->table->lock);
	inode->unlinked = true;
	if (inode->kept) {
		tm_inode_unkeep_locked(inode);
		inode->refs--; /* the caller has another */
	}
	pthread_mutex_unlock(&inode->table->lock);
}

bool tm_inode_unlinked(struct tm_inode *inode)
{
	bool unlinked;

	pthread_mutex_lock(&inode->table->lock);
	unlinked = inode->unlinked;
	pthread_mutex_unlock(&inode->table->lock);
	return unlinked;
}

/* --- look-up ------------------------------------------------------------------------------ */

static struct tm_inode *inode_new(struct tm_inodes *table, struct tm_identity *id)
{
	struct tm_inode *inode = calloc(1, sizeof(*inode));

	if (!inode)
		return NULL;
	inode->table = table;
	inode->dev = id->st.st_dev;
	inode->ino = id->st.st_ino;
	inode->type = id->st.st_mode & S_IFMT;
	inode->handle = id->handle;
	inode->by_handle = id->by_handle;
	inode->nfs = id->traits.nfs;
	inode->fd = -1;
	atomic_init(&inode->held_fd, -1);
	id->handle = NULL;
	return inode;
}

/* No handle tells the two apart, but this inode's last name has gone and here is one again. */
static bool number_reused_locked(const struct tm_inode *inode, const struct tm_identity *id)
{
	return !inode->handle && inode->unlinked && id->st.st_nlink > 0;
}

/* Since when a name may be known: the moment before the backing is asked. */
struct seen {
	uint64_t tick;
	uint64_t now_ns;
};

/* As tm_inode_adopt(); `seen`: the name was seen to lead there, NULL: that is doubtful. */
static int adopt(struct tm_inode *parent, const char *name, int fd, const struct seen *seen,
	struct stat *ret_st, bool *ret_certain, struct tm_inode **ret_inode)
{
	struct tm_inodes *table = parent->table;
	TM_AUTO_IDENTITY struct tm_identity id = {.handle = NULL};
	TM_AUTO_CLOSE int own_fd = fd;
	TM_AUTO_CLOSE int old_fd = -1;
	struct tm_inode *inode, *made = NULL, *dead;
	bool certain;
	int rc = tm_identify(table, fd, &id);

	if (rc < 0)
		return rc;

	pthread_mutex_lock(&table->lock);
	inode = find_locked(table, &id);
	if (inode && (!tm_identity_is(&id, inode) || number_reused_locked(inode, &id))) {
		inode->replaced = true;
		inode = NULL;
	}
	if (!inode) {
		inode = made = inode_new(table, &id);
		if (!made) {
			pthread_mutex_unlock(&table->lock);
			return -ENOMEM;
		}
		inode->generation = ++table->next_generation;
		hash_locked(inode);
	}
	tm_inode_count_locked(inode);
	if (id.st.st_nlink > 0)
		inode->unlinked = false;
	certain = seen && parent->name_changes == 0 && parent->names_changed_at <= seen->tick;
	dead = tm_place_set_locked(inode, parent, name, certain ? seen->now_ns : 0);
	/* Without a handle an idle descriptor may be of an earlier file of this number: renew it.
	 */
	if (!made && !inode->handle && inode->fd_pins == 0 && !inode->keep_fd)
		old_fd = tm_inode_take_fd_locked(inode);
	if (tm_inode_offer_fd_locked(inode, own_fd))
		own_fd = -1;
	pthread_mutex_unlock(&table->lock);

	tm_inode_free(dead);
	tm_inodes_trim(table, table->fd_max);
	*ret_st = id.st;
	*ret_certain = certain;
	*ret_inode = inode;
	return 0;
}

int tm_inode_adopt(struct tm_inode *parent, const char *name, int fd, struct stat *ret_st,
	struct tm_inode **ret_inode)
{
	bool certain;

	return adopt(parent, name, fd, NULL, ret_st, &certain, ret_inode);
}

int tm_inode_adopt_nameless(
	struct tm_inodes *table, int fd, struct stat *ret_st, struct tm_inode **ret_inode)
{
	TM_AUTO_IDENTITY struct tm_identity id = {.handle = NULL};
	TM_AUTO_CLOSE int own_fd = fd;
	struct tm_inode *inode, *old;
	int rc = tm_identify(table, fd, &id);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&table->lock);
	rc = table->kept_count < table->fd_max ? 0 : -EMFILE;
	inode = rc == 0 ? inode_new(table, &id) : NULL;
	if (inode) {
		/* It is new: who had its number is no more. */
		old = find_locked(table, &id);
		if (old)
			old->replaced = true;
		inode->generation = ++table->next_generation;
		inode->unlinked = true;
		inode->keep_fd = true;
		inode->fd = own_fd;
		own_fd = -1;
		table->kept_count++;
		hash_locked(inode);
		tm_inode_count_locked(inode);
		*ret_st = id.st;
		*ret_inode = inode;
	}
	pthread_mutex_unlock(&table->lock);
	return rc < 0 || inode ? rc : -ENOMEM;
}

/* Open `name` as a place only; once more after closing idle descriptors. Returns it or -errno. */
static int open_name(struct tm_inode *parent, const char *name)
{
	TM_AUTO_FD struct tm_fd dir = TM_FD_NONE;
	int rc = tm_fd_get(parent, &dir), fd;

	if (rc < 0)
		return rc;
	do {
		fd = openat(dir.fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		rc = -errno;
	} while ((rc == -EMFILE || rc == -ENFILE) && tm_inodes_shrink(parent->table));
	return rc;
}

int tm_inode_lookup(struct tm_inode *parent, const char *name, struct stat *ret_st,
	bool *ret_certain, struct tm_inode **ret_inode)
{
	struct seen seen = {.now_ns = tm_now_ns()};
	int fd;

	pthread_mutex_lock(&parent->table->lock);
	seen.tick = parent->table->name_tick;
	pthread_mutex_unlock(&parent->table->lock);
	fd = open_name(parent, name);
	return fd < 0 ? fd : adopt(parent, name, fd, &seen, ret_st, ret_certain, ret_inode);
}

/*
 * The file's last name is about to go. On NFS a place of ours would make that two names that come
 * and go: only who has the file open needs it then.
 */
static bool place_needed(const struct tm_inode *inode)
{
	return !inode->nfs || inode->type != S_IFREG || atomic_load(&inode->opens) > 0;
}

struct tm_inode *tm_inode_find(struct tm_inode *parent, const char *name, bool keep, bool *ret_last)
{
	struct tm_inodes *table = parent->table;
	TM_AUTO_IDENTITY struct tm_identity id = {.handle = NULL};
	TM_AUTO_CLOSE int fd = open_name(parent, name);
	TM_AUTO_CLOSE int idle_fd = -1;
	struct tm_inode *inode;

	if (fd < 0 || tm_identify(table, fd, &id) < 0)
		return NULL;
	*ret_last = id.st.st_nlink <= 1 || S_ISDIR(id.st.st_mode);
	pthread_mutex_lock(&table->lock);
	inode = find_locked(table, &id);
	if (inode && tm_identity_is(&id, inode)) {
		inode->refs++;
		if (keep && !place_needed(inode)) {
			if (inode->fd_pins == 0 && !inode->keep_fd)
				idle_fd = tm_inode_take_fd_locked(inode);
		} else if (keep && !inode->keep_fd && table->kept_count < table->fd_max) {
			int old = tm_inode_take_fd_locked(inode);

			inode->keep_fd = true;
			table->kept_count++;
			inode->fd = old >= 0 ? old : fd;
			if (old < 0)
				fd = -1;
		}
	} else {
		inode = NULL;
	}
	pthread_mutex_unlock(&table->lock);
	return inode;
}

struct tm_inode *tm_inode_by_number(struct tm_inodes *table, dev_t dev, ino_t ino)
{
	const struct tm_identity id = {.st = {.st_dev = dev, .st_ino = ino}};
	struct tm_inode *inode;

	pthread_mutex_lock(&table->lock);
	inode = find_locked(table, &id);
	if (inode)
		inode->refs++;
	pthread_mutex_unlock(&table->lock);
	return inode;
}

void tm_inodes_all(struct tm_inodes *table, struct tm_inode ***ret_all, size_t *ret_count)
{
	struct tm_inode **all;
	size_t count = 0;

	pthread_mutex_lock(&table->lock);
	all = calloc(table->count, sizeof(struct tm_inode *));
	for (size_t i = 0; all && i < table->bucket_count; i++) {
		for (struct tm_inode *inode = table->buckets[i]; inode; inode = inode->next_hash) {
			inode->refs++;
			all[count++] = inode;
		}
	}
	pthread_mutex_unlock(&table->lock);
	*ret_all = all;
	*ret_count = count;
}

/* --- the table ---------------------------------------------------------------------------- */

struct tm_inode *tm_inodes_root(struct tm_inodes *table)
{
	return table->root;
}

void tm_inodes_set_own_mount(struct tm_inodes *table, int mount_id)
{
	table->own_mount_id = mount_id;
}

int tm_inodes_open(int root_fd, void (*on_free)(void *opaque, struct tm_inode *inode), void *opaque,
	struct tm_inodes **ret_table)
{
	struct tm_inodes *table = calloc(1, sizeof(*table));
	TM_AUTO_IDENTITY struct tm_identity id = {.handle = NULL};
	struct rlimit files;
	int rc = -ENOMEM;

	if (!table)
		goto fail_fd;
	pthread_mutex_init(&table->lock, NULL);
	table->root_fd = root_fd;
	table->root_mount_id = table->own_mount_id = -1;
	table->on_free = on_free;
	table->opaque = opaque;
	table->fd_max = FD_MAX;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / 4 < FD_MAX)
		table->fd_max = files.rlim_cur / 4;
	table->bucket_count = BUCKETS_FIRST;
	table->buckets = calloc(table->bucket_count, sizeof(*table->buckets));
	table->places = calloc(table->bucket_count, sizeof(*table->places));
	if (!table->buckets || !table->places)
		goto fail_buckets;
	rc = tm_identify(table, root_fd, &id);
	if (rc < 0)
		goto fail_buckets;
	table->root_mount_id = id.mount_id;
	table->root = inode_new(table, &id);
	rc = -ENOMEM;
	if (!table->root)
		goto fail_buckets;
	table->root->fd = root_fd;
	table->root->keep_fd = true;
	table->root->nlookup = table->root->refs = 1;
	table->kept_count = 1;
	hash_locked(table->root);
	*ret_table = table;
	return 0;

fail_buckets:
	free(table->buckets);
	free(table->places);
	pthread_mutex_destroy(&table->lock);
	free(table);
fail_fd:
	close(root_fd);
	return rc;
}

void tm_inodes_close(struct tm_inodes *table)
{
	tm_inodes_keep(table, 0);
	/* What the kernel did not forget before it let go of the mount. A child goes before its
	 * parent, so more than one round may be needed. */
	for (size_t last = 0; table->count > 1 && table->count != last;) {
		last = table->count;
		for (size_t i = 0; i < table->bucket_count; i++) {
			struct tm_inode *inode = table->buckets[i];

			while (inode && inode->nlookup == 0)
				inode = inode->next_hash;
			if (inode && inode != table->root)
				tm_inode_forget(inode, UINT64_MAX);
		}
	}
	tm_inode_free(tm_inode_unref_locked(table->root));
	free(table->buckets);
	free(table->places);
	pthread_mutex_destroy(&table->lock);
	free(table);
}
