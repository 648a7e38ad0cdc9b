#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# fallback.bats - a fallback whose disk fails, fills up, lies, hangs or goes away, and what is on it

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so
talk=$REPO/tests/helpers/nbdtalk

M=$((1 << 20))

test_setup() {
	export TMEM_TMEMD=$B/tmemd
	sock=$T/nbd.sock
	fallback=$T/fallback
	defer 'kill $(tmemctl list --json | jq .host.pid)'
}

# serve PARAMETER...: a server on $sock, which pages that do not compress leave for $fallback. The
# calls that it makes there are the test's to break: see tests/helpers/faultio.c.
serve() {
	rm -f "$T/nbd.pid" "$sock" "$T/faults.waiting"
	mend
	FAULTIO=$T/faults FAULTIO_TARGET=$fallback LD_PRELOAD=$B/tests/faultio.so \
		nbdkit -f -U "$sock" -P "$T/nbd.pid" "$PLUGIN" size=64M limit=16M fallback="$fallback" pool=disk "$@" \
		2>>"$T/nbd.err" 3>&- &
	retry 10 test -s "$T/nbd.pid"
	server=$(cat "$T/nbd.pid")
	defer end_server
	retry 10 kept
}

# Before what it uses is taken down.
end_server() { kill "$server"; ends; }

ends() { retry 10 eval "! kill -0 $server"; }
stop() { kill "$server" && ends && retry 10 eval '[ "$(tmemctl list --json | jq ".clients | length")" = 0 ]'; }
kept() { [ "$(tmemctl list --json | jq '[.clients[] | select(.name == "disk" and .kept and .alive)] | length')" = 1 ]; }

# break CALL=FAULT...: from now on; mend: no more.
break_disk() { echo "$*" >"$T/faults.new" && mv "$T/faults.new" "$T/faults"; }
mend() { break_disk ""; }

does() { try 0 "$talk" "$sock" "$@"; } # requests that go well, or fail as they say

count_of() { tmemctl list --json | jq --arg k "$1" '.clients[] | select(.name == "disk") | .pools[0][$k]'; }
counts() { [ "$(count_of "$1")" -eq "$2" ] || { echo "$1 is $(count_of "$1"), not $2"; return 1; }; }

# contains_once TEXT: in the server's log, however often it happened.
contains_once() { [ "$(grep -c "$1" "$T/nbd.err")" = 1 ] || { cat "$T/nbd.err"; return 1; }; }

blocks_at_most() { [ "$(du -k "$fallback" | cut -f1)" -le "$1" ]; }

@test "a write that the disk fails: the client has its error, every page is as it was, the rest goes on" {
	serve
	does write:0:65536:text1 write:$M:65536:noise1
	break_disk pwrite=EIO
	does write:$((2 * M)):65536:noise2=EIO read:$((2 * M)):65536:zero    # was nowhere
	does write:0:8192:noise2=EIO read:0:65536:text1                      # was in memory
	does write:$M:8192:noise2=EIO read:$M:65536:noise1                   # was on the disk
	does write:$((3 * M)):65536:text3 read:$((3 * M)):65536:text3        # needs no disk
	does write:$((M + 4096)):4096:text4 read:$((M + 4096)):4096:text4 read:$M:4096:noise1
	counts fallback_errors 3
	counts fallback_pages 15
	mend
	does write:$((2 * M)):65536:noise2 read:$((2 * M)):65536:noise2 write:0:8192:noise2 read:0:8192:noise2
	contains_once 'an I/O error'
}

@test "the client learns the right error" {
	serve
	local fault
	does write:0:4096:noise1
	for fault in ENOSPC=ENOSPC EDQUOT=ENOSPC EFBIG=ENOSPC EIO=EIO EROFS=EIO ENXIO=EIO ENODEV=EIO ESTALE=EIO; do
		break_disk "pwrite=${fault%=*}"
		does write:8192:4096:noise2="${fault#*=}" read:8192:4096:zero
		break_disk "pread=${fault%=*}"
		[ "${fault#*=}" = ENOSPC ] || does read:0:4096:noise1=EIO
	done
	mend
	does read:0:4096:noise1
}

@test "a read that the disk fails is an error, part of a page too, and mends with the disk" {
	serve
	does write:0:65536:noise1 write:$M:65536:text1
	local fault errors=0
	for fault in EIO short ENXIO; do
		break_disk "pread=$fault"
		does read:0:65536:noise1=EIO read:100:10:noise1=EIO write:100:10:noise2=EIO cache:0:4096=EIO \
			read:$M:65536:text1
		errors=$((errors + 4))
		counts fallback_errors $errors
	done
	counts corrupt 0
	mend
	does read:0:65536:noise1
	break_disk pread=EIO
	does write:0:65536:noise3 write:4096:4096:zero # whole pages need not be read
	mend
	does read:4096:4096:zero read:0:4096:noise3
}

