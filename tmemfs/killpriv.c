/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * killpriv.c - one capability, dropped and taken back by one thread
 *
 * Invariant: a thread that could not take it back would take the bits from files whose writers may
 * keep them. It aborts instead, as in creds.c.
 */
#include "tmemfs/killpriv.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Constant after tm_killpriv_init(). */
static struct {
	bool has; /* CAP_FSETID; who has not got it cannot keep the bits anyway */
	struct __user_cap_data_struct with[2], without[2];
} own;

static _Thread_local bool asked;

void tm_killpriv_init(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

	if (syscall(SYS_capget, &header, own.with) < 0)
		return;
	memcpy(own.without, own.with, sizeof(own.without));
	own.without[0].effective &= ~(1u << CAP_FSETID);
	own.has = own.with[0].effective & 1u << CAP_FSETID;
}

static bool set_own(const struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

	return syscall(SYS_capset, &header, data) == 0;
}

struct tm_killpriv tm_killpriv_begin(fuse_req_t req, bool kills)
{
	struct tm_killpriv killpriv = {false, {false}};

	if (!kills || !own.has)
		return killpriv;
	killpriv.dropped = set_own(own.without);
	/* Without memory one bit more goes than has to. */
	if (req)
		(void)tm_creds_enter(req, &killpriv.creds);
	return killpriv;
}

void tm_killpriv_end(struct tm_killpriv *killpriv)
{
	int saved = errno;

	tm_creds_leave(&killpriv->creds);
	if (killpriv->dropped && !set_own(own.with))
		abort();
	killpriv->dropped = false;
	errno = saved;
}

/* What follows the header of a request, if it is whole; else NULL. */
static const void *argument(const struct fuse_buf *request, size_t size)
{
	const struct fuse_in_header *in = request->mem;

	return request->size >= sizeof(*in) + size ? in + 1 : NULL;
}

void tm_killpriv_note(const struct fuse_buf *request)
{
	const struct fuse_in_header *in = request->mem;
	const struct fuse_setattr_in *setattr;
	const struct fuse_create_in *create;
	const struct fuse_write_in *write;
	const struct fuse_open_in *open;

	asked = false;
	if (request->flags & FUSE_BUF_IS_FD || request->size < sizeof(*in))
		return;
	switch (in->opcode) {
	case FUSE_WRITE:
		write = argument(request, sizeof(*write));
		asked = write && write->write_flags & FUSE_WRITE_KILL_SUIDGID;
		break;
	case FUSE_SETATTR:
		setattr = argument(request, sizeof(*setattr));
		asked = setattr && setattr->valid & FATTR_KILL_SUIDGID;
		break;
	case FUSE_OPEN:
		open = argument(request, sizeof(*open));
		asked = open && open->open_flags & FUSE_OPEN_KILL_SUIDGID;
		break;
	case FUSE_CREATE:
		create = argument(request, sizeof(*create));
		asked = create && create->open_flags & FUSE_OPEN_KILL_SUIDGID;
		break;
	default:
		break;
	}
}

bool tm_killpriv_asked(void)
{
	return asked;
}

bool tm_killpriv_caller(fuse_req_t req)
{
	return fuse_req_ctx(req)->uid != 0;
}
