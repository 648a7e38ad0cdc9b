/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.h - between libfuse and the kernel: what has to be seen or said there ourselves
 *
 *   kernel --> loop.c (read), ring.c (io_uring) --> tm_session_note() --> libfuse
 *   kernel <-- write, tm_ring_answer()          <-- answer()          <-- libfuse
 *
 * libfuse, of any version, does not pass on all that a request says, and an older one cannot agree
 * with the kernel on what it does not know: that is put into our first answer. Nor does it know
 * O_TMPFILE before 3.17: that request is a FUSE_CREATE by another number, and is made one.
 */
#ifndef TMEMFS_SESSION_H
#define TMEMFS_SESSION_H

#include <fuse_lowlevel.h>
#include <stdbool.h>

/* Have libfuse's answers come through here: after the mount, before the first request. The
 * session's user data is a struct tm_mount. 0; -ENOMEM. */
int tm_session_take(struct fuse_session *session);

/* This thread carries out `request` from now on, which may become one that libfuse knows. */
void tm_session_note(struct fuse_buf *request);

/* Its request to create a file is one for a file without a name. */
bool tm_session_nameless(void);

#endif