@test "a disk that brings back something else: an error and a count, never the wrong bytes" {
	serve
	does write:0:65536:noise1
	break_disk pread=flip
	does read:0:4096:noise1=EIO
	break_disk pread=drop
	does read:4096:4096:noise1=EIO
	mend
	does read:0:65536:noise1
	# A write that the disk has only promised: what was there before is not the page.
	break_disk pwrite=drop
	does write:0:4096:noise2 read:0:4096:noise2=EIO
	mend
	does read:0:4096:noise2=EIO
	counts corrupt 4
	does write:0:4096:noise3 read:0:4096:noise3 # a new content heals it
	# One damaged page fails what it is part of, not its neighbours.
	does write:16384:4096:noise4 write:24576:4096:noise5
	break_disk pwrite=drop
	does write:20480:4096:noise6
	mend
	does read:0:65536:x=EIO read:20480:4096:x=EIO read:16384:4096:noise4 read:24576:4096:noise5
}

@test "short writes: what got there is right, a torn page is an error" {
	serve
	does write:0:65536:noise1
	break_disk pwrite=short
	# Halves of halves; of the last page there is only half left to write.
	does write:0:65536:noise2=ENOSPC read:0:61440:noise2 read:61440:4096:x=EIO
	does write:$M:65536:noise2=ENOSPC read:$M:65536:zero
	mend
	does read:0:61440:noise2 read:61440:4096:x=EIO write:61440:4096:noise3 read:61440:4096:noise3
	does trim:0:65536
	blocks_at_most 64 # nothing of what failed is left there
}

@test "a flush that fails says so, and what was written is right" {
	serve
	does write:0:65536:noise1
	break_disk fdatasync=EIO
	does flush=EIO write:$M:4096:noise2:fua=EIO read:0:65536:noise1
	counts fallback_errors 2
	mend
	does flush read:$M:4096:noise2
}

@test "a disk that gives no blocks back: every byte right all the same" {
	serve
	break_disk fallocate=EOPNOTSUPP
	does random 3 2000 2
}

@test "a disk that hangs: requests that need no disk go on, the others go on when it does" {
	serve
	does write:0:65536:text1
	break_disk pwrite=stall
	"$talk" "$sock" write:$M:65536:noise1 >"$T/said" 3>&- &
	local writer=$!
	retry 10 test -e "$T/faults.waiting"
	does read:0:65536:text1 write:$((2 * M)):65536:text2 read:$((2 * M)):65536:text2 zero:0:4096 trim:4096:4096
	kill -0 $writer # still at it
	mend
	wait $writer
	does read:$M:65536:noise1
}

