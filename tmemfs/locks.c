/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tmemfs/locks.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>

#include "tmemfs/fs.h"

#define BUCKETS 256

struct owner {
	struct tm_inode *inode; /* constant, referenced */
	uint64_t id;            /* constant */
	int fd;                 /* constant */

	/* Table lock. */
	struct owner *next;
	const struct tm_file *file; /* that it last locked through */
	pid_t pid;                  /* that last locked */
	unsigned int refs;          /* the table's, and calls under way */
};

struct tm_locks {
	unsigned int max; /* constant */

	pthread_mutex_t lock;

	/* lock */
	unsigned int count;
	struct owner *buckets[BUCKETS];
};

struct tm_locks *tm_locks_new(void)
{
	struct tm_locks *locks = calloc(1, sizeof(*locks));
	struct rlimit files = {.rlim_cur = 1024};

	if (!locks)
		return NULL;
	getrlimit(RLIMIT_NOFILE, &files);
	locks->max = (unsigned int)TM_MIN(files.rlim_cur / 4, (rlim_t)INT32_MAX);
	pthread_mutex_init(&locks->lock, NULL);
	return locks;
}

/* --- owners ----------------------------------------------------------------------------------- */

static struct owner **bucket_of(struct tm_locks *locks, const struct tm_inode *inode)
{
	return &locks->buckets[((uintptr_t)inode >> 6) * 0x9e3779b97f4a7c15ull >> 56];
}

static struct owner *find_locked(struct tm_locks *locks, const struct tm_inode *inode, uint64_t id)
{
	struct owner *owner = *bucket_of(locks, inode);

	while (owner && (owner->inode != inode || owner->id != id))
		owner = owner->next;
	return owner;
}

static void owner_free(struct owner *owner)
{
	if (!owner)
		return;
	close(owner->fd);
	tm_inode_unref(owner->inode);
	free(owner);
}

static void owner_put(struct tm_locks *locks, struct owner *owner)
{
	bool last;

	pthread_mutex_lock(&locks->lock);
	last = --owner->refs == 0;
	pthread_mutex_unlock(&locks->lock);
	if (last)
		owner_free(owner);
}

/* The owner, with a reference; NULL if it has locked nothing so far. */
static struct owner *owner_find(struct tm_locks *locks, const struct tm_inode *inode, uint64_t id)
{
	struct owner *owner;

	pthread_mutex_lock(&locks->lock);
	owner = find_locked(locks, inode, id);
	if (owner)
		owner->refs++;
	pthread_mutex_unlock(&locks->lock);
	return owner;
}

/* A descriptor for an owner's locks of both kinds, where the file may be opened so; else for what
 * is asked now. */
static int open_for(struct tm_inode *inode, short type)
{
	int fd = tm_inode_reopen(inode, O_RDWR | O_NOCTTY);

	return fd >= 0 ? fd : tm_inode_reopen(inode, type == F_RDLCK ? O_RDONLY : O_WRONLY);
}

/* Enter a new owner, unless another thread of its own was faster. */
static struct owner *enter(struct tm_locks *locks, struct owner *made)
{
	struct owner *owner, **bucket = bucket_of(locks, made->inode);

	pthread_mutex_lock(&locks->lock);
	owner = find_locked(locks, made->inode, made->id);
	if (!owner && locks->count < locks->max) {
		owner = made;
		made = NULL;
		owner->next = *bucket;
		*bucket = owner;
		owner->refs = 1;
		locks->count++;
	}
	if (owner)
		owner->refs++;
	pthread_mutex_unlock(&locks->lock);
	owner_free(made);
	return owner;
}

/* The owner, made if there is none. 0 and a reference, or -errno. */
static int owner_get(struct tm_locks *locks, struct tm_inode *inode, uint64_t id, short type,
	struct owner **ret_owner)
{
	struct owner *owner = owner_find(locks, inode, id);
	int fd;

	if (!owner) {
		fd = open_for(inode, type);
		if (fd < 0)
			return fd;
		owner = calloc(1, sizeof(*owner));
		if (!owner) {
			close(fd);
			return -ENOLCK;
		}
		*owner = (struct owner){.inode = tm_inode_ref(inode), .id = id, .fd = fd};
		owner = enter(locks, owner);
	}
	*ret_owner = owner;
	return owner ? 0 : -ENOLCK;
}

/* Take those out that `goes` says. */
static bool drop(struct tm_locks *locks, const struct tm_inode *inode,
	bool (*goes)(const struct owner *owner, const void *arg), const void *arg)
{
	struct owner *gone = NULL, *owner, **at = bucket_of(locks, inode);
	bool any = false;

	pthread_mutex_lock(&locks->lock);
	while ((owner = *at)) {
		if (owner->inode != inode || !goes(owner, arg)) {
			at = &owner->next;
			continue;
		}
		*at = owner->next;
		locks->count--;
		any = true;
		if (--owner->refs == 0) {
			owner->next = gone;
			gone = owner;
		}
	}
	pthread_mutex_unlock(&locks->lock);
	while ((owner = gone)) {
		gone = owner->next;
		owner_free(owner);
	}
	return any;
}

static bool has_id(const struct owner *owner, const void *arg)
{
	return owner->id == *(const uint64_t *)arg;
}

