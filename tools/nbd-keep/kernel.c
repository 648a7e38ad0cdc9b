/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/nbd-keep/kernel.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK 4096u

/* How often a request whose connection was lost is looked at, which is when it is sent again. A
 * request to a server that is only slow is not touched by this, the kernel says so in its log. */
#define LOOK_MS 2000

struct message {
	union {
		struct nlmsghdr head;
		char bytes[1024];
	};
};

static void *tail(struct message *m)
{
	return m->bytes + NLMSG_ALIGN(m->head.nlmsg_len);
}

static void begin(struct message *m, uint16_t type, uint8_t command, uint8_t version)
{
	struct genlmsghdr *g;

	memset(m, 0, sizeof(*m));
	m->head.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
	m->head.nlmsg_type = type;
	m->head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	g = NLMSG_DATA(&m->head);
	g->cmd = command;
	g->version = version;
}

static struct nlattr *add(struct message *m, uint16_t type, const void *data, size_t length)
{
	struct nlattr *a = tail(m);

	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + length);
	if (length > 0)
		memcpy((char *)a + NLA_HDRLEN, data, length);
	m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + NLA_ALIGN(a->nla_len);
	return a;
}

static void add_u64(struct message *m, uint16_t type, uint64_t value)
{
	add(m, type, &value, sizeof(value));
}

static void add_connection(struct message *m, int fd)
{
	uint32_t number = (uint32_t)fd;
	struct nlattr *list = add(m, NBD_ATTR_SOCKETS | NLA_F_NESTED, NULL, 0);
	struct nlattr *item = add(m, NBD_SOCK_ITEM | NLA_F_NESTED, NULL, 0);

	add(m, NBD_SOCK_FD, &number, sizeof(number));
	item->nla_len = (uint16_t)((char *)tail(m) - (char *)item);
	list->nla_len = (uint16_t)((char *)tail(m) - (char *)list);
}

/* Send, and read up to the kernel's verdict; an answer before it is kept in `m`. */
static int call(int fd, struct message *m)
{
	struct message in;
	ssize_t n;

	if (send(fd, m->bytes, m->head.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		n = recv(fd, in.bytes, sizeof(in), 0);
		if (n < 0)
			return -errno;
		for (struct nlmsghdr *h = &in.head; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
			memcpy(m->bytes, h, h->nlmsg_len);
		}
	}
}

static int find_family(int fd, uint16_t *ret_family)
{
	struct message m;
	struct nlattr *a;
	int rc;

	begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
	add(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
	rc = call(fd, &m);
	if (rc < 0)
		return rc;
	for (char *at = m.bytes + NLMSG_LENGTH(GENL_HDRLEN); at < (char *)tail(&m);
		at += NLA_ALIGN(a->nla_len)) {
		a = (struct nlattr *)at;
		if (a->nla_len < NLA_HDRLEN)
			break;
		if (a->nla_type == CTRL_ATTR_FAMILY_ID) {
			memcpy(ret_family, at + NLA_HDRLEN, sizeof(*ret_family));
			return 0;
		}
	}
	return -ENOENT;
}

int tm_kernel_open(const char *device, struct tm_kernel *ret_kernel)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK};
	struct tm_kernel k = {0};
	char rest;
	int rc;

	if (sscanf(device, "/dev/nbd%u%c", &k.index, &rest) != 1)
		return -EINVAL;
	k.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (k.fd < 0)
		return -errno;
	if (bind(k.fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		rc = -errno;
	else
		rc = find_family(k.fd, &k.family);
	if (rc < 0)
		close(k.fd);
	else
		*ret_kernel = k;
	return rc;
}

static void begin_nbd(const struct tm_kernel *k, struct message *m, uint8_t command)
{
	begin(m, k->family, command, NBD_GENL_VERSION);
	add(m, NBD_ATTR_INDEX, &k->index, sizeof(k->index));
}

static void look_often(const struct tm_kernel *k)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/nbd%u/queue/io_timeout", k->index);
	f = fopen(path, "we");
	if (!f)
		return; /* before Linux 5.0: resent after its 30 s */
	fprintf(f, "%d\n", LOOK_MS);
	fclose(f);
}

int tm_kernel_connect(
	const struct tm_kernel *k, int connection, uint64_t bytes, uint64_t flags, uint64_t wait)
{
	struct message m;
	int rc;

	begin_nbd(k, &m, NBD_CMD_CONNECT);
	add_u64(&m, NBD_ATTR_SIZE_BYTES, bytes);
	add_u64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, BLOCK);
	add_u64(&m, NBD_ATTR_SERVER_FLAGS, flags);
	add_u64(&m, NBD_ATTR_DEAD_CONN_TIMEOUT, wait);
	add_connection(&m, connection);
	rc = call(k->fd, &m);
	if (rc == 0)
		look_often(k);
	return rc;
}

int tm_kernel_reconnect(const struct tm_kernel *k, int connection)
{
	struct message m;

	begin_nbd(k, &m, NBD_CMD_RECONFIGURE);
	add_connection(&m, connection);
	return call(k->fd, &m);
}

int tm_kernel_disconnect(const struct tm_kernel *k)
{
	struct message m;

	begin_nbd(k, &m, NBD_CMD_DISCONNECT);
	return call(k->fd, &m);
}

bool tm_kernel_is_connected(const struct tm_kernel *k)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/nbd%u/pid", k->index);
	return access(path, F_OK) == 0;
}
