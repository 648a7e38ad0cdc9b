/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * protocol.c - libFuzzer target: whatever bytes a peer of tmemd sends
 *
 * The input is what the peer does; bytes that no UTF-8 text has are its other acts:
 *
 *      text    is sent
 *      0xff    the host looks, and the peer reads what it said
 *      0xfe    a ledger goes with the bytes sent next;  0xfd  a file that is none
 *      0xfc    the host looks, but the peer does not read
 *
 * The first byte says whether the peer is a reader or may manage. Beside it there is a client with
 * a persistent page, which nobody who may only look must touch, and which must be there at the end
 * unless it was destroyed by name.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/util.h"
#include "tools/tmemd/lease.h"
#include "tools/tmemd/log.h"
#include "tools/tmemd/session.h"
#include "tools/tmemd/wait.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                           \
	do                                                                                         \
		if (!(condition))                                                                  \
			abort();                                                                   \
	while (0)

static struct tm_host host;

struct peer {
	int fd;
	struct tm_session *session;
};

static void peer_open(struct peer *p, enum tm_role role)
{
	struct ucred who = {getpid(), 1, 1};
	int pair[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
	p->fd = pair[1];
	CHECK(tm_session_new(&host, pair[0], &who, role, &p->session) == 0);
}

static void peer_send(const struct peer *p, const void *text, size_t size, int fd)
{
	struct iovec iov = {(void *)text, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = {0}};

	if (size == 0)
		return;
	if (fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
	}
	(void)!sendmsg(p->fd, &msg, MSG_NOSIGNAL);
}

/* What the loop of the server does with one session. */
static void look(const struct peer *p)
{
	for (int i = 0; i < 4 && !tm_session_is_dead(p->session); i++) {
		tm_session_handle(p->session, tm_session_interest(p->session));
		if (tm_session_is_ready(p->session))
			tm_session_run(p->session);
	}
	tm_lease_update(&host);
}

static void drain(const struct peer *p)
{
	char text[4096];

	while (recv(p->fd, text, sizeof(text), 0) > 0)
		;
}

static int new_ledger(struct tm_ledger **ret_ledger)
{
	int fd;

	CHECK(tm_ledger_create(ret_ledger, &fd) == 0);
	return fd;
}

static void join(const struct peer *p, const char *name, struct tm_ledger **ret_ledger)
{
	TM_AUTO_FREE char *line = NULL;
	int fd = new_ledger(ret_ledger);

	CHECK(asprintf(&line,
		      "{\"execute\":\"join\",\"arguments\":{\"name\":\"%s\",\"type\":\"t\","
		      "\"pid\":1,\"protocol\":%d}}\n",
		      name, TM_PROTO_VERSION) > 0);
	(*ret_ledger)->pools[0].flags = tm_pool_flags(TM_POOL_PERSIST, 0);
	atomic_store(&(*ret_ledger)->pools[0].stat[TM_STAT_PAGES], 1);
	atomic_store(&(*ret_ledger)->pools[0].state, TM_LEDGER_POOL_LIVE);
	peer_send(p, line, strlen(line), fd);
	look(p);
	close(fd);
	CHECK(tm_session_client(p->session));
}

/* The descriptor that act 0xfe or 0xfd means. */
static int some_descriptor(uint8_t act)
{
	struct tm_ledger *ledger;
	int fd;

	if (act == 0xfd)
		return memfd_create("none", MFD_CLOEXEC);
	fd = new_ledger(&ledger);
	tm_ledger_unmap(ledger);
	return fd;
}

static void play(const struct peer *p, const uint8_t *data, size_t size)
{
	size_t start = 0;
	int fd = -1;

	for (size_t i = 0; i <= size; i++) {
		uint8_t act = i < size ? data[i] : 0xff;

		if (act < 0xfc)
			continue;
		peer_send(p, data + start, i - start, fd);
		if (fd >= 0)
			close(fd);
		fd = act == 0xfe || act == 0xfd ? some_descriptor(act) : -1;
		start = i + 1;
		if (fd < 0)
			look(p);
		if (act == 0xff)
			drain(p);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	tm_log_to_syslog();
	host.config = (struct tm_config){.socket = (char *)"/nowhere",
		.limit = 1ull << 30,
		.max_clients = TM_CLIENTS_MAX,
		.max_connections = TM_CONTROL_MAX,
		.max_line = TM_PROTO_LINE_MAX,
		.max_rate = 1000000};
	CHECK(tm_registry_new(&host.registry) == 0);
	CHECK(tm_machine_open("/nowhere", &host.machine) == 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum tm_role role = size > 0 && data[0] & 1 ? TM_ROLE_MANAGE : TM_ROLE_READ;
	struct tm_client *left;
	struct tm_ledger *ledger;
	struct peer fine, other;

	if (size == 0)
		return 0;
	host.all_frozen = false;
	peer_open(&fine, TM_ROLE_MANAGE);
	join(&fine, "fine", &ledger);
	peer_open(&other, role);

	play(&other, data + 1, size - 1);
	drain(&fine);
	look(&fine);
	CHECK(tm_session_client(fine.session) && !tm_session_is_dead(fine.session));
	if (role == TM_ROLE_READ)
		CHECK(atomic_load(&ledger->frozen) == 0 && tm_registry_count(host.registry) == 1);

	close(other.fd);
	tm_session_tick(other.session, tm_now_ns());
	tm_wait_tick(&host, UINT64_MAX);
	tm_session_free(other.session);
	CHECK(LIST_EMPTY(&host.waits) && LIST_EMPTY(&host.watchers));
	close(fine.fd);
	tm_session_free(fine.session);
	while ((left = tm_registry_next(host.registry, NULL))) /* orphans */
		tm_registry_remove(host.registry, left);
	tm_ledger_unmap(ledger);
	return 0;
}