@test "killed before or after the disk had the page: the old one or the new one, and it stays so" {
	local moment now
	for moment in stall:noise1 linger:noise2; do
		now=${moment#*:}
		serve
		does write:8192:4096:noise1
		break_disk "pwrite=${moment%:*}"
		"$talk" "$sock" write:8192:4096:noise2 >"$T/said" 2>&1 3>&- &
		retry 10 test -e "$T/faults.waiting"
		kill -9 "$server"
		ends
		serve
		does read:8192:4096:"$now"
		# Pages 1024 and 2048 further on use the place where its sum was noted.
		does write:$((4 * M + 8192)):4096:noise3 write:$((8 * M + 8192)):4096:noise4
		does read:8192:4096:"$now" read:$((4 * M + 8192)):4096:noise3 read:$((8 * M + 8192)):4096:noise4
		counts corrupt 0
		stop
	done
}

@test "the file is unlinked, cut off or overwritten by somebody" {
	serve
	does write:0:65536:noise1 write:$((8 * M)):65536:noise2 write:$((16 * M)):65536:text1
	truncate -s $((8 * M)) "$fallback"
	does read:0:65536:noise1 read:$((8 * M)):4096:noise2=EIO read:$((16 * M)):65536:text1
	truncate -s $((65 * M)) "$fallback" # zeros now
	does read:$((8 * M)):4096:noise2=EIO write:$((8 * M)):65536:noise3 read:$((8 * M)):65536:noise3
	dd if="$fallback" of="$fallback" bs=4k count=1 skip=1 seek=2 conv=notrunc status=none # page 0 onto page 1
	does read:0:4096:noise1 read:4096:4096:noise1=EIO
	counts corrupt 2
	counts fallback_errors 3
	rm "$fallback"
	does read:0:4096:noise1 write:$M:65536:noise4 read:$M:65536:noise4
}

@test "the file system is unmounted under it" {
	mkdir "$T/disk"
	mount -t tmpfs -o size=32M none "$T/disk"
	fallback=$T/disk/fallback
	serve
	does write:0:65536:noise1
	umount -l "$T/disk"
	does read:0:65536:noise1 write:$M:65536:noise2 read:$M:65536:noise2
}

@test "the disk is gone: a loop device that lost its file" {
	truncate -s 80M "$T/disk"
	fallback=$(losetup -f --show --direct-io=on "$T/disk")
	defer "losetup -d $fallback"
	serve
	does write:0:65536:noise1 write:$M:65536:text1
	truncate -s 0 "$T/disk"
	does read:0:65536:noise1=EIO read:$M:65536:text1 write:0:65536:text2 read:0:65536:text2
	[ "$(count_of fallback_errors)" -ge 1 ]
}

@test "a file system that is full: ENOSPC, then room again" {
	truncate -s 24M "$T/image"
	mkfs.ext4 -q -O ^has_journal -m 0 "$T/image"
	mkdir "$T/disk"
	mount -o loop "$T/image" "$T/disk"
	defer "umount $T/disk"
	fallback=$T/disk/fallback
	serve
	does write:0:$((8 * M)):noise1 write:$((60 * M)):65536:text1
	does write:$((8 * M)):$((32 * M)):noise2=ENOSPC read:0:$((8 * M)):noise1 read:$((60 * M)):65536:text1
	does trim:0:$((48 * M))
	blocks_at_most 64 # what had been written when it failed is given back too
	does write:$((8 * M)):$((8 * M)):noise3 read:$((8 * M)):$((8 * M)):noise3
	[ "$(count_of fallback_errors)" -ge 1 ]
	contains_once 'no room'
}

@test "a kernel that fails, drops and damages I/O (dm-flakey, in a kernel of its own)" {
	requires linux.uml dmsetup
	try 0 "$REPO/tests/vm/uml" "$REPO/tests/vm/flakey"
	contains "the kernel's failures are the client's"
}

# --- encryption --------------------------------------------------------------------------------

# Pages that do not compress, each with a text that does not look like noise.
marked() {
	python3 -c 'import os, sys
for i in range(256):
    sys.stdout.buffer.write(os.urandom(4000) + b"the plain text of a secret page" + os.urandom(65))' >"$1"
}

uri() { echo "nbd+unix:///?socket=$sock"; }
secrets() { grep -ac 'the plain text' "$fallback" || true; }

@test "nothing of a page is readable on the disk, unless encrypt=no" {
	marked "$T/image"
	local encrypt
	for encrypt in "" encrypt=yes encrypt=no; do
		serve $encrypt
		nbdcopy "$T/image" "$(uri)"
		counts fallback_pages 256
		if [ "$encrypt" = encrypt=no ]; then
			[ "$(secrets)" -gt 0 ]
		else
			[ "$(secrets)" = 0 ]
		fi
		nbdcopy "$(uri)" "$T/back"
		cmp -n $M "$T/image" "$T/back"
		stop
	done
}

# page N: page N as it lies on the disk.
page() { dd if="$fallback" bs=4k skip=$(($1 + 1)) count=1 status=none | sha256sum; }

@test "the key is the device's: kept through kill -9, new after a clean stop" {
	local first
	serve
	does write:0:8192:noise1 write:8192:4096:noise1
	first=$(page 0)
	[ "$first" != "$(page 2)" ] # the same content, elsewhere
	kill -9 "$server"
	ends
	serve
	does read:0:8192:noise1 write:4096:4096:noise2 write:0:4096:noise1
	[ "$(page 0)" = "$first" ]
	stop
	serve
	does write:0:4096:noise1
	[ "$(page 0)" != "$first" ]
}

@test "random requests, encrypted and not" {
	local encrypt
	for encrypt in yes no; do
		serve encrypt=$encrypt
		does random 4 2000 2
		stop
	done
}

@test "a killed server's pages are for one that encrypts as it did" {
	serve
	does write:0:65536:noise1
	kill -9 "$server"
	ends
	try 1 timeout 20 nbdkit -f -U "$T/other" "$PLUGIN" size=64M limit=16M fallback="$fallback" pool=disk encrypt=no lock=no
	one_line
	contains 'it has encrypt=yes'
	serve
	does read:0:65536:noise1
}

@test "a killed server's pages are not for another version of the plugin" {
	serve
	does write:0:65536:noise1
	kill -9 "$server"
	ends
	local host state
	host=$(tmemctl list --json | jq .host.pid)
	state=$(find "/proc/$host/fd" -lname '*tmem-nbd-state*')
	version() { printf "\\x$1" | dd of="$state" bs=1 seek=16 conv=notrunc status=none; }
	version 01
	try 1 timeout 20 nbdkit -f -U "$T/other" "$PLUGIN" size=64M limit=16M fallback="$fallback" pool=disk lock=no
	one_line
	contains 'another version of the plugin'
	version 02
	serve
	does read:0:65536:noise1
}
