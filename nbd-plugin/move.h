/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * move.h - a device's part in save and restore
 *
 * The store moves the pages in memory; what the device adds is its size, the pages on the fallback
 * (decrypted: a stream is not), and the map: a restored page is there from the moment all are. A
 * device that is not empty, or is written to meanwhile, is not restored.
 *
 * Save: changes of pages on the fallback are told (ops->changed), and for the pause every change
 * waits at the device's gate (gate.h), with no page locked. Restore: what memory does not take is
 * written to its place on the fallback and marked as staged in the map; nobody reads it there, for
 * the page is nowhere yet. A server that is killed just then has an heir that forgets those.
 *
 * While pages appear every page lock is held, so a request sees all of them or none; and the state
 * says so (tm_state_set_torn), so that a server that is killed just then has no heir that takes
 * half a device for a whole one.
 */
#ifndef NBD_MOVE_H
#define NBD_MOVE_H

#include "core/tmem.h"

/* For tm_open_params.move; `opaque` is the struct tm_export. */
extern const struct tm_move_ops tm_device_move_ops;

#endif
