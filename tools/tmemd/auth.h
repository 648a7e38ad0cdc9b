/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * auth.h - which users may join which shared pools
 *
 * A list of (pool, user). Who is not on it is not let in, root included. It starts with what the
 * configuration says; what commands add, and what they remove of that, is kept in a file beside the
 * control socket, for the tmemd that comes after this one.
 */
#ifndef TM_AUTH_H
#define TM_AUTH_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "core/tmem.h"

#define TM_AUTHS_MAX 1024

struct tm_auth {
	struct tm_uuid uuid;
	uid_t uid;
	bool configured; /* not by command: it comes from the configuration again */
	bool removed;    /* by command, though configured: as if it were not there */
};

struct tm_auths {
	struct tm_auth *list; /* malloc'ed */
	size_t count;
};

/* Add what "UUID USER..." says: users are names or numbers, with blanks between. 0; -EINVAL and
 * what is wrong in `ret_error`; -ENOMEM; -ENOSPC TM_AUTHS_MAX reached. */
int tm_auths_parse(
	struct tm_auths *auths, const char *text, bool configured, char *ret_error, size_t size);

bool tm_auths_has(const struct tm_auths *auths, const struct tm_uuid *uuid, uid_t uid);

/* Is this user let in to any pool? */
bool tm_auths_knows(const struct tm_auths *auths, uid_t uid);

/* Adding what is there, or removing what is not, changes nothing. 0; -ENOMEM; -ENOSPC. */
int tm_auths_add(struct tm_auths *auths, const struct tm_uuid *uuid, uid_t uid, bool configured);
void tm_auths_remove(struct tm_auths *auths, const struct tm_uuid *uuid, uid_t uid);

/* [{"uuid":...,"uid":...}], a new reference; NULL without memory. */
json_t *tm_auths_describe(const struct tm_auths *auths);

/* Write all in which the list differs from the configuration to file `name` in `dir_fd`, whole or
 * not at all. 0; -errno. */
int tm_auths_save(const struct tm_auths *auths, int dir_fd, const char *name);

/* Change what tm_auths_save() wrote. 0; -ENOENT no such file; -EPERM it is not ours alone; -EINVAL
 * it is damaged: then what stands before that was added; -errno. */
int tm_auths_load(struct tm_auths *auths, int dir_fd, const char *name);

void tm_auths_free(struct tm_auths *auths);

#endif
