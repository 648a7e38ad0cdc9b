/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbd-keep.c - connects the kernel's nbd to a server, and again whenever that was lost
 *
 *   attach -> watch --lost--> start the server, connect to it, hand the connection over -> watch
 *                  \--device disconnected, or SIGTERM--> stop the server, end
 *
 * While a connection is lost, requests wait in the kernel. The device may be the machine's swap, so
 * nothing here may need it: all is locked in memory, names are resolved once, and the only
 * memory the kernel needs for us is a socket's. One connection only: with more the kernel
 * takes a request that is merely late to another connection, and the late one may then come after
 * it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tools/nbd-keep/kernel.h"
#include "tools/nbd-keep/server.h"

#define ATTACH_TRIES 200 /* of RETRY_US: a server may take a while to start */
#define RETRY_US     50000

static const char usage[] =
	"usage: nbd-keep [-f] [-N EXPORT] [-w SECONDS] SOCKET|HOST[:PORT] DEVICE [COMMAND...]\n";
static const char help[] =
	"Connect an nbd device to a server, and again whenever the server comes back.\n"
	"\n"
	"  -N EXPORT   the export's name (default: the server's default)\n"
	"  -w SECONDS  how long requests wait for a server that is gone before they fail (default "
	"600)\n"
	"  -f          stay in the foreground\n"
	"\n"
	"With COMMAND, which must stay in the foreground, the server is started, and started "
	"again\n"
	"when it dies. End it all with nbd-client -d DEVICE, or SIGTERM.\n";

struct keep {
	struct tm_kernel kernel;
	struct tm_server server;
	uint64_t wait;  /* seconds */
	uint64_t bytes; /* of the device, which every server must have */
	int connection; /* the one in use */
};

static volatile sig_atomic_t told_to_end;

static void end_soon(int signal)
{
	(void)signal;
	told_to_end = 1;
}

static int attach(struct keep *k)
{
	uint16_t flags;
	int rc = -ECONNREFUSED;

	for (int i = 0; i < ATTACH_TRIES && !told_to_end; i++) {
		rc = tm_server_start(&k->server);
		if (rc < 0)
			return rc;
		rc = tm_server_connect(&k->server, &k->connection, &k->bytes, &flags);
		if (rc == 0)
			return tm_kernel_connect(
				&k->kernel, k->connection, k->bytes, flags, k->wait);
		if (rc == -EPROTO || !k->server.command)
			break;
		usleep(RETRY_US);
	}
	return rc;
}

/* One try. -EAGAIN: not yet. */
static int reattach(struct keep *k)
{
	uint64_t bytes;
	uint16_t flags;
	int fd, rc;

	if (!tm_kernel_is_connected(&k->kernel))
		return -ENODEV;
	if (tm_server_start(&k->server) < 0 ||
		tm_server_connect(&k->server, &fd, &bytes, &flags) < 0)
		return -EAGAIN;
	if (bytes != k->bytes) {
		fprintf(stderr, "nbd-keep: the server has another size now, it is not used\n");
		close(fd);
		return -EAGAIN;
	}
	rc = tm_kernel_reconnect(&k->kernel, fd);
	if (rc < 0) {
		close(fd);
		return rc == -EINVAL && !tm_kernel_is_connected(&k->kernel) ? -ENODEV : -EAGAIN;
	}
	close(k->connection);
	k->connection = fd;
	return 0;
}

static void watch(struct keep *k)
{
	struct pollfd lost = {.events = POLLRDHUP};
	int rc = 0;

	while (!told_to_end && rc != -ENODEV) {
		lost.fd = k->connection;
		if (poll(&lost, 1, -1) <= 0)
			continue;
		while ((rc = reattach(k)) == -EAGAIN && !told_to_end)
			usleep(RETRY_US);
	}
	if (told_to_end)
		tm_kernel_disconnect(&k->kernel);
	tm_server_stop(&k->server);
}

/* Everything that could stop us when memory runs out. What is not permitted is said and done
 * without. */
static void harden(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "-1000", 5) < 0)
		fprintf(stderr, "nbd-keep: the OOM killer may choose it: %m\n");
	close(fd);
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		fprintf(stderr, "nbd-keep: cannot be locked in memory: %m\n");
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		fprintf(stderr, "nbd-keep: PR_SET_IO_FLUSHER (CAP_SYS_RESOURCE): %m\n");
}

/* In the background: the parent stays until the child has attached, and exits as that went. */
static int go_to_background(void)
{
	int end[2];
	char status;

	if (pipe2(end, O_CLOEXEC) < 0)
		return -errno;
	switch (fork()) {
	case -1:
		return -errno;
	case 0:
		close(end[0]);
		setsid();
		return end[1];
	default:
		close(end[1]);
		_exit(read(end[0], &status, 1) == 1 ? status : 1);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
	struct sigaction on_end = {.sa_handler = end_soon};
	struct keep k = {.wait = 600};
	const char *export = "";
	bool background = true;
	int c, rc, told = -1;

	while ((c = getopt_long(argc, argv, "+fN:w:", options, NULL)) != -1) {
		switch (c) {
		case 'f':
			background = false;
			break;
		case 'N':
			export = optarg;
			break;
		case 'w':
			k.wait = strtoull(optarg, NULL, 10);
			break;
		case 'h':
			printf("%s%s", usage, help);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (argc - optind < 2 || k.wait == 0) {
		fputs(usage, stderr);
		return 2;
	}
	rc = tm_kernel_open(argv[optind + 1], &k.kernel);
	if (rc < 0) {
		fprintf(stderr, "nbd-keep: %s: %s\n", argv[optind + 1],
			rc == -ENOENT ? "the kernel has no nbd" : strerror(-rc));
		return 1;
	}
	if (tm_server_init(argv[optind], &k.server) < 0) {
		fprintf(stderr, "nbd-keep: %s: not found\n", argv[optind]);
		return 1;
	}
	k.server.export = export;
	k.server.command = optind + 2 < argc ? argv + optind + 2 : NULL;
	if (background && (told = go_to_background()) < 0) {
		fprintf(stderr, "nbd-keep: %s\n", strerror(-told));
		return 1;
	}
	sigaction(SIGTERM, &on_end, NULL);
	sigaction(SIGINT, &on_end, NULL);
	harden();
	rc = attach(&k);
	if (rc < 0) {
		fprintf(stderr, "nbd-keep: cannot attach %s to %s: %s\n", argv[optind],
			argv[optind + 1], strerror(-rc));
		tm_server_stop(&k.server);
		return 1;
	}
	if (background && write(told, "", 1) < 0)
		return 1;
	if (background)
		close(told);
	watch(&k);
	return 0;
}
