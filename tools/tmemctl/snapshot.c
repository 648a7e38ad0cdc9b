/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * snapshot.c - tmemctl save, tmemctl restore
 *
 * The client writes the stream to a socket, or reads it from one, whose other end is here; what is
 * done here is to move bytes, and to wait for three things at once: the socket, the host's reply,
 * and a signal. A file that is written gets its name when it is whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/util.h"
#include "tools/tmemctl/ctl.h"

#define PIECE_BYTES (256u << 10)

/* A client that does nothing for so long is stuck; how long files and pipes take is no matter. */
#define STALL_MS 120000

/* How long one that was broken off may take to say so. */
#define SETTLE_MS 5000

struct pump {
	struct ctl *ctl;
	const char *path; /* as the user called it */
	int file;         /* what the stream comes from or goes to */
	int socket;       /* its other end */
	int signals;
	char *temporary; /* the file's name until it is whole; NULL: it has none */
	bool started;    /* the host was asked, */
	bool answered;   /* and has answered, or will not any more, */
	json_t *result;  /* with this if it did what it was asked for */
	uint8_t *piece;
	size_t at, end; /* of what is in it */
};

static bool is_standard(const char *path)
{
	return strcmp(path, "-") == 0;
}

/* How the user knows it. */
static const char *title(const struct pump *p, const char *standard)
{
	return is_standard(p->path) ? standard : p->path;
}

static int complain_about(const char *what, int error)
{
	tm_tool_complain("%s: %s", what, strerror(error));
	return TM_EXIT_FAILED;
}

/* --- files ------------------------------------------------------------------------------------ */

/* A full pipe must not keep us from hearing that nothing more will come. Opened once more, since
 * who shares ours may want it to block. */
static void open_unblocked(struct pump *p)
{
	char path[64];
	struct stat st;
	int file;

	if (fstat(p->file, &st) < 0 || !S_ISFIFO(st.st_mode))
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->file);
	file = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (file < 0)
		return;
	close(p->file);
	p->file = file;
}

/* A regular file is made beside its name; anything else that is there is written as it is. */
static int open_output(struct pump *p)
{
	struct stat st;

	if (is_standard(p->path)) {
		if (isatty(STDOUT_FILENO))
			return tm_tool_usage("save: standard output is a terminal");
		p->file = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	} else if (stat(p->path, &st) == 0 && !S_ISREG(st.st_mode)) {
		p->file = open(p->path, O_WRONLY | O_CLOEXEC);
	} else if (asprintf(&p->temporary, "%s.XXXXXX", p->path) < 0) {
		p->temporary = NULL;
		errno = ENOMEM;
	} else {
		p->file = mkostemp(p->temporary, O_CLOEXEC);
		if (p->file < 0) {
			free(p->temporary);
			p->temporary = NULL;
		}
	}
	if (p->file < 0)
		return complain_about(title(p, "standard output"), errno);
	open_unblocked(p);
	return TM_EXIT_OK;
}

static int open_input(struct pump *p)
{
	struct stat st;

	if (is_standard(p->path)) {
		if (isatty(STDIN_FILENO))
			return tm_tool_usage("restore: standard input is a terminal");
		p->file = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	} else {
		p->file = open(p->path, O_RDONLY | O_CLOEXEC);
	}
	if (p->file >= 0 && fstat(p->file, &st) == 0 && S_ISDIR(st.st_mode)) {
		close(p->file);
		p->file = -1;
		errno = EISDIR;
	}
	return p->file < 0 ? complain_about(title(p, "standard input"), errno) : TM_EXIT_OK;
}

/* All of it is on the disk, then it gets its name. */
static int finish_output(struct pump *p)
{
	int file = p->file;

	p->file = -1;
	if (p->temporary && fsync(file) < 0) {
		int error = errno;

		close(file);
		return complain_about(p->path, error);
	}
	if (close(file) < 0)
		return complain_about(title(p, "standard output"), errno);
	if (p->temporary && rename(p->temporary, p->path) < 0)
		return complain_about(p->path, errno);
	free(p->temporary);
	p->temporary = NULL;
	return TM_EXIT_OK;
}

