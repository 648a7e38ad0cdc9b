/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * options.c - the command line
 *
 * Every `-o` option is one row of a table: what it is called, what its value is, where it goes, and
 * its line of --help. Names that mount(8) passes for itself are rows too, and go nowhere.
 */
#include "tmemfs/options.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/tmem.h"
#include "core/util.h"

#define QUEUE_BYTES (16ull << 20)
#define QUEUE_MAX   (4ull << 30)
#define ORDER       2
#define THREADS     128
#define THREADS_MAX 1024
#define TIMEOUT     1.0
#define FOREVER     1e9 /* seconds */
#define INODES_MAX  100000000

enum kind {
	KIND_IGNORED,
	KIND_PASSED,      /* to libfuse, as it is */
	KIND_PASSED_ROOT, /* the same, but only root may ask for it */
	KIND_OFF,         /* bool, becomes false */
	KIND_ON,          /* bool, becomes true */
	KIND_SIZE,        /* uint64_t */
	KIND_NUMBER,      /* unsigned int, at most `max` */
	KIND_SECONDS,     /* double */
	KIND_ACTIMEO,     /* all three timeouts */
	KIND_CONSISTENCY, /* the timeouts, and whether an open asks */
	KIND_TEXT,        /* const char * */
	KIND_LIST,        /* const char *[TM_EXCLUDE_MAX + 1], one more each time */
	KIND_UUID,        /* the same */
	KIND_SWITCH,      /* bool, on or off */
	KIND_RECOMPRESS,  /* enum tm_recompress, on or off */
	KIND_LOCKS,       /* bool, true for the mount's own */
};

struct row {
	const char *name; /* without "=VALUE"; "x-" matches any name that begins so */
	enum kind kind;
	size_t offset; /* in struct tm_fs_options */
	uint64_t min, max;
	const char *value, *help; /* NULL: not listed */
};

#define FIELD(f) offsetof(struct tm_fs_options, f)

