/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * version.h - which content of a file a cached page belongs to
 *
 *   validator   what the backing's stat says about the content: size, mtime, ctime.
 *   trust       a validator vouches for content only if it was taken after the clock tick of its
 *               ctime had passed: a later change then has to leave another ctime behind. Younger
 *               ones could hide a change in the same tick (git calls such entries racy).
 *   version     a file with one trusted validator. It names the object its pages live in, so pages
 *               of another version are never found, not even after a restart or inode re-use.
 *
 * Pure functions of their arguments; the version inside an inode is guarded by cache.c.
 */
#ifndef TMEMFS_VERSION_H
#define TMEMFS_VERSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "core/tmem.h"

struct tm_validator {
	int64_t size;
	int64_t mtime_ns;
	int64_t ctime_ns;
};

/* What one inode knows about its content. All fields: the inode's stripe lock in cache.c. */
struct tm_version {
	struct tm_validator validator; /* meaningful if `known` */
	struct tm_oid oid;             /* meaningful if `cacheable` */
	int64_t size;                  /* the validator's, then moved by our own writes */
	int64_t trust_ns;              /* wall clock from which a new stat may be trusted */
	uint64_t epoch;                /* grows whenever reads under way must not be put */
	unsigned int writers;          /* own changes under way */
	bool known;                    /* the validator is the backing's latest that we saw */
	bool cacheable;                /* known and trusted: pages may be kept under `oid` */
	bool written;                  /* by us since the validator was taken */
	bool unsure; /* the kernel may hold pages that no trusted stat vouches for */
	bool untold; /* nobody has told the kernel its size and times */
};

struct tm_validator tm_validator_of(const struct stat *st);
bool tm_validator_equal(const struct tm_validator *a, const struct tm_validator *b);

/* The wall clock from which on a stat that shows `v` can be trusted. */
int64_t tm_validator_trust_ns(const struct tm_validator *v);

/* A clock with a fraction of seconds has stamped it: no program that makes images with the times it
 * likes, nor a file system that counts whole seconds. */
bool tm_validator_clocked(const struct tm_validator *v);

/* The object of a file's content. `dev` names its file system (scope.h), `identity` is what tells
 * this inode from others that had its number before (a file handle), `len` its length, possibly 0.
 * Never the invalid id. */
struct tm_oid tm_version_oid(
	uint64_t dev, uint64_t ino, const void *identity, size_t len, const struct tm_validator *v);

/* Wall clock in nanoseconds, the clock that file systems stamp with. */
int64_t tm_wall_ns(void);

#endif
