/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_xattr.c - extended attributes and ACLs, passed through
 */
#include "tmemfs/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "tmemfs/creds.h"

void tm_op_setxattr(
	fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	char path[TM_PROC_PATH_MAX];
	int rc = tm_fd_get(tm_inode_of(req, ino), &place);

	if (rc == 0 && strcmp(name, "system.posix_acl_access") == 0) {
		/* Setting an ACL takes the set-group-id bit from who is not in the group. */
		TM_AUTO_CREDS struct tm_creds creds = {false};

		rc = tm_creds_enter(req, &creds);
		if (rc == 0 && setxattr(tm_proc_path(place.fd, path), name, value, size, flags) < 0)
			rc = -errno;
	} else if (rc == 0) {
		if (setxattr(tm_proc_path(place.fd, path), name, value, size, flags) < 0)
			rc = -errno;
	}
	tm_reply_rc(req, rc);
}

void tm_op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	char path[TM_PROC_PATH_MAX];
	int rc = tm_fd_get(tm_inode_of(req, ino), &place);

	if (rc == 0 && removexattr(tm_proc_path(place.fd, path), name) < 0)
		rc = -errno;
	tm_reply_rc(req, rc);
}

/* Value of `name`, or the list of names if that is NULL. */
static ssize_t xattr_get(int fd, const char *name, char *buf, size_t size)
{
	char path[TM_PROC_PATH_MAX];
	ssize_t n = name ? getxattr(tm_proc_path(fd, path), name, buf, size)
			 : listxattr(tm_proc_path(fd, path), buf, size);

	return n < 0 ? -errno : n;
}

static void reply_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	TM_AUTO_FREE char *buf = size ? malloc(size) : NULL;
	ssize_t n = size && !buf ? -ENOMEM : tm_fd_get(tm_inode_of(req, ino), &place);

	if (n == 0)
		n = xattr_get(place.fd, name, buf, size);
	if (n < 0)
		tm_reply_rc(req, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

void tm_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	reply_xattr(req, ino, name, size);
}

void tm_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	reply_xattr(req, ino, NULL, size);
}
