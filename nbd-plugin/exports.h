/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exports.h - the devices of a server, and the parameters that say what they are
 *
 *      size=8G                                      one device, whatever name clients ask for
 *      export=web1 size=8G  export=web2 size=16G    one device each, for clients that ask for it
 *
 * A parameter belongs to the last export= before it; without one to the export that has no name.
 * Each export is a client of its own to the host: its own limit, weight, line in `tmemctl list`,
 * and memory that outlives the server.
 *
 * Locking: none. The table is made while nbdkit reads its parameters and is constant afterwards.
 */
#ifndef TM_EXPORTS_H
#define TM_EXPORTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "nbd-plugin/device.h"

#define TM_EXPORTS_MAX     128
#define TM_EXPORT_NAME_MAX 255 /* bytes */

struct tm_export {
	char *name;     /* "": what a client gets that asks for none */
	char *pool;     /* NULL: nbd-PID, and nothing outlives the server */
	char *fallback; /* an absolute path, or NULL */
	bool plain;     /* it is not encrypted */
	uint64_t size, limit;
	bool hold_back;     /* nothing is written back */
	uint64_t writeback; /* bytes a second; 0: off */
	uint32_t weight;    /* 0: the default */
	enum tm_recompress recompress;
	unsigned int given;       /* a bit for each parameter seen */
	struct tm_device *device; /* made and destroyed by plugin.c */
	atomic_flag said[3];      /* kinds of failure the log has had */
};

/* Take a parameter. 0; -1 after nbdkit_error(). */
int tm_exports_set(const char *key, const char *value);

/* Take the parameters in a file, one "key = value" a line, each by calling `set`. 0; -1. */
int tm_exports_read(const char *path, int (*set)(const char *key, const char *value));

/* After the last parameter: is everything there, and does it go together? 0; -1. */
int tm_exports_complete(void);

/* nbdkit_error(), after the file and line that is being read if one is. Returns -1. */
int tm_exports_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The export after `e` (NULL: the first), or NULL. */
struct tm_export *tm_exports_next(const struct tm_export *e);

/* NULL: there is none of this name. */
struct tm_export *tm_exports_find(const char *name);

/* The one that a client gets which asks for `name`, or NULL. A server whose only device has no name
 * gives it to everybody, as nbdkit's plugins do that know no names. */
struct tm_export *tm_exports_for_client(const char *name);

/* "export NAME: ", or nothing for the one without a name: how a message about it begins. */
const char *tm_export_label(const struct tm_export *e, char buf[static TM_EXPORT_NAME_MAX + 16]);
#define TM_EXPORT_LABEL(e) tm_export_label(e, (char[TM_EXPORT_NAME_MAX + 16]){0})

void tm_exports_free(void);

#endif
