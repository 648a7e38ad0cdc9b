#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# together.bats - a mount, a swap device and the host on one machine

load helpers

# Both front ends on one host, with real data in each.
test_setup() {
	export TMEM_TMEMD=$B/tmemd
	mkdir "$T/back" "$T/mnt"
	cp -a /usr/include/linux "$T/back/"
	(cd "$T/back" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$T/sums"

	tmemfs -o limit=64M "$T/back" "$T/mnt"
	defer "umount -l $T/mnt"
	SOCK=$T/nbd.sock URI="nbd+unix:///?socket=$T/nbd.sock"
	nbdkit -U "$SOCK" -P "$T/nbd.pid" "$B/nbdkit-tmem-plugin.so" size=64M limit=64M pool=disk fallback="$T/fb"
	retry 10 test -s "$T/nbd.pid" # written after the parent has gone
	defer 'kill $(cat '"$T"'/nbd.pid)'
	defer 'kill -9 $(host_pid)'
	retry 10 both_joined
}

text() { seq 1000000 9999999 | head -c "$1" >"$T/text"; } # compresses: stays in memory
host_pid() { tmemctl list --json | jq .host.pid; }
both_joined() { [ "$(tmemctl list --json | jq '.clients | length')" = 2 ]; }
check_tree() { (cd "$T/mnt" && sha256sum --quiet -c "$T/sums"); }
stat_of() { tmemctl list --json | jq --arg t "$1" --arg k "$2" '.clients[] | select(.type == $t) | .pools[0][$k]'; }
stat_is() { [ "$(stat_of "$1" "$2")" = "$3" ]; }
stat_not() { [ "$(stat_of "$1" "$2")" != "$3" ]; }

@test "front ends start the host, and both are listed with what they hold" {
	check_tree
	text 8M
	nbdcopy "$T/text" "$URI"
	retry 10 stat_not tmemfs pages 0
	stat_is nbd pages 2048
	try 0 tmemctl list
	contains disk
	try 0 tmemstat --json
	for key in client name type pages orig_bytes used_bytes puts puts_rejected gets hits flushes evicted; do
		[ "$(jq "[.pools[] | has(\"$key\")] | length == 2 and all" <<<"$output")" = true ]
	done
}

@test "kill -9 of the host while both work: nothing is lost, and both join the next one" {
	text 8M
	nbdcopy "$T/text" "$URI"
	check_tree
	for i in 1 2 3; do
		old=$(host_pid)
		(while [ ! -e "$T/stop" ]; do check_tree || exit 1; done) &
		reader=$!
		(while [ ! -e "$T/stop" ]; do nbdcopy "$T/text" "$URI" && nbdcopy "$URI" "$T/copy$i" || exit 1; done) &
		writer=$!
		kill -9 "$old"
		retry 20 both_joined
		[ "$(host_pid)" != "$old" ]
		touch "$T/stop"
		wait $reader
		wait $writer
		rm "$T/stop"
		cmp -n $((8 << 20)) "$T/text" "$T/copy$i"
	done
	check_tree
	stat_is nbd pages 2048
}

@test "frozen: both go on, new pages go to the fallback; thawed, to memory again" {
	text 8M
	nbdcopy "$T/text" "$URI"
	stat_is nbd pages 2048
	tmemctl freeze
	nbdcopy "$T/text" "$URI" # written over: a frozen memory keeps nothing of it
	nbdcopy "$URI" "$T/copy"
	cmp -n $((8 << 20)) "$T/text" "$T/copy"
	[ "$(stat_of nbd fallback_pages)" -gt 2000 ]
	check_tree
	tmemctl thaw
	nbdcopy "$T/text" "$URI"
	stat_is nbd pages 2048
	stat_is nbd fallback_pages 0
	nbdcopy "$URI" "$T/copy"
	cmp -n $((8 << 20)) "$T/text" "$T/copy"
}

@test "flush gives the cache's memory back and leaves the swap device alone" {
	text 8M
	nbdcopy "$T/text" "$URI"
	check_tree
	retry 10 stat_not tmemfs pages 0
	try 0 tmemctl flush 1G
	retry 10 stat_is tmemfs pages 0
	stat_is nbd pages 2048
	check_tree
	nbdcopy "$URI" "$T/copy"
	cmp -n $((8 << 20)) "$T/text" "$T/copy"
}

@test "destroy: the mount goes on uncached; the device needs --force and loses only what was in memory" {
	text 1M
	nbdcopy "$T/text" "$URI"
	check_tree
	name=$(tmemctl list --json | jq -r '.clients[] | select(.type == "tmemfs") | .name')
	tmemctl destroy "$name"
	check_tree
	try 1 tmemctl destroy disk
	nbdcopy "$URI" "$T/copy"
	cmp -n $((1 << 20)) "$T/text" "$T/copy"
	tmemctl destroy --force disk
	run nbdcopy "$URI" "$T/copy"
	[ "$status" -ne 0 ]
	contains 'Input/output error'
	nbdcopy "$T/text" "$URI" # written again, to the fallback
	retry 5 nbdcopy "$URI" "$T/copy"
	cmp -n $((1 << 20)) "$T/text" "$T/copy"
	[ "$(tmemctl list --json | jq '.clients | length')" = 0 ]
}
