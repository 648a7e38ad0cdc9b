/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * options.h - the command line of tmemfs, also as mount(8) writes it
 */
#ifndef TMEMFS_OPTIONS_H
#define TMEMFS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/tmem.h"

#define TM_EXCLUDE_MAX 64 /* patterns */

struct tm_fs_options {
	/* Of argv, or allocated once and never freed. */
	const char *backing;
	const char *mountpoint;
	const char *socket;  /* NULL: the default */
	const char *name;    /* NULL: made from the mount point */
	const char *share;   /* NULL: a cache of its own; else a UUID */
	char *mount_options; /* for libfuse, "" or "ro,allow_other"; malloc'ed */

	uint64_t limit; /* 0: the default */
	uint64_t queue;
	uint64_t pins; /* UINT64_MAX: from `limit` */
	uint64_t file_max;
	const char *exclude[TM_EXCLUDE_MAX + 1]; /* up to NULL */
	bool dedup;
	enum tm_recompress recompress;
	unsigned int order;
	unsigned int threads;
	double attr_timeout;
	double entry_timeout;
	double negative_timeout;
	unsigned int inodes; /* UINT_MAX: from `limit` */
	bool ask_on_open;
	bool watch;
	bool stale_ok;
	bool locks_here;  /* locks are the mount's own */
	bool passthrough; /* files that are being written may go past us */
	bool uring;       /* requests by io_uring, if the kernel has that */
	bool foreground;
	bool debug;
	bool subtype;
	const char *fsname; /* NULL: BACKING's path */
	bool recover;       /* clean `mountpoint` up, nothing else */
	bool remount;       /* change what the kernel knows of the mount, nothing else */
	bool fake;          /* mount(8) wants everything but the mount */
};

enum tm_parsed {
	TM_PARSED_RUN,
	TM_PARSED_DONE,  /* --help or --version was printed */
	TM_PARSED_USAGE, /* one line was printed to stderr */
};

enum tm_parsed tm_fs_options_parse(int argc, char **argv, struct tm_fs_options *ret_options);

#endif
