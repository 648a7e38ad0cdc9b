/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * features.h - what the libfuse that we are built with has, and others have not
 *
 * The low-level API itself is 3.14's everywhere.
 */
#ifndef TMEMFS_FEATURES_H
#define TMEMFS_FEATURES_H

#include <fuse_lowlevel.h>

#define TM_LIBFUSE_317 (FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17))

/* O_TMPFILE; else session.c makes it one that 3.14 has. */
#define TM_HAS_TMPFILE TM_LIBFUSE_317

/* It can agree on FUSE_HANDLE_KILLPRIV_V2 with the kernel; else session.c does. */
#define TM_HAS_KILLPRIV TM_LIBFUSE_317

/* Files that are open with O_DIRECT can be mapped although they go past the kernel's pages. */
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
#define TM_HAS_DIRECT 1
#else
#define TM_HAS_DIRECT 0
#endif

/* An open can be answered with a descriptor of the backing. */
#if TM_LIBFUSE_317 && defined(FUSE_CAP_PASSTHROUGH)
#define TM_HAS_PASSTHROUGH 1
#else
#define TM_HAS_PASSTHROUGH 0
#endif

#endif
