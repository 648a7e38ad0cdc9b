/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stallwatch.c - runs a command and notices when it stands still
 *
 * stallwatch [-p] SECONDS COMMAND...
 *
 * The command counts up a 64-bit word of the memory whose descriptor is in $TM_BEAT (memhog does, a
 * page at a time). Prints the longest pause at the end and exits as the command did. When the word
 * stays the same for SECONDS: prints to the console where every process is in the kernel, and kills
 * the command (exit 3); with -p powers the machine off instead, for a machine that swaps to a
 * server that hangs runs nothing any more.
 *
 * It must not stop with what it watches: all of it is locked in memory, and all that the kernel
 * needs memory for is done once before the command starts (a descriptor that was read from has its
 * buffer).
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How often it is said how far the command is, for whoever finds that it did not end in time. */
#define TELL_SECONDS 30

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static pid_t start(char **command, int beat_fd)
{
	char number[16];
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	snprintf(number, sizeof(number), "%d", beat_fd);
	setenv("TM_BEAT", number, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(command[0], command);
	perror(command[0]);
	_exit(127);
}

static char text[2048]; /* what a console takes without asking for memory */
static int console;
static struct {
	char name[48];
	int file;
} tasks[512];
static unsigned int task_count;

static void show_task(unsigned int i)
{
	int head = snprintf(text, sizeof(text), "%s", tasks[i].name);
	ssize_t n = pread(tasks[i].file, text + head, sizeof(text) - (size_t)head, 0);

	if (n > 0 && write(console, text, (size_t)(head + n)) < 0)
		return;
}

/* Read once now, so that reading it again needs no memory. */
static void add(const char *path, const char *name)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || task_count == sizeof(tasks) / sizeof(tasks[0]) ||
		pread(fd, text, sizeof(text), 0) < 0)
		return;
	tasks[task_count].file = fd;
	snprintf(tasks[task_count++].name, sizeof(tasks[0].name), "%s", name);
}

static void add_task(const char *dir)
{
	char path[300], name[48] = "";
	int fd, length;

	snprintf(path, sizeof(path), "%s/comm", dir);
	fd = open(path, O_RDONLY);
	length = snprintf(name, 24, "%s ", strrchr(dir, '/') + 1);
	if (fd < 0 || read(fd, name + length, 20) < 0)
		*name = '\0';
	close(fd);
	snprintf(path, sizeof(path), "%s/stack", dir);
	add(path, name);
}

/* Every thread of /proc/PID, or of every process that has a program. */
static void add_tasks(const char *under)
{
	DIR *dir = opendir(under);
	struct dirent *e;
	char path[300], exe[2];

	while (dir && (e = readdir(dir))) {
		if (e->d_name[0] < '0' || e->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "%s/%s/exe", under, e->d_name);
		if (readlink(path, exe, sizeof(exe)) < 0)
			continue;
		*strrchr(path, '/') = '\0';
		if (strcmp(under, "/proc") != 0) {
			add_task(path);
		} else {
			strcat(path, "/task");
			add_tasks(path);
		}
	}
	if (dir)
		closedir(dir);
}

/* Returns the wait status of the command, or -1 when it stood still. */
static int watch(pid_t pid, const volatile uint64_t *beat, double seconds, double *ret_longest)
{
	uint64_t last = *beat;
	double since = now(), pause, told = since, begun = since;
	int status;

	*ret_longest = 0;
	while (waitpid(pid, &status, WNOHANG) == 0) {
		usleep(50000);
		pause = now() - since;
		if (pause > *ret_longest)
			*ret_longest = pause;
		if (now() - told > TELL_SECONDS) {
			told = now();
			dprintf(console, "stallwatch: %.0f s, %llu pages, longest pause %.1f s\n",
				told - begun, (unsigned long long)*beat, *ret_longest);
		}
		if (*beat != last) {
			last = *beat;
			since = now();
		} else if (pause > seconds) {
			return -1;
		}
	}
	return status;
}

int main(int argc, char **argv)
{
	bool off = argc > 1 && strcmp(argv[1], "-p") == 0;
	double seconds, longest;
	uint64_t *beat;
	int fd, status;
	pid_t pid;

	argv += off ? 2 : 1;
	argc -= off ? 2 : 1;
	if (argc < 2 || (seconds = atof(argv[0])) <= 0) {
		fprintf(stderr, "usage: stallwatch [-p] SECONDS COMMAND...\n");
		return 2;
	}
	fd = memfd_create("beat", 0);
	if (fd < 0 || ftruncate(fd, 4096) < 0)
		return 1;
	beat = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (beat == MAP_FAILED || mlockall(MCL_CURRENT | MCL_FUTURE) < 0 ||
		(pid = start(argv + 1, fd)) < 0) {
		perror("stallwatch");
		return 1;
	}
	console = off ? open("/dev/console", O_WRONLY | O_CLOEXEC) : STDERR_FILENO;
	add("/proc/meminfo", "memory\n");
	add("/proc/swaps", "");
	add_tasks("/proc");
	memset(text, ' ', sizeof(text)); /* the console, too, gets its buffer now */
	if (off && write(console, text, sizeof(text)) < 0)
		perror("/dev/console");
	status = watch(pid, beat, seconds, &longest);
	if (status == -1) {
		dprintf(console, "stallwatch: no progress for %.0f s, after %llu pages\n", seconds,
			(unsigned long long)*beat);
		for (unsigned int i = 0; i < task_count; i++)
			show_task(i);
		if (off)
			reboot(RB_POWER_OFF);
		kill(pid, SIGKILL);
		return 3;
	}
	printf("longest pause %.1f s\n", longest);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
