/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cache.c - which pages of which version of a file may be used
 *
 *   inode.version   unknown --stat--> known --stat older than a tick--> cacheable (has an object)
 *                      ^                 |                                   |
 *                      +-- invalidate ---+------- own change: written -------+
 *
 * Consistency is close-to-open. A version is compared with the backing's stat whenever one is made,
 * and always on open. A change by others drops the object, as the new version has another. A change
 * of our own flushes what it touches and leaves the rest usable for those who have the file open;
 * but others could have changed the file at that same moment, so the next open drops it.
 *
 * Invariants
 *   1. A page is put only if the inode's epoch is what it was before the page was read, no
 *      change of our own is under way, and the version is cacheable. All three are checked under
 *      the stripe lock, held until the put is done; whoever changes them holds it for writing.
 *   2. So between begin and end of a change no page of the inode is put, and pages read meanwhile
 *      are not put afterwards: the flush before the change needs no other one after it.
 *   3. A stat teaches something only if its moment's epoch still is the inode's.
 *   4. `oid` belongs to the validator: a version that moved on never finds it again.
 *   5. In a shared pool an object is not used after a change of our own: others may still read the
 *      file as it was and put that, and our epoch does not keep them from it. The next stat that
 * can be trusted begins another object.
 *
 * Locking: one of TM_STRIPES read-write locks guards an inode's version. Order: stripe, then
 * whatever tmem locks inside. The table's lock is never taken under a stripe.
 *
 * The rule for young stamps is git's (Documentation/technical/racy-git).
 */
#include "tmemfs/cache_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Past this many pages it is cheaper to flush the object. */
#define FLUSH_PAGES_MAX 4096

/* Read-ahead: a megabyte on its way at once, at most this far before the reader. */
#define AHEAD_THREADS 8
#define AHEAD_BYTES   (4u << 20)
#define AHEAD_PART    16 /* of the limit, if that is less */

/* How long after a change of our own a stat is not yet worth making. */
#define RESTAT_NS (20 * 1000000ll)

pthread_rwlock_t *tm_cache_stripe(struct tm_cache *cache, const struct tm_inode *inode)
{
	uint64_t h = (uint64_t)(uintptr_t)inode * 0x9e3779b97f4a7c15ull;

	return &cache->stripes[h >> 32 & (TM_STRIPES - 1)];
}

void tm_cache_count(struct tm_cache *cache, enum tm_stat stat, int64_t delta)
{
	cache->tm->ops->count(cache->tm, cache->pool, stat, delta);
}

/* --- versions ----------------------------------------------------------------------------- */

static void drop_object_locked(struct tm_cache *cache, struct tm_inode *inode)
{
	struct tm_version *v = &inode->version;

	if (v->cacheable)
		cache->tm->ops->flush_object(cache->tm, cache->pool, &v->oid);
	v->cacheable = false;
	atomic_store(&inode->filled, false);
	atomic_store(&inode->lost, false);
	atomic_store(&inode->again, false);
}

static void invalidate_locked(struct tm_cache *cache, struct tm_inode *inode)
{
	struct tm_version *v = &inode->version;

	drop_object_locked(cache, inode);
	v->epoch++;
	v->known = v->written = false;
	v->unsure = true;
	v->trust_ns = 0;
}

/* The object of the inode's content as of `validator`. */
static struct tm_oid object_of(const struct tm_cache *cache, const struct tm_inode *inode,
	const struct tm_validator *validator)
{
	size_t len;
	const void *identity = tm_inode_identity(inode, &len);
	bool certain = len > 0 && tm_validator_clocked(validator);
	uint64_t dev = cache->shared ? tm_scope_shared(&cache->scope, inode->dev)
				     : tm_scope_own(&cache->scope, inode->dev, certain);

	return tm_version_oid(dev, inode->ino, identity, len, validator);
}

/* Begin a new version with what stat said. */
static void adopt_locked(struct tm_cache *cache, struct tm_inode *inode,
	const struct tm_validator *validator, int64_t wall_ns)
{
	struct tm_version *v = &inode->version;

	drop_object_locked(cache, inode);
	v->epoch++;
	v->validator = *validator;
	v->size = validator->size;
	v->trust_ns = tm_validator_trust_ns(validator);
	v->known = true;
	v->written = false;
	v->cacheable = wall_ns >= v->trust_ns;
	if (v->cacheable)
		v->oid = object_of(cache, inode, validator);
}

