/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * treeops.h - one operation on one of two trees, and the comparison of both
 */
#ifndef TM_TORTURE_TREEOPS_H
#define TM_TORTURE_TREEOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SIDES   2
#define HELD    6     /* descriptors that stay open from one operation to later ones */
#define OUT_MAX 65536 /* most that an operation shows of what it saw */

/* What is to be done: drawn once, done on both sides. */
struct args {
	char path[1024], path2[1024];
	unsigned int slot; /* of a held descriptor */
	mode_t mode;
	uid_t uid;
	gid_t gid;
	off_t off;
	size_t len;
	int64_t time;
	unsigned int pick; /* among flags, names ... of the operation */
	uint64_t seed;     /* of the data */
};

struct side {
	int root;
	int held[HELD]; /* -1: none */
	char *out;      /* OUT_MAX; what the operation saw */
	size_t out_len;
};

/* An operation in the current directory. Returns >= 0 or -errno, and fills side->out. */
struct tree_op {
	const char *name;
	unsigned int weight;
	int (*run)(struct side *side, const struct args *a);
};

/* Ends with one whose `run` is NULL. */
extern const struct tree_op tree_ops[];

/* Compare two directories whole: names, kinds, modes, owners, sizes, devices, times that are set
 * (years before 2005), extended attributes, contents, targets, which names are one file. Prints
 * what differs; returns how much does. */
unsigned int tree_compare(int a, int b);

#endif
