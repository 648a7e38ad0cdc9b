/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fdstore.c - systemd's descriptor store, by the protocol of sd_notify(3) and sd_listen_fds(3)
 *
 * After those manuals; without libsystemd, which would wait where systemd does not read. What it
 * has no room for at the moment waits here, in order, with a duplicate of the descriptor.
 */
#include "tools/tmemd/fdstore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/tmemd/host.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/orders.h"

#define FIRST_FD 3 /* by the protocol */
#define WHO_MAX  256
#define TEXT_MAX 96

enum part {
	PART_LEDGER,
	PART_WHO,
	PART_STORE, /* the others are optional, or follow from these */
	PART_STATE,
	PART_COUNT
};

static const char *const part_names[PART_COUNT] = {
	[PART_LEDGER] = "ledger",
	[PART_WHO] = "who",
	[PART_STORE] = "store",
	[PART_STATE] = "state",
};

static const enum part part_of[TM_KEPT_COUNT] = {
	[TM_KEPT_STORE] = PART_STORE,
	[TM_KEPT_STATE] = PART_STATE,
};

struct message {
	STAILQ_ENTRY(message) link;
	char text[TEXT_MAX];
	int fd; /* -1: none */
};

STAILQ_HEAD(message_list, message);

struct tm_fdstore {
	struct message_list waiting;
	int fd; /* to systemd; -1: not opened yet */
	struct sockaddr_un address;
	socklen_t length;
	int passed;
	char *names; /* of what was passed, with colons between; NULL: none */
};

/* What was handed over of one client. */
struct group {
	uint64_t key;
	int fd[PART_COUNT];
};

/* --- the environment -------------------------------------------------------------------------- */

static bool set_address(struct tm_fdstore *s, const char *path)
{
	size_t length = strlen(path);

	if (length < 2 || length >= sizeof(s->address.sun_path) || !strchr("/@", *path))
		return false;
	s->address.sun_family = AF_UNIX;
	memcpy(s->address.sun_path, path, length);
	if (*path == '@')
		s->address.sun_path[0] = '\0';
	s->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	return true;
}

/* How many descriptors were meant for this process. */
static int count_passed(void)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
	long n = count ? strtol(count, NULL, 10) : 0;

	if (!pid || strtol(pid, NULL, 10) != getpid() || n < 1 || n > 1 << 16)
		return 0;
	return (int)n;
}

struct tm_fdstore *tm_fdstore_new(void)
{
	const char *path = getenv("NOTIFY_SOCKET"), *names = getenv("LISTEN_FDNAMES");
	struct tm_fdstore *s = path ? calloc(1, sizeof(*s)) : NULL;

	if (s && !set_address(s, path)) {
		free(s);
		s = NULL;
	}
	if (s) {
		STAILQ_INIT(&s->waiting);
		s->fd = -1;
		s->passed = count_passed();
		s->names = names ? strdup(names) : NULL;
		for (int i = 0; i < s->passed; i++)
			(void)fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC);
	}
	unsetenv("NOTIFY_SOCKET");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return s;
}

int tm_fdstore_passed(const struct tm_fdstore *s)
{
	return s ? s->passed : 0;
}

static void drop_first(struct tm_fdstore *s, struct message *m)
{
	STAILQ_REMOVE_HEAD(&s->waiting, link);
	if (m->fd >= 0)
		close(m->fd);
	free(m);
}

void tm_fdstore_free(struct tm_fdstore *s)
{
	struct message *m;

	if (!s)
		return;
	while ((m = STAILQ_FIRST(&s->waiting)))
		drop_first(s, m);
	if (s->fd >= 0)
		close(s->fd);
	free(s->names);
	free(s);
}

/* --- telling systemd -------------------------------------------------------------------------- */

/* 0; -errno, -EAGAIN: it is behind. */
static int send_message(struct tm_fdstore *s, const char *text, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {0};
	struct iovec iov = {(char *)text, strlen(text)};
	struct msghdr message = {.msg_name = &s->address,
		.msg_namelen = s->length,
		.msg_iov = &iov,
		.msg_iovlen = 1};

	if (s->fd < 0)
		s->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0) {
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	}
	return s->fd >= 0 && sendmsg(s->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 ? 0
											: -errno;
}