struct tm_moment tm_cache_moment(struct tm_cache *cache, struct tm_inode *inode)
{
	struct tm_moment moment = {.wall_ns = tm_wall_ns()};
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);

	pthread_rwlock_rdlock(lock);
	moment.epoch = inode->version.epoch;
	pthread_rwlock_unlock(lock);
	return moment;
}

/* A stat that shows `seen` finds this very version, and its pages can be used. */
static bool current_locked(const struct tm_version *v, const struct tm_validator *seen)
{
	return v->cacheable && !v->written && tm_validator_equal(&v->validator, seen);
}

/* A stat that shows `seen` finds other times or another size than the kernel knows of. */
static bool changed_locked(const struct tm_version *v, const struct tm_validator *seen)
{
	return v->written ? v->size != seen->size : !tm_validator_equal(&v->validator, seen);
}

/* A stat that shows `seen` at `wall_ns` says nothing new. */
static bool nothing_new_locked(
	const struct tm_version *v, const struct tm_validator *seen, int64_t wall_ns)
{
	if (!v->known)
		return false;
	if (!v->cacheable && wall_ns >= v->trust_ns)
		return false; /* it may be trusted by now */
	/* After a change of our own only the size is known for sure; the next open looks closer. */
	return v->written ? v->size == seen->size : tm_validator_equal(&v->validator, seen);
}

bool tm_cache_observe(struct tm_cache *cache, struct tm_inode *inode, const struct stat *st,
	const struct tm_moment *moment)
{
	struct tm_validator seen = tm_validator_of(st);
	struct tm_version *v = &inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);
	bool learned = true;

	if (inode->type != S_IFREG)
		return true;
	pthread_rwlock_rdlock(lock);
	if (nothing_new_locked(v, &seen, moment->wall_ns)) {
		pthread_rwlock_unlock(lock);
		return true;
	}
	pthread_rwlock_unlock(lock);

	pthread_rwlock_wrlock(lock);
	if (v->epoch != moment->epoch || v->writers > 0) {
		learned = false;
	} else if (!nothing_new_locked(v, &seen, moment->wall_ns)) {
		bool first = !v->known && !v->unsure;

		adopt_locked(cache, inode, &seen, moment->wall_ns);
		/* The kernel has no pages of a file it only just met. */
		v->unsure = !first || !v->cacheable;
	}
	pthread_rwlock_unlock(lock);
	return learned;
}

bool tm_cache_current(struct tm_cache *cache, struct tm_inode *inode, const struct stat *st,
	const struct tm_moment *moment)
{
	struct tm_validator seen = tm_validator_of(st);
	const struct tm_version *v = &inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);
	bool current;

	pthread_rwlock_rdlock(lock);
	current = current_locked(v, &seen) && !v->unsure && v->writers == 0 &&
		v->epoch == moment->epoch;
	pthread_rwlock_unlock(lock);
	return current;
}

enum tm_verdict tm_cache_verify(struct tm_cache *cache, struct tm_inode *inode,
	const struct stat *st, const struct tm_moment *moment, uint64_t *ret_epoch)
{
	struct tm_validator seen = tm_validator_of(st);
	struct tm_version *v = &inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);
	enum tm_verdict verdict = TM_VERDICT_UNSURE;
	bool same;

	*ret_epoch = 0;
	if (inode->type != S_IFREG)
		return TM_VERDICT_SAME;
	pthread_rwlock_rdlock(lock);
	same = current_locked(v, &seen);
	if (same && !v->unsure) {
		pthread_rwlock_unlock(lock);
		return TM_VERDICT_SAME;
	}
	pthread_rwlock_unlock(lock);

	pthread_rwlock_wrlock(lock);
	if (v->epoch != moment->epoch || v->writers > 0) {
		/* Our own changes are under way: others may hide behind them. */
		invalidate_locked(cache, inode);
		verdict = TM_VERDICT_CHANGED;
	} else {
		if (!v->known || v->untold || changed_locked(v, &seen))
			verdict = TM_VERDICT_CHANGED;
		if (!same)
			adopt_locked(cache, inode, &seen, moment->wall_ns);
		v->unsure = true;
		v->untold = false;
	}
	*ret_epoch = v->epoch;
	pthread_rwlock_unlock(lock);
	return verdict;
}

