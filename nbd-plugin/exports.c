/* SPDX-License-Identifier: GPL-2.0-or-later */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "nbd-plugin/exports.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/tmem.h"
#include "core/util.h"

#define WRITEBACK_DEFAULT (128ull << 20) /* bytes a second */

static struct tm_export table[TM_EXPORTS_MAX];
static size_t count;
static char *reading; /* the file that is being read, or NULL */
static unsigned int reading_line;

int tm_exports_error(const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (reading)
		nbdkit_error("%s:%u: %s", reading, reading_line, text);
	else
		nbdkit_error("%s", text);
	return -1;
}

const char *tm_export_label(const struct tm_export *e, char buf[static TM_EXPORT_NAME_MAX + 16])
{
	if (*e->name)
		snprintf(buf, TM_EXPORT_NAME_MAX + 16, "export %s: ", e->name);
	else
		*buf = '\0';
	return buf;
}

struct tm_export *tm_exports_next(const struct tm_export *e)
{
	size_t next = e ? (size_t)(e - table) + 1 : 0;

	return next < count ? &table[next] : NULL;
}

struct tm_export *tm_exports_for_client(const char *name)
{
	struct tm_export *e = tm_exports_find(name);

	return !e && count == 1 && !*table[0].name ? &table[0] : e;
}

struct tm_export *tm_exports_find(const char *name)
{
	for (struct tm_export *e = NULL; (e = tm_exports_next(e));)
		if (strcmp(e->name, name) == 0)
			return e;
	return NULL;
}

/* --- parameters ------------------------------------------------------------------------------- */

/* What NBD allows, less what would break a line of a log or a list. */
static int check_name(const char *name)
{
	size_t n = strlen(name);

	if (n > TM_EXPORT_NAME_MAX)
		return tm_exports_error("export: a name has at most %d bytes", TM_EXPORT_NAME_MAX);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
			return tm_exports_error("export: a name has no control characters");
	return 0;
}

static int add(const char *name)
{
	struct tm_export *e = &table[count];

	if (check_name(name) < 0)
		return -1;
	if (tm_exports_find(name))
		return tm_exports_error("two exports are called '%s'", name);
	if (count == TM_EXPORTS_MAX)
		return tm_exports_error("more than %d exports", TM_EXPORTS_MAX);
	e->name = strdup(name);
	if (!e->name)
		return tm_exports_error("%s", strerror(ENOMEM));
	for (size_t i = 0; i < TM_ARRAY_SIZE(e->said); i++)
		atomic_flag_clear(&e->said[i]);
	count++;
	return 0;
}

static int parse_size(const char *key, const char *value, uint64_t *ret_bytes)
{
	int rc = tm_size_parse(value, ret_bytes);

	if (rc == 0)
		return 0;
	return tm_exports_error("%s=%s: %s; sizes are like 512M, 8G, 1.5T", key, value,
		rc == -ERANGE ? "too large" : "not a size");
}

static int set_size(struct tm_export *e, const char *value)
{
	return parse_size("size", value, &e->size);
}

static int set_limit(struct tm_export *e, const char *value)
{
	if (parse_size("limit", value, &e->limit) < 0)
		return -1;
	if (e->limit < TM_LIMIT_MIN)
		return tm_exports_error("limit: at least %lluM", TM_LIMIT_MIN >> 20);
	return 0;
}

static int set_weight(struct tm_export *e, const char *value)
{
	char *end;
	unsigned long weight = strtoul(value, &end, 10);

	if (!isdigit((unsigned char)*value) || *end || weight < TM_WEIGHT_MIN ||
		weight > TM_WEIGHT_MAX)
		return tm_exports_error(
			"weight: a number from %d to %d", TM_WEIGHT_MIN, TM_WEIGHT_MAX);
	e->weight = (uint32_t)weight;
	return 0;
}

static int set_recompress(struct tm_export *e, const char *value)
{
	e->recompress = strcmp(value, "on") ? TM_RECOMPRESS_OFF : TM_RECOMPRESS_ON;
	if (e->recompress == TM_RECOMPRESS_ON || strcmp(value, "off") == 0)
		return 0;
	return tm_exports_error("recompress=%s: on or off", value);
}

static int set_fallback(struct tm_export *e, const char *value)
{
	if (!*value)
		return tm_exports_error("fallback=: a path is missing");
	e->fallback = nbdkit_absolute_path(value);
	return e->fallback ? 0 : -1;
}

static int set_encrypt(struct tm_export *e, const char *value)
{
	e->plain = strcmp(value, "no") == 0;
	if (e->plain || strcmp(value, "yes") == 0)
		return 0;
	return tm_exports_error("encrypt=%s: yes or no", value);
}

static int set_writeback(struct tm_export *e, const char *value)
{
	e->hold_back = strcmp(value, "off") == 0;
	if (e->hold_back)
		return 0;
	if (parse_size("writeback", value, &e->writeback) < 0)
		return -1;
	if (e->writeback < 1u << 20)
		return tm_exports_error("writeback: at least 1M (a second), or off");
	return 0;
}

/* As tm_open() wants it; by then we may be in the background, where nobody reads errors. */
static bool is_pool_name(const char *value)
{
	size_t n = strlen(value);

	for (size_t i = 0; i < n; i++)
		if (value[i] < ' ' || value[i] > '~')
			return false;
	return n > 0 && n <= TM_NAME_MAX;
}

static int set_pool(struct tm_export *e, const char *value)
{
	if (!is_pool_name(value))
		return tm_exports_error(
			"pool: a name has 1 to %d bytes, all of them printable", TM_NAME_MAX);
	e->pool = strdup(value);
	return e->pool ? 0 : tm_exports_error("%s", strerror(ENOMEM));
}

