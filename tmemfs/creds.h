/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * creds.h - doing something as the caller
 *
 * What is created belongs to the caller, and the backing's own rules (setgid directories, default
 * ACLs, the set-group-id bit) must see who that is. The kernel has checked the permissions already
 * (default_permissions), so the thread keeps the right to pass them.
 */
#ifndef TMEMFS_CREDS_H
#define TMEMFS_CREDS_H

#include <fuse_lowlevel.h>
#include <stdbool.h>

#include "core/util.h"

/* Read our own identity. Once, before any thread. Without root everything is done as ourselves. */
void tm_creds_init(void);

struct tm_creds {
	bool changed;
};
#define TM_AUTO_CREDS TM_CLEANUP(tm_creds_leave)

/* This thread acts as the caller, with its umask, until tm_creds_leave(), which TM_AUTO_CREDS calls
 * at the end of the scope. 0; -EPERM; -ENOMEM. On failure nothing has changed. Within another one
 * for the same request it changes only the umask. */
int tm_creds_enter(fuse_req_t req, struct tm_creds *ret_creds);
void tm_creds_leave(struct tm_creds *creds);

/* Is the caller in that group? */
bool tm_creds_in_group(fuse_req_t req, gid_t gid);

#endif
