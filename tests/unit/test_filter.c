/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * test_filter.c - what a process under the filter may do, and what not
 */
#include "tests/unit/pages.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/tmemd/filter.h"

#define NO_FILTER 77

/* Each returns 0 when it is as it should be. */
static int refused(long rc)
{
	return !(rc == -1 && errno == EPERM);
}

static int no_program(void)
{
	char *argv[] = {"true", NULL};

	return refused(execv("/bin/true", argv));
}

static int no_process(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return refused(pid);
}

static int no_tracing(void)
{
	char byte;
	struct iovec here = {&byte, 1};

	return refused(ptrace(PTRACE_TRACEME, 0, NULL, NULL)) ||
		refused(process_vm_readv(getppid(), &here, 1, &here, 1, 0));
}

static int no_network(void)
{
	int ends[2];

	return refused(socket(AF_INET, SOCK_STREAM, 0)) ||
		refused(socket(AF_NETLINK, SOCK_RAW, 0)) || socket(AF_UNIX, SOCK_STREAM, 0) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0;
}

static int no_machine(void)
{
	return refused(unshare(CLONE_NEWUSER)) || refused(syscall(SYS_bpf, 0, NULL, 0)) ||
		refused(syscall(SYS_io_uring_setup, 1, NULL)) ||
		refused(syscall(SYS_mount, "x", "/", "tmpfs", 0, NULL)) ||
		refused(syscall(SYS_reboot, 0, 0, 0, NULL));
}

static void *in_thread(void *opaque)
{
	*(int *)opaque = no_process() || no_program();
	return NULL;
}

static int threads_and_files(void)
{
	int in = 1, fd = memfd_create("x", MFD_CLOEXEC);
	pthread_t thread;

	return fd < 0 || ftruncate(fd, 4096) < 0 ||
		mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ||
		open("/proc/self/status", O_RDONLY) < 0 ||
		pthread_create(&thread, NULL, in_thread, &in) || pthread_join(thread, NULL) || in;
}

/* The filter is in every thread, also in those that were there before. */
static pthread_barrier_t tried;
static bool installed;

static void *older_thread(void *opaque)
{
	pthread_barrier_wait(&tried);
	return installed ? in_thread(opaque) : NULL;
}

static void check(int (*what)(void))
{
	const char *variant = getenv("TM_TEST_VARIANT");
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int older = 1, rc;
		pthread_t thread;

		pthread_barrier_init(&tried, NULL, 2);
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
			pthread_create(&thread, NULL, older_thread, &older))
			_exit(2);
		rc = tm_filter_install();
		installed = rc == 0;
		pthread_barrier_wait(&tried);
		pthread_join(thread, NULL);
		_exit(rc == -ENOSYS ? NO_FILTER : rc < 0 ? 3 : older ? 4 : what());
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (variant && *variant) { /* sanitizers need the calls, so their builds go without */
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), NO_FILTER);
		return;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_FILTER)
		skip(); /* this kernel has none, or this machine no libseccomp */
	assert_int_equal(status, 0);
}

#define TEST(name)                                                                                 \
	static void test_##name(void **state)                                                      \
	{                                                                                          \
		(void)state;                                                                       \
		check(name);                                                                       \
	}
TEST(no_program)
TEST(no_process)
TEST(no_tracing)
TEST(no_network)
TEST(no_machine)
TEST(threads_and_files)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_program),
		cmocka_unit_test(test_no_process),
		cmocka_unit_test(test_no_tracing),
		cmocka_unit_test(test_no_network),
		cmocka_unit_test(test_no_machine),
		cmocka_unit_test(test_threads_and_files),
	};

	return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