static int tell(struct tm_fdstore *s, const char *text, int fd)
{
	int rc = STAILQ_EMPTY(&s->waiting) ? send_message(s, text, fd) : -EAGAIN;
	struct message *m;

	if (rc != -EAGAIN)
		return rc;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	snprintf(m->text, sizeof(m->text), "%s", text);
	m->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (fd >= 0 && m->fd < 0) {
		free(m);
		return -EMFILE;
	}
	STAILQ_INSERT_TAIL(&s->waiting, m, link);
	return 0;
}

bool tm_fdstore_tick(struct tm_host *host)
{
	struct tm_fdstore *s = host->fdstore;
	struct message *m;
	int rc;

	while (s && (m = STAILQ_FIRST(&s->waiting))) {
		rc = send_message(s, m->text, m->fd);
		if (rc == -EAGAIN)
			return true;
		if (rc < 0)
			tm_log("systemd does not hear: %s", strerror(-rc));
		drop_first(s, m);
	}
	return false;
}

void tm_fdstore_ready(struct tm_host *host)
{
	if (host->fdstore)
		(void)tell(host->fdstore, "READY=1", -1);
}

static uint64_t key_of(int ledger_fd)
{
	struct stat st;

	return ledger_fd >= 0 && fstat(ledger_fd, &st) == 0 ? st.st_ino : 0;
}

static int store_part(struct tm_fdstore *s, uint64_t key, enum part part, int fd)
{
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%llu-%s", (unsigned long long)key,
		part_names[part]);
	return tell(s, text, fd);
}

static void remove_part(struct tm_fdstore *s, uint64_t key, enum part part)
{
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%llu-%s", (unsigned long long)key,
		part_names[part]);
	(void)tell(s, text, -1);
}

/* Ledger and name, without which nobody could tell whose the rest is. */
static int store_identity(struct tm_fdstore *s, const struct tm_client *c)
{
	TM_AUTO_CLOSE int fd = memfd_create("tmem-who", MFD_CLOEXEC);
	uint64_t key = key_of(c->ledger_fd);
	char text[WHO_MAX];
	int length = snprintf(text, sizeof(text), "%s\n%s\n%u\n", c->name, c->type, c->uid), rc;

	if (fd < 0 || write(fd, text, (size_t)length) != length)
		return -errno;
	rc = store_part(s, key, PART_WHO, fd);
	return rc < 0 ? rc : store_part(s, key, PART_LEDGER, c->ledger_fd);
}

void tm_fdstore_keep(struct tm_host *host, struct tm_client *c, enum tm_kept kept)
{
	struct tm_fdstore *s = host->fdstore;
	uint64_t key = key_of(c->ledger_fd);
	int rc = 0;

	if (!s || key == 0)
		return;
	if (!c->fd_stored)
		rc = store_identity(s, c);
	else
		remove_part(s, key, part_of[kept]);
	c->fd_stored = true;
	if (rc == 0)
		rc = store_part(s, key, part_of[kept], c->kept[kept]);
	if (rc < 0)
		tm_log("client %u '%s': systemd does not keep its memory: %s", c->id, c->name,
			strerror(-rc));
}

void tm_fdstore_forget(struct tm_host *host, struct tm_client *c)
{
	if (!host->fdstore || !c->fd_stored)
		return;
	for (int part = 0; part < PART_COUNT; part++)
		remove_part(host->fdstore, key_of(c->ledger_fd), part);
	c->fd_stored = false;
}

void tm_fdstore_renew(struct tm_host *host, struct tm_client *c, int ledger_fd)
{
	struct tm_client old = *c;

	c->ledger_fd = ledger_fd;
	if (key_of(ledger_fd) != key_of(old.ledger_fd)) {
		/* First the new ones: never is there neither. */
		c->fd_stored = false;
		for (int i = 0; i < TM_KEPT_COUNT; i++)
			if (c->kept[i] >= 0)
				tm_fdstore_keep(host, c, i);
		tm_fdstore_forget(host, &old);
	}
	if (old.ledger_fd >= 0)
		close(old.ledger_fd);
}

