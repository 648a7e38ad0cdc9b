/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * commands.h - what tmemd can be asked for
 */
#ifndef TM_COMMANDS_H
#define TM_COMMANDS_H

#include "tools/tmemd/host.h"

/* Run a message as a request of `session` and send the reply, at once or when clients have
 * answered. A request that is refused has changed nothing. The message stays the caller's. */
void tm_command_run(struct tm_host *host, struct tm_session *session, json_t *message);

#endif
