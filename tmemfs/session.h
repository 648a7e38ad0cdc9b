/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.h - between libfuse and the kernel: what has to be seen or said there ourselves
 *
 *   kernel --> loop.c (read), ring.c (io_uring) --> tm_session_note() --> libfuse
 *   kernel <-- write, tm_ring_answer()          <-- answer()          <-- libfuse
 *
 * libfuse, of any version, does not pass on all that a request says, and an older one cannot agree
 * with the kernel on what it does not know: that is put into our first answer.
 */
#ifndef TMEMFS_SESSION_H
#define TMEMFS_SESSION_H

#include <fuse_lowlevel.h>

/* Have libfuse's answers come through here: after the mount, before the first request. The
 * session's user data is a struct tm_mount. 0; -ENOMEM. */
int tm_session_take(struct fuse_session *session);

/* This thread carries out `request` from now on. */
void tm_session_note(const struct fuse_buf *request);

#endif
