/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fs_caller.c - the table of operations over NFS: each is done as the caller, from its first step
 *
 * Elsewhere we are root, and the kernel has checked the caller's permissions. A server that
 * squashes root, as they do unless told otherwise, takes root for nobody, who may do nothing; and
 * only the server knows all of its rules (ACLs of NFSv4, say). So it is told who asks.
 *
 * What belongs to no caller is done as root and may be refused: read-ahead before a file is open
 * below, pins, pages that were written through a mapping and go with no descriptor of that file.
 */
#include "tmemfs/creds.h"
#include "tmemfs/fs.h"

/* Define the operation `name` as its caller; its first argument is `req`. */
#define AS_CALLER(name, parameters, arguments)                                                     \
	static void caller_##name parameters                                                       \
	{                                                                                          \
		TM_AUTO_CREDS struct tm_creds creds = {false};                                     \
		int rc = tm_creds_enter(req, &creds);                                              \
                                                                                                   \
		if (rc < 0)                                                                        \
			tm_reply_rc(req, rc);                                                      \
		else                                                                               \
			tm_op_##name arguments;                                                    \
	}

AS_CALLER(lookup, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))
AS_CALLER(getattr, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
AS_CALLER(setattr,
	(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi),
	(req, ino, attr, to_set, fi))
AS_CALLER(readlink, (fuse_req_t req, fuse_ino_t ino), (req, ino))
AS_CALLER(statfs, (fuse_req_t req, fuse_ino_t ino), (req, ino))
AS_CALLER(mknod, (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev),
	(req, parent, name, mode, rdev))
AS_CALLER(mkdir, (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode),
	(req, parent, name, mode))
AS_CALLER(symlink, (fuse_req_t req, const char *target, fuse_ino_t parent, const char *name),
	(req, target, parent, name))
AS_CALLER(link, (fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name),
	(req, ino, parent, name))
AS_CALLER(unlink, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))
AS_CALLER(rmdir, (fuse_req_t req, fuse_ino_t parent, const char *name), (req, parent, name))
AS_CALLER(rename,
	(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
		const char *newname, unsigned int flags),
	(req, parent, name, newparent, newname, flags))
AS_CALLER(create,
	(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		struct fuse_file_info *fi),
	(req, parent, name, mode, fi))
AS_CALLER(open, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
AS_CALLER(fsync, (fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi),
	(req, ino, datasync, fi))
AS_CALLER(flock, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int operation),
	(req, ino, fi, operation))
AS_CALLER(getlk, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock),
	(req, ino, fi, lock))
AS_CALLER(setlk,
	(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep),
	(req, ino, fi, lock, sleep))
AS_CALLER(read, (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
	(req, ino, size, off, fi))
AS_CALLER(write,
	(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		struct fuse_file_info *fi),
	(req, ino, buf, size, off, fi))
AS_CALLER(fallocate,
	(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi),
	(req, ino, mode, off, len, fi))
AS_CALLER(lseek, (fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi),
	(req, ino, off, whence, fi))
AS_CALLER(copy_file_range,
	(fuse_req_t req, fuse_ino_t in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t out,
		off_t off_out, struct fuse_file_info *fi_out, size_t len, int flags),
	(req, in, off_in, fi_in, out, off_out, fi_out, len, flags))
AS_CALLER(ioctl,
	(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg, struct fuse_file_info *fi,
		unsigned int flags, const void *in_buf, size_t in_bytes, size_t out_bytes),
	(req, ino, cmd, arg, fi, flags, in_buf, in_bytes, out_bytes))
AS_CALLER(opendir, (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi), (req, ino, fi))
AS_CALLER(readdir,
	(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
	(req, ino, size, off, fi))
AS_CALLER(readdirplus,
	(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi),
	(req, ino, size, off, fi))
AS_CALLER(fsyncdir, (fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi),
	(req, ino, datasync, fi))
AS_CALLER(setxattr,
	(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		int flags),
	(req, ino, name, value, size, flags))
AS_CALLER(getxattr, (fuse_req_t req, fuse_ino_t ino, const char *name, size_t size),
	(req, ino, name, size))
AS_CALLER(listxattr, (fuse_req_t req, fuse_ino_t ino, size_t size), (req, ino, size))
AS_CALLER(removexattr, (fuse_req_t req, fuse_ino_t ino, const char *name), (req, ino, name))

const struct fuse_lowlevel_ops tm_fs_caller_ops = {
	.init = tm_op_init,
	.lookup = caller_lookup,
	.forget = tm_op_forget,
	.forget_multi = tm_op_forget_multi,
	.getattr = caller_getattr,
	.setattr = caller_setattr,
	.readlink = caller_readlink,
	.statfs = caller_statfs,
	.mknod = caller_mknod,
	.mkdir = caller_mkdir,
	.symlink = caller_symlink,
	.link = caller_link,
	.unlink = caller_unlink,
	.rmdir = caller_rmdir,
	.rename = caller_rename,
	.create = caller_create,
	.open = caller_open,
	.release = tm_op_release,
	.flush = tm_op_flush,
	.fsync = caller_fsync,
	.flock = caller_flock,
	.getlk = caller_getlk,
	.setlk = caller_setlk,
	.read = caller_read,
	.write = caller_write,
	.fallocate = caller_fallocate,
	.lseek = caller_lseek,
	.copy_file_range = caller_copy_file_range,
	.ioctl = caller_ioctl,
	.opendir = caller_opendir,
	.readdir = caller_readdir,
	.readdirplus = caller_readdirplus,
	.releasedir = tm_op_releasedir,
	.fsyncdir = caller_fsyncdir,
	.setxattr = caller_setxattr,
	.getxattr = caller_getxattr,
	.listxattr = caller_listxattr,
	.removexattr = caller_removexattr,
};
