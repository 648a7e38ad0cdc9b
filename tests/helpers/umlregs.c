/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * umlregs.c - Linux 6.1's user-mode-linux on processors with AMX: LD_PRELOAD=umlregs.so linux.uml
 *
 * Its buffer for the registers of a guest's process is shorter than what those have, and Linux
 * takes all of them or none (PTRACE_SETREGSET: EFAULT). So the rest is added here, as zeros: no
 * guest's process may use AMX, as each has to ask for that by an arch_prctl(2) that UML does not
 * know.
 */
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define EXPORT     __attribute__((visibility("default")))
#define XSTATE_MAX (64u << 10)

EXPORT long ptrace(enum __ptrace_request request, ...);

typedef long ptrace_fn(enum __ptrace_request request, ...);

/* Bytes that the registers of `pid` have; 0: that cannot be told. */
static size_t xstate_bytes(ptrace_fn *real, pid_t pid)
{
	static char all[XSTATE_MAX];
	struct iovec io = {all, sizeof(all)};

	return real(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &io) < 0 ? 0 : io.iov_len;
}

static long set_xstate(ptrace_fn *real, pid_t pid, const struct iovec *given)
{
	static char all[XSTATE_MAX]; /* one thread calls */
	static size_t bytes;
	struct iovec io = *given;

	if (bytes == 0)
		bytes = xstate_bytes(real, pid);
	if (given->iov_len < bytes) {
		memcpy(all, given->iov_base, given->iov_len);
		io = (struct iovec){all, bytes};
	}
	return real(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &io);
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_fn *real;
	unsigned long addr;
	void *data;
	va_list args;
	pid_t pid;

	if (!real)
		real = (ptrace_fn *)dlsym(RTLD_NEXT, "ptrace");
	va_start(args, request);
	pid = va_arg(args, pid_t);
	addr = va_arg(args, unsigned long);
	data = va_arg(args, void *);
	va_end(args);
	if (request == PTRACE_SETREGSET && addr == NT_X86_XSTATE)
		return set_xstate(real, pid, data);
	return real(request, pid, addr, data);
}
