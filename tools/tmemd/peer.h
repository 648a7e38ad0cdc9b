/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * peer.h - who is at the other end of a connection, and what that one may do
 */
#ifndef TM_PEER_H
#define TM_PEER_H

#include <sys/socket.h>
#include <sys/types.h>

#include "tools/tmemd/session.h"

#define TM_PEER_GROUP "tmem"

/* The group whose members may look, or (gid_t)-1: there is none, or we are not root, who alone
 * serves others. Asks the name service, which may take its time: once, at the start. */
gid_t tm_peer_readers(void);

/* The role of whoever connected `fd`, as the kernel knows it. *ret_peer is all zero when it does
 * not. */
enum tm_role tm_peer_role(int fd, gid_t readers, struct ucred *ret_peer);

#endif
