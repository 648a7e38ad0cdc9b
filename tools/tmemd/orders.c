/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/tmemd/orders.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/tmemd/beside.h"
#include "tools/tmemd/host.h"
#include "tools/tmemd/log.h"

#define ORDERS_FILE ".orders"

struct owner {
	char name[TM_NAME_MAX + 1], type[TM_NAME_MAX + 1];
	uid_t uid;
};

struct tm_orders {
	int dir_fd;
	char *name; /* of the file in it */

	/* Whose store an earlier tmemd had, and who has not been seen since. */
	struct owner missing[TM_CLIENTS_MAX];
	size_t missing_count;
};

static int open_directory(struct tm_orders *o, const char *path)
{
	TM_AUTO_FREE char *copy = strdup(path);
	const char *slash = strrchr(path, '/');

	if (!copy || asprintf(&o->name, "%s" ORDERS_FILE, slash ? slash + 1 : path) < 0)
		return -ENOMEM;
	o->dir_fd = open(dirname(copy), O_PATH | O_DIRECTORY | O_CLOEXEC);
	return o->dir_fd < 0 ? -errno : 0;
}

/* 0; -EINVAL. The rest of a line "kept\tUID\tTYPE\tNAME". */
static int note_missing(struct tm_orders *o, char *rest)
{
	char *uid = strsep(&rest, "\t"), *type = strsep(&rest, "\t"), *end;
	struct owner *owner = &o->missing[o->missing_count];

	if (!uid || !type || !rest || strlen(type) > TM_NAME_MAX || strlen(rest) > TM_NAME_MAX ||
		o->missing_count == TM_CLIENTS_MAX)
		return -EINVAL;
	owner->uid = (uid_t)strtoul(uid, &end, 10);
	strcpy(owner->type, type);
	strcpy(owner->name, rest);
	o->missing_count += *end == '\0';
	return *end ? -EINVAL : 0;
}

/* 0; -EINVAL the line is none that write_orders() writes. */
static int follow(struct tm_orders *o, struct tm_host *host, char *line)
{
	enum tm_policy policy, instead;
	char *word;

	if (strncmp(line, "kept\t", strlen("kept\t")) == 0)
		return note_missing(o, line + strlen("kept\t"));
	word = strtok(line, " ");
	if (!word || strcmp(word, "frozen") == 0) {
		host->all_frozen |= word != NULL;
		return 0;
	}
	if (strcmp(word, "policy") != 0 || !(word = strtok(NULL, " ")) ||
		tm_policy_parse(word, &policy) < 0 || !(word = strtok(NULL, " ")) ||
		strcmp(word, "instead") != 0 || !(word = strtok(NULL, " ")) ||
		strcmp(word, "of") != 0 || !(word = strtok(NULL, " ")) ||
		tm_policy_parse(word, &instead) < 0)
		return -EINVAL;
	if (instead == host->config.policy)
		host->policy = policy;
	return 0;
}

static int read_orders(struct tm_orders *o, struct tm_host *host)
{
	TM_AUTO_FREE char *line = NULL;
	size_t size = 0;
	FILE *file;
	int rc = tm_beside_open(o->dir_fd, o->name, &file);

	if (rc < 0)
		return rc;
	while (rc == 0 && getline(&line, &size, file) > 0) {
		line[strcspn(line, "\n")] = '\0';
		rc = follow(o, host, line);
	}
	if (rc == 0 && ferror(file))
		rc = -EIO;
	fclose(file);
	return rc;
}

struct tm_orders *tm_orders_open(struct tm_host *host)
{
	struct tm_orders *o = calloc(1, sizeof(*o));
	int rc = -ENOMEM;

	if (o) {
		o->dir_fd = -1;
		rc = open_directory(o, host->config.socket);
	}
	if (rc < 0) {
		tm_log("%s" ORDERS_FILE ": %s", host->config.socket, strerror(-rc));
		tm_orders_close(o);
		return NULL;
	}
	rc = read_orders(o, host);
	if (rc < 0 && rc != -ENOENT)
		tm_log("%s: %s", o->name, strerror(-rc));
	if (host->policy != host->config.policy)
		tm_log("memory that is short goes by %s, as the last tmemd was told",
			tm_policy_names[host->policy]);
	if (host->all_frozen)
		tm_log("all clients are frozen, as the last tmemd was told");
	return o;
}

void tm_orders_close(struct tm_orders *o)
{
	if (!o)
		return;
	if (o->dir_fd >= 0)
		close(o->dir_fd);
	free(o->name);
	free(o);
}

static void write_kept(FILE *file, const char *name, const char *type, uid_t uid)
{
	fprintf(file, "kept\t%u\t%s\t%s\n", uid, type, name);
}

static void write_orders(FILE *file, const void *opaque)
{
	const struct tm_host *host = opaque;
	const struct tm_orders *o = host->orders;

	if (host->policy != host->config.policy)
		fprintf(file, "policy %s instead of %s\n", tm_policy_names[host->policy],
			tm_policy_names[host->config.policy]);
	if (host->all_frozen)
		fprintf(file, "frozen\n");
	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));)
		if (c->kept[TM_KEPT_STORE] >= 0 && !c->cache)
			write_kept(file, c->name, c->type, c->uid);
	for (size_t i = 0; i < o->missing_count; i++)
		write_kept(file, o->missing[i].name, o->missing[i].type, o->missing[i].uid);
}

/* Is there anything to say? */
static bool is_worth_a_file(const struct tm_host *host)
{
	for (struct tm_client *c = NULL; (c = tm_registry_next(host->registry, c));)
		if (c->kept[TM_KEPT_STORE] >= 0 && !c->cache)
			return true;
	return host->policy != host->config.policy || host->all_frozen ||
		host->orders->missing_count > 0;
}

void tm_orders_keep(struct tm_host *host)
{
	struct tm_orders *o = host->orders;
	int rc = 0;

	if (!o)
		return;
	if (is_worth_a_file(host))
		rc = tm_beside_save(o->dir_fd, o->name, write_orders, host);
	else if (unlinkat(o->dir_fd, o->name, 0) < 0 && errno != ENOENT)
		rc = -errno;
	if (rc < 0)
		tm_log("%s: %s: what was said of the host is forgotten when this tmemd ends",
			o->name, strerror(-rc));
}

static bool take_missing(struct tm_orders *o, const char *name, const char *type, uid_t uid)
{
	for (size_t i = 0; o && i < o->missing_count; i++) {
		const struct owner *m = &o->missing[i];

		if (m->uid != uid || strcmp(m->type, type) || strcmp(m->name, name))
			continue;
		o->missing[i] = o->missing[--o->missing_count];
		return true;
	}
	return false;
}

void tm_orders_found(struct tm_host *host, const struct tm_client *client)
{
	take_missing(host->orders, client->name, client->type, client->uid);
	tm_orders_keep(host);
}

bool tm_orders_lost(struct tm_host *host, const char *name, const char *type, uid_t uid)
{
	char text[TM_NAME_MAX + 1];

	tm_printable(text, sizeof(text), name, SIZE_MAX);
	if (!take_missing(host->orders, text, type, uid))
		return false;
	tm_log("client '%s': what the last one of its name had in memory is lost: it ended without "
	       "taking leave, and so did the tmemd that kept that",
		text);
	tm_orders_keep(host);
	return true;
}
