/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * beside.h - small files beside the control socket, for the tmemd that comes after this one
 *
 * They live as long as the directory of the socket, which is mostly until the machine is shut down.
 */
#ifndef TM_BESIDE_H
#define TM_BESIDE_H

#include <stdio.h>

/* Write file `name` in `dir_fd`, whole or not at all, with mode 0600: `write` says what is in it.
 * 0; -EIO; -errno. */
int tm_beside_save(int dir_fd, const char *name, void (*write)(FILE *file, const void *opaque),
	const void *opaque);

/* Open such a file to read it. 0, and the caller closes *ret_file; -ENOENT there is none; -EPERM
 * others could have written it; -errno. */
int tm_beside_open(int dir_fd, const char *name, FILE **ret_file);

#endif
