#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# restart.bats - what a killed mount had cached is there for the next one, if nobody needs the memory meanwhile

load helpers
load host

test_setup() {
	[ "$(id -u)" -eq 0 ] || skip "mounting needs root"
	[ -c /dev/fuse ] || skip "no /dev/fuse"
	BACK=$T/back MNT=$T/mnt
	mkdir "$BACK" "$MNT"
	defer stop_host
}

# mnt [OPTION...]: tmemfs over $BACK at $MNT, a client of the host. Its pid is in $SERVER.
mnt() {
	local before
	before=$(clients)
	tmemfs -o name=cache "$@" "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
	SERVER=$(pgrep -n -f "tmemfs .* $BACK $MNT")
	retry 10 joined
}
joined() { tmemctl list --json | jq -e --argjson pid "$SERVER" '.clients[] | select(.pid == $pid)' >/dev/null; }

# killed: the mount's server, and the mount point is clean again.
killed() {
	kill -9 "$SERVER"
	retry 10 not joined
	tmemfs --recover "$MNT"
}

drop_caches() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# pool FILTER: the numbers of the mount's pool are so.
pool() { tmemctl list --json | jq -e ".clients[] | select(.name == \"cache\") | .pools[0] | $1" >/dev/null; }

# cached: all of $BACK/f is. (What was young was not kept at first.)
cached() {
	cat "$MNT/f" >/dev/null
	drop_caches
	pool ".pages * 16384 >= $(stat -c %s "$BACK/f")"
}

file() {
	seq 500000 >"$BACK/f"
	touch -d 2020-02-02 "$BACK/f"
	aged "$BACK/f"
}

@test "killed and mounted again: the cache is warm, and right" {
	file
	cp -p "$BACK/f" "$BACK/g"
	host
	mnt
	retry 20 cached
	cat "$MNT/g" >/dev/null
	killed
	is cache alive false
	seq 500001 1000000 >"$BACK/g" # meanwhile
	mnt
	drop_caches
	cmp "$MNT/f" "$BACK/f"
	pool '.hits > 0 and .hits == .gets and .backing_reads == 0'
	cmp "$MNT/g" "$BACK/g"
	# And once more, by its successor's death.
	killed
	mnt
	drop_caches
	cmp "$MNT/f" "$BACK/f"
	pool '.hits > 0 and .backing_reads == 0'
}

@test "killed again and again while everybody reads and writes: never an old or a wrong byte" {
	local i
	host
	mkdir "$BACK/d"
	for i in {1..12}; do
		mnt -o limit=16M
		(
			exec 3>&-
			for w in 1 2 3; do
				(for ((n = 0; ; n++)); do
					seq $((RANDOM * 3)) $((RANDOM * 3 + 90000)) >"$MNT/d/$w.$((n % 7))" || exit
					cat "$MNT"/d/* >/dev/null || exit
				done) 2>/dev/null &
			done
			wait
		) &
		sleep "0.$((RANDOM % 5 + 1))"
		killed
		wait $! || true
		mnt -o limit=16M
		drop_caches
		diff -r "$BACK" "$MNT"
		diff -r "$BACK" "$MNT"
		umount "$MNT"
		retry 10 clients_are 0
	done
}

@test "what was left goes: when asked for, when needed, by time, by destroy, by who begins anew" {
	file
	host --keep-caches 1000
	mnt
	retry 20 cached
	killed
	# Its memory counts as what can be had, and is had.
	[ "$(of cache freeable_bytes)" -gt 1000000 ]
	try 0 tmemctl flush 1M
	clients_are 0
	mnt
	retry 20 cached
	killed
	try 0 tmemctl destroy cache
	clients_are 0
	# Pages of another size: nothing to be had, and nothing in the way.
	mnt
	retry 20 cached
	killed
	mnt -o order=0
	clients_are 1
	retry 20 cached
	killed
	# Who does not look at what is left.
	"$B/tests/client" -n cache -t tmemfs >/dev/null 3>&- &
	SERVER=$!
	defer "kill $!"
	retry 10 joined
	clients_are 1
}

@test "what was left goes when others need the memory, and after keep-caches" {
	file
	host --limit 64M --keep-caches 1000
	mnt -o limit=32M
	retry 20 cached
	killed
	clients_are 1
	"$B/tests/client" -n hungry -w 60M >/dev/null 3>&- &
	SERVER=$!
	defer "kill $!"
	retry 10 joined
	retry 10 clients_are 1
	joined
	kill $SERVER
	retry 10 clients_are 0
	stop_host
	retry 10 host --keep-caches 1
	mnt
	retry 20 cached
	killed
	retry 10 clients_are 0
	[ "$(tmemctl list --json | jq .host.caches_dropped)" = 1 ]
}

@test "an unmount leaves nothing; two mounts of one name; host and mount killed together" {
	file
	host
	mnt
	retry 20 cached
	umount "$MNT"
	retry 10 clients_are 0
	mnt
	mkdir "$T/second"
	tmemfs -o name=cache "$BACK" "$T/second" 3>&-
	defer "umount -l '$T/second'"
	retry 10 clients_are 2
	cmp "$T/second/f" "$BACK/f"
	umount "$T/second"
	retry 10 clients_are 1
	retry 20 cached
	kill -9 "$(host_pid)" "$SERVER"
	retry 10 tmemfs --recover "$MNT"
	retry 10 host
	mnt
	cmp "$MNT/f" "$BACK/f"
	clients_are 1
}
