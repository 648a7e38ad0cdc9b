#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# kill.bats - servers die under load and the kernel's nbd gets the next one: nothing is lost, nothing stalls
#
# In a kernel of its own, with nbd-keep. `make check-long` kills 200 times.

load helpers

# killed WHAT COUNT: tests/vm/kill in a guest; COUNT times, or $KILLS.
killed() {
	requires linux.uml
	UML_MEM=512M UML_DISK=1G UML_SECONDS=$((60 + ${KILLS:-$2} * 10)) try 0 "$REPO/tests/vm/uml" \
		"$REPO/tests/vm/kill" "$1" "${KILLS:-$2}"
	contains "killed ${KILLS:-$2} times, nothing lost"
}

@test "the server is killed while a process swaps, now and then the host before it" { killed swap 8; }

@test "the server is killed while fio writes and verifies" { killed fio 20; }

@test "nbd-keep refuses what is not there, in one line" {
	try 1 nbd-keep "$T/no.sock" /dev/sda
	one_line
	try 1 nbd-keep "$T/no.sock" /dev/nbd999
	one_line
	for wrong in "" "$T/no.sock" "-w 0 $T/no.sock /dev/nbd0" "-w 5s $T/no.sock /dev/nbd0" "-x a b"; do
		# shellcheck disable=SC2086
		try 2 nbd-keep $wrong
		contains 'usage: nbd-keep'
	done
	try 0 nbd-keep --help
	contains 'whenever the server comes back'
	try 0 nbd-keep --version
	one_line
}

@test "the host and a cache stop and go on while all memory is out: swapping never stalls" {
	requires linux.uml
	UML_MEM=256M UML_DISK=1G UML_SECONDS=$((120 + ${SOAK:-0} * 2)) try 0 "$REPO/tests/vm/uml" \
		"$REPO/tests/vm/exhaust" stopped
	contains 'all pages right'
}
