/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pool_main.h - tmemd as the server of one shared pool
 */
#ifndef TM_POOL_MAIN_H
#define TM_POOL_MAIN_H

#define TM_POOL_OPTION "--pool-server" /* its only option; then the UUID */
#define TM_POOL_FD     3               /* the listening socket that tmemd calls on */
#define TM_POOL_TYPE   "shared"        /* of its client; the name is the UUID */

/* The whole program, after `tmemd --pool-server UUID`. Returns its exit status. */
int tm_pool_main(const char *uuid);

#endif
