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
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "core/proto.h"
#include "core/util.h"
#include "tools/tmemd/registry.h"

enum kind {
	FLAG,
	TEXT,
	SIZE,
	NUMBER,
	POLICY,
};

struct setting {
	const char *key; /* long option, and key of the file when in_file */
	char letter;     /* short option when `is_short`, else only a number for getopt */
	bool is_short, in_file;
	enum kind kind;
	const char *value; /* NULL: takes none */
	const char *help;
	size_t field; /* of SIZE, NUMBER and POLICY: offset in struct tm_config */
	unsigned int least, most;
};

#define SIZE_FIELD(name)                offsetof(struct tm_config, name), 0, 0
#define NUMBER_FIELD(name, least, most) offsetof(struct tm_config, name), least, most

static const struct setting settings[] = {
	/* the socket is the first */
	{"socket", 'S', true, true, TEXT, "PATH",
		"control socket (default: $TMEM_SOCKET, else by user)", 0, 0, 0},
	{"limit", 'l', true, true, SIZE, "SIZE",
		"most that all clients together may use (default: half of memory)",
		SIZE_FIELD(limit)},
	{"reserve", 'r', true, true, SIZE, "SIZE",
		"available memory to leave alone (default: 10% of memory)", SIZE_FIELD(reserve)},
	{"policy", 'P', false, true, POLICY, "NAME",
		"who gets memory that is short, by weight or benefit (default: weight)",
		SIZE_FIELD(policy)},
	{"max-clients", 'C', false, true, NUMBER, "N", "clients at a time (default and most: 256)",
		NUMBER_FIELD(max_clients, 1, TM_CLIENTS_MAX)},
	{"max-connections", 'N', false, true, NUMBER, "N",
		"other connections at a time (default and most: 256)",
		NUMBER_FIELD(max_connections, 1, TM_CONTROL_MAX)},
	{"max-line", 'L', false, true, NUMBER, "BYTES",
		"longest request (default and most: 1048576)",
		NUMBER_FIELD(max_line, 1024, TM_PROTO_LINE_MAX)},
	{"max-rate", 'R', false, true, NUMBER, "N",
		"requests a second and connection (default: 1000)",
		NUMBER_FIELD(max_rate, 1, 1000000)},
	{"keep-caches", 'K', false, true, NUMBER, "SECONDS",
		"how long what a killed mount had cached is kept for the next (default: 600)",
		NUMBER_FIELD(keep_caches, 0, 1000000)},
	{"config", 'c', true, false, TEXT, "FILE",
		"read this file (default for root: " TM_CONFIG_FILE ")", 0, 0, 0},
	{"foreground", 'f', true, false, FLAG, NULL,
		"stay in the foreground, log to standard error", 0, 0, 0},
	{"on-demand", 'd', false, false, FLAG, "[SECONDS]",
		"end after so long (default: 10) without anybody", 0, 0, 0},
	{"help", 'h', false, false, FLAG, NULL, "print this and exit", 0, 0, 0},
	{"version", 'V', false, false, FLAG, NULL, "print the version and exit", 0, 0, 0},
};

#define SETTINGS TM_ARRAY_SIZE(settings)

/* Values as text, by setting, so that all sources can be read before one of them is believed. */
struct texts {
	char *of[SETTINGS];
	struct tm_auths auths; /* of shared-auth, which only the file has, any number of times */
};

static void texts_free(struct texts *t)
{
	for (size_t i = 0; i < SETTINGS; i++)
		free(t->of[i]);
	tm_auths_free(&t->auths);
}

static int parse_number(const struct setting *s, const char *text, unsigned int *ret_number)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || value < s->least || value > s->most)
		return -EINVAL;
	*ret_number = (unsigned int)value;
	return 0;
}

