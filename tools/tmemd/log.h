/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log.h - what tmemd has to say: one line to standard error, or to syslog once it is a daemon
 */
#ifndef TM_LOG_H
#define TM_LOG_H

/* `format` without a newline. */
void tm_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* From now on to syslog. */
void tm_log_to_syslog(void);

#endif
