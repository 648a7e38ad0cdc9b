/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remote.h - struct tmem_ops over a connection to a shared pool's server
 *
 * tm_open_shared() (tmem.h) is what front ends use; this is what it is made of, for the tests.
 */
#ifndef TM_REMOTE_H
#define TM_REMOTE_H

#include "core/tmem.h"

struct tm_remote_params {
	/* As in struct tm_lanes_params. */
	int (*join)(void *opaque, const struct tm_uuid *uuid, int stop_fd, int *ret_fd);
	void (*close)(void *opaque); /* `join` is not called any more; may be NULL */
	void *opaque;
	uint32_t patience_ms;

	/* As in struct tm_open_params. */
	void (*on_destroyed)(void *opaque);
	void *destroyed_opaque;
};

/* Takes `params->opaque` over. 0; -ENOMEM: then it is still the caller's. */
int tm_remote_open(const struct tm_remote_params *params, struct tmem **ret_tmem);

#endif
