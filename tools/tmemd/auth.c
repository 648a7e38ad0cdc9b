/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * auth.c - which users may join which shared pools
 *
 * Locking: none; tmemd has one thread.
 */
#include "tools/tmemd/auth.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "tools/tmemd/beside.h"

static bool is_same(const struct tm_auth *a, const struct tm_uuid *uuid, uid_t uid)
{
	return a->uuid.lo == uuid->lo && a->uuid.hi == uuid->hi && a->uid == uid;
}

static struct tm_auth *find(const struct tm_auths *auths, const struct tm_uuid *uuid, uid_t uid)
{
	for (size_t i = 0; i < auths->count; i++)
		if (is_same(&auths->list[i], uuid, uid))
			return &auths->list[i];
	return NULL;
}

bool tm_auths_has(const struct tm_auths *auths, const struct tm_uuid *uuid, uid_t uid)
{
	const struct tm_auth *a = find(auths, uuid, uid);

	return a && !a->removed;
}

bool tm_auths_knows(const struct tm_auths *auths, uid_t uid)
{
	for (size_t i = 0; i < auths->count; i++)
		if (auths->list[i].uid == uid && !auths->list[i].removed)
			return true;
	return false;
}

int tm_auths_add(struct tm_auths *auths, const struct tm_uuid *uuid, uid_t uid, bool configured)
{
	struct tm_auth *list = find(auths, uuid, uid);

	if (list) {
		list->removed = false;
		return 0;
	}
	if (auths->count == TM_AUTHS_MAX)
		return -ENOSPC;
	list = reallocarray(auths->list, auths->count + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	auths->list = list;
	list[auths->count++] = (struct tm_auth){*uuid, uid, configured, false};
	return 0;
}

void tm_auths_remove(struct tm_auths *auths, const struct tm_uuid *uuid, uid_t uid)
{
	struct tm_auth *a = find(auths, uuid, uid);

	if (a && a->configured)
		a->removed = true;
	else if (a)
		*a = auths->list[--auths->count];
}

void tm_auths_free(struct tm_auths *auths)
{
	free(auths->list);
	*auths = (struct tm_auths){0};
}

/* --- text ------------------------------------------------------------------------------------- */

static int parse_user(const char *text, uid_t *ret_uid)
{
	char *end;
	unsigned long number;
	const struct passwd *pw;

	if (strspn(text, "0123456789") == strlen(text)) {
		errno = 0;
		number = strtoul(text, &end, 10);
		if (errno || number >= UINT_MAX) /* the last one is nobody at all */
			return -EINVAL;
		*ret_uid = (uid_t)number;
		return 0;
	}
	pw = getpwnam(text);
	if (!pw)
		return -EINVAL;
	*ret_uid = pw->pw_uid;
	return 0;
}

int tm_auths_parse(
	struct tm_auths *auths, const char *text, bool configured, char *ret_error, size_t size)
{
	TM_AUTO_FREE char *copy = strdup(text);
	char *rest = NULL, *word;
	struct tm_uuid uuid;
	uid_t uid;
	int rc, users = 0;

	if (!copy)
		return -ENOMEM;
	word = strtok_r(copy, " \t", &rest);
	if (!word || tm_uuid_parse(word, &uuid) < 0) {
		snprintf(ret_error, size, "'%.60s' is no UUID", word ? word : "");
		return -EINVAL;
	}
	while ((word = strtok_r(NULL, " \t", &rest))) {
		if (parse_user(word, &uid) < 0) {
			snprintf(ret_error, size, "there is no user '%.60s'", word);
			return -EINVAL;
		}
		rc = tm_auths_add(auths, &uuid, uid, configured);
		if (rc < 0)
			return rc;
		users++;
	}
	if (users == 0) {
		snprintf(ret_error, size, "no user");
		return -EINVAL;
	}
	return 0;
}

json_t *tm_auths_describe(const struct tm_auths *auths)
{
	json_t *list = json_array();
	char text[TM_UUID_TEXT_MAX];

	for (size_t i = 0; i < auths->count; i++)
		if (!auths->list[i].removed &&
			json_array_append_new(list,
				json_pack("{s:s,s:I}", "uuid",
					tm_uuid_format(&auths->list[i].uuid, text), "uid",
					(json_int_t)auths->list[i].uid)) < 0)
			break;
	return list;
}

/* --- the file: a line "UUID UID" for each that was let in, "-UUID UID" for each that was let in by
 * the configuration and is not any more -------------------------------------------------------- */

static void write_all(FILE *file, const void *opaque)
{
	const struct tm_auths *auths = opaque;
	char text[TM_UUID_TEXT_MAX];

	for (size_t i = 0; i < auths->count; i++)
		if (auths->list[i].configured == auths->list[i].removed)
			fprintf(file, "%s%s %u\n", auths->list[i].removed ? "-" : "",
				tm_uuid_format(&auths->list[i].uuid, text),
				(unsigned int)auths->list[i].uid);
}

int tm_auths_save(const struct tm_auths *auths, int dir_fd, const char *name)
{
	return tm_beside_save(dir_fd, name, write_all, auths);
}

/* What the configuration does not say any more needs no removing. */
static int read_removed(struct tm_auths *auths, const char *text, char *ret_error, size_t size)
{
	struct tm_auths removed = {0};
	int rc = tm_auths_parse(&removed, text, false, ret_error, size);

	for (size_t i = 0; rc == 0 && i < removed.count; i++)
		tm_auths_remove(auths, &removed.list[i].uuid, removed.list[i].uid);
	tm_auths_free(&removed);
	return rc;
}

static int read_all(struct tm_auths *auths, FILE *file)
{
	TM_AUTO_FREE char *line = NULL;
	char error[128];
	size_t size = 0;
	int rc = 0;

	while (rc == 0 && getline(&line, &size, file) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (*line == '-')
			rc = read_removed(auths, line + 1, error, sizeof(error));
		else
			rc = tm_auths_parse(auths, line, false, error, sizeof(error));
	}
	return rc < 0 ? rc : ferror(file) ? -EIO : 0;
}

int tm_auths_load(struct tm_auths *auths, int dir_fd, const char *name)
{
	FILE *file;
	int rc = tm_beside_open(dir_fd, name, &file);

	if (rc < 0)
		return rc;
	rc = read_all(auths, file);
	fclose(file);
	return rc;
}
