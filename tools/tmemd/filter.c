/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter.c - a seccomp filter, for whoever takes tmemd over by what it parses
 *
 * It names what is forbidden, not what is allowed. tmemd's own calls are few, but glibc, jansson,
 * NSS and what comes with the next release make others on their behalf, in rare cases (no memory, a
 * log that went away) that no test meets; a host that dies of one takes memory from all its
 * clients. What is forbidden is known and needed by none of them:
 *
 *   - another program, another process: execve, fork; threads are allowed
 *   - other processes: ptrace, process_vm_*, pidfd_getfd, kcmp
 *   - a network: sockets of any family but AF_UNIX
 *   - the machine: mounts, namespaces, modules, swap, clocks, reboot
 *   - parts of the kernel that are large and of no use here: bpf, io_uring, perf, userfaultfd, keys
 *
 * For the same reason a call is refused (EPERM) and not the end of the process. clone3 is ENOSYS,
 * since a filter cannot see its flags: glibc takes clone then. Calls by another architecture's
 * numbers are the end; no program of ours has any.
 *
 * Under a sanitizer there is no filter: its reports fork and trace.
 */
#include "tools/tmemd/filter.h"

#include <errno.h>

#if defined(TM_HAS_SECCOMP) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WANTED 1
#else
#define WANTED 0
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#undef WANTED
#define WANTED 0
#endif
#endif

#if WANTED
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/socket.h>

#include "core/util.h"

/* By name: what this architecture or this library does not know is not there to be forbidden. */
static const char *const forbidden[] = {
	/* programs and processes */
	"execve",
	"execveat",
	"fork",
	"vfork",
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"process_madvise",
	"pidfd_open",
	"pidfd_getfd",
	"kcmp",
	"personality",
	/* the machine */
	"mount",
	"umount2",
	"mount_setattr",
	"move_mount",
	"open_tree",
	"fsopen",
	"fsconfig",
	"fsmount",
	"fspick",
	"pivot_root",
	"chroot",
	"unshare",
	"setns",
	"open_by_handle_at",
	"name_to_handle_at",
	"init_module",
	"finit_module",
	"delete_module",
	"kexec_load",
	"kexec_file_load",
	"reboot",
	"swapon",
	"swapoff",
	"acct",
	"quotactl",
	"settimeofday",
	"clock_settime",
	"clock_adjtime",
	"adjtimex",
	"sethostname",
	"setdomainname",
	"iopl",
	"ioperm",
	"syslog",
	"mknod",
	"mknodat",
	"fanotify_init",
	/* of no use here */
	"bpf",
	"perf_event_open",
	"userfaultfd",
	"io_uring_setup",
	"io_uring_enter",
	"io_uring_register",
	"add_key",
	"request_key",
	"keyctl",
	"lookup_dcookie",
	"modify_ldt",
	"vmsplice",
};

static int add_names(scmp_filter_ctx ctx)
{
	int rc = 0;

	for (size_t i = 0; i < TM_ARRAY_SIZE(forbidden) && rc == 0; i++) {
		int call = seccomp_syscall_resolve_name(forbidden[i]);

		if (call >= 0)
			rc = seccomp_rule_add_array(ctx, SCMP_ACT_ERRNO(EPERM), call, 0, NULL);
	}
	return rc;
}

/* Threads but no processes, sockets but no network. The macros of libseccomp leave a field out. */
static int add_halves(scmp_filter_ctx ctx)
{
	const struct scmp_arg_cmp process = {0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0};
	const struct scmp_arg_cmp foreign = {0, SCMP_CMP_NE, AF_UNIX, 0};
	int rc = seccomp_rule_add_array(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1, &process);

	if (rc == 0)
		rc = seccomp_rule_add_array(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, NULL);
	if (rc == 0)
		rc = seccomp_rule_add_array(
			ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 1, &foreign);
	if (rc == 0)
		rc = seccomp_rule_add_array(
			ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socketpair), 1, &foreign);
	return rc;
}

int tm_filter_install(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int rc;

	if (!ctx)
		return -ENOMEM;
	rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (rc == 0)
		rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
	if (rc == 0)
		rc = add_names(ctx);
	if (rc == 0)
		rc = add_halves(ctx);
	if (rc == 0)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	/* libseccomp's word for a kernel without filters, and the kernel's own. */
	return rc == -ECANCELED || rc == -EINVAL || rc == -EOPNOTSUPP ? -ENOSYS : rc;
}

#else

int tm_filter_install(void)
{
	return -ENOSYS;
}

#endif