bool tm_cache_renew(struct tm_cache *cache, struct tm_inode *inode, int fd)
{
	struct tm_moment moment = tm_cache_moment(cache, inode);
	struct tm_version *v = &inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);
	struct tm_validator seen;
	struct stat st;
	bool cacheable;

	if (inode->type != S_IFREG || fstat(fd, &st) < 0)
		return false;
	seen = tm_validator_of(&st);
	pthread_rwlock_wrlock(lock);
	if (v->epoch == moment.epoch && v->writers == 0 && !current_locked(v, &seen)) {
		bool told = v->known && !v->untold && !changed_locked(v, &seen);

		adopt_locked(cache, inode, &seen, moment.wall_ns);
		v->unsure = true;
		v->untold = !told;
	}
	cacheable = v->cacheable && v->writers == 0;
	pthread_rwlock_unlock(lock);
	return cacheable;
}

void tm_cache_dropped(struct tm_cache *cache, struct tm_inode *inode, uint64_t epoch)
{
	struct tm_version *v = &inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);

	pthread_rwlock_wrlock(lock);
	if (v->epoch == epoch && v->cacheable)
		v->unsure = false;
	pthread_rwlock_unlock(lock);
}

/* --- changes of our own -------------------------------------------------------------------- */

static void flush_range_locked(
	struct tm_cache *cache, struct tm_version *v, uint64_t off, uint64_t len)
{
	uint64_t end = TM_ALIGN((uint64_t)v->size, (uint64_t)cache->page_size), first, last;

	/* The last page is kept with zeros behind the file's end; what is appended there changes
	 * it. Behind it nothing is kept. */
	if (!v->cacheable || len == 0 || off >= end)
		return;
	end = len > end - off ? end : off + len;
	first = off >> cache->page_shift;
	last = (end - 1) >> cache->page_shift;
	if (last - first >= FLUSH_PAGES_MAX) {
		cache->tm->ops->flush_object(cache->tm, cache->pool, &v->oid);
		return;
	}
	for (uint64_t i = first; i <= last && i <= UINT32_MAX; i++)
		cache->tm->ops->flush_page(cache->tm, cache->pool, &v->oid, (uint32_t)i);
}

void tm_cache_change_begin(
	struct tm_cache *cache, struct tm_inode *inode, uint64_t off, uint64_t len)
{
	struct tm_version *v = &inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);

	pthread_rwlock_wrlock(lock);
	v->epoch++;
	v->writers++;
	v->written = true;
	if (len == TM_WHOLE_FILE && v->cacheable)
		cache->tm->ops->flush_object(cache->tm, cache->pool, &v->oid);
	else
		flush_range_locked(cache, v, off, len);
	if (cache->shared)
		v->cacheable = false; /* invariant 5 */
	pthread_rwlock_unlock(lock);
}

void tm_cache_change_end(struct tm_cache *cache, struct tm_inode *inode, int64_t size, bool extend)
{
	struct tm_version *v = &inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);

	pthread_rwlock_wrlock(lock);
	v->epoch++;
	v->writers--;
	/* Others cut the file: pages behind its end would come back when it grows. */
	if (!extend && size < v->size && v->cacheable)
		cache->tm->ops->flush_object(cache->tm, cache->pool, &v->oid);
	v->size = extend ? TM_MAX(v->size, size) : size;
	if (!v->cacheable)
		v->trust_ns = tm_wall_ns() + RESTAT_NS;
	pthread_rwlock_unlock(lock);
}

void tm_cache_invalidate(struct tm_cache *cache, struct tm_inode *inode)
{
	pthread_rwlock_t *lock = tm_cache_stripe(cache, inode);

	if (inode->type != S_IFREG)
		return;
	pthread_rwlock_wrlock(lock);
	invalidate_locked(cache, inode);
	pthread_rwlock_unlock(lock);
}

/* --- putting ------------------------------------------------------------------------------- */

void tm_cache_put(void *opaque, const struct tm_put *put)
{
	(void)tm_cache_put_now(opaque, put);
}

