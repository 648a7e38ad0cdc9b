#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemfs under load: what happens on the mount is what happens on the directory below it
#
# The cache is too small for anything to stay, and attributes are asked for again and again. `make
# check-long` does more of each: $FILEOPS, $TREEOPS operations, $RACE seconds.

load helpers

test_setup() {
	[ "$(id -u)" -eq 0 ] || skip "mounting needs root"
	[ -c /dev/fuse ] || skip "no /dev/fuse"
	PATH=$PATH:$B/tests
	BACK=$T/back MNT=$T/mnt
	mkdir "$BACK" "$MNT"
	chmod 755 "$T" "$BATS_TEST_TMPDIR" # other users walk through it
}

# mnt [OPTION...]: tmemfs over $BACK at $MNT, with a host of its own.
mnt() {
	defer 'kill "$(tmemctl list --json | jq -e .host.pid)"'
	tmemfs -o allow_other,suid,dev "$@" "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
}

# counted FILTER: what jq says of the mount's counters.
counted() { tmemctl list --json | jq -e ".clients[0].pools[0] | $1"; }

drop_caches() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# --- bytes ------------------------------------------------------------------------------------

@test "fileops on a plain directory: the exerciser itself" {
	try 0 fileops -n 20000 -p 2 -b "$BACK" "$BACK/f"
}

@test "fileops on a cache that evicts all the time" {
	mnt -o limit=2M
	try 0 fileops -n "${FILEOPS:-50000}" -p 4 -b "$BACK" "$MNT/f"
	# It was about the cache.
	counted '.hits > 1000 and .evicted > 10 and .flushed > 1000'
}

@test "fileops at other page orders, and with attributes that are never trusted" {
	local order
	for order in 0 4; do
		mnt -o limit=4M,order=$order,attr_timeout=0
		try 0 fileops -s $((100 + order)) -n 10000 -p 2 -b "$BACK" "$MNT/f"
		umount "$MNT"
	done
}

@test "fileops while nothing may be cached" {
	mnt
	tmemctl freeze
	try 0 fileops -s 200 -n 10000 -p 2 -b "$BACK" "$MNT/f"
}

@test "what is appended to a file that is cached is seen" {
	echo -n begin >"$BACK/f"
	mnt
	exec 7<>"$MNT/f"
	settled() { cat "$MNT/f" >/dev/null; drop_caches; counted '.pages > 0'; }
	retry 10 settled
	echo -n end >>"$MNT/f"
	drop_caches
	[ "$(cat <&7)" = beginend ]
	exec 7>&-
}