static const struct {
	const char *key;
	int (*set)(struct tm_export *e, const char *value);
} parameters[] = {
	{"size", set_size},
	{"fallback", set_fallback},
	{"encrypt", set_encrypt},
	{"writeback", set_writeback},
	{"limit", set_limit},
	{"weight", set_weight},
	{"recompress", set_recompress},
	{"pool", set_pool},
};

int tm_exports_set(const char *key, const char *value)
{
	struct tm_export *e;
	unsigned int i = 0;

	if (strcmp(key, "export") == 0)
		return add(value);
	while (i < TM_ARRAY_SIZE(parameters) && strcmp(parameters[i].key, key) != 0)
		i++;
	if (i == TM_ARRAY_SIZE(parameters))
		return tm_exports_error(
			"unknown parameter %s; there are size, fallback, "
			"encrypt, writeback, limit, lock, weight, recompress, pool, export, "
			"exports and tmem-socket",
			key);
	if (count == 0 && add("") < 0)
		return -1;
	e = &table[count - 1];
	if (e->given & 1u << i)
		return tm_exports_error("%s%s is given twice", TM_EXPORT_LABEL(e), key);
	e->given |= 1u << i;
	return parameters[i].set(e, value);
}

/* --- the file --------------------------------------------------------------------------------- */

static char *trim(char *text)
{
	char *end;

	while (isspace((unsigned char)*text))
		text++;
	end = text + strlen(text);
	while (end > text && isspace((unsigned char)end[-1]))
		end--;
	*end = '\0';
	return text;
}

static int read_line(char *line, int (*set)(const char *key, const char *value))
{
	char *key = trim(line), *value = strchr(key, '=');

	if (*key == '#' || *key == '\0')
		return 0;
	if (!value)
		return tm_exports_error("is not 'key = value'");
	*value++ = '\0';
	return set(trim(key), trim(value));
}

/* Not by libinih, which cuts lines at 200 bytes and takes " ;" in a name for a comment. */
int tm_exports_read(const char *path, int (*set)(const char *key, const char *value))
{
	TM_AUTO_FREE char *line = NULL;
	size_t size = 0;
	FILE *file;
	int rc = 0;

	if (reading)
		return tm_exports_error("a file of exports cannot name another one");
	file = fopen(path, "re");
	if (!file)
		return tm_exports_error("exports=%s: %s", path, strerror(errno));
	reading = nbdkit_absolute_path(path);
	rc = reading ? 0 : -1;
	for (reading_line = 1; rc == 0 && getline(&line, &size, file) >= 0; reading_line++)
		rc = read_line(line, set);
	if (rc == 0 && ferror(file))
		rc = tm_exports_error("%s", strerror(errno));
	free(reading);
	reading = NULL;
	fclose(file);
	return rc;
}

/* --- all of them ------------------------------------------------------------------------------ */

static int check_size(const struct tm_export *e)
{
	/* Pages are numbered in 32 bits. */
	const uint64_t max = (uint64_t)UINT32_MAX * TM_DEVICE_PAGE;

	if (e->size == 0)
		return tm_exports_error(
			"%ssize=SIZE is required: the size of the device, such as 8G",
			TM_EXPORT_LABEL(e));
	if (e->size > max)
		return tm_exports_error("%ssize: at most %llu bytes (16T less one page)",
			TM_EXPORT_LABEL(e), (unsigned long long)max);
	return 0;
}

/* An export that has a name is known to the host by it. */
static int default_pool(struct tm_export *e)
{
	if (e->pool || !*e->name)
		return 0;
	if (!is_pool_name(e->name))
		return tm_exports_error("%spool=NAME is required: a pool's name has 1 to %d "
					"bytes, all of them printable ASCII",
			TM_EXPORT_LABEL(e), TM_NAME_MAX);
	e->pool = strdup(e->name);
	return e->pool ? 0 : tm_exports_error("%s", strerror(ENOMEM));
}

static int default_writeback(struct tm_export *e)
{
	if (e->writeback && !e->fallback)
		return tm_exports_error(
			"%swriteback: there is no fallback to write to", TM_EXPORT_LABEL(e));
	if (!e->writeback && !e->hold_back)
		e->writeback = WRITEBACK_DEFAULT;
	return 0;
}

static bool are_same(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

static int check_apart(const struct tm_export *e)
{
	for (const struct tm_export *other = table; other < e; other++) {
		if (are_same(e->pool, other->pool))
			return tm_exports_error("exports '%s' and '%s' have the same pool %s",
				other->name, e->name, e->pool);
		if (are_same(e->fallback, other->fallback))
			return tm_exports_error("exports '%s' and '%s' have the same fallback %s",
				other->name, e->name, e->fallback);
	}
	return 0;
}

int tm_exports_complete(void)
{
	int rc = 0;

	if (count == 0)
		return tm_exports_error(
			"size=SIZE is required: the size of the device, such as 8G");
	for (struct tm_export *e = NULL; rc == 0 && (e = tm_exports_next(e));) {
		rc = check_size(e);
		if (rc == 0)
			rc = default_pool(e);
		if (rc == 0)
			rc = default_writeback(e);
		if (rc == 0)
			rc = check_apart(e);
	}
	return rc;
}

void tm_exports_free(void)
{
	for (struct tm_export *e = NULL; (e = tm_exports_next(e));) {
		free(e->name);
		free(e->pool);
		free(e->fallback);
	}
	count = 0;
}
