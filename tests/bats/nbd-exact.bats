#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The swap device as a block device: what is written is read, wherever it lives, whatever failed.

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so
talk=$REPO/tests/helpers/nbdtalk

test_setup() {
	requires nbdkit nbdinfo nbdcopy python3
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
	defer "kill $server"
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

uri() { echo "nbd+unix:///?socket=$sock"; }

verify() { # FIO-OPTION...: two jobs over one device, every block verified
	fio --output="$T/fio.log" --ioengine=nbd --uri="$(uri)" --rw=randrw --verify=crc32c --verify_fatal=1 \
		--verify_state_save=0 --randseed=7 --buffer_compress_percentage=60 --refill_buffers \
		--iodepth=8 --group_reporting --name=low --size=48M --offset=0 "$@" \
		--name=high --size=48M --offset=48M "$@" || {
		tail -n 30 "$T/fio.log"
		return 1
	}
}

@test "fio verify: mixed block sizes, most pages overflow" {
	requires fio
	serve size=96M limit=8M fallback="$fallback"
	verify --bssplit=512/10:4k/50:12k/10:64k/20:128k/10 --blockalign=512
	verify --rw=write --bs=128k --trim_percentage=0
	[ "$(blocks "$fallback")" -gt 8192 ]
}

@test "fio verify: all in memory" {
	requires fio
	serve size=96M limit=256M
	verify --bssplit=512/10:4k/50:12k/10:64k/20:128k/10 --blockalign=512
	verify --rw=write --bs=64k
}

@test "fio verify: trims and writes, part in memory and part on the fallback" {
	requires fio
	serve size=96M limit=16M fallback="$fallback"
	verify --rw=randtrimwrite --bs=8k
}

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

@test "nbdcopy: a file there and back, over four connections" {
	cat "$B"/*.so /usr/bin/python3 >"$T/in"
	truncate -s 24M "$T/in"
	for room in "limit=128M" "limit=6M fallback=$fallback"; do
		serve size=24M $room
		nbdcopy --connections=4 "$T/in" "$(uri)"
		nbdcopy --connections=4 "$(uri)" "$T/out"
		cmp "$T/in" "$T/out"
		try 0 nbdinfo --can multi-conn "$(uri)"
		stop
		rm "$T/out"
	done
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
	local i old=() more=()
	for ((i = 0; i < 64; i++)); do
		old+=("write:$((i * 8192)):4096:noise$i")
	done
	try 0 "$talk" "$sock" "${old[@]}"
	try 1 "$talk" "$sock" write:8388608:16777216:noise
	contains ENOSPC
	# Full now: new pages and other content for old ones are refused, all or nothing page by page.
	for ((i = 0; i < 64; i++)); do
		more+=("write:$((25165824 + i * 4096)):4096:noise9$i=ENOSPC" "read:$((25165824 + i * 4096)):4096:zero")
		more+=("read:$((i * 8192)):4096:noise$i")
	done
	try 0 "$talk" "$sock" "${more[@]}"
	# Room again after a trim.
	try 0 "$talk" "$sock" trim:8388608:16777216 write:25165824:4096:noise1 read:25165824:4096:noise1
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
	requires strace
	serve size=16M limit=16M fallback="$fallback"
	strace -f -q -e trace=fdatasync -o "$T/trace" -p "$server" 3>&- &
	local tracer=$!
	defer "kill $tracer"
	retry 10 grep -q "TracerPid:.*[1-9]" "/proc/$server/status"
	syncs() { grep -c 'fdatasync(.*= 0' "$T/trace"; }
	try 0 "$talk" "$sock" write:0:65536:text1:fua flush
	[ "$(syncs)" -eq 0 ]
	try 0 "$talk" "$sock" write:0:65536:noise1:fua flush
	[ "$(syncs)" -eq 1 ]
	try 0 "$talk" "$sock" write:65536:65536:noise2 flush flush read:0:65536:noise1 read:65536:65536:noise2
	[ "$(syncs)" -eq 2 ]
}

@test "cache brings pages back from the fallback" {
	serve size=16M limit=4M fallback="$fallback"
	# Fill memory, overflow, empty memory: the overflow is what cache has to bring.
	try 0 "$talk" "$sock" write:0:12582912:text1 write:12582912:1048576:text2 trim:0:12582912
	[ "$(blocks "$fallback")" -ge 1024 ]
	try 0 "$talk" "$sock" cache:12582912:1048576 read:12582912:1048576:text2
	blocks_at_most "$fallback" 64
}

@test "the fallback is created sparse with mode 0600, O_DIRECT, and emptied at the end" {
	serve size=1G limit=16M fallback="$fallback"
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

@test "a block device as fallback" {
	truncate -s 20M "$T/disk"
	loop=$(losetup -f --show "$T/disk")
	defer "losetup -d $loop"
	serve size=16M limit=4M fallback="$loop"
	try 0 "$talk" "$sock" random 5 1000 2
	refused "another server" size=16M fallback="$loop"
	stop
	refused "No space" size=64M fallback="$loop"
	mkfs.ext4 -q "$loop"
	refused "not tmem's" size=16M fallback="$loop"
	losetup -d "$loop"
	loop=$(losetup -r -f --show "$T/disk")
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

@test "fallbacks that cannot be used: one clear line each" {
	refused "directory" size=16M fallback="$T"
	refused "No such file" size=16M fallback="$T/no/such"
	mkfifo "$T/pipe"
	refused "neither a regular file nor a block device" size=16M fallback="$T/pipe"
	refused "neither a regular file nor a block device" size=16M fallback=/dev/null
	echo precious >"$T/file"
	refused "not tmem's" size=16M fallback="$T/file"
	[ "$(cat "$T/file")" = precious ]
	# Zeros at first, something later: a disk image.
	truncate -s 128K "$T/image" && echo precious >>"$T/image"
	refused "not tmem's" size=16M fallback="$T/image"
	mkdir "$T/ro"
	mount -t tmpfs -o ro none "$T/ro"
	defer "umount $T/ro"
	refused "Read-only" size=16M fallback="$T/ro/fallback"
	serve size=16M fallback="$fallback"
	refused "another server" size=16M fallback="$fallback"
	stop
	serve size=16M fallback="$fallback"
}

@test "bad parameters: one clear line each" {
	refused "size=12Q" size=12Q
	refused "size=-1" size=-1
	refused "size=SIZE is required"
	refused "size" size=0
	refused "size" size=17T
	refused "limit" size=16M limit=1K
	refused "limit=lots" size=16M limit=lots
	refused "colour" size=16M colour=blue
	refused "pool" size=16M pool=
	refused "pool" size=16M pool=$'two\nlines'
	refused "pool" size=16M pool="$(printf '%064d' 1)"
}

@test "--dump-plugin and --help tell what it can do" {
	try 0 nbdkit --dump-plugin "$PLUGIN"
	for line in name=tmem magic_config_key=size thread_model=parallel tmem_version= tmem_page_size=4096 has_cache=1; do
		contains "$line"
	done
	try 0 nbdkit --help "$PLUGIN"
	for parameter in size= fallback= limit= pool= tmem-socket=; do
		contains "$parameter"
	done
}

@test "frozen by the host it goes on at disk speed; destroyed it fails reads of what is gone" {
	requires tmemd tmemctl
	serve size=32M limit=64M fallback="$fallback" pool=vol tmem-socket="$TMEM_SOCKET"
	retry 10 eval "tmemctl list | grep -q vol"
	host=$(fuser "$TMEM_SOCKET" 2>/dev/null | tr -dc '0-9 ')
	defer "kill $host"
	try 0 "$talk" "$sock" write:0:4194304:text1
	try 0 tmemctl freeze
	try 0 "$talk" "$sock" write:4194304:4194304:text2 write:0:1048576:text3 read:0:1048576:text3 \
		read:4194304:4194304:text2
	[ "$(blocks "$fallback")" -ge 5120 ]
	try 0 tmemctl thaw
	try 0 "$talk" "$sock" write:0:1048576:text1 read:0:4194304:text1 write:4194304:4194304:text5
	blocks_at_most "$fallback" 256
	try 0 tmemctl destroy --force vol
	retry 10 "$talk" "$sock" read:0:4096:text1=EIO
	try 0 "$talk" "$sock" read:8388608:4096:zero write:0:8192:text6 read:0:8192:text6 read:8192:4096:text1=EIO
}