static const struct row rows[] = {
	{"limit", KIND_SIZE, FIELD(limit), TM_LIMIT_MIN, INT64_MAX, "SIZE",
		"most memory to use, all counted (default: a quarter of RAM)"},
	{"order", KIND_NUMBER, FIELD(order), 0, TM_ORDER_MAX, "0..4",
		"cache in pages of 4 KiB << N (default 2: 16 KiB)"},
	{"queue", KIND_SIZE, FIELD(queue), TM_PAGE_SIZE, QUEUE_MAX, "SIZE",
		"most data that waits to be cached (default 16M)"},
	{"consistency", KIND_CONSISTENCY, 0, 0, 0, "open|ttl=SECS|immutable",
		"when the backing is asked if a file has changed (default open)"},
	{"actimeo", KIND_ACTIMEO, 0, 0, 0, "SECS", "the three timeouts below at once"},
	{"attr_timeout", KIND_SECONDS, FIELD(attr_timeout), 0, 0, "SECS",
		"how long attributes are trusted (default 1)"},
	{"entry_timeout", KIND_SECONDS, FIELD(entry_timeout), 0, 0, "SECS",
		"how long names are trusted (default 1)"},
	{"negative_timeout", KIND_SECONDS, FIELD(negative_timeout), 0, 0, "SECS",
		"how long the absence of a name is trusted (default 0)"},
	{"exclude", KIND_LIST, FIELD(exclude), 0, 0, "GLOB",
		"do not cache files, nor what is in directories, of such a name; may be repeated"},
	{"maxfile", KIND_SIZE, FIELD(file_max), 0, INT64_MAX, "SIZE",
		"do not cache files that are longer"},
	{"dedup", KIND_ON, FIELD(dedup), 0, 0, "", "keep equal pages once"},
	{"recompress", KIND_RECOMPRESS, FIELD(recompress), 0, 0, "on|off",
		"compress what nobody reads again, with zstd (default on)"},
	{"pins", KIND_SIZE, FIELD(pins), 0, INT64_MAX, "SIZE",
		"most bytes of files that may be pinned (default: half of limit)"},
	{"stale-ok", KIND_ON, FIELD(stale_ok), 0, 0, "",
		"while BACKING fails, show what is cached, however old"},
	{"watch", KIND_ON, FIELD(watch), 0, 0, "", "see at once what others change in BACKING"},
	{"locks", KIND_LOCKS, FIELD(locks_here), 0, 0, "backing|mount",
		"flock and fcntl locks hold against all users of BACKING (default), or of the "
		"mount"},
	{"inodes", KIND_NUMBER, FIELD(inodes), 0, INODES_MAX, "N",
		"most files to remember that the kernel has forgotten"},
	{"threads", KIND_NUMBER, FIELD(threads), 1, THREADS_MAX, "N",
		"most requests served at once (default 128)"},
	{"passthrough", KIND_ON, FIELD(passthrough), 0, 0, "",
		"who writes a file gets BACKING's own; nothing of it is cached meanwhile"},
	{"io_uring", KIND_SWITCH, FIELD(uring), 0, 0, "on|off",
		"take requests by io_uring where the kernel offers it (default on)"},
	{"name", KIND_TEXT, FIELD(name), 0, 0, "NAME",
		"what tmemctl and tmemstat call this mount (default: the mount point)"},
	{"share", KIND_UUID, FIELD(share), 0, 0, "UUID",
		"keep pages in the shared pool UUID of the host, for all who may join it"},
	{"socket", KIND_TEXT, FIELD(socket), 0, 0, "PATH",
		"control socket of the host, or \"none\" (the same as -S)"},
	{"ro", KIND_PASSED, 0, 0, 0, "", "mount read-only"},
	{"allow_other", KIND_PASSED, 0, 0, 0, "", "let other users in, too"},
	{"auto_unmount", KIND_PASSED, 0, 0, 0, "", "unmount when the program dies"},
	{"no_subtype", KIND_OFF, FIELD(subtype), 0, 0, "", "mount as type fuse, not fuse.tmemfs"},
	{"fsname", KIND_TEXT, FIELD(fsname), 0, 0, "NAME",
		"what mount and df show as the source (default: the path of BACKING)"},
	{"rw", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"noatime", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"atime", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"dirsync", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"sync", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"async", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"nosuid", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"nodev", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"noexec", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"suid", KIND_PASSED_ROOT, 0, 0, 0, NULL, NULL},
	{"dev", KIND_PASSED_ROOT, 0, 0, 0, NULL, NULL},
	{"exec", KIND_PASSED, 0, 0, 0, NULL, NULL},
	{"default_permissions", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"remount", KIND_ON, FIELD(remount), 0, 0, NULL, NULL},
	{"user_id", KIND_IGNORED, 0, 0, 0, NULL,
		NULL}, /* of a mount that is there, to remount it */
	{"group_id", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"max_read", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"defaults", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"relatime", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"strictatime", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"diratime", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"nodiratime", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"lazytime", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"nolazytime", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"auto", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"noauto", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"nofail", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"user", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"nouser", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"users", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"group", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"owner", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"_netdev", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"comment", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"x-", KIND_IGNORED, 0, 0, 0, NULL, NULL},
	{"X-", KIND_IGNORED, 0, 0, 0, NULL, NULL},
};

