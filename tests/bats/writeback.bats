#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# writeback.bats - which pages of a swap device are in memory and which on the fallback

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so
talk=$REPO/tests/helpers/nbdtalk

test_setup() {
	export TMEM_TMEMD=$B/tmemd
	SOCK=$T/nbd.sock URI="nbd+unix:///?socket=$T/nbd.sock"
	defer 'kill -9 $(tmemctl list --json | jq .host.pid)'
}

# serve PARAMETER...: a server whose client and pool is "disk", listed by the host.
serve() {
	rm -f "$T/nbd.pid" "$SOCK"
	nbdkit -U "$SOCK" -P "$T/nbd.pid" "$PLUGIN" pool=disk "$@" 2>>"$T/nbd.err"
	retry 10 test -s "$T/nbd.pid" # written after the parent has gone
	defer 'kill $(cat '"$T"'/nbd.pid)'
	retry 10 is_listed true
}

is_listed() { [ "$(tmemctl list --json | jq -r '.clients[] | select(.name == "disk") | .alive')" = "$1" ]; }
stat_of() { tmemctl list --json | jq --arg k "$1" '.clients[] | select(.name == "disk") | .pools[0][$k]'; }
stat_is() { [ "$(stat_of "$1")" = "$2" ] || { echo "$1 is $(stat_of "$1"), not $2"; return 1; }; }
at_least() { [ "$(stat_of "$1")" -ge "$2" ] || { echo "$1 is $(stat_of "$1")"; return 1; }; }
at_most() { [ "$(stat_of "$1")" -le "$2" ] || { echo "$1 is $(stat_of "$1")"; return 1; }; }

# disk_reads COMMAND...: how many pages it made the server read from the fallback.
disk_reads() {
	local before
	before=$(stat_of fallback_reads)
	try 0 "$@"
	READS=$(($(stat_of fallback_reads) - before))
}

MiB=$((1 << 20))
HOT=read:$((48 * MiB)):$MiB:text9

# Memory for about a third of it, in the order in which nobody would want it.
cold_then_hot() {
	local i
	for i in {0..39}; do
		echo "write:$((i * MiB)):$MiB:text$i"
	done | xargs "$talk" "$SOCK"
	try 0 "$talk" "$SOCK" "${HOT/read/write}"
}

hot_is_in_memory() {
	disk_reads "$talk" "$SOCK" "$HOT"
	[ "$READS" -eq 0 ]
}

@test "what is read again and again ends in memory, what is not ends on disk" {
	serve size=64M limit=8M fallback="$T/fb"
	cold_then_hot
	retry 20 hot_is_in_memory
	# It stays there while other pages are written and read once.
	for i in {0..9}; do
		try 0 "$talk" "$SOCK" "write:$((i * MiB)):$MiB:text$((i + 50))" "$HOT"
	done
	retry 20 hot_is_in_memory
	at_least written_back 3000
	at_least fallback_pages 4000
	disk_reads "$talk" "$SOCK" "read:$((20 * MiB)):$MiB:text20" "read:$((30 * MiB)):$MiB:text30"
	[ "$READS" -ge 256 ]
	try 0 "$talk" "$SOCK" "read:0:$MiB:text50" "read:$((9 * MiB)):$MiB:text59" "read:$((39 * MiB)):$MiB:text39"
}

@test "without write-back it is the other way round" {
	serve size=64M limit=8M fallback="$T/fb" writeback=off
	cold_then_hot
	for i in 1 2 3; do
		disk_reads "$talk" "$SOCK" "$HOT"
	done
	[ "$READS" -ge 200 ]
	stat_is written_back 0
	stat_is brought_back 0
}

@test "what fits in memory never sees the disk" {
	serve size=64M limit=64M fallback="$T/fb"
	for i in 1 2 3; do
		cold_then_hot
	done
	stat_is fallback_writes 0
	stat_is fallback_reads 0
}

@test "frozen, the device goes on at disk speed; thawed, what is read comes back" {
	serve size=64M limit=64M fallback="$T/fb"
	tmemctl freeze
	cold_then_hot
	stat_is pages 0
	try 0 "$talk" "$SOCK" "$HOT" "$HOT"
	stat_is brought_back 0
	tmemctl thaw
	try 0 "$talk" "$SOCK" "$HOT"
	retry 10 stat_is brought_back 256
	disk_reads "$talk" "$SOCK" "$HOT"
	[ "$READS" -eq 0 ]
	stat_is fallback_pages $((40 * 256))
}

