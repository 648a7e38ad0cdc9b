#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# survive.bats - a swap device outlives its server: kill -9, start again with the same pool=

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so

test_setup() {
	export TMEM_TMEMD=$B/tmemd
	SOCK=$T/nbd.sock URI="nbd+unix:///?socket=$T/nbd.sock"
	defer 'kill -9 $(tmemctl list --json | jq .host.pid)'
}

start() {
	rm -f "$T/nbd.pid" "$SOCK"
	nbdkit -U "$SOCK" -P "$T/nbd.pid" "$PLUGIN" pool=disk "$@" 2>>"$T/nbd.err"
	retry 10 test -s "$T/nbd.pid" # written after the parent has gone
	defer 'kill $(cat '"$T"'/nbd.pid)'
}

gone() { ! kill -0 "$1" 2>/dev/null; }
state_is() { [ "$(tmemctl list --json | jq -r '.clients[] | select(.name == "disk") | .alive')" = "$1" ]; }
kept() { [ "$(tmemctl list --json | jq '[.clients[] | select(.name == "disk" and .kept)] | length')" = 1 ]; }
stat_of() { tmemctl list --json | jq --arg k "$1" '.clients[] | select(.name == "disk") | .pools[0][$k]'; }
no_clients() { [ "$(tmemctl list --json | jq '.clients | length')" = 0 ]; }

murder() {
	local pid
	pid=$(cat "$T/nbd.pid")
	kill -9 "$pid"
	retry 10 gone "$pid"
	retry 10 state_is false
}

# A third compresses, a third does not, a third is zeros; $1 makes it differ.
image() {
	{
		seq "$1" 9999999 | head -c 4M
		openssl enc -aes-128-ctr -nosalt -pass "pass:$1" </dev/zero 2>/dev/null | head -c 4M
		head -c 4M /dev/zero
	} >"$2"
}

@test "every answered write is there after kill -9, in memory and on the fallback" {
	start size=16M limit=64M fallback="$T/fb"
	retry 10 kept
	image 1000000 "$T/image"
	nbdcopy "$T/image" "$URI"
	before=$(nbdinfo --map "$URI")
	[ "$(stat_of pages)" -gt 900 ]
	[ "$(stat_of fallback_pages)" -gt 900 ]
	for i in 1 2 3; do
		murder
		start size=16M limit=64M fallback="$T/fb"
		retry 10 kept
		nbdcopy "$URI" "$T/copy$i"
		cmp -n $((12 << 20)) "$T/image" "$T/copy$i"
		[ "$(nbdinfo --map "$URI")" = "$before" ]
		[ "$(stat_of fallback_pages)" -gt 900 ]
	done
}

@test "killed while it is written to: each page is the old one or the new one" {
	start size=16M limit=6M fallback="$T/fb"
	retry 10 kept
	image 1000000 "$T/old"
	nbdcopy "$T/old" "$URI"
	for i in $(seq 10); do
		image $((2000000 + i)) "$T/new"
		nbdcopy --request-size=65536 "$T/new" "$URI" 2>/dev/null &
		writer=$!
		target=$(($(stat_of puts) + RANDOM % 800))
		until [ "$(stat_of puts)" -ge "$target" ] || ! kill -0 $writer 2>/dev/null; do :; done
		murder
		wait $writer || true
		start size=16M limit=6M fallback="$T/fb"
		retry 10 kept
		nbdcopy "$URI" "$T/got"
		python3 - "$T/old" "$T/new" "$T/got" <<-'EOF'
		import sys
		old, new, got = (open(f, "rb").read() for f in sys.argv[1:])
		for at in range(0, len(old), 4096):
		    page = got[at:at + 4096]
		    assert page in (old[at:at + 4096], new[at:at + 4096]), at // 4096
		EOF
		head -c 12M "$T/got" >"$T/old"
		rm "$T/got"
	done
}

@test "a clean stop leaves nothing behind" {
	start size=16M limit=64M
	retry 10 kept
	image 1000000 "$T/image"
	nbdcopy "$T/image" "$URI"
	pid=$(cat "$T/nbd.pid")
	kill "$pid"
	retry 10 gone "$pid"
	retry 10 no_clients
	start size=16M limit=64M
	[ "$(nbdinfo --map "$URI" | awk '{ print $1, $2, $3 }')" = "0 16777216 3" ]
}

@test "a host that was started on demand does not end while it has what a killed server left" {
	# Both end when they are idle; nobody asks ours for anything before the other, begun later, has.
	printf '#!/bin/sh\nexec "%s" "$@" --on-demand=1\n' "$B/tmemd" >"$T/tmemd"
	chmod +x "$T/tmemd"
	TMEM_TMEMD=$T/tmemd start size=16M limit=64M
	retry 10 kept
	image 1000000 "$T/image"
	nbdcopy "$T/image" "$URI"
	murder
	"$B/tmemd" -f --on-demand=3 -S "$T/other.sock" 2>"$T/other.err" 3>&- &
	wait $!
	start size=16M limit=64M
	nbdcopy "$URI" "$T/copy"
	cmp -n $((12 << 20)) "$T/image" "$T/copy"
}

