/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config.c - command line and configuration file of tmemd
 *
 * One table lists what can be set; the file's keys are the long names of the options. A value given
 * as an option wins over $TMEM_SOCKET, that over the file, that over the default. Nothing is
 * applied from a file with an error in it.
 */
#include "tools/tmemd/config.h"

#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"

struct setting {
	const char *key; /* long option, and key of the file when in_file */
	char letter;
	bool in_file;
	const char *value; /* NULL: takes none */
	const char *help;
};

static const struct setting settings[] = {
	{"socket", 'S', true, "PATH", "control socket (default: $TMEM_SOCKET, else by user)"},
	{"limit", 'l', true, "SIZE",
		"most that all clients together may use (default: half of RAM)"},
	{"reserve", 'r', true, "SIZE", "available memory to leave alone (default: 10% of RAM)"},
	{"config", 'c', false, "FILE", "read this file (default for root: " TM_CONFIG_FILE ")"},
	{"foreground", 'f', false, NULL, "stay in the foreground, log to standard error"},
	{"on-demand", 'd', false, "[SECONDS]", "end after so long (default: 10) without anybody"},
	{"help", 'h', false, NULL, "print this and exit"},
	{"version", 'V', false, NULL, "print the version and exit"},
};

/* Values as text, so that all sources can be read before one of them is believed. */
struct texts {
	char *socket, *limit, *reserve;
	struct tm_auths auths; /* of shared-auth, which only the file has, any number of times */
};

static void texts_free(struct texts *t)
{
	free(t->socket);
	free(t->limit);
	free(t->reserve);
	tm_auths_free(&t->auths);
}

static char **texts_slot(struct texts *t, const char *key)
{
	if (strcmp(key, "socket") == 0)
		return &t->socket;
	if (strcmp(key, "limit") == 0)
		return &t->limit;
	return strcmp(key, "reserve") == 0 ? &t->reserve : NULL;
}

static int usage_error(void)
{
	fprintf(stderr, "try 'tmemd --help'\n");
	return 2;
}

static void print_help(void)
{
	printf("usage: tmemd [options]\n"
	       "The host of transcendent memory: grants memory to its clients.\n\n");
	for (size_t i = 0; i < TM_ARRAY_SIZE(settings); i++) {
		const struct setting *s = &settings[i];
		const char *value = s->value ? s->value : "";
		char left[40];

		snprintf(left, sizeof(left), "%s%s%s", s->key, *value && *value != '[' ? " " : "",
			*value == '[' ? "[=SECONDS]" : value);
		if (strchr("dhV", s->letter))
			printf("      --%-22s %s\n", left, s->help);
		else
			printf("  -%c, --%-22s %s\n", s->letter, left, s->help);
	}
	printf("\nSIZE is a number of bytes, or one with a unit: 512M, 1.5G.\n");
}

/* --- the file --------------------------------------------------------------------------------- */

struct file_reader {
	struct texts *texts;
	bool failed;
	char error[200]; /* the first one */
};

/* shared-auth = UUID USER... */
static int file_auth(struct file_reader *r, const char *value)
{
	char why[100];
	int rc = tm_auths_parse(&r->texts->auths, value, true, why, sizeof(why));

	if (rc == 0)
		return 1;
	snprintf(
		r->error, sizeof(r->error), "shared-auth: %s", rc == -EINVAL ? why : strerror(-rc));
	r->failed = true;
	return 0;
}

/* A line of the file, from inih. 1 to go on. */
static int file_line(void *opaque, const char *section, const char *key, const char *value)
{
	struct file_reader *r = opaque;
	char **slot = *section ? NULL : texts_slot(r->texts, key);
	uint64_t bytes;

	if (r->failed)
		return 0;
	if (!*section && strcmp(key, "shared-auth") == 0)
		return file_auth(r, value);
	if (*section)
		snprintf(r->error, sizeof(r->error), "unknown section [%.60s]", section);
	else if (!slot)
		snprintf(r->error, sizeof(r->error), "unknown key '%.60s'", key);
	else if (slot != &r->texts->socket && tm_size_parse(value, &bytes) < 0)
		snprintf(r->error, sizeof(r->error), "%.60s: '%.60s' is no size", key, value);
	else if (!*value)
		snprintf(r->error, sizeof(r->error), "%.60s: no value", key);
	else {
		free(*slot);
		*slot = strdup(value);
		return 1;
	}
	r->failed = true;
	return 0;
}

