#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# nbd-exact.bats - request by request: each byte, each extent, each block on the disk, each error

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so
talk=$REPO/tests/helpers/nbdtalk

test_setup() {
	sock=$T/nbd.sock
	fallback=$T/fallback
}

# serve PARAMETER...: start the plugin in the background, as daemons do; no host unless asked for.
serve() {
	local pid=$T/nbd.pid
	rm -f "$pid" "$sock"
	[[ "$*" == *tmem-socket=* ]] || set -- "$@" tmem-socket=none
	nbdkit -U "$sock" -P "$pid" "$PLUGIN" "$@" 3>&-
	retry 10 test -s "$pid"
	server=$(cat "$pid")
	defer stop
}

stop() {
	kill "$server"
	retry 10 eval "! kill -0 $server"
}

# refused TEXT PARAMETER...: the plugin does not start and says why in one line.
refused() {
	local text=$1
	shift
	try 1 nbdkit -f -U - "$PLUGIN" tmem-socket=none "$@" --run true
	one_line
	contains "$text"
}

# blocks FILE: KiB that the file takes on disk.
blocks() { du -k "$1" | cut -f1; }
blocks_at_most() { [ "$(blocks "$1")" -le "$2" ]; }

# disk SIZE: a block device, $loop.
disk() {
	truncate -s "$1" "$T/disk"
	loop=$(losetup -f --show "$T/disk")
	defer "losetup -d $loop"
}

uri() { echo "nbd+unix:///?socket=$sock"; }

@test "odd sizes and offsets from threads that share pages: memory, fallback, both" {
	serve size=24M limit=256M
	try 0 "$talk" "$sock" random 1 4000 4
	stop
	serve size=24M limit=4M fallback="$fallback"
	try 0 "$talk" "$sock" random 2 4000 4
	stop
	serve size=25000001 limit=8M fallback="$fallback"
	try 0 "$talk" "$sock" random 3 4000 3
}

# map: "OFFSET LENGTH TYPE" of every extent, in one line.
map() { nbdinfo --map "$(uri)" | awk '{printf "%s%s+%s:%s", sep, $1, $2, $3; sep=" "}'; }

@test "nbdinfo --map is exact in memory and on the fallback" {
	for data in text noise; do # noise does not compress: it goes to the fallback
		rm -f "$fallback"
		serve size=1M limit=16M fallback="$fallback"
		[ "$(map)" = "0+1048576:3" ]
		try 0 "$talk" "$sock" write:4096:8192:${data}1 write:40960:1:${data}2 write:65536:65536:${data}3
		[ "$(map)" = "0+4096:3 4096+8192:0 12288+28672:3 40960+4096:0 45056+20480:3 65536+65536:0 131072+917504:3" ]
		# Trim leaves the pages it covers in part, zero does not change what is around it.
		try 0 "$talk" "$sock" trim:65537:8192 zero:8192:4096 zero:40960:4095 zero:45055:1 write:1044480:4096:zero
		[ "$(map)" = "0+4096:3 4096+4096:0 8192+57344:3 65536+4096:0 69632+4096:3 73728+57344:0 131072+917504:3" ]
		try 0 "$talk" "$sock" read:0:4096:zero read:8192:57344:zero read:69632:4096:zero
		stop
	done
}

@test "zero: fast, with and without holes, in part" {
	serve size=1M limit=16M
	try 0 "$talk" "$sock" write:0:1048576:text1 zero:0:65536:fast zero:65536:65536:nohole zero:131072:100 \
		read:0:131172:zero
	try 0 nbdinfo --can fast-zero "$(uri)"
}

@test "without a fallback: ENOSPC, and the old data stays readable" {
	serve size=32M limit=4M
	local i old=() again=()
	for ((i = 0; i < 64; i++)); do
		old+=("write:$((i * 8192)):4096:noise$i")
		again+=("read:$((i * 8192)):4096:noise$i")
	done
	try 0 "$talk" "$sock" "${old[@]}"
	try 1 "$talk" "$sock" write:8388608:16777216:noise
	contains ENOSPC
	# Full now: new pages are refused, all or nothing page by page.
	try 0 "$talk" "$sock" full:25165824:512 "${again[@]}"
	# Room again after a trim.
	try 0 "$talk" "$sock" trim:8388608:16777216 write:33550336:4096:noise1 read:33550336:4096:noise1
}

@test "pages that are trimmed, zeroed or overwritten give their disk space back" {
	serve size=64M limit=32M fallback="$fallback"
	try 0 "$talk" "$sock" write:0:16777216:noise1
	[ "$(blocks "$fallback")" -ge 16384 ]
	try 0 "$talk" "$sock" trim:0:4194304 zero:4194304:4194304
	blocks_at_most "$fallback" $((8192 + 256))
	try 0 "$talk" "$sock" write:8388608:4194304:text1
	blocks_at_most "$fallback" $((4096 + 256))
	try 0 "$talk" "$sock" write:12582912:4194304:zero read:0:8388608:zero read:8388608:4194304:text1
	blocks_at_most "$fallback" 256
}

@test "FUA and flush reach the disk when pages are on it, and only then" {
	disk 32M
	serve size=16M limit=16M fallback="$loop"
	flushes() { awk '{ print $16 }' "/sys/block/${loop##*/}/stat"; } # that the disk was asked for
	local before
	before=$(flushes)
	try 0 "$talk" "$sock" write:0:65536:text1:fua flush
	[ "$(flushes)" -eq "$before" ]
	try 0 "$talk" "$sock" write:0:65536:noise1:fua flush
	[ "$(flushes)" -eq $((before + 1)) ]
	try 0 "$talk" "$sock" write:65536:65536:noise2 flush flush read:0:65536:noise1 read:65536:65536:noise2
	[ "$(flushes)" -eq $((before + 2)) ]
}