static void help(void)
{
	printf("Usage: tmemfs [options] BACKING MOUNTPOINT\n"
	       "       tmemfs --recover MOUNTPOINT\n"
	       "Show the directory BACKING at MOUNTPOINT, which may be BACKING itself, and keep "
	       "what is\n"
	       "read from it in compressed memory.\n"
	       "\n"
	       "  -f               stay in the foreground\n"
	       "  -d               print every request (implies -f)\n"
	       "  -S SOCKET        control socket of the host, or \"none\"\n"
	       "  -o OPTION,...    as below\n"
	       "  --recover        unmount MOUNTPOINT if its server was killed; else do nothing\n"
	       "  -h, --help       this text\n"
	       "  -V, --version    versions\n"
	       "\n");
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		char name[48];

		if (!rows[i].help)
			continue;
		snprintf(name, sizeof(name), "%s%s%s", rows[i].name, *rows[i].value ? "=" : "",
			rows[i].value);
		printf("  -o %-20s%s%s\n", name,
			strlen(name) > 20 ? "\n                           " : " ", rows[i].help);
	}
	printf("\nOptions that mount(8) passes for itself (nofail, user, x-..., and so on) are "
	       "ignored.\n");
}

/* What FUSE has to offer, and what of it is used; HACKING.md says why. */
static const struct {
	const char *name, *used;
} features[] = {
	{"max_threads", "yes, -o threads="},
	{"clone_fd", "no, few threads receive"},
	{"readdirplus", "yes"},
	{"async_dio", "yes"},
	{"parallel_dirops", "yes"},
	{"cache_symlinks", "yes"},
	{"posix_acl", "yes, as root"},
	{"expire_entry", "yes"},
	{"tmpfile", "yes"},
	{"handle_killpriv_v2", "yes"},
	{"locks", "yes, -o locks="},
	{"splice", "no"},
	{"parallel_direct_writes", "yes"},
	{"writeback_cache", "no"},
	{"passthrough", "yes, -o passthrough"},
	{"io_uring", "yes, where fuse.enable_uring=1"},
};

static void print_version(void)
{
	printf("tmemfs %s, libfuse %s\n", TM_VERSION, fuse_pkgversion());
	for (size_t i = 0; i < TM_ARRAY_SIZE(features); i++)
		printf("  %-22s  %s\n", features[i].name, features[i].used);
}

static enum tm_parsed usage(const char *what, const char *subject)
{
	fprintf(stderr, "tmemfs: %s%s%s%s (try --help)\n", what, subject ? " '" : "",
		subject ? subject : "", subject ? "'" : "");
	return TM_PARSED_USAGE;
}

static const struct row *find_row(const char *name)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		size_t len = strlen(rows[i].name);

		if (rows[i].name[len - 1] == '-' ? strncmp(name, rows[i].name, len) == 0
						 : strcmp(name, rows[i].name) == 0)
			return &rows[i];
	}
	return NULL;
}

/* Append `word` to the options for libfuse, whose separators are escaped. -ENOMEM. */
static int pass_on(struct tm_fs_options *options, const char *word)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", options->mount_options, *options->mount_options ? "," : "",
		    word) < 0)
		return -ENOMEM;
	free(options->mount_options);
	options->mount_options = joined;
	return 0;
}

static int parse_seconds(const char *value, double *ret_seconds)
{
	char *end;
	double seconds = strtod(value, &end);

	if (!*value || *end || !isfinite(seconds) || seconds < 0 || seconds > FOREVER)
		return -EINVAL;
	*ret_seconds = seconds;
	return 0;
}

static void set_timeouts(struct tm_fs_options *options, double seconds)
{
	options->attr_timeout = options->entry_timeout = options->negative_timeout = seconds;
}

static int set_consistency(struct tm_fs_options *options, const char *value)
{
	double seconds;

	if (strcmp(value, "open") == 0) {
		options->ask_on_open = true;
	} else if (strcmp(value, "immutable") == 0) {
		options->ask_on_open = false;
		set_timeouts(options, FOREVER);
	} else if (strncmp(value, "ttl=", 4) == 0 && parse_seconds(value + 4, &seconds) == 0) {
		options->ask_on_open = false;
		set_timeouts(options, seconds);
	} else {
		return -EINVAL;
	}
	return 0;
}

