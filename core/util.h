/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util.h - what every layer needs and no layer owns
 */
#ifndef TM_UTIL_H
#define TM_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define TM_VERSION "0.1"

#define TM_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define TM_ALIGN(x, a)   (((x) + (a)-1) & ~((a)-1)) /* `a` is a power of two */

#define TM_MIN(a, b)                                                                               \
	({                                                                                         \
		__typeof__(a) min_a_ = (a);                                                        \
		__typeof__(b) min_b_ = (b);                                                        \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#define TM_MAX(a, b)                                                                               \
	({                                                                                         \
		__typeof__(a) max_a_ = (a);                                                        \
		__typeof__(b) max_b_ = (b);                                                        \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})

/* Locals that clean up after themselves. */
#define TM_CLEANUP(f) __attribute__((cleanup(f)))
static inline void tm_cleanup_free(void *p)
{
	free(*(void **)p);
}
static inline void tm_cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define TM_AUTO_FREE  TM_CLEANUP(tm_cleanup_free)
#define TM_AUTO_CLOSE TM_CLEANUP(tm_cleanup_close)

/* Parse "4096", "64k", "1.5G", "2GiB" (1024-based; k M G T P E, any case, optional "i"/"iB"/"B").
 * 0 and *ret_bytes; -EINVAL for anything else, negative or empty; -ERANGE past 2^63. */
int tm_size_parse(const char *text, uint64_t *ret_bytes);

/* "0", "512", "1.00K", "12.3M", "1.50G": three significant digits, 1024-based, at most 7 bytes
 * with the NUL. Returns `buf`. */
#define TM_SIZE_TEXT_MAX 8
const char *tm_size_format(uint64_t bytes, char buf[static TM_SIZE_TEXT_MAX]);

/* Monotonic nanoseconds. */
uint64_t tm_now_ns(void);

/* Bytes of RAM in this machine. Never 0. */
uint64_t tm_ram_bytes(void);

/* The control socket: `override` if not NULL, else $TMEM_SOCKET, else /run/tmem/control.sock for
 * root, else $XDG_RUNTIME_DIR/tmem/control.sock (or /tmp/tmem-UID/control.sock without one).
 * Returns a malloc'ed string, or NULL without memory. */
char *tm_socket_path(const char *override);

#endif
