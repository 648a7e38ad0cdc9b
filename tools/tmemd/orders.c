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

struct tm_orders {
	int dir_fd;
	char *name; /* of the file in it */
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

/* 0; -EINVAL the line is none that write_orders() writes. */
static int follow(struct tm_host *host, char *line)
{
	enum tm_policy policy, instead;
	char *word = strtok(line, " ");

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
		rc = follow(host, line);
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

static void write_orders(FILE *file, const void *opaque)
{
	const struct tm_host *host = opaque;

	if (host->policy != host->config.policy)
		fprintf(file, "policy %s instead of %s\n", tm_policy_names[host->policy],
			tm_policy_names[host->config.policy]);
	if (host->all_frozen)
		fprintf(file, "frozen\n");
}

void tm_orders_keep(const struct tm_host *host)
{
	struct tm_orders *o = host->orders;
	int rc = 0;

	if (!o)
		return;
	if (host->policy != host->config.policy || host->all_frozen)
		rc = tm_beside_save(o->dir_fd, o->name, write_orders, host);
	else if (unlinkat(o->dir_fd, o->name, 0) < 0 && errno != ENOENT)
		rc = -errno;
	if (rc < 0)
		tm_log("%s: %s: what was said of the host is forgotten when this tmemd ends",
			o->name, strerror(-rc));
}