static int append(const char **list, const char *value)
{
	unsigned int n = 0;

	while (list[n])
		n++;
	if (n == TM_EXCLUDE_MAX)
		return -EINVAL;
	list[n] = strdup(value);
	return list[n] ? 0 : -ENOMEM;
}

/* 0, or -EINVAL, or -ENOMEM. */
static int set_value(struct tm_fs_options *options, const struct row *row, const char *value)
{
	void *field = (char *)options + row->offset;
	unsigned long long number;
	double seconds;
	struct tm_uuid uuid;
	char *end;

	if (!*value)
		return -EINVAL;
	switch (row->kind) {
	case KIND_SIZE:
		if (tm_size_parse(value, field) < 0 || *(uint64_t *)field < row->min ||
			*(uint64_t *)field > row->max)
			return -EINVAL;
		return 0;
	case KIND_NUMBER:
		errno = 0;
		number = strtoull(value, &end, 10);
		if (errno || *end || *value == '-' || number < row->min || number > row->max)
			return -EINVAL;
		*(unsigned int *)field = (unsigned int)number;
		return 0;
	case KIND_SECONDS:
		return parse_seconds(value, field);
	case KIND_ACTIMEO:
		if (parse_seconds(value, &seconds) < 0)
			return -EINVAL;
		set_timeouts(options, seconds);
		return 0;
	case KIND_CONSISTENCY:
		return set_consistency(options, value);
	case KIND_SWITCH:
		*(bool *)field = strcmp(value, "on") == 0;
		return strcmp(value, "on") == 0 || strcmp(value, "off") == 0 ? 0 : -EINVAL;
	case KIND_RECOMPRESS:
		*(enum tm_recompress *)field =
			strcmp(value, "on") == 0 ? TM_RECOMPRESS_ON : TM_RECOMPRESS_OFF;
		return strcmp(value, "on") == 0 || strcmp(value, "off") == 0 ? 0 : -EINVAL;
	case KIND_LOCKS:
		*(bool *)field = strcmp(value, "mount") == 0;
		return *(bool *)field || strcmp(value, "backing") == 0 ? 0 : -EINVAL;
	case KIND_LIST:
		return append(field, value);
	case KIND_UUID:
		if (tm_uuid_parse(value, &uuid) < 0)
			return -EINVAL;
		/* fall through */
	default:
		*(char **)field = strdup(value);
		return *(char **)field ? 0 : -ENOMEM;
	}
}

/* One `-o` option. `word` is ours to cut. */
static enum tm_parsed parse_option(struct tm_fs_options *options, char *word)
{
	char *value = strchr(word, '=');
	TM_AUTO_FREE char *whole = strdup(word);
	const struct row *row;
	int rc = 0;

	if (value)
		*value++ = '\0';
	row = find_row(word);
	if (!row)
		return usage("unknown option", whole);
	switch (row->kind) {
	case KIND_IGNORED:
		break;
	case KIND_PASSED:
	case KIND_PASSED_ROOT:
	case KIND_OFF:
	case KIND_ON:
		if (value)
			return usage("option takes no value:", whole);
		if (row->kind == KIND_OFF || row->kind == KIND_ON)
			*(bool *)((char *)options + row->offset) = row->kind == KIND_ON;
		else if (row->kind == KIND_PASSED || geteuid() == 0)
			rc = pass_on(options, word);
		break;
	default:
		if (!value)
			return usage("option needs a value:", whole);
		rc = set_value(options, row, value);
	}
	if (rc == -EINVAL)
		return usage("bad value in option", whole);
	return rc < 0 ? usage(strerror(-rc), NULL) : TM_PARSED_RUN;
}

static enum tm_parsed parse_list(struct tm_fs_options *options, const char *list)
{
	TM_AUTO_FREE char *copy = strdup(list);
	enum tm_parsed parsed = TM_PARSED_RUN;
	char *rest = copy, *word;

