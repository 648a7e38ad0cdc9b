/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fileops.h - one file and the array it is compared with
 */
#ifndef TM_TORTURE_FILEOPS_H
#define TM_TORTURE_FILEOPS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/util.h"

#define PAGE     4096
#define LEN_MAX  262144 /* of one operation */
#define LOG_SIZE 4096   /* operations remembered */

struct op;

/* An operation that was done. */
struct did {
	const struct op *op;
	uint64_t n;
	size_t off, len, from, size; /* size: of the file, before */
};

struct run {
	char path[4096], other[4200], renewed[4200], below[4200];
	uint64_t seed, ops, random;
	size_t max; /* longest the file gets */
	bool verbose, has_below;
	uint64_t missing; /* bit i: the file system does not have file_ops[i] */

	int fd, append, direct; /* direct: -1 where there is none */
	char *good, *buf;       /* max bytes each; buf is aligned for O_DIRECT */
	size_t size;

	uint64_t n; /* the operation under way; its entry in `log` is n % LOG_SIZE */
	struct did log[LOG_SIZE];
};

struct op {
	const char *name;
	unsigned int weight;
	void (*run)(struct run *r, struct did *d);
	int mode; /* of fallocate */
};

/* What may be done, and how often. Ends with one whose `run` is NULL. */
extern const struct op file_ops[];

/* Print what is wrong at `at` of the file and what may have led to it; exit 1. */
__attribute__((format(printf, 3, 4), noreturn)) void fail(
	struct run *r, size_t at, const char *format, ...);

#define CHECK(r, ok)                                                                               \
	do {                                                                                       \
		if (!(ok))                                                                         \
			fail(r, 0, "%s: %s", #ok, strerror(errno));                                \
	} while (0)

/* `data` is what was seen of [off, off + len): fail if the array has something else. */
void compare(struct run *r, const char *data, size_t off, size_t len, const char *how);

/* A random number in [0, below). */
uint64_t rnd(struct run *r, uint64_t below);

/* Open the file every way; close all of that. */
void open_all(struct run *r);
void close_all(struct run *r);

/* Read that, or the whole file, and compare. */
void read_all(struct run *r, int fd, size_t off, size_t len, const char *how);
void check_file(struct run *r, int fd, const char *how);

/* Close, compare what is below, open, compare. */
void op_reopen(struct run *r, struct did *d);

#endif
