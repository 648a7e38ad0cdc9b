/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session.h - between libfuse and the kernel: what has to be seen or said there ourselves
 *
 *   kernel --> loop.c (read), ring.c (io_uring) --> tm_session_note() --> libfuse
 *   kernel <-- write, tm_ring_answer()          <-- answer()          <-- libfuse
 *
 * libfuse, of any version, does not pass on all that a request says, and an older one cannot agree
 * with the kernel on what it does not know. So that each version gives the same mount, all that
 * 3.14 lacks is done here: what we want is put into our first answer, what is special about an open
 * file into the answer to its open, and a request for a file without a name, which is a FUSE_CREATE
 * by another number, becomes one.
 */
#ifndef TMEMFS_SESSION_H
#define TMEMFS_SESSION_H

#include <fuse_lowlevel.h>
#include <stdbool.h>

/* Have libfuse's answers come through here: after the mount, before the first request. The
 * session's user data is a struct tm_mount. 0; -ENOMEM. */
int tm_session_take(struct fuse_session *session);

/* This thread carries out `request` from now on, which may become one that libfuse knows. */
void tm_session_note(struct fuse_session *session, struct fuse_buf *request);

/* What libfuse does not know of an open file. */
struct tm_opened {
	bool parallel; /* several may write past the kernel's pages at once */
	int past;      /* its bytes go past us: what the kernel calls it; else 0 */
};

/* This thread's next answer is that to such an open. */
void tm_session_opened(const struct tm_opened *how);

/* Its request to create a file is one for a file without a name. */
bool tm_session_nameless(void);

#endif