@test "cache brings pages back from the fallback" {
	serve size=16M limit=4M fallback="$fallback" writeback=off
	# Fill memory, overflow, empty memory: the overflow is what cache has to bring.
	try 0 "$talk" "$sock" write:0:12582912:text1 write:12582912:1048576:text2 trim:0:12582912
	[ "$(blocks "$fallback")" -ge 1024 ]
	try 0 "$talk" "$sock" cache:12582912:1048576 read:12582912:1048576:text2
	blocks_at_most "$fallback" 64
}

@test "the fallback is created sparse with mode 0600, O_DIRECT, and emptied at the end" {
	serve size=1G limit=16M fallback="$fallback"
	nbdinfo --size "$(uri)" # when it answers, it has gone through its start
	[ "$(stat -c %a "$fallback")" = 600 ]
	[ "$(stat -c %s "$fallback")" -ge $((1 << 30)) ]
	blocks_at_most "$fallback" 64
	direct=$(sed -n 's/^flags:[[:space:]]*//p' "$(fdinfo_of "$fallback")")
	[ $((direct & 040000)) -ne 0 ]
	stop
	blocks_at_most "$fallback" 64
}

# fdinfo_of FILE: the server's open description of it.
fdinfo_of() {
	local fd
	for fd in /proc/"$server"/fd/*; do
		[ "$(readlink "$fd")" = "$1" ] && echo "/proc/$server/fdinfo/${fd##*/}"
	done
}

@test "a fallback without O_DIRECT works through the page cache" {
	mkdir "$T/ram"
	mount -t tmpfs -o size=64M none "$T/ram"
	defer "umount $T/ram"
	serve size=24M limit=4M fallback="$T/ram/fallback"
	try 0 "$talk" "$sock" random 4 1000 2
}

@test "a block device as fallback: locked, checked for size and for what is on it" {
	disk 20M
	serve size=16M limit=4M fallback="$loop"
	try 0 "$talk" "$sock" random 5 1000 2
	refused "another server" size=16M fallback="$loop"
	stop
	refused "too small for size=" size=64M fallback="$loop"
	dd if=/dev/zero of="$loop" bs=4k count=1 status=none
	echo btrfs | dd of="$loop" bs=64k seek=1 conv=sync status=none # where btrfs keeps its mark
	refused "not tmem's" size=16M fallback="$loop"
	mkfs.ext4 -q "$loop"
	refused "not tmem's" size=16M fallback="$loop"
	mkdir "$T/mnt"
	mount "$loop" "$T/mnt"
	refused "another server uses it, or it is mounted" size=16M fallback="$loop"
	umount "$T/mnt"
	losetup -d "$loop"
	loop=$(losetup -r -f --show "$T/disk")
	defer "losetup -d $loop"
	refused "$loop" size=16M fallback="$loop"
}

@test "a full disk: the write fails with ENOSPC, what is stored stays right" {
	mkdir "$T/small"
	mount -t tmpfs -o size=2M none "$T/small"
	defer "umount $T/small"
	serve size=64M limit=4M fallback="$T/small/fallback"
	try 0 "$talk" "$sock" write:0:65536:text1 write:65536:1048576:noise1
	try 0 "$talk" "$sock" write:8388608:4194304:noise2=ENOSPC read:0:65536:text1 read:65536:1048576:noise1
	try 0 "$talk" "$sock" trim:8388608:4194304 write:8388608:65536:noise3 read:8388608:65536:noise3
}

@test "fallbacks that are none: a pipe, a disk image, another server's" {
	mkfifo "$T/pipe"
	refused "neither a regular file nor a block device" size=16M fallback="$T/pipe"
	# Zeros at first, something later: a disk image.
	truncate -s 128K "$T/image" && echo precious >>"$T/image"
	refused "not tmem's" size=16M fallback="$T/image"
	serve size=16M fallback="$fallback"
	refused "another server" size=16M fallback="$fallback"
	stop
	serve size=16M fallback="$fallback"
	refused "No such device" size=16M fallback="$sock"
}

@test "fallbacks that are swapped to: the device, its file, a device on it" {
	disk 20M
	mkswap -q "$loop"
	swapon "$loop"
	defer "swapoff $loop"
	refused "swapped to" size=16M fallback="$loop"
	refused "not tmem's" size=16M fallback="$T/disk"
	local above
	above=$(losetup -f --show "$loop")
	defer "losetup -d $above"
	refused "not tmem's" size=16M fallback="$above"
}

@test "every byte right while the host freezes and thaws" {
	export TMEM_TMEMD=$B/tmemd
	host_pid() { tmemctl list --json | jq .host.pid; }
	serve size=24M limit=16M fallback="$fallback" tmem-socket="$TMEM_SOCKET"
	retry 10 eval '[ "$(tmemctl list --json | jq ".clients | length")" = 1 ]'
	defer 'kill -9 $(host_pid)'
	"$talk" "$sock" random 8 30000 4 >"$T/said" 3>&- &
	local torture=$! turns=0
	while kill -0 "$torture" 2>/dev/null; do
		tmemctl freeze && tmemctl thaw || break
		turns=$((turns + 1))
	done
	wait "$torture" || { cat "$T/said"; return 1; }
	[ "$turns" -ge 10 ]
	# It did move pages both ways.
	[ "$(tmemctl list --json | jq '.clients[0].pools[0].puts_frozen')" -gt 100 ]
	[ "$(tmemctl list --json | jq '.clients[0].pools[0].fallback_reads')" -gt 100 ]
}