/* --- waiting ---------------------------------------------------------------------------------- */

static int pump_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN); /* EPIPE says it better */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

/* Wait for `events` of `fd` (-1: of nothing), or the host's reply, or a signal. TM_EXIT_OK when
 * something has come; *ret_events is what. */
static int pump_wait(struct pump *p, int fd, short events, int timeout_ms, short *ret_events)
{
	struct pollfd fds[] = {{fd, events, 0}, {p->signals, POLLIN, 0},
		{p->answered ? -1 : tm_conn_fd(p->ctl->conn), POLLIN, 0}};
	int n = poll(fds, TM_ARRAY_SIZE(fds), timeout_ms);

	*ret_events = 0;
	if (n < 0)
		return errno == EINTR ? TM_EXIT_OK : complain_about("poll", errno);
	if (n == 0) {
		p->answered = true;
		tm_tool_complain("client '%s' does not answer", p->ctl->args[0]);
		return TM_EXIT_FAILED;
	}
	if (fds[1].revents) {
		tm_tool_complain("interrupted");
		return TM_EXIT_FAILED;
	}
	if (fds[2].revents) {
		p->answered = true;
		return tm_tool_reply(p->ctl->conn, -1, &p->result);
	}
	*ret_events = fds[0].revents;
	return TM_EXIT_OK;
}

/* Connect, and send the command with one end of a socket whose other end we keep. */
static int pump_start(struct pump *p, const char *execute, json_t *arguments)
{
	int ends[2];
	int status = tm_tool_connect(p->ctl->socket, &p->ctl->conn);

	if (status != TM_EXIT_OK) {
		json_decref(arguments);
		return status;
	}
	p->signals = pump_signals();
	p->piece = malloc(PIECE_BYTES);
	if (p->signals < 0 || !p->piece ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		json_decref(arguments);
		return complain_about("socket", errno);
	}
	p->socket = ends[0];
	status = tm_tool_send(p->ctl->conn, execute, arguments, ends[1]);
	close(ends[1]);
	p->started = status == TM_EXIT_OK;
	return status;
}

/* After a failure of our own: when we are gone, the client can be asked again. */
static void pump_settle(struct pump *p)
{
	json_t *message;

	if (!p->started || p->answered)
		return;
	close(p->socket);
	p->socket = -1;
	if (tm_conn_receive(p->ctl->conn, -1, SETTLE_MS, &message) == 0)
		json_decref(message);
}

static void pump_end(struct pump *p)
{
	pump_settle(p);
	if (p->file >= 0)
		close(p->file);
	if (p->socket >= 0)
		close(p->socket);
	if (p->signals >= 0)
		close(p->signals);
	if (p->temporary)
		unlink(p->temporary);
	free(p->temporary);
	free(p->piece);
	json_decref(p->result);
}

/* --- save ------------------------------------------------------------------------------------- */

static int write_all(struct pump *p)
{
	while (p->at < p->end) {
		ssize_t n = write(p->file, p->piece + p->at, p->end - p->at);
		short events;
		int status = TM_EXIT_OK;

		if (n >= 0)
			p->at += (size_t)n;
		else if (errno == EAGAIN) /* whoever shares our standard output wants it so */
			status = pump_wait(p, p->file, POLLOUT, -1, &events);
		else if (errno != EINTR)
			status = complain_about(title(p, "standard output"), errno);
		if (status != TM_EXIT_OK)
			return status;
	}
	return TM_EXIT_OK;
}

static int save_pump(struct pump *p)
{
	bool ended = false;
	int status = TM_EXIT_OK;

	while (status == TM_EXIT_OK && !(ended && p->result)) {
		short events;
		ssize_t n;

		status = pump_wait(p, ended ? -1 : p->socket, POLLIN, STALL_MS, &events);
		if (status != TM_EXIT_OK || !events)
			continue;
		n = read(p->socket, p->piece, PIECE_BYTES);
		if (n < 0 && errno != EINTR && errno != ECONNRESET)
			return complain_about("socket", errno);
		ended = n == 0 || (n < 0 && errno == ECONNRESET);
		p->at = 0;
		p->end = n > 0 ? (size_t)n : 0;
		status = write_all(p);
	}
	return status == TM_EXIT_OK ? finish_output(p) : status;
}