/* 0; 1 after saying what is wrong. A default file that is not there is fine. */
static int read_file(const char *path, bool named, struct texts *texts)
{
	struct file_reader reader = {.texts = texts};
	FILE *file = fopen(path, "re");
	int line;

	if (!file) {
		if (!named && errno == ENOENT)
			return 0;
		fprintf(stderr, "tmemd: %s: %s\n", path, strerror(errno));
		return 1;
	}
	line = ini_parse_file(file, file_line, &reader);
	if (line == 0 && ferror(file)) {
		fprintf(stderr, "tmemd: %s: cannot be read\n", path);
		line = -1;
	} else if (line != 0) {
		fprintf(stderr, "tmemd: %s:%d: %s\n", path, line,
			reader.failed ? reader.error : "is not 'key = value'");
	}
	fclose(file);
	return line != 0;
}

/* --- options ---------------------------------------------------------------------------------- */

struct command_line {
	struct texts texts;
	const char *file;
	bool foreground;
	unsigned int idle_seconds;
};

static int parse_seconds(const char *text, unsigned int *ret_seconds)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || value == 0 || value > 86400)
		return -EINVAL;
	*ret_seconds = (unsigned int)value;
	return 0;
}

/* Take one option. 0; 1 with *ret_status when the program is to end. */
static int take_option(int letter, struct command_line *cl, int *ret_status)
{
	char **slot;
	uint64_t bytes;

	*ret_status = 0;
	switch (letter) {
	case 'S':
	case 'l':
	case 'r':
		slot = letter == 'S'    ? &cl->texts.socket
			: letter == 'l' ? &cl->texts.limit
					: &cl->texts.reserve;
		if (letter != 'S' && tm_size_parse(optarg, &bytes) < 0) {
			fprintf(stderr, "tmemd: --%s: '%s' is no size\n",
				letter == 'l' ? "limit" : "reserve", optarg);
			*ret_status = usage_error();
			return 1;
		}
		free(*slot);
		*slot = strdup(optarg);
		return 0;
	case 'c':
		cl->file = optarg;
		return 0;
	case 'f':
		cl->foreground = true;
		return 0;
	case 'd':
		cl->idle_seconds = TM_IDLE_SECONDS;
		if (!optarg || parse_seconds(optarg, &cl->idle_seconds) == 0)
			return 0;
		fprintf(stderr, "tmemd: --on-demand: '%s' is no number of seconds\n", optarg);
		break;
	case 'h':
		print_help();
		return 1;
	case 'V':
		printf("tmemd %s\n", TM_VERSION);
		return 1;
	}
	*ret_status = usage_error(); /* getopt has named the option */
	return 1;
}

static int read_options(int argc, char **argv, struct command_line *cl, int *ret_status)
{
	struct option options[TM_ARRAY_SIZE(settings) + 1] = {0};
	int letter;

	for (size_t i = 0; i < TM_ARRAY_SIZE(settings); i++) {
		const struct setting *s = &settings[i];

		options[i].name = s->key;
		options[i].has_arg = !s->value ? no_argument
			: *s->value == '['     ? optional_argument
					       : required_argument;
		options[i].val = s->letter;
	}
	while ((letter = getopt_long(argc, argv, "S:l:r:c:f", options, NULL)) >= 0)
		if (take_option(letter, cl, ret_status))
			return 1;
	if (optind < argc) {
		fprintf(stderr, "tmemd: unexpected argument '%s'\n", argv[optind]);
		*ret_status = usage_error();
		return 1;
	}
	return 0;
}

int tm_config_read(int argc, char **argv, struct tm_config *ret_config, int *ret_status)
{
	struct command_line cl = {0};
	struct texts file = {0};
	struct tm_config config = {.limit = tm_ram_bytes() / 2, .reserve = tm_ram_bytes() / 10};
	const char *limit, *reserve, *env = getenv("TMEM_SOCKET");
	int rc = read_options(argc, argv, &cl, ret_status);

	/* The default file describes the host of the system, not one that a user runs beside it. */
	if (!rc && (cl.file || geteuid() == 0)) {
		rc = read_file(cl.file ? cl.file : TM_CONFIG_FILE, cl.file, &file);
		*ret_status = 1;
	}
	if (!rc) {
		limit = cl.texts.limit ? cl.texts.limit : file.limit;
		reserve = cl.texts.reserve ? cl.texts.reserve : file.reserve;
		if (limit)
			tm_size_parse(limit, &config.limit);
		if (reserve)
			tm_size_parse(reserve, &config.reserve);
		config.foreground = cl.foreground;
		config.idle_seconds = cl.idle_seconds;
		config.auths = file.auths;
		file.auths = (struct tm_auths){0};
		config.socket = tm_socket_path(cl.texts.socket ? cl.texts.socket
				: env && *env                  ? NULL
							       : file.socket);
		if (config.socket) {
			*ret_config = config;
		} else {
			fprintf(stderr, "tmemd: out of memory\n");
			*ret_status = rc = 1;
		}
	}
	texts_free(&cl.texts);
	texts_free(&file);
	return rc;
}

void tm_config_free(struct tm_config *config)
{
	free(config->socket);
	config->socket = NULL;
	tm_auths_free(&config->auths);
}
