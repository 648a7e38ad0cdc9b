/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tmemfs/version.h"

#include <string.h>
#include <time.h>
#include <xxhash.h>

#define NS_PER_SEC 1000000000ll

/* File systems stamp with the kernel's tick, at worst 10 ms; two of them, to be safe. */
#define TICK_NS (20 * 1000000ll)

/* Stamps without a fraction: a file system that counts whole (FAT: even) seconds. */
#define COARSE_TICK_NS (2 * NS_PER_SEC)

static int64_t ns_of(const struct timespec *ts)
{
	return ts->tv_sec * NS_PER_SEC + ts->tv_nsec;
}

struct tm_validator tm_validator_of(const struct stat *st)
{
	return (struct tm_validator){
		.size = st->st_size,
		.mtime_ns = ns_of(&st->st_mtim),
		.ctime_ns = ns_of(&st->st_ctim),
	};
}

bool tm_validator_equal(const struct tm_validator *a, const struct tm_validator *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

/* Only ctime counts: every change of content moves it, and nobody can set it. */
int64_t tm_validator_trust_ns(const struct tm_validator *v)
{
	bool coarse = v->ctime_ns % NS_PER_SEC == 0 && v->mtime_ns % NS_PER_SEC == 0;

	return v->ctime_ns + (coarse ? COARSE_TICK_NS : TICK_NS);
}

bool tm_validator_clocked(const struct tm_validator *v)
{
	return v->ctime_ns % NS_PER_SEC != 0;
}

struct tm_oid tm_version_oid(
	uint64_t dev, uint64_t ino, const void *identity, size_t len, const struct tm_validator *v)
{
	struct {
		uint64_t dev, ino, identity;
		struct tm_validator validator;
	} name;
	XXH128_hash_t hash;
	struct tm_oid oid;

	memset(&name, 0, sizeof(name));
	name.dev = dev;
	name.ino = ino;
	name.identity = len ? XXH3_64bits(identity, len) : 0;
	name.validator = *v;
	hash = XXH3_128bits(&name, sizeof(name));
	/* The inode number in clear: no two files of one device can share an object. It is never
	 * all ones, since that is no inode. */
	oid.w[0] = ino == UINT64_MAX ? 0 : ino;
	oid.w[1] = hash.low64;
	oid.w[2] = hash.high64;
	return oid;
}

int64_t tm_wall_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return ns_of(&now);
}