/* --- what was handed over --------------------------------------------------------------------- */

static struct group *find_group(struct group *groups, size_t *count, uint64_t key)
{
	for (size_t i = 0; i < *count; i++)
		if (groups[i].key == key)
			return &groups[i];
	if (*count == TM_CLIENTS_MAX)
		return NULL;
	groups[*count] = (struct group){key, {-1, -1, -1, -1}};
	return &groups[(*count)++];
}

/* Descriptor `fd` of that name goes where it belongs, or is closed. */
static void sort(struct group *groups, size_t *count, const char *name, int fd)
{
	char *part;
	uint64_t key = strtoull(name, &part, 10);
	struct group *g;

	for (int i = 0; i < PART_COUNT && key > 0 && *part == '-'; i++) {
		if (strcmp(part + 1, part_names[i]) != 0)
			continue;
		g = find_group(groups, count, key);
		if (!g || g->fd[i] >= 0)
			break;
		g->fd[i] = fd;
		return;
	}
	close(fd);
}

static bool read_who(int fd, struct tm_client *model)
{
	char text[WHO_MAX] = "", end;
	char format[32];

	snprintf(format, sizeof(format), "%%%d[^\n]%%*1[\n]%%%d[^\n]%%*1[\n]%%u%%c", TM_NAME_MAX,
		TM_NAME_MAX);
	return pread(fd, text, sizeof(text) - 1, 0) > 0 &&
		sscanf(text, format, model->name, model->type, &model->uid, &end) == 4 &&
		end == '\n';
}

/* Whose threads are gone gives nothing back; who lives, and is about to join again, has a lock on
 * its store (core/local.c). */
static bool is_dead(int store_fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(store_fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK;
}

static int load_group(struct tm_host *host, const struct group *g)
{
	struct tm_client model = {.weight = TM_WEIGHT_DEFAULT, .cap = TM_CAP_NONE};
	struct tm_client *client;
	int rc;

	model.ledger_fd = g->fd[PART_LEDGER];
	model.kept[TM_KEPT_STORE] = g->fd[PART_STORE];
	model.kept[TM_KEPT_STATE] = g->fd[PART_STATE];
	model.fd_stored = true;
	if (model.ledger_fd < 0 || model.kept[TM_KEPT_STORE] < 0 || g->fd[PART_WHO] < 0 ||
		!read_who(g->fd[PART_WHO], &model) ||
		tm_registry_orphan(host->registry, model.name, model.type, model.uid))
		return -EINVAL;
	rc = tm_ledger_map(model.ledger_fd, &model.ledger);
	if (rc < 0)
		return rc;
	tm_client_read_orders(model.ledger, &model);
	rc = tm_registry_add(host->registry, &model, &client);
	if (rc < 0) {
		tm_ledger_unmap(model.ledger);
		return rc;
	}
	if (is_dead(client->kept[TM_KEPT_STORE]))
		tm_client_orphaned(client);
	tm_orders_found(host, client);
	tm_log("client %u '%s': systemd has kept its memory", client->id, client->name);
	return 0;
}

void tm_fdstore_load(struct tm_host *host)
{
	static struct group groups[TM_CLIENTS_MAX];
	struct tm_fdstore *s = host->fdstore;
	char *rest = s ? s->names : NULL;
	size_t count = 0;
	int rc;

	for (int i = 0; s && i < s->passed; i++) {
		const char *name = rest ? strsep(&rest, ":") : "";

		sort(groups, &count, name, FIRST_FD + i);
	}
	for (size_t i = 0; i < count; i++) {
		rc = load_group(host, &groups[i]);
		if (rc < 0)
			tm_log("what systemd has kept of a client is not whole: %s", strerror(-rc));
		for (int part = 0; part < PART_COUNT; part++) {
			if (rc < 0)
				remove_part(s, groups[i].key, part);
			if (groups[i].fd[part] >= 0 && (rc < 0 || part == PART_WHO))
				close(groups[i].fd[part]);
		}
	}
}