static void say_saved(const struct pump *p)
{
	char text[TM_SIZE_TEXT_MAX];

	fprintf(is_standard(p->path) ? stderr : stdout,
		"saved %llu pages, %s; changes waited %.1f ms\n",
		(unsigned long long)tm_tool_number(p->result, "pages"),
		tm_size_format(tm_tool_number(p->result, "bytes"), text),
		(double)tm_tool_number(p->result, "pause_ns") / 1e6);
}

int ctl_save(struct ctl *ctl)
{
	struct pump p = {.ctl = ctl, .path = ctl->args[1], .file = -1, .socket = -1, .signals = -1};
	json_t *arguments = ctl_client_arguments(ctl, 0);
	int status;

	if (ctl->live)
		json_object_set_new(arguments, "live", json_true());
	if (ctl->hold)
		json_object_set_new(arguments, "hold", json_true());
	status = open_output(&p);
	if (status == TM_EXIT_OK)
		status = pump_start(&p, "save", arguments);
	else
		json_decref(arguments);
	if (status == TM_EXIT_OK)
		status = save_pump(&p);
	if (status == TM_EXIT_OK)
		say_saved(&p);
	pump_end(&p);
	return status;
}

/* --- restore ---------------------------------------------------------------------------------- */

/* Send what is in the piece. A client that listens no more has a reason, and its answer comes. */
static int send_some(struct pump *p, bool *ret_deaf)
{
	ssize_t n = send(p->socket, p->piece + p->at, p->end - p->at, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n >= 0)
		p->at += (size_t)n;
	else if (errno == EPIPE || errno == ECONNRESET)
		*ret_deaf = true;
	else if (errno != EAGAIN && errno != EINTR)
		return complain_about("socket", errno);
	return TM_EXIT_OK;
}

static int read_some(struct pump *p, bool *ret_ended)
{
	ssize_t n = read(p->file, p->piece, PIECE_BYTES);

	if (n < 0 && errno != EINTR && errno != EAGAIN)
		return complain_about(title(p, "standard input"), errno);
	p->at = 0;
	p->end = n > 0 ? (size_t)n : 0;
	*ret_ended = n == 0;
	if (n == 0)
		shutdown(p->socket, SHUT_WR);
	return TM_EXIT_OK;
}

static int restore_pump(struct pump *p)
{
	bool ended = false, deaf = false;
	int status = TM_EXIT_OK;

	while (status == TM_EXIT_OK && !p->result) {
		bool sending = p->at < p->end;
		short events;

		if (ended || deaf)
			status = pump_wait(p, -1, 0, STALL_MS, &events);
		else if (sending)
			status = pump_wait(p, p->socket, POLLOUT, STALL_MS, &events);
		else
			status = pump_wait(p, p->file, POLLIN, -1, &events);
		if (status != TM_EXIT_OK || !events)
			continue;
		status = sending ? send_some(p, &deaf) : read_some(p, &ended);
	}
	return status;
}

static void say_restored(const struct pump *p)
{
	unsigned long long skipped = tm_tool_number(p->result, "skipped");

	printf("restored %llu pages", (unsigned long long)tm_tool_number(p->result, "pages"));
	if (skipped > 0)
		printf(", left out %llu", skipped);
	putchar('\n');
}

int ctl_restore(struct ctl *ctl)
{
	struct pump p = {.ctl = ctl, .path = ctl->args[1], .file = -1, .socket = -1, .signals = -1};
	int status = open_input(&p);

	if (status == TM_EXIT_OK)
		status = pump_start(&p, "restore", ctl_client_arguments(ctl, 0));
	if (status == TM_EXIT_OK)
		status = restore_pump(&p);
	if (status == TM_EXIT_OK)
		say_restored(&p);
	pump_end(&p);
	return status;
}
