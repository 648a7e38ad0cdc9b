/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kernel.h - what the kernel's nbd is told, over generic netlink
 *
 * nbd-client up to 3.24 cannot say how long the kernel is to wait for another connection when one
 * is lost (it waits not at all then and fails what is on its way), nor hand it the other one. The
 * kernel can do both since 4.12.
 */
#ifndef TM_NBD_KEEP_KERNEL_H
#define TM_NBD_KEEP_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

struct tm_kernel {
	int fd;          /* of the netlink socket */
	uint16_t family; /* number that "nbd" has today */
	uint32_t index;  /* of the device: 0 for /dev/nbd0 */
};

/* `device` as in /dev/nbd0. -EINVAL when it is called otherwise, -ENOENT when the kernel has no
 * nbd, or what the socket said. */
int tm_kernel_open(const char *device, struct tm_kernel *ret_kernel);

/* Connect the device to a negotiated connection. Once that is lost, requests wait `wait` seconds
 * for tm_kernel_reconnect() before they fail. -EBUSY when the device is in use. */
int tm_kernel_connect(
	const struct tm_kernel *k, int connection, uint64_t bytes, uint64_t flags, uint64_t wait);

/* Another connection in the place of the lost one; what was on its way is sent again. -ENOSPC when
 * the kernel has not noticed the loss yet, -EINVAL when the device was disconnected. */
int tm_kernel_reconnect(const struct tm_kernel *k, int connection);

int tm_kernel_disconnect(const struct tm_kernel *k);

/* Is the device still connected, or waiting to be? */
bool tm_kernel_is_connected(const struct tm_kernel *k);

#endif
