#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# resident.bats - a server that its own machine can swap to: what it locks, what it lacks, what it gets

load helpers
load host

PLUGIN=$B/nbdkit-tmem-plugin.so

# serve COMMAND... -- NAME=VALUE...: a server, started through the command.
serve() {
	local through=()
	SOCK=$T/nbd.sock URI="nbd+unix:///?socket=$T/nbd.sock"
	while [ "$1" != -- ]; do
		through+=("$1")
		shift
	done
	shift
	"${through[@]}" nbdkit -U "$SOCK" -P "$T/nbd.pid" "$PLUGIN" size=256M "$@" 2>"$T/nbd.err"
	retry 10 test -s "$T/nbd.pid" # written after the parent has gone
	defer 'kill $(cat '"$T"'/nbd.pid)'
}

joined() { retry 10 clients_are 1 || { cat "$T/nbd.err"; return 1; }; }

# kib NAME FILE: a number of /proc/PID/FILE of the server
kib() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$(cat "$T/nbd.pid")/$2"; }

without() { # CAPABILITIES...: of a command run by root
	local drop
	drop=$(printf ',-%s' "$@")
	shift $#
	echo setpriv "--bounding-set=${drop#,}" "--inh-caps=${drop#,}"
}

@test "lock=yes names the capability that is missing, and does not start" {
	SOCK=$T/nbd.sock
	for missing in sys_resource ipc_lock sys_nice; do
		# Root is limited by RLIMIT_MEMLOCK too once it has no CAP_IPC_LOCK.
		# shellcheck disable=SC2046
		try 1 bash -c "ulimit -l 64; exec $(without $missing) nbdkit -f -U $SOCK $PLUGIN size=1G tmem-socket=none lock=yes"
		one_line
		contains "lock=yes: "
		contains "CAP_${missing^^}"
		rm -f "$SOCK"
	done
	try 1 nbdkit -f -U "$T/other.sock" "$PLUGIN" size=1G tmem-socket=none lock=maybe
	one_line
	contains 'lock=maybe: neither auto, yes nor no'
}

@test "lock=yes refuses a fallback that takes memory itself" {
	mkdir "$T/tmpfs"
	mount -t tmpfs none "$T/tmpfs"
	defer "umount $T/tmpfs"
	try 1 nbdkit -f -U "$T/other.sock" "$PLUGIN" size=1G tmem-socket=none lock=yes fallback="$T/tmpfs/swap"
	one_line
	contains "lock=yes: fallback=$T/tmpfs/swap takes memory when there is none"
}

@test "by default it locks what it may, and warns of the rest in one line" {
	# shellcheck disable=SC2046
	serve $(without sys_resource) -- tmem-socket=none
	[ "$(wc -l <"$T/nbd.err")" = 1 ]
	grep -q 'warning: .*CAP_SYS_RESOURCE.*lock=no' "$T/nbd.err"
	retry 10 eval '[ "$(kib Locked smaps_rollup)" -gt 16384 ]'
}

@test "lock=no locks nothing and says nothing" {
	serve -- tmem-socket=none lock=no
	[ ! -s "$T/nbd.err" ]
	[ "$(kib Locked smaps_rollup)" -lt 64 ] # the fallback's key always is
}

@test "locked are the stored pages and at most 64 MiB beside them, with four connections at work" {
	serve -- limit=128M
	seq 1 9999999 | head -c 64M >"$T/image"
	nbdcopy --connections=4 --requests=16 "$T/image" "$URI"
	nbdcopy --connections=4 --requests=16 "$URI" "$T/copy"
	cmp "$T/image" <(head -c 64M "$T/copy")
	used=$(tmemctl list --json | jq '.clients[0].used_bytes / 1024 | floor')
	locked=$(kib Locked smaps_rollup)
	echo "locked $locked KiB, used $used KiB"
	[ "$used" -gt 16384 ]
	[ "$locked" -gt "$used" ]
	[ $((locked - used)) -le 65536 ]
}

@test "a swap device of this machine is granted memory when there is none to spare, others are not" {
	host --reserve 1000T
	serve -- pool=swap limit=32M
	joined
	try 0 nbdcopy <(seq 1 999999 | head -c 4M) "$URI"
	[ "$(of swap granted_bytes)" -gt $((4 << 20)) ]
	try 0 tmemctl set swap cap=0
	try 1 nbdcopy <(seq 2000000 9999999 | head -c 4M) "$URI"
	kill "$(cat "$T/nbd.pid")"
	retry 10 clients_are 0
	rm -f "$SOCK"
	serve -- pool=node limit=32M lock=no
	joined
	retry 10 is node granted_bytes 0
	try 1 nbdcopy <(seq 1 999999 | head -c 4M) "$URI"
}
