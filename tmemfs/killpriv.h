/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * killpriv.h - the set-user-id and set-group-id bits that a change takes from a file
 *
 * Linux takes them, and capabilities, from a regular file when somebody without CAP_FSETID writes
 * to it, cuts it or gives it away. On a FUSE mount it looks for capabilities before each write(2)
 * to that end: a message to and fro that costs as much as the write. With FUSE_HANDLE_KILLPRIV_V2
 * it leaves all of that to us, and says in the request when the caller is one whose changes do it.
 * The backing's kernel knows what to do; it only has to see a thread without CAP_FSETID.
 *
 * libfuse does not pass on what the kernel says there (3.18 neither), so the request is looked at
 * as <linux/fuse.h> has it; and before 3.17 it cannot agree on the flag: session.c does.
 */
#ifndef TMEMFS_KILLPRIV_H
#define TMEMFS_KILLPRIV_H

#include <fuse_lowlevel.h>
#include <stdbool.h>

#include "core/util.h"
#include "tmemfs/creds.h"

/* Read our own capabilities. Once, before any thread. */
void tm_killpriv_init(void);

/* This thread carries out `request` from now on. */
void tm_killpriv_note(const struct fuse_buf *request);

/* The kernel says that this thread's request takes the bits away. */
bool tm_killpriv_asked(void);

/* The same for requests that cannot say so: by who calls. */
bool tm_killpriv_caller(fuse_req_t req);

/* Do without CAP_FSETID, if `kills`, until tm_killpriv_end(), which TM_AUTO_KILLPRIV calls at the
 * end of the scope. Whoever is in the file's group leaves it a set-group-id bit that is not for
 * executing: so with `req` (which may be NULL) it is done as the caller altogether. */
struct tm_killpriv {
	bool dropped;
	struct tm_creds creds;
};
#define TM_AUTO_KILLPRIV __attribute__((unused)) TM_CLEANUP(tm_killpriv_end)

struct tm_killpriv tm_killpriv_begin(fuse_req_t req, bool kills);
void tm_killpriv_end(struct tm_killpriv *killpriv);

#endif
