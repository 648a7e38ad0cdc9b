/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.h - the server's side of a connection: where it is, how to greet it, how to start it
 */
#ifndef TM_NBD_KEEP_SERVER_H
#define TM_NBD_KEEP_SERVER_H

#include <netdb.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

struct tm_server {
	const char *export;
	char **command; /* that starts it, or NULL: it is started by others */
	pid_t pid;      /* of what we started, 0: nothing */
	socklen_t length;
	union { /* resolved once: name service may need what waits for us */
		struct sockaddr any;
		struct sockaddr_un path;
		struct sockaddr_storage net;
	};
};

/* `where`: the path of a unix socket (it has a '/'), or HOST[:PORT]. -EINVAL when it is neither. */
int tm_server_init(const char *where, struct tm_server *ret_server);

/* Start `command` unless it runs. 0, or why not. */
int tm_server_start(struct tm_server *s);

/* SIGTERM, and wait for the end. */
void tm_server_stop(struct tm_server *s);

/* Connect and agree on the export. -EPROTO when what answers is no NBD server or has no such
 * export; any other error may pass. */
int tm_server_connect(
	const struct tm_server *s, int *ret_fd, uint64_t *ret_bytes, uint16_t *ret_flags);

#endif