static bool has_file(const struct owner *owner, const void *arg)
{
	return owner->file == arg;
}

static bool is_any(const struct owner *owner, const void *arg)
{
	(void)owner, (void)arg;
	return true;
}

void tm_locks_free(struct tm_locks *locks)
{
	if (!locks)
		return;
	for (size_t i = 0; i < BUCKETS; i++)
		while (locks->buckets[i])
			drop(locks, locks->buckets[i]->inode, is_any, NULL);
	pthread_mutex_destroy(&locks->lock);
	free(locks);
}

bool tm_locks_drop_owner(struct tm_locks *locks, struct tm_inode *inode, uint64_t owner)
{
	return atomic_load(&inode->locked) && drop(locks, inode, has_id, &owner);
}

/* --- fcntl ------------------------------------------------------------------------------------ */

static void note(struct tm_locks *locks, struct owner *owner, const struct tm_file *file, pid_t pid)
{
	pthread_mutex_lock(&locks->lock);
	owner->file = file;
	owner->pid = pid;
	pthread_mutex_unlock(&locks->lock);
}

int tm_locks_set(
	struct tm_locks *locks, struct tm_file *file, uint64_t id, const struct flock *lock)
{
	struct flock ofd = *lock;
	struct owner *owner = NULL;
	int rc = 0;

	ofd.l_pid = 0;
	if (lock->l_type != F_UNLCK) {
		atomic_store(&file->inode->locked, true);
		rc = owner_get(locks, file->inode, id, lock->l_type, &owner);
	} else {
		owner = owner_find(locks, file->inode, id);
	}
	if (rc < 0 || !owner)
		return rc;
	if (lock->l_type != F_UNLCK)
		note(locks, owner, file, lock->l_pid);
	if (fcntl(owner->fd, F_OFD_SETLK, &ofd) < 0)
		rc = errno == EBADF ? -ENOLCK
				    : -errno; /* `fd` is not for this kind, see open_for() */
	owner_put(locks, owner);
	return rc == -EACCES ? -EAGAIN : rc;
}

/* Which process has the lock that is in `id`'s way: 0 if that is not certain. */
static pid_t only_other(struct tm_locks *locks, const struct tm_inode *inode, uint64_t id)
{
	unsigned int others = 0;
	pid_t pid = 0;

	pthread_mutex_lock(&locks->lock);
	for (struct owner *o = *bucket_of(locks, inode); o; o = o->next) {
		if (o->inode != inode || o->id == id)
			continue;
		others++;
		pid = o->pid;
	}
	pthread_mutex_unlock(&locks->lock);
	return others == 1 ? pid : 0;
}

int tm_locks_test(struct tm_locks *locks, struct tm_file *file, uint64_t id, struct flock *lock)
{
	struct owner *owner = owner_find(locks, file->inode, id);
	struct flock ofd = *lock;
	int fd = owner ? owner->fd : tm_file_fd(file), rc = fd < 0 ? fd : 0;

	ofd.l_pid = 0;
	if (rc == 0 && fcntl(fd, F_OFD_GETLK, &ofd) < 0)
		rc = -errno;
	if (owner)
		owner_put(locks, owner);
	if (rc < 0)
		return rc;
	if (ofd.l_type != F_UNLCK && ofd.l_pid < 0)
		ofd.l_pid = only_other(locks, file->inode, id);
	*lock = ofd;
	return 0;
}

/* --- flock ------------------------------------------------------------------------------------ */

/* The file's descriptor for flock. A network file system wants it opened as the file is. */
static int flock_fd(struct tm_file *file)
{
	int fd = atomic_load(&file->flock_fd), none = -1;

	if (fd >= 0)
		return fd;
	fd = tm_inode_reopen(file->inode, file->flags & O_ACCMODE);
	if (fd >= 0 && !atomic_compare_exchange_strong(&file->flock_fd, &none, fd)) {
		close(fd);
		fd = none;
	}
	return fd;
}

static void set_flocked(struct tm_file *file, bool now)
{
	bool before = atomic_exchange(&file->flocked, now);

	if (before != now)
		atomic_fetch_add(&file->inode->flocks, now ? 1u : -1u);
}

int tm_locks_flock(struct tm_file *file, int operation)
{
	bool unlocks = operation == LOCK_UN;
	int fd = unlocks ? atomic_load(&file->flock_fd) : flock_fd(file);
	int rc = 0;

	if (fd < 0)
		return unlocks ? 0 : fd;
	if (flock(fd, operation | LOCK_NB) < 0)
		rc = -errno;
	/* A failed change of kind has given up what there was, as flock(2) says. */
	set_flocked(file, rc == 0 && !unlocks);
	return rc;
}

bool tm_locks_flocked(struct tm_inode *inode)
{
	return atomic_load(&inode->flocks) > 0;
}

bool tm_locks_drop_file(struct tm_locks *locks, struct tm_file *file)
{
	int fd = atomic_exchange(&file->flock_fd, -1);
	bool any = fd >= 0;

	if (fd >= 0)
		close(fd);
	set_flocked(file, false);
	if (atomic_load(&file->inode->locked))
		any |= drop(locks, file->inode, has_file, file);
	return any;
}
