/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/tmemd/peer.h"

#include <errno.h>
#include <grp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/util.h"

/* Does the peer have `group` among its supplementary ones? */
static bool has_group(int fd, gid_t group)
{
	TM_AUTO_FREE gid_t *groups = NULL;
	socklen_t size = 0;

	/* The first call says how many there are. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) == 0 || errno != ERANGE)
		return false;
	groups = malloc(size);
	if (!groups || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false;
	for (size_t i = 0; i < size / sizeof(*groups); i++)
		if (groups[i] == group)
			return true;
	return false;
}

enum tm_role tm_peer_role(int fd, struct ucred *ret_peer)
{
	socklen_t size = sizeof(*ret_peer);
	const struct group *readers;

	*ret_peer = (struct ucred){0};
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_peer, &size) < 0)
		return TM_ROLE_NONE;
	if (ret_peer->uid == 0 || ret_peer->uid == geteuid())
		return TM_ROLE_MANAGE;
	readers = getgrnam(TM_PEER_GROUP);
	if (readers && (ret_peer->gid == readers->gr_gid || has_group(fd, readers->gr_gid)))
		return TM_ROLE_READ;
	return TM_ROLE_NONE;
}
