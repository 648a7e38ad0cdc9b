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

gid_t tm_peer_readers(void)
{
	const struct group *group = geteuid() == 0 ? getgrnam(TM_PEER_GROUP) : NULL;

	return group ? group->gr_gid : (gid_t)-1;
}

enum tm_role tm_peer_role(int fd, gid_t readers, struct ucred *ret_peer)
{
	socklen_t size = sizeof(*ret_peer);

	*ret_peer = (struct ucred){0};
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_peer, &size) < 0)
		return TM_ROLE_NONE;
	if (ret_peer->uid == 0 || ret_peer->uid == geteuid())
		return TM_ROLE_MANAGE;
	if (readers != (gid_t)-1 && (ret_peer->gid == readers || has_group(fd, readers)))
		return TM_ROLE_READ;
	return TM_ROLE_NONE;
}