/* 0; -EINVAL with the reason in `ret_why`. */
static int check_value(const struct setting *s, const char *text, char *ret_why, size_t size)
{
	enum tm_policy policy;
	unsigned int number;
	uint64_t bytes;
	int rc = 0;

	if (!*text)
		rc = snprintf(ret_why, size, "no value");
	else if (s->kind == SIZE && tm_size_parse(text, &bytes) < 0)
		rc = snprintf(ret_why, size, "'%.60s' is no size", text);
	else if (s->kind == NUMBER && parse_number(s, text, &number) < 0)
		rc = snprintf(ret_why, size, "'%.60s' is no number from %u to %u", text, s->least,
			s->most);
	else if (s->kind == POLICY && tm_policy_parse(text, &policy) < 0)
		rc = snprintf(ret_why, size, "'%.60s' is neither weight nor benefit", text);
	return rc ? -EINVAL : 0;
}

/* Put a value that was checked where it belongs. */
static void apply(const struct setting *s, const char *text, struct tm_config *config)
{
	char *field = (char *)config + s->field;

	if (s->kind == SIZE)
		tm_size_parse(text, (uint64_t *)(void *)field);
	else if (s->kind == NUMBER)
		parse_number(s, text, (unsigned int *)(void *)field);
	else if (s->kind == POLICY)
		tm_policy_parse(text, (enum tm_policy *)(void *)field);
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
	for (size_t i = 0; i < SETTINGS; i++) {
		const struct setting *s = &settings[i];
		const char *value = s->value ? s->value : "";
		char left[40];

		snprintf(left, sizeof(left), "%s%s%s", s->key, *value && *value != '[' ? " " : "",
			*value == '[' ? "[=SECONDS]" : value);
		if (!s->is_short)
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
	char why[120];
	size_t i = 0;

	if (r->failed)
		return 0;
	if (!*section && strcmp(key, "shared-auth") == 0)
		return file_auth(r, value);
	while (i < SETTINGS && !(settings[i].in_file && strcmp(settings[i].key, key) == 0))
		i++;
	if (*section) {
		snprintf(r->error, sizeof(r->error), "unknown section [%.60s]", section);
	} else if (i == SETTINGS) {
		snprintf(r->error, sizeof(r->error), "unknown key '%.60s'", key);
	} else if (check_value(&settings[i], value, why, sizeof(why)) < 0) {
		snprintf(r->error, sizeof(r->error), "%.60s: %s", key, why);
	} else {
		free(r->texts->of[i]);
		r->texts->of[i] = strdup(value);
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
	char why[120];
	size_t i = 0;

	while (i < SETTINGS && settings[i].letter != letter)
		i++;
	*ret_status = 0;
	if (i < SETTINGS && settings[i].in_file) {
		if (check_value(&settings[i], optarg, why, sizeof(why)) == 0) {
			free(cl->texts.of[i]);
			cl->texts.of[i] = strdup(optarg);
			return 0;
		}
		fprintf(stderr, "tmemd: --%s: %s\n", settings[i].key, why);
		*ret_status = usage_error();
		return 1;
	}
	switch (letter) {
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
	struct option options[SETTINGS + 1] = {0};
	int letter;

	for (size_t i = 0; i < SETTINGS; i++) {
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
	struct tm_config config = {.limit = TM_CONFIG_SHARE,
		.reserve = TM_CONFIG_SHARE,
		.max_clients = TM_CLIENTS_MAX,
		.max_connections = TM_CONTROL_MAX,
		.max_line = TM_PROTO_LINE_MAX,
		.max_rate = TM_CONFIG_RATE,
		.keep_caches = TM_CONFIG_KEEP_CACHES};
	const char *env = getenv("TMEM_SOCKET");
	int rc = read_options(argc, argv, &cl, ret_status);

	/* The default file describes the host of the system, not one that a user runs beside it. */
	if (!rc && (cl.file || geteuid() == 0)) {
		rc = read_file(cl.file ? cl.file : TM_CONFIG_FILE, cl.file, &file);
		*ret_status = 1;
	}
	if (!rc) {
		for (size_t i = 0; i < SETTINGS; i++) {
			const char *text = cl.texts.of[i] ? cl.texts.of[i] : file.of[i];

			if (text)
				apply(&settings[i], text, &config);
		}
		config.foreground = cl.foreground;
		config.idle_seconds = cl.idle_seconds;
		config.auths = file.auths;
		file.auths = (struct tm_auths){0};
		config.socket = tm_socket_path(cl.texts.of[0] ? cl.texts.of[0]
				: env && *env                 ? NULL
							      : file.of[0]);
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
