/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sharefuzz.c - say whatever one likes to the server of a shared pool
 *
 * sharefuzz SOCKET UUID SEED CONNECTIONS
 *
 * Joins by the host's door, as itself, so often. Ends with 0 when every connection could be made.
 */
#include <stdio.h>

#include "core/proto.h"
#include "core/util.h"
#include "tests/helpers/sharefuzz.h"

/* A socket to the pool's server. -1 and a line on standard error. */
static int join(const char *socket, const char *uuid)
{
	json_t *message = NULL;
	struct tm_conn *conn;
	char path[108];
	int rc, fd = -1;

	snprintf(path, sizeof(path), "%s%s", socket, TM_PROTO_DOOR);
	rc = tm_conn_dial(path, &conn);
	if (rc < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(-rc));
		return -1;
	}
	rc = tm_conn_receive(conn, -1, 20000, &message);
	if (rc == 0) {
		json_decref(message);
		tm_conn_send(conn,
			tm_proto_request("share", json_pack("{s:s}", "uuid", uuid), NULL), -1);
		rc = tm_conn_receive(conn, -1, 20000, &message);
	}
	if (rc == 0) {
		fd = tm_conn_take_fd(conn);
		json_decref(message);
	}
	tm_conn_close(conn);
	if (fd < 0)
		fprintf(stderr, "not let in\n");
	return fd;
}

int main(int argc, char **argv)
{
	struct tm_share_hello hello = {.magic = TM_SHARE_MAGIC,
		.version = TM_SHARE_VERSION,
		.flags = tm_pool_flags(TM_POOL_SHARED, 2)};
	uint64_t state;

	if (argc != 5 || tm_uuid_parse(argv[2], &hello.uuid) < 0) {
		fprintf(stderr, "usage: sharefuzz SOCKET UUID SEED CONNECTIONS\n");
		return 2;
	}
	state = strtoull(argv[3], NULL, 10) | 1;
	for (int i = atoi(argv[4]); i > 0; i--) {
		int fd = join(argv[1], argv[2]);

		if (fd < 0)
			return 1;
		fuzz_connection(&state, fd, &hello, 200);
	}
	return 0;
}