@test "a cap below what is used empties memory into the fallback, a lifted one fills it again" {
	serve size=64M limit=64M fallback="$T/fb"
	cold_then_hot
	stat_is fallback_pages 0
	tmemctl set disk cap=4M
	retry 20 at_most used_bytes $((4 * MiB))
	# The lease has followed: what it gave back is there for others.
	[ "$(tmemctl list --json | jq '.clients[0].granted_bytes')" -le $((4 * MiB)) ]
	at_least fallback_pages 7000
	try 0 "$talk" "$SOCK" "$HOT" "read:0:$MiB:text0" "read:$((39 * MiB)):$MiB:text39"
	tmemctl set disk cap=none
	all_read() { nbdcopy "$URI" "$T/copy" && stat_is fallback_pages 0; }
	retry 20 all_read
	try 0 "$talk" "$SOCK" "$HOT" "read:0:$MiB:text0" "read:$((39 * MiB)):$MiB:text39"
}

@test "trimmed memory is back at once, and so is the disk space, while pages move" {
	serve size=64M limit=8M fallback="$T/fb"
	cold_then_hot
	at_least used_bytes $((6 * MiB))
	try 0 "$talk" "$SOCK" trim:0:$((64 * MiB))
	at_most used_bytes $((2 * MiB)) # the segments that are open
	stat_is pages 0
	stat_is fallback_pages 0
	[ "$(du -k "$T/fb" | cut -f1)" -le 64 ]
	[ "$(nbdinfo --map "$URI" | awk '{ print $1, $2, $3 }')" = "0 67108864 3" ]
}

@test "every byte and every extent right while pages move both ways" {
	serve size=24M limit=4M fallback="$T/fb" writeback=16G
	try 0 "$talk" "$SOCK" random 11 6000 4
	at_least written_back 100
	at_least brought_back 1
	try 0 "$talk" "$SOCK" trim:0:$((24 * MiB)) write:4096:8192:text1 write:65536:65536:noise2
	[ "$(nbdinfo --map "$URI" | awk '{ print $1, $2, $3 }')" = "0 4096 3
4096 8192 0
12288 53248 3
65536 65536 0
131072 25034752 3" ]
}

@test "a fallback that is full or fails keeps nothing from going on" {
	mkdir "$T/disk"
	mount -t tmpfs -o size=2M tmpfs "$T/disk"
	defer "umount -l $T/disk"
	serve size=64M limit=8M fallback="$T/disk/fb"
	run cold_then_hot # more than both hold
	[ "$status" -ne 0 ]
	retry 10 at_least fallback_errors 2
	try 0 "$talk" "$SOCK" "read:0:$MiB:text0" "read:$((5 * MiB)):$MiB:text5"
	mount -o remount,size=256M "$T/disk"
	cold_then_hot
	retry 20 hot_is_in_memory
}

murder() {
	kill -9 "$(cat "$T/nbd.pid")"
	retry 10 is_listed false
}

# $1 makes it differ; a third of it does not compress.
image() {
	seq "$1" 9999999 | head -c 24M
	openssl enc -aes-128-ctr -nosalt -pass "pass:$1" </dev/zero 2>/dev/null | head -c 8M
}

# Pages that still move are, between two of its counters, in both places or in neither: until they have come to rest.
each_is_once() {
	[ "$(tmemctl list --json | jq '.clients[] | select(.name == "disk") | .pools[0] | .pages + .fallback_pages')" = "$1" ]
}

@test "killed while pages are written back and brought back: all there, each once" {
	local parameters=(size=32M limit=6M fallback="$T/fb" writeback=1G)
	serve "${parameters[@]}"
	retry 10 eval '[ "$(tmemctl list --json | jq "[.clients[] | select(.kept)] | length")" = 1 ]'
	image 1000000 >"$T/image"
	nbdcopy "$T/image" "$URI"
	for i in {1..8}; do
		# Reads of one half after the other make the halves change places.
		(while nbdcopy "$URI" "$T/junk"; do :; done) 2>/dev/null 3>&- &
		reader=$!
		target=$(($(stat_of written_back) + 1 + RANDOM % 300))
		tmemctl set disk cap=$((3 + i % 2 * 3))M
		retry 20 at_least written_back "$target"
		murder
		wait $reader || true
		serve "${parameters[@]}"
		nbdcopy "$URI" "$T/copy"
		cmp "$T/image" "$T/copy"
		[ "$(nbdinfo --map "$URI" | awk '{ print $1, $2, $3 }')" = "0 33554432 0" ]
		retry 20 each_is_once 8192
	done
}
