/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_xattr.c - extended attributes and ACLs, passed through
 *
 * A program asks the same few of every file (ls for ACLs, the kernel for capabilities before each
 * write), mostly to hear that there are none: short answers, and that one, are remembered.
 */
#include "tmemfs/fs.h"
#include "tmemfs/call.h"

#include <errno.h>
#include <linux/limits.h>
#include <linux/xattr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "tmemfs/creds.h"

#define SHORT_MAX 1024 /* longest value that is remembered */

void tm_op_setxattr(
	fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_of(req, ino);
	char path[TM_PROC_PATH_MAX];
	int rc = tm_fd_get(inode, &place);

	tm_meta_change_begin(mount->meta, inode);
	if (rc == 0 && strcmp(name, XATTR_NAME_POSIX_ACL_ACCESS) == 0) {
		/* Setting an ACL takes the set-group-id bit from who is not in the group. */
		TM_AUTO_CREDS struct tm_creds creds = {false};

		rc = tm_creds_enter(req, &creds);
		if (rc == 0 && setxattr(tm_proc_path(place.fd, path), name, value, size, flags) < 0)
			rc = -errno;
	} else if (rc == 0) {
		if (setxattr(tm_proc_path(place.fd, path), name, value, size, flags) < 0)
			rc = -errno;
	}
	tm_meta_change_end(mount->meta, inode);
	tm_meta_xattrs_changed(mount->meta, inode);
	tm_reply_rc(req, rc);
}

void tm_op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	struct tm_mount *mount = tm_mount_of(req);
	struct tm_inode *inode = tm_inode_of(req, ino);
	char path[TM_PROC_PATH_MAX];
	int rc = tm_fd_get(inode, &place);

	tm_meta_change_begin(mount->meta, inode);
	if (rc == 0 && removexattr(tm_proc_path(place.fd, path), name) < 0)
		rc = -errno;
	tm_meta_change_end(mount->meta, inode);
	tm_meta_xattrs_changed(mount->meta, inode);
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

/* The same as a fact: 0 or more bytes in *ret_value, the caller's to free, or -errno. */
static int xattr_known(
	struct tm_mount *mount, struct tm_inode *inode, const char *name, void **ret_value)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	char key[sizeof("x:") + XATTR_NAME_MAX];
	struct tm_asked asked;
	char value[SHORT_MAX];
	bool capabilities = name && strcmp(name, XATTR_NAME_CAPS) == 0;
	int rc;

	if (capabilities && tm_meta_plain(mount->meta, inode))
		return -ENODATA;
	snprintf(key, sizeof(key), "x:%s", name ? name : "");
	if (tm_meta_recall(mount->meta, inode, key, &rc, ret_value))
		return rc;
	asked = tm_meta_ask(mount->meta);
	rc = tm_fd_get(inode, &place);
	if (rc == 0)
		rc = (int)xattr_get(place.fd, name, value, sizeof(value));
	if (tm_fs_unreachable(mount, rc) && tm_meta_recall(mount->meta, inode, key, &rc, ret_value))
		return rc;
	if (rc >= 0 || rc == -ENODATA || rc == -EOPNOTSUPP)
		tm_meta_remember(mount->meta, inode, &asked, key, rc, value);
	if (capabilities && rc == -ENODATA)
		tm_meta_learn_plain(mount->meta, inode, &asked);
	if (rc <= 0)
		return rc;
	*ret_value = malloc((size_t)rc);
	if (!*ret_value)
		return -ENOMEM;
	memcpy(*ret_value, value, (size_t)rc);
	return rc;
}

/* A value that is too long to be remembered: as xattr_known(), but of up to `size` bytes. */
static int xattr_long(struct tm_inode *inode, const char *name, size_t size, void **ret_value)
{
	TM_AUTO_FD struct tm_fd place = TM_FD_NONE;
	TM_AUTO_FREE char *buf = size ? malloc(size) : NULL;
	ssize_t n = size && !buf ? -ENOMEM : tm_fd_get(inode, &place);

	if (n == 0)
		n = xattr_get(place.fd, name, buf, size);
	if (n >= 0) {
		*ret_value = buf;
		buf = NULL;
	}
	return (int)n;
}

/*
 * A backing without ACLs has none on this file: of any other error the kernel makes the answer to
 * whoever is not the owner and wants to come in. rclone (FUSE: no handle) says EIO to all
 * questions.
 */
static bool has_no_acl(const struct tm_inode *inode, const char *name, int rc)
{
	bool acl = name &&
		(strcmp(name, XATTR_NAME_POSIX_ACL_ACCESS) == 0 ||
			strcmp(name, XATTR_NAME_POSIX_ACL_DEFAULT) == 0);

	return acl && (rc == -EOPNOTSUPP || (rc == -EIO && !inode->handle));
}

static void reply_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct tm_inode *inode = tm_inode_ref(tm_inode_of(req, ino)); /* past an interrupt */
	struct tm_mount *mount = tm_mount_of(req);
	TM_AUTO_FREE void *value = NULL;
	struct tm_call call;
	bool answer;
	int n;

	tm_call_begin(req, &call);
	n = xattr_known(mount, inode, name, &value);
	if (n == -ERANGE)
		n = xattr_long(inode, name, size, &value);
	if (has_no_acl(inode, name, n))
		n = -ENODATA;
	answer = tm_call_end(req, &call);
	tm_inode_unref(inode);
	if (!answer)
		return;
	if (n < 0)
		tm_reply_rc(req, n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else if ((size_t)n > size)
		tm_reply_rc(req, -ERANGE);
	else
		fuse_reply_buf(req, value, (size_t)n);
}

void tm_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	reply_xattr(req, ino, name, size);
}

void tm_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	reply_xattr(req, ino, NULL, size);
}
