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

#include "core/util.h"
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

/* In the background: the parent stays until the child has attached, and exits as that went. Errors
 * still go where they went. */
static int go_to_background(void)
{
	int end[2], null;
	char status;

	if (pipe2(end, O_CLOEXEC) < 0)
		return -errno;
	switch (fork()) {
	case -1:
		return -errno;
	case 0:
		close(end[0]);
		setsid();
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		close(null);
		return end[1];
	default:
		close(end[1]);
		_exit(read(end[0], &status, 1) == 1 ? status : 1);
	}
}

static bool parse_seconds(const char *text, uint64_t *ret_seconds)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || n == 0 || n > 1000000)
		return false;
	*ret_seconds = n;
	return true;
}

/* Where, what and how. 0, or the exit status after a line on standard error. */
static int prepare(struct keep *k, char **arguments, const char *export)
{
	const char *where = arguments[0], *device = arguments[1];
	int rc = tm_kernel_open(device, &k->kernel);

	if (rc < 0) {
		fprintf(stderr, "nbd-keep: %s: %s\n", device,
			rc == -EINVAL           ? "not called /dev/nbdN"
				: rc == -ENOENT ? "the kernel has no nbd"
						: strerror(-rc));
		return 1;
	}
	if (tm_server_init(where, &k->server) < 0) {
		fprintf(stderr, "nbd-keep: %s: neither a socket's path nor a host\n", where);
		return 1;
	}
	k->server.export = export;
	k->server.command = arguments[2] ? arguments + 2 : NULL;
	return 0;
}

static int run(struct keep *k, char **arguments, bool background)
{
	struct sigaction on_end = {.sa_handler = end_soon};
	int rc, told = -1;

	if (background && (told = go_to_background()) < 0) {
		fprintf(stderr, "nbd-keep: %s\n", strerror(-told));
		return 1;
	}
	sigaction(SIGTERM, &on_end, NULL);
	sigaction(SIGINT, &on_end, NULL);
	harden();
	rc = attach(k);
	if (rc < 0) {
		fprintf(stderr, "nbd-keep: cannot attach %s to %s: %s\n", arguments[1],
			arguments[0], strerror(-rc));
		tm_server_stop(&k->server);
		return 1;
	}
	if (background && write(told, "", 1) < 0)
		fprintf(stderr, "nbd-keep: %m\n");
	close(told);
	watch(k);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {0}};
	struct keep k = {.wait = 600};
	const char *export = "";
	bool background = true, fine = true;
	int c, rc;

	while ((c = getopt_long(argc, argv, "+fN:w:", options, NULL)) != -1) {
		switch (c) {
		case 'f':
			background = false;
			break;
		case 'N':
			export = optarg;
			break;
		case 'w':
			fine = parse_seconds(optarg, &k.wait) && fine;
			break;
		case 'h':
			printf("%s%s", usage, help);
			return 0;
		case 'V':
			printf("nbd-keep %s\n", TM_VERSION);
			return 0;
		default:
			fine = false;
		}
	}
	if (!fine || argc - optind < 2) {
		fputs(usage, stderr);
		return 2;
	}
	rc = prepare(&k, argv + optind, export);
	return rc ? rc : run(&k, argv + optind, background);
}