int tm_cache_put_now(struct tm_cache *cache, const struct tm_put *put)
{
	struct tm_version *v = &put->inode->version;
	pthread_rwlock_t *lock = tm_cache_stripe(cache, put->inode);
	int rc = -EAGAIN;

	pthread_rwlock_rdlock(lock);
	if (v->epoch == put->epoch && v->writers == 0 && v->cacheable) {
		rc = cache->tm->ops->put(cache->tm, cache->pool, &v->oid, put->index, put->page);
		atomic_store(&cache->refusing, rc < 0);
		if (rc == 0)
			atomic_store(&put->inode->filled, true);
	}
	pthread_rwlock_unlock(lock);
	return rc;
}

/* --- open and close ------------------------------------------------------------------------ */

static void on_destroyed(void *opaque)
{
	struct tm_cache *cache = opaque;

	atomic_store(&cache->destroyed, true);
}

static int open_tmem(struct tm_cache *cache, const struct tm_cache_params *params)
{
	struct tm_open_params own = params->open;
	struct tm_shared_params shared = {
		.socket = own.socket,
		.start_host = own.start_host,
		.on_destroyed = on_destroyed,
		.opaque = cache,
	};

	own.on_destroyed = on_destroyed;
	own.opaque = cache;
	return params->shared ? tm_open_shared(&shared, &cache->tm) : tm_open(&own, &cache->tm);
}

static const struct tm_putq_ops queue_ops = {.work = tm_cache_put, .hold = tm_cache_hold};

int tm_cache_open(const struct tm_cache_params *params, struct tm_cache **ret_cache)
{
	struct tm_cache *cache = calloc(1, sizeof(*cache));
	struct tm_pool_params pool = {
		.uuid = params->share,
		.flags = tm_pool_flags(params->shared ? TM_POOL_SHARED : 0, params->order),
		.attrs = TM_POOL_RETAIN | (params->dedup ? TM_POOL_DEDUP : 0),
		.name = params->open.name,
	};
	int rc;

	if (!cache)
		return -ENOMEM;
	cache->page_shift = TM_PAGE_SHIFT + params->order;
	cache->page_size = (size_t)1 << cache->page_shift;
	cache->file_max = params->file_max;
	for (unsigned int i = 0; i < TM_STRIPES; i++)
		pthread_rwlock_init(&cache->stripes[i], NULL);
	rc = -pthread_key_create(&cache->buffer_key, tm_cache_buffer_free);
	if (rc < 0)
		goto fail_key;
	tm_idle_open(&cache->idle);
	cache->shared = params->shared;
	cache->scope = params->scope;
	rc = open_tmem(cache, params);
	if (rc < 0)
		goto fail_open;
	rc = cache->tm->ops->new_pool(cache->tm, &pool);
	if (rc < 0)
		goto fail_pool;
	cache->pool = rc;
	rc = tm_putq_start(cache->page_size, params->queue_bytes, params->workers, &queue_ops,
		cache, &cache->queue);
	if (rc < 0)
		goto fail_pool;
	rc = tm_readahead_start(AHEAD_THREADS,
		(size_t)TM_MIN((uint64_t)AHEAD_BYTES, params->open.limit / AHEAD_PART),
		tm_cache_ahead, cache, &cache->ahead);
	if (rc < 0)
		goto fail_ahead;
	*ret_cache = cache;
	return 0;

fail_ahead:
	tm_putq_stop(cache->queue);
fail_pool:
	cache->tm->ops->close(cache->tm);
fail_open:
	tm_idle_close(&cache->idle);
	pthread_key_delete(cache->buffer_key);
fail_key:
	free(cache);
	return rc;
}

void tm_cache_quiesce(struct tm_cache *cache)
{
	tm_readahead_stop(cache->ahead);
	cache->ahead = NULL;
	tm_putq_stop(cache->queue);
	cache->queue = NULL;
}

void tm_cache_close(struct tm_cache *cache)
{
	if (!cache)
		return;
	tm_cache_quiesce(cache);
	cache->tm->ops->close(cache->tm);
	tm_idle_close(&cache->idle);
	pthread_key_delete(cache->buffer_key);
	for (unsigned int i = 0; i < TM_STRIPES; i++)
		pthread_rwlock_destroy(&cache->stripes[i]);
	free(cache);
}
