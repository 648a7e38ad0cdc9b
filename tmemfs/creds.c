/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * creds.c - the caller's fsuid, fsgid, groups and umask on this thread only
 *
 * glibc's setgroups and friends change every thread of the process; the system calls change one.
 * The kernel drops the file capabilities of a thread whose fsuid leaves 0 and gives them back when
 * it returns; in between we raise those again that pass permission checks, but not FSETID (the
 * set-group-id bit goes when the caller is not in the group) nor CHOWN.
 *
 * Invariant: a thread that could not take its own identity back would serve the next caller as the
 * last one. It aborts instead.
 */
#include "tmemfs/creds.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define GROUPS_FIRST 64
#define GROUPS_MAX   65536

#define CAP_BIT(cap) (1u << (cap)) /* all of ours are below 32 */

/* Constant after tm_creds_init(). */
static struct {
	bool root;
	gid_t gid;
	int group_count;
	gid_t *groups;
	struct __user_cap_data_struct caller[2]; /* capabilities while acting as a caller */
} own;

static _Thread_local bool own_umask; /* this thread's umask is its own */
static _Thread_local bool acting;    /* as a caller */

void tm_creds_init(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

	own.gid = getegid();
	own.group_count = getgroups(0, NULL);
	if (own.group_count > 0) {
		own.groups = calloc((size_t)own.group_count, sizeof(*own.groups));
		own.group_count = own.groups ? getgroups(own.group_count, own.groups) : 0;
	}
	if (own.group_count < 0)
		own.group_count = 0;
	own.root = geteuid() == 0 && syscall(SYS_capget, &header, own.caller) == 0;
	own.caller[0].effective &= ~(CAP_BIT(CAP_CHOWN) | CAP_BIT(CAP_FSETID));
}

static int set_groups(int count, const gid_t *groups)
{
	return syscall(SYS_setgroups, count, groups) == 0 ? 0 : -errno;
}

/* 0 and the caller's groups, malloc'ed; none if the caller has gone meanwhile. */
static int caller_groups(fuse_req_t req, gid_t **ret_groups, int *ret_count)
{
	int room = GROUPS_FIRST, count;
	gid_t *groups = NULL;

	for (;;) {
		gid_t *more = realloc(groups, (size_t)room * sizeof(*groups));

		if (!more) {
			free(groups);
			return -ENOMEM;
		}
		groups = more;
		count = fuse_req_getgroups(req, room, groups);
		if (count <= room || count > GROUPS_MAX)
			break;
		room = count;
	}
	*ret_groups = groups;
	*ret_count = count > 0 && count <= GROUPS_MAX ? count : 0;
	return 0;
}

bool tm_creds_in_group(fuse_req_t req, gid_t gid)
{
	TM_AUTO_FREE gid_t *groups = NULL;
	int count = 0;

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	if (caller_groups(req, &groups, &count) < 0)
		return false;
	for (int i = 0; i < count; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

static void take_own_back(void)
{
	acting = false;
	setfsuid(0);
	setfsgid(own.gid);
	if (setfsuid((uid_t)-1) != 0 || setfsgid((gid_t)-1) != (int)own.gid ||
		set_groups(own.group_count, own.groups) < 0)
		abort();
}

static void set_umask(mode_t mask)
{
	if (!own_umask)
		own_umask = unshare(CLONE_FS) == 0;
	if (own_umask)
		umask(mask);
}

int tm_creds_enter(fuse_req_t req, struct tm_creds *ret_creds)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	TM_AUTO_FREE gid_t *groups = NULL;
	int count, rc;

	ret_creds->changed = false;
	set_umask(ctx->umask);
	if (acting || !own.root || (ctx->uid == 0 && ctx->gid == own.gid))
		return 0;
	rc = caller_groups(req, &groups, &count);
	if (rc < 0)
		return rc;
	rc = set_groups(count, groups);
	if (rc < 0)
		return rc;
	setfsgid(ctx->gid);
	setfsuid(ctx->uid);
	if (setfsuid((uid_t)-1) != (int)ctx->uid || setfsgid((gid_t)-1) != (int)ctx->gid ||
		(ctx->uid != 0 && syscall(SYS_capset, &header, own.caller) < 0)) {
		take_own_back();
		return -EPERM;
	}
	ret_creds->changed = acting = true;
	return 0;
}

void tm_creds_leave(struct tm_creds *creds)
{
	if (creds->changed)
		take_own_back();
	creds->changed = false;
}