@test "what a killed server left is dropped only by force, and never given to one it does not fit" {
	start size=16M limit=64M fallback="$T/fb"
	retry 10 kept
	image 1000000 "$T/image"
	nbdcopy "$T/image" "$URI"
	murder
	try 0 tmemctl list
	contains orphan
	for wrong in "size=32M fallback=$T/fb" "size=16M" "size=16M fallback=$T/other"; do
		rm -f "$SOCK"
		# shellcheck disable=SC2086
		try 1 timeout 20 nbdkit -f -U "$SOCK" "$PLUGIN" pool=disk limit=64M lock=no $wrong
		one_line
		contains 'start as it was started'
		state_is false
	done
	start size=16M limit=64M fallback="$T/fb"
	nbdcopy "$URI" "$T/copy"
	cmp -n $((12 << 20)) "$T/image" "$T/copy"
	murder
	try 1 tmemctl destroy disk
	contains force
	try 0 tmemctl destroy --force disk
	no_clients
	start size=32M limit=64M
	[ "$(nbdinfo --map "$URI" | awk '{ print $1, $2, $3 }')" = "0 33554432 3" ]
}

# supervised [OPTION...]: a tmemd under what stands for systemd, with its store of descriptors
# (tests/helpers/supervisor); it serves when this returns.
supervised() {
	mkdir -p "$T/systemd"
	"$REPO/tests/helpers/supervisor" "$T/systemd" "$B/tmemd" -f "$@" 2>>"$T/tmemd.err" 3>&- &
	defer "kill $!"
	retry 10 test -e "$T/systemd/ready"
}
host_pid() { tmemctl list --json | jq .host.pid; }
murder_host() {
	local pid
	pid=$(host_pid)
	kill -9 "$pid"
	another_host() { local now; now=$(host_pid) && [ -n "$now" ] && [ "$now" != "$pid" ]; }
	retry 20 another_host
}
stored_are() { [ "$(wc -l <"$T/systemd/stored")" = "$1" ]; }

@test "systemd's descriptor store: server and tmemd killed, in any order, and all is there" {
	supervised
	start size=16M limit=64M fallback="$T/fb"
	retry 10 kept
	retry 10 stored_are 4
	image 1000000 "$T/image"
	nbdcopy "$T/image" "$URI"
	tmemctl set disk weight=77
	for i in server-first host-first together host-only; do
		pid=$(cat "$T/nbd.pid")
		case $i in
		server-first)
			murder
			murder_host
			;;
		host-first)
			murder_host
			retry 10 state_is true
			murder
			;;
		together)
			kill -9 "$pid" "$(host_pid)"
			retry 20 state_is false
			;;
		host-only) murder_host ;;
		esac
		if [ $i != host-only ]; then
			state_is false
			stored_are 4
			start size=16M limit=64M fallback="$T/fb"
		fi
		retry 10 kept
		retry 10 state_is true
		retry 10 stored_are 4
		nbdcopy "$URI" "$T/copy"
		cmp -n $((12 << 20)) "$T/image" "$T/copy"
		[ "$(tmemctl list --json | jq '.clients[].weight')" = 77 ]
	done
	grep -q 'systemd has kept its memory' "$T/tmemd.err"
	# What has left, or was dropped, is kept by nobody.
	kill "$(cat "$T/nbd.pid")"
	retry 10 no_clients
	retry 10 stored_are 0
	start size=16M limit=64M
	retry 10 kept
	murder
	stored_are 4
	tmemctl destroy --force disk
	retry 10 stored_are 0
}

@test "both killed at once, without systemd: memory is lost, the next host says so, the next start is clean" {
	lost='what the last one of its name had in memory is lost'
	"$B/tmemd" -f 2>>"$T/tmemd.err" 3>&- &
	host=$!
	defer "kill $host"
	start size=16M limit=64M
	retry 10 kept
	image 1000000 "$T/image"
	nbdcopy "$T/image" "$URI"
	kill -9 "$(cat "$T/nbd.pid")" $host
	retry 10 gone "$(cat "$T/nbd.pid")"
	"$B/tmemd" -f 2>>"$T/tmemd.err" 3>&- &
	defer "kill $!"
	retry 10 tmemctl list
	not grep "$lost" "$T/tmemd.err"
	start size=16M limit=64M
	grep -q "'disk': $lost" "$T/tmemd.err"
	[ "$(nbdinfo --map "$URI" | awk '{ print $1, $2, $3 }')" = "0 16777216 3" ]
	nbdcopy "$T/image" "$URI"
	nbdcopy "$URI" "$T/copy"
	cmp -n $((12 << 20)) "$T/image" "$T/copy"
	# Said once; and who was only killed, or left, has lost nothing.
	retry 10 kept
	murder
	start size=16M limit=64M
	retry 10 kept
	nbdcopy "$URI" "$T/copy"
	cmp -n $((12 << 20)) "$T/image" "$T/copy"
	kill "$(cat "$T/nbd.pid")"
	retry 10 no_clients
	[ ! -e "$TMEM_SOCKET.orders" ]
	[ "$(grep -c "$lost" "$T/tmemd.err")" = 1 ]
}
