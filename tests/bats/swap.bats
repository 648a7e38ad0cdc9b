#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# swap.bats - the kernel swaps to us for real: nbd where it has it, else a loop device over nbdfuse

load helpers

# swap_on NAME=VALUE...: a server whose device is the machine's swap; $DEV is the device.
swap_on() {
	nbdkit -U "$T/nbd.sock" -P "$T/nbd.pid" "$B/nbdkit-tmem-plugin.so" "$@" 2>"$T/nbd.err"
	retry 10 test -s "$T/nbd.pid" # written after the parent has gone
	defer 'kill $(cat '"$T"'/nbd.pid)'
	DEV=$("$REPO/tools/swap-attach" "$T/nbd.sock")
	defer "$REPO/tools/swap-attach -d $DEV"
	SECTORS=$(sectors_written)
}

# Sectors written to the device since the machine started.
sectors_written() { awk '{ print $7 }' "/sys/block/${DEV##*/}/stat"; }

swapped_out() { # BYTES: the kernel wrote at least that much since swap_on
	[ $((($(sectors_written) - SECTORS) * 512)) -ge "$1" ]
}

@test "a process over its limit swaps to memory and finds every page right" {
	swap_on size=256M limit=128M tmem-socket=none
	try 0 "$REPO/tools/in-cgroup" 48M "$B/tests/memhog" 96M 1
	contains 'pages right'
	swapped_out $((48 << 20))
	try 0 "$REPO/tools/swap-attach" -d "$DEV"
	run grep "$DEV" /proc/swaps
	[ "$status" -ne 0 ]
}

@test "the same by a file of the server's own, without nbdfuse" {
	mkdir "$T/files"
	nbdkit -U "$T/nbd.sock" -P "$T/nbd.pid" "$B/nbdkit-tmem-plugin.so" size=256M limit=128M mount="$T/files" \
		tmem-socket=none 2>"$T/nbd.err"
	retry 10 test -f "$T/files/disk"
	defer 'kill $(cat '"$T"'/nbd.pid)'
	DEV=$("$REPO/tools/swap-attach" -o discard "$T/files/disk")
	defer "$REPO/tools/swap-attach -d $DEV"
	SECTORS=$(sectors_written)
	try 0 "$REPO/tools/in-cgroup" 48M "$B/tests/memhog" 96M 1
	contains 'pages right'
	swapped_out $((48 << 20))
	try 0 "$REPO/tools/swap-attach" -d "$DEV"
	run losetup "$DEV"
	[ "$status" -ne 0 ]
}

@test "the same when most of it overflows to the fallback" {
	swap_on size=256M limit=8M fallback="$T/fb" tmem-socket=none
	try 0 "$REPO/tools/in-cgroup" 48M "$B/tests/memhog" 96M 1
	contains 'pages right'
	swapped_out $((48 << 20))
}

@test "swap-attach refuses what is not there" {
	try 1 "$REPO/tools/swap-attach" "$T/no.sock"
	contains 'not a socket'
	try 1 "$REPO/tools/swap-attach" -d /dev/loop99
	contains 'not attached by this program'
	try 2 "$REPO/tools/swap-attach"
}

@test "the same on a real /dev/nbd0, in a kernel of its own" {
	requires linux.uml
	try 0 "$REPO/tests/vm/uml" "$REPO/tests/vm/swap-nbd"
	contains "swapped to the kernel's nbd, all pages right"
}

# exhausted CASE [MEMORY]: tests/vm/exhaust in a guest of its own.
exhausted() {
	requires linux.uml
	UML_MEM=${2:-256M} UML_DISK=1100M UML_SECONDS=240 try 0 "$REPO/tests/vm/uml" "$REPO/tests/vm/exhaust" "$1"
	contains "$1: swapped out of all memory, all pages right"
}

@test "all memory is out, the swap is our own: from memory alone" { exhausted memory 512M; }
@test "all memory is out: through overflow to a disk" { exhausted fallback; }
@test "all memory is out: four connections" { exhausted connections; }
@test "all memory is out: with discard" { exhausted discard; }
@test "all memory is out: frozen and thawed meanwhile" { exhausted frozen; }
@test "all memory is out: the budget shrinks and grows meanwhile" { exhausted shrink; }
@test "all memory and all swap are out: the process is killed, the machine goes on" { exhausted full; }

@test "the manual's set-ups, word for word: local, without the kernel's nbd, and with servers that die" {
	requires linux.uml
	UML_MEM=384M UML_DISK=1100M UML_SECONDS=240 try 0 "$REPO/tests/vm/uml" "$REPO/tests/vm/manual"
	contains 'did as the manual says, all pages right'
}
