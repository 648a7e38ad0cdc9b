/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * filter.h - which system calls tmemd and its pool servers do without
 */
#ifndef TM_FILTER_H
#define TM_FILTER_H

/* From here on, in every thread of this process and for good, the calls that neither tmemd nor a
 * pool's server has a use for fail with EPERM (see filter.c for which, and why like this). Needs
 * no_new_privs. 0; -ENOSYS this kernel, or this build, has none; -errno. */
int tm_filter_install(void);

#endif
