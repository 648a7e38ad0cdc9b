/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * move.h - a device's part in save and restore
 *
 * The store moves the pages; what the device adds is its size, and the map: a restored page is in
 * tmem from the moment all are. A device of which pages are on the fallback is not saved: a stream
 * has what is in memory. One that is not empty is not restored.
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
