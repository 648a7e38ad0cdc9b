/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * treeops.c - the same operations on two trees, which must end the same way
 *
 * treeops [-n OPS] [-s SEED] [-p PROCESSES] A B      then compares A and B whole; -n 0 does only
 * that
 *
 * Each process draws its operations from its seed and does each first in A, then in B: result,
 * errno and whatever it saw must be equal. It works in a directory of its own, and in one that all
 * share under names of its own, so that what it sees does not depend on the others. Every second
 * one is not root, with a umask and groups of its own.
 *
 * The first difference ends the process: the seed, the operation, its arguments, both outcomes,
 * and the operations before it on the same names. The same arguments repeat it.
 */
#include "tests/torture/treeops.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/util.h"

#define NAMES    9    /* in each directory */
#define LOG_SIZE 2000 /* operations remembered */
#define UID      2000 /* and following: who is not root */
#define GID      3000

struct did {
	const struct tree_op *op;
	struct args args;
	int result;
};

struct worker {
	unsigned int number;
	uint64_t seed, random, ops;
	struct side sides[SIDES];
	struct did *log;
};

static uint64_t rnd(struct worker *w, uint64_t below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (w->random >> 11) % below;
}

/* --- what is to be done -------------------------------------------------------------------- */

/* A path of one to three names; now and then one has 255 bytes. Every name has the worker's number
 * in it: wherever a link is moved to, it never leads to what is another's. */
static void draw_path(struct worker *w, char path[static 1024])
{
	static const unsigned int depths[] = {0, 0, 0, 1, 1, 2};
	unsigned int depth = depths[rnd(w, TM_ARRAY_SIZE(depths))], n;

	if (rnd(w, 4) == 0)
		n = (unsigned int)sprintf(path, "shared");
	else
		n = (unsigned int)sprintf(path, "%u", w->number);
	n += (unsigned int)sprintf(path + n, "/%u.%u", w->number, (unsigned int)rnd(w, NAMES));
	while (depth-- > 0) {
		int width = rnd(w, 40) == 0 ? 253 : 1;

		n += (unsigned int)sprintf(
			path + n, "/%0*u.%u", width, w->number, (unsigned int)rnd(w, NAMES));
	}
	if (rnd(w, 300) == 0)
		strcpy(path + n, "/.");
}

static void draw(struct worker *w, struct args *a)
{
	static const size_t lengths[] = {1, 100, 5000, 20000, 60000};
	static const gid_t groups[] = {GID, GID + 1, GID + 2, (gid_t)-1};

	memset(a, 0, sizeof(*a));
	draw_path(w, a->path);
	draw_path(w, a->path2);
	a->slot = (unsigned int)rnd(w, HELD);
	a->mode = (mode_t)(rnd(w, 3) ? 0644 + rnd(w, 0134) : rnd(w, 010000));
	/* Linux takes a set-group-id bit that means nothing (without execution) from a file that
	 * others write to, but not where FUSE is in between. */
	if (a->mode & S_ISGID)
		a->mode |= S_IXGRP;
	a->uid = rnd(w, 2) ? (uid_t)-1 : UID + (uid_t)rnd(w, 3);
	a->gid = groups[rnd(w, TM_ARRAY_SIZE(groups))];
	a->len = rnd(w, lengths[rnd(w, TM_ARRAY_SIZE(lengths))]);
	a->off = (off_t)rnd(w, rnd(w, 3) ? 20000 : 200000);
	a->time = (int64_t)rnd(w, 999999999);
	a->pick = (unsigned int)rnd(w, 840);
	a->seed = w->random;
}

static const struct tree_op *draw_op(struct worker *w)
{
	const struct tree_op *op;
	unsigned int total = 0, at;

	for (op = tree_ops; op->run; op++)
		total += op->weight;
	at = (unsigned int)rnd(w, total);
	for (op = tree_ops; at >= op->weight; op++)
		at -= op->weight;
	return op;
}

/* --- doing it, twice ----------------------------------------------------------------------- */

static void describe(const struct did *d, uint64_t n)
{
	const struct args *a = &d->args;

	fprintf(stderr, "  %llu %s %s %s slot %u mode %o owner %d:%d at %lld+%zu pick %u: %s\n",
		(unsigned long long)n, d->op->name, a->path, a->path2, a->slot, a->mode,
		(int)a->uid, (int)a->gid, (long long)a->off, a->len, a->pick,
		d->result < 0 ? strerrorname_np(-d->result) : "ok");
}

static bool related(const struct args *a, const struct args *b)
{
	return strcmp(a->path, b->path) == 0 || strcmp(a->path, b->path2) == 0 ||
		strcmp(a->path2, b->path) == 0 || strcmp(a->path2, b->path2) == 0;
}

__attribute__((noreturn)) static void fail(struct worker *w, uint64_t n, const int result[SIDES])
{
	const struct did *d = &w->log[n % LOG_SIZE];
	uint64_t first = n < LOG_SIZE ? 0 : n + 1 - LOG_SIZE;

	fprintf(stderr, "seed %llu, operation %llu: %s %s, results %d and %d (%s and %s)\n",
		(unsigned long long)w->seed, (unsigned long long)n, d->op->name, d->args.path,
		result[0], result[1], result[0] < 0 ? strerrorname_np(-result[0]) : "ok",
		result[1] < 0 ? strerrorname_np(-result[1]) : "ok");
	for (int i = 0; i < SIDES; i++) {
		const struct side *s = &w->sides[i];

		fprintf(stderr, "side %d saw %zu bytes: %.*s\n", i, s->out_len,
			(int)TM_MIN(s->out_len, (size_t)500), s->out);
	}
	for (uint64_t k = first; k <= n; k++)
		if (related(&w->log[k % LOG_SIZE].args, &d->args))
			describe(&w->log[k % LOG_SIZE], k);
	exit(1);
}