	while (parsed == TM_PARSED_RUN && (word = strsep(&rest, ",")))
		if (*word)
			parsed = parse_option(options, word);
	return parsed;
}

/* One flag of the command line. */
static enum tm_parsed parse_flag(struct tm_fs_options *options, int flag, bool by_mount)
{
	switch (flag) {
	case 'o':
		return parse_list(options, optarg);
	case 'S':
		options->socket = optarg;
		return TM_PARSED_RUN;
	case 'f':
		*(by_mount ? &options->fake : &options->foreground) = true;
		return TM_PARSED_RUN;
	case 'd':
		options->debug = options->foreground = true;
		return TM_PARSED_RUN;
	case 'R':
		options->recover = true;
		return TM_PARSED_RUN;
	case 'r':
		return parse_list(options, "ro");
	case 'w':
		return parse_list(options, "rw");
	case 's': /* mount(8): tolerate unknown options; -n no mtab, -v verbose, -t type, -N
		     namespace */
	case 'n':
	case 'v':
	case 't':
	case 'N':
		return TM_PARSED_RUN;
	case 'h':
		help();
		return TM_PARSED_DONE;
	case 'V':
		print_version();
		return TM_PARSED_DONE;
	case ':':
		return usage("option needs a value:", (char[]){'-', (char)optopt, '\0'});
	default:
		return optopt ? usage("unknown option", (char[]){'-', (char)optopt, '\0'})
			      : TM_PARSED_USAGE;
	}
}

enum tm_parsed tm_fs_options_parse(int argc, char **argv, struct tm_fs_options *ret_options)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{"recover", no_argument, NULL, 'R'},
		{NULL, 0, NULL, 0},
	};
	bool by_mount = strncmp(basename(argv[0]), "mount.", 6) == 0;
	struct tm_fs_options options = {
		.queue = QUEUE_BYTES,
		.pins = UINT64_MAX,
		.file_max = INT64_MAX,
		.order = ORDER,
		.threads = THREADS,
		.uring = true,
		.attr_timeout = TIMEOUT,
		.entry_timeout = TIMEOUT,
		.ask_on_open = true,
		.inodes = UINT_MAX,
		.subtype = true,
		.mount_options = strdup(""),
	};
	enum tm_parsed parsed =
		options.mount_options ? TM_PARSED_RUN : usage(strerror(ENOMEM), NULL);
	int flag, wanted;

	opterr = 0;
	while (parsed == TM_PARSED_RUN &&
		(flag = getopt_long(argc, argv, ":hVfdrwsnvo:S:t:N:", longs, NULL)) != -1) {
		if (flag == '?' && optopt == 0)
			parsed = usage("unknown option", argv[optind - 1]);
		else
			parsed = parse_flag(&options, flag, by_mount);
	}
	wanted = options.recover ? 1 : 2;
	if (parsed == TM_PARSED_RUN && argc - optind != wanted)
		parsed = argc - optind > wanted
			? usage("unexpected argument", argv[optind + wanted])
			: usage(options.recover ? "MOUNTPOINT is needed"
						: "BACKING and MOUNTPOINT are needed",
				  NULL);
	if (parsed == TM_PARSED_RUN && options.share && options.limit)
		parsed = usage(
			"limit is no option of a shared pool: tmemctl set UUID cap=SIZE", NULL);
	if (parsed == TM_PARSED_RUN && options.share && options.dedup)
		parsed = usage("dedup is no option of a shared pool", NULL);
	if (parsed == TM_PARSED_RUN && options.share && options.recompress != TM_RECOMPRESS_AUTO)
		parsed = usage("recompress is no option of a shared pool: "
			       "tmemctl set UUID recompress=on|off",
			NULL);
	if (parsed != TM_PARSED_RUN) {
		free(options.mount_options);
		return parsed;
	}
	options.backing = argv[optind];
	options.mountpoint = argv[argc - 1];
	*ret_options = options;
	return TM_PARSED_RUN;
}
