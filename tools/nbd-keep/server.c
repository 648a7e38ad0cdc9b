/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/nbd-keep/server.h"

#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* The few words of the protocol that are spoken before the kernel takes over, in its newer style
 * (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md). */
#define MAGIC_HELLO    0x4e42444d41474943u
#define MAGIC_OPTION   0x49484156454f5054u
#define MAGIC_REPLY    0x0003e889045565a9u
#define FIXED_STYLE    1u
#define OPTION_GO      7u
#define REPLY_ACK      1u
#define REPLY_INFO     3u
#define INFO_EXPORT    0u
#define ANSWER_SECONDS 5

struct __attribute__((packed)) hello {
	uint64_t magic, option_magic;
	uint16_t flags;
};

struct __attribute__((packed)) go {
	uint32_t client_flags;
	uint64_t magic;
	uint32_t option, length, name_length;
	/* then the name and a uint16_t 0: we ask for nothing special */
};

struct __attribute__((packed)) reply {
	uint64_t magic;
	uint32_t option, type, length;
};

struct __attribute__((packed)) info {
	uint16_t type;
	uint64_t bytes;
	uint16_t flags;
};

int tm_server_init(const char *where, struct tm_server *ret_server)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	struct tm_server s = {.export = ""};
	char host[256];
	char *port;

	if (strchr(where, '/')) {
		if (strlen(where) >= sizeof(s.path.sun_path))
			return -EINVAL;
		s.path.sun_family = AF_UNIX;
		strcpy(s.path.sun_path, where);
		s.length = sizeof(s.path);
	} else {
		if (strlen(where) >= sizeof(host))
			return -EINVAL;
		strcpy(host, where);
		port = strrchr(host, ':');
		if (port)
			*port++ = '\0';
		if (getaddrinfo(host, port ? port : "10809", &hints, &found) != 0)
			return -EINVAL;
		memcpy(&s.net, found->ai_addr, found->ai_addrlen);
		s.length = found->ai_addrlen;
		freeaddrinfo(found);
	}
	*ret_server = s;
	return 0;
}

int tm_server_start(struct tm_server *s)
{
	if (!s->command || (s->pid != 0 && waitpid(s->pid, NULL, WNOHANG) == 0))
		return 0;
	s->pid = 0;
	if (s->any.sa_family == AF_UNIX)
		unlink(s->path.sun_path); /* of one that was killed */
	return -posix_spawnp(&s->pid, s->command[0], NULL, NULL, s->command, environ);
}

void tm_server_stop(struct tm_server *s)
{
	if (s->pid == 0)
		return;
	kill(s->pid, SIGTERM);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

static int read_all(int fd, void *buffer, size_t length)
{
	ssize_t n =
		length > 0 ? recv(fd, buffer, length, MSG_WAITALL) : 0; /* it waits even for 0 */

	if (n < 0)
		return -errno;
	return n == (ssize_t)length ? 0 : -ECONNRESET;
}

static int write_all(int fd, const void *buffer, size_t length)
{
	ssize_t n = send(fd, buffer, length, MSG_NOSIGNAL);

	if (n < 0)
		return -errno;
	return n == (ssize_t)length ? 0 : -ECONNRESET;
}

static int ask(int fd, const char *export)
{
	uint32_t name = (uint32_t)strlen(export);
	char out[sizeof(struct go) + 256 + 2] = {0};
	struct go go = {
		.client_flags = htobe32(FIXED_STYLE),
		.magic = htobe64(MAGIC_OPTION),
		.option = htobe32(OPTION_GO),
		.length = htobe32(4 + name + 2),
		.name_length = htobe32(name),
	};

	if (name > 256)
		return -EPROTO;
	memcpy(out, &go, sizeof(go));
	memcpy(out + sizeof(go), export, name);
	return write_all(fd, out, sizeof(go) + name + 2);
}

static int negotiate(int fd, const char *export, uint64_t *ret_bytes, uint16_t *ret_flags)
{
	struct hello hello;
	struct reply reply;
	struct info info;
	char text[1024];
	bool known = false;
	int rc = read_all(fd, &hello, sizeof(hello));

	if (rc < 0)
		return rc;
	if (be64toh(hello.magic) != MAGIC_HELLO || be64toh(hello.option_magic) != MAGIC_OPTION ||
		!(be16toh(hello.flags) & FIXED_STYLE))
		return -EPROTO;
	rc = ask(fd, export);
	while (rc == 0) {
		rc = read_all(fd, &reply, sizeof(reply));
		if (rc < 0)
			break;
		if (be64toh(reply.magic) != MAGIC_REPLY || be32toh(reply.length) > sizeof(text))
			return -EPROTO;
		rc = read_all(fd, text, be32toh(reply.length));
		if (rc < 0)
			break;
		if (be32toh(reply.type) == REPLY_ACK)
			return known ? 0 : -EPROTO;
		if (be32toh(reply.type) != REPLY_INFO)
			return -EPROTO;
		memcpy(&info, text, sizeof(info));
		if (be16toh(info.type) == INFO_EXPORT && be32toh(reply.length) == sizeof(info)) {
			*ret_bytes = be64toh(info.bytes);
			*ret_flags = be16toh(info.flags);
			known = true;
		}
	}
	return rc;
}

int tm_server_connect(
	const struct tm_server *s, int *ret_fd, uint64_t *ret_bytes, uint16_t *ret_flags)
{
	struct timeval patience = {.tv_sec = ANSWER_SECONDS};
	struct timeval none = {0};
	int fd = socket(s->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	rc = connect(fd, &s->any, s->length) < 0 ? -errno : 0;
	if (rc == 0)
		rc = negotiate(fd, s->export, ret_bytes, ret_flags);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none)); /* it is the kernel's now */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	*ret_fd = fd;
	return 0;
}
