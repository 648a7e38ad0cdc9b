/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * main.c - tmemstat: options, and the loop of samples
 *
 *      connect -> list -> sample -> print -> sleep -> list ...
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>

#include "core/util.h"
#include "tools/tmemstat/stat.h"

#define INTERVAL_MIN 0.1
#define INTERVAL_MAX 86400.0

struct settings {
	const char *socket;
	bool json, prometheus;
	struct filter filter;
	double interval; /* seconds; 0: one sample */
	long count;      /* samples; 0: until stopped */
	int signal_fd;   /* readable on SIGINT, SIGTERM */
};

static void print_help(void)
{
	printf("usage: tmemstat [options] [POOL...] [INTERVAL [COUNT]]\n"
	       "Show what pools hold and do: first since their start, then every INTERVAL "
	       "seconds.\n\n"
	       "  -S, --socket PATH  control socket (default: $TMEM_SOCKET, else by user)\n"
	       "  -j, --json         one JSON object a line a sample\n"
	       "  -p, --prometheus   one sample in the Prometheus text format\n"
	       "      --help         print this and exit\n"
	       "      --version      print the version and exit\n"
	       "\nPOOL is the name of a pool, of a client, or CLIENT/POOL.\n");
}

/* Whether `text` is a number in plain digits; a pool whose name is one goes by CLIENT/POOL. */
static bool parse_number(const char *text, double *ret_number)
{
	char *end;

	if (strspn(text, "0123456789.") != strlen(text) || !*text || *text == '.')
		return false;
	*ret_number = strtod(text, &end);
	return *end == '\0';
}

/* Take the numbers from the end of the arguments; what is left are pools. */
static int parse_arguments(struct settings *s, int argc, char **argv)
{
	double last, before;
	bool has_last = argc > 0 && parse_number(argv[argc - 1], &last);
	bool has_both = has_last && argc > 1 && parse_number(argv[argc - 2], &before);

	if (has_both) {
		s->interval = before;
		s->count = (long)last;
		if (last < 1 || last > 1e9 || (double)s->count != last)
			return tm_tool_usage("'%s' is no count", argv[argc - 1]);
	} else if (has_last) {
		s->interval = last;
	}
	if (has_last && (s->interval < INTERVAL_MIN || s->interval > INTERVAL_MAX))
		return tm_tool_usage("'%s' is no interval: it has to be 0.1 to 86400 seconds",
			argv[argc - 1 - has_both]);
	if (has_last && s->prometheus)
		return tm_tool_usage("--prometheus is one sample: it takes no interval");
	s->filter.names = argv;
	s->filter.count = argc - has_last - has_both;
	return TM_EXIT_OK;
}

/* TM_EXIT_OK; or another status to end with; -1: end well. */
static int parse(int argc, char **argv, struct settings *s)
{
	static const struct option options[] = {{"socket", required_argument, NULL, 'S'},
		{"json", no_argument, NULL, 'j'}, {"prometheus", no_argument, NULL, 'p'},
		{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'},
		{"complete", no_argument, NULL, 'C'}, {0}};
	int letter;

	while ((letter = getopt_long(argc, argv, "S:jp", options, NULL)) >= 0) {
		switch (letter) {
		case 'S':
			s->socket = optarg;
			break;
		case 'j':
			s->json = true;
			break;
		case 'p':
			s->prometheus = true;
			break;
		case 'h':
			print_help();
			return -1;
		case 'V':
			printf("tmemstat %s\n", TM_VERSION);
			return -1;
		case 'C': /* for the shells: every option */
			for (const struct option *o = options; o->val != 'C'; o++)
				printf("--%s\n", o->name);
			return -1;
		default:
			fprintf(stderr, "try 'tmemstat --help'\n");
			return TM_EXIT_USAGE;
		}
	}
	if (s->json && s->prometheus)
		return tm_tool_usage("--json and --prometheus exclude each other");
	return parse_arguments(s, argc - optind, argv + optind);
}

/* Rows that fit on the terminal; 24 when there is none. */
static int screen_lines(void)
{
	struct winsize size;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 4 ? size.ws_row : 24;
}

/* Print a sample. `lines` counts the rows since the last header. */
static void print(const struct settings *s, const struct sample *before, const struct sample *now,
	int *lines, bool second)
{
	int rows = (int)json_array_size(now->pools);
	bool header = !before || second || *lines + rows > screen_lines() - 1;

	if (s->json) {
		json_print(now);
	} else if (s->prometheus) {
		prometheus_print(now);
	} else {
		columns_print(before, now, header);
		*lines = (header ? COLUMNS_HEADER_LINES : *lines) + rows;
	}
}

/* Wait for the next sample. False when it is time to end. */
static bool wait_interval(const struct settings *s, uint64_t due_ns)
{
	struct pollfd fd = {s->signal_fd, POLLIN, 0};
	uint64_t now = tm_now_ns();

	return poll(&fd, 1, due_ns > now ? (int)((due_ns - now + 999999) / 1000000) : 0) == 0;
}

static int sample_loop(const struct settings *s, struct tm_conn *conn)
{
	struct sample before = {0}, now = {0};
	uint64_t start = tm_now_ns();
	int lines = 0, status = TM_EXIT_OK;

	for (long n = 0;; n++) {
		json_t *list;

		status = tm_tool_call_until(conn, s->signal_fd, "list", NULL, &list);
		if (status == TM_EXIT_OK)
			status = sample_make(list, &s->filter, n == 0, &now);
		if (status != TM_EXIT_OK)
			break;
		print(s, n ? &before : NULL, &now, &lines, n == 1);
		sample_free(&before);
		before = now;
		status = tm_tool_flush(TM_EXIT_OK);
		if (status != TM_EXIT_OK || s->interval == 0 || (s->count && n + 1 >= s->count))
			break;
		/* Counted from the start, so that samples do not drift. */
		if (!wait_interval(s, start + (uint64_t)((double)(n + 1) * s->interval * 1e9)))
			break;
	}
	sample_free(&before);
	return status == -ECANCELED ? TM_EXIT_OK : status;
}

/* SIGINT and SIGTERM end the loop between two samples, so no line is left half. */
static int catch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(int argc, char **argv)
{
	struct settings s = {0};
	struct tm_conn *conn;
	int status = parse(argc, argv, &s);

	if (status != TM_EXIT_OK)
		return tm_tool_flush(status < 0 ? TM_EXIT_OK : status);
	status = tm_tool_connect(s.socket, &conn);
	if (status != TM_EXIT_OK)
		return status;
	s.signal_fd = catch_signals();
	status = sample_loop(&s, conn);
	tm_conn_close(conn);
	return status;
}