static void step(struct worker *w, uint64_t n)
{
	struct did *d = &w->log[n % LOG_SIZE];
	int result[SIDES];

	d->op = draw_op(w);
	draw(w, &d->args);
	for (int i = 0; i < SIDES; i++) {
		struct side *s = &w->sides[i];

		s->out_len = 0;
		if (fchdir(s->root) < 0)
			abort();
		result[i] = d->op->run(s, &d->args);
	}
	d->result = result[0];
	if (result[0] != result[1] || w->sides[0].out_len != w->sides[1].out_len ||
		memcmp(w->sides[0].out, w->sides[1].out, w->sides[0].out_len) != 0)
		fail(w, n, result);
}

/* --- processes ----------------------------------------------------------------------------- */

/* The worker's directory on one side, with things in it that are not its own. */
static void furnish(const struct worker *w, const struct side *side, uid_t uid, gid_t gid)
{
	static const mode_t modes[] = {0700, 0711, 0755, 01777, 02777};
	char path[64];

	if (fchdir(side->root) < 0)
		abort();
	snprintf(path, sizeof(path), "%u", w->number);
	if (mkdir(path, 0755) < 0 || chown(path, uid, gid) < 0)
		abort();
	for (unsigned int i = 0; i < TM_ARRAY_SIZE(modes); i++) {
		snprintf(path, sizeof(path), "%u/%u.%u", w->number, w->number, i);
		if (mkdir(path, 0700) < 0 || chmod(path, modes[i]) < 0)
			abort();
		for (unsigned int k = 0; k < TM_ARRAY_SIZE(modes); k++) {
			snprintf(path, sizeof(path), "%u/%u.%u/%u.%u", w->number, w->number, i,
				w->number, k);
			close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
			if (chmod(path, modes[k] & (modes[k] & S_ISGID ? ~0101u : ~0111u)) < 0)
				abort();
		}
	}
}

static void become(uid_t uid, gid_t gid)
{
	const gid_t groups[] = {GID, GID + 1};

	umask(027);
	if (setgroups(TM_ARRAY_SIZE(groups), groups) < 0 || setresgid(gid, gid, gid) < 0 ||
		setresuid(uid, uid, uid) < 0)
		abort();
}

static void work(struct worker *w)
{
	bool other = w->number % 2;
	uid_t uid = other ? UID + w->number / 2 : 0;
	gid_t gid = other ? GID : 0;

	w->random = (w->seed + 1) * 0x9e3779b97f4a7c15ull;
	w->log = calloc(LOG_SIZE, sizeof(*w->log));
	for (int i = 0; i < SIDES; i++) {
		furnish(w, &w->sides[i], uid, gid);
		memset(w->sides[i].held, -1, sizeof(w->sides[i].held));
		w->sides[i].out = malloc(OUT_MAX);
		if (!w->sides[i].out)
			abort();
	}
	if (!w->log)
		abort();
	umask(022);
	if (other)
		become(uid, gid);
	for (uint64_t n = 0; n < w->ops; n++)
		step(w, n);
}

static void usage(void)
{
	fprintf(stderr, "usage: treeops [-n OPS] [-s SEED] [-p PROCESSES] A B\n");
	exit(2);
}

int main(int argc, char **argv)
{
	struct worker w = {.seed = 1, .ops = 10000};
	unsigned int processes = 1, differ;
	int opt, status, failed = 0;

	while ((opt = getopt(argc, argv, "n:s:p:")) != -1) {
		if (opt == 'n')
			w.ops = strtoull(optarg, NULL, 0);
		else if (opt == 's')
			w.seed = strtoull(optarg, NULL, 0);
		else if (opt == 'p')
			processes = (unsigned int)strtoul(optarg, NULL, 0);
		else
			usage();
	}
	if (argc - optind != SIDES)
		usage();
	for (int i = 0; i < SIDES; i++) {
		w.sides[i].root = open(argv[optind + i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (w.sides[i].root < 0) {
			perror(argv[optind + i]);
			return 2;
		}
		if (w.ops > 0 &&
			(mkdirat(w.sides[i].root, "shared", 0755) < 0 ||
				fchmodat(w.sides[i].root, "shared", 03777, 0) < 0)) {
			perror(argv[optind + i]);
			return 2;
		}
	}
	for (w.number = 0; w.ops > 0 && w.number < processes; w.number++) {
		if (fork() == 0) {
			w.seed += w.number;
			work(&w);
			return 0;
		}
	}
	while (wait(&status) > 0)
		failed |= status;
	differ = tree_compare(w.sides[0].root, w.sides[1].root);
	if (!failed && !differ)
		printf("%u x %llu operations, nothing differs\n", processes,
			(unsigned long long)w.ops);
	return failed || differ ? 1 : 0;
}
