#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# nbd.bats - nbdkit-tmem-plugin as a block device

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so

# serve NAME=VALUE...: start a server; $URI reaches it.
serve() {
	SOCK=$T/nbd.sock URI="nbd+unix:///?socket=$T/nbd.sock"
	nbdkit -U "$SOCK" -P "$T/nbd.pid" "$PLUGIN" tmem-socket=none "$@" 2>"$T/nbd.err"
	retry 10 test -s "$T/nbd.pid" # written after the parent has gone
	defer stop_server
}

stop_server() {
	local pid
	pid=$(cat "$T/nbd.pid")
	kill "$pid"
	retry 10 gone "$pid"
	rm -f "$T/nbd.pid" "$SOCK"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# fails_with TEXT NAME=VALUE...: the server refuses to start with one line that says TEXT.
fails_with() {
	local text=$1
	shift
	try 1 nbdkit -f -U - "$PLUGIN" "$@" --run true
	contains "$text"
	one_line
}

# verify FIO-ARGUMENTS...: fio writes and checks what it wrote, on every sector.
verify() {
	try 0 fio --name=v --ioengine=nbd --uri="$URI" --verify=crc32c --verify_fatal=1 --randrepeat=0 \
		--verify_state_save=0 --group_reporting --minimal "$@"
}

allocated() { echo $(($(stat -c '%b * %B' "$1"))); } # bytes of disk under a file

# map: offset, length and type of each extent
map() { nbdinfo --map "$URI" | awk '{ print $1, $2, $3 }'; }

@test "it says what it is" {
	try 0 nbdkit --dump-plugin "$PLUGIN"
	contains 'name=tmem'
	contains 'thread_model=parallel'
	contains 'magic_config_key=size'
	contains 'tmem_page_size=4096'
}

@test "bad parameters: one clear line each" {
	fails_with 'size=SIZE is required'
	fails_with 'not a size' size=12Q
	fails_with 'not a size' size=-1
	fails_with 'size=SIZE is required' size=0
	fails_with 'at most' size=17T
	fails_with 'not a size' size=1G limit=lots
	fails_with 'size=SIZE is required' size=0.5
	fails_with 'at most' size=16T
	fails_with 'at most' size=17592186040321
	fails_with 'limit: at least' size=1G limit=0
	fails_with 'limit: at least' size=1G limit=2097151
	fails_with 'not a size' size=1G limit=-1
	fails_with 'encrypt=maybe: yes or no' size=1G encrypt=maybe
	fails_with 'recompress=yes: on or off' size=1G recompress=yes
	fails_with 'fallback=: a path is missing' size=1G fallback=
	fails_with 'limit: at least' size=1G limit=1M
	fails_with 'not a size' size=1G writeback=fast
	fails_with 'writeback: at least 1M' size=1G fallback="$T/fb" writeback=4k
	fails_with 'no fallback to write to' size=1G writeback=64M
	fails_with 'unknown parameter color' size=1G color=blue
	fails_with 'a name has 1 to 63 bytes' size=1G pool=
	fails_with 'printable' size=1G pool=$'two\nlines'
	fails_with 'a name has 1 to 63 bytes' size=1G "pool=$(printf 'x%.0s' {1..64})"
}

@test "the least and the largest size" {
	serve size=1
	[ "$(nbdinfo --size "$URI")" = 1 ]
	stop_server
	serve size=17592186040320
	try 0 qemu-io -f raw -c 'write -P 7 17592186036224 4096' -c 'read -P 7 17592186036224 4096' "$URI"
	[ "$(nbdinfo --size "$URI")" = 17592186040320 ]
}

@test "a fallback that cannot be used: one clear line, and nothing of it changes" {
	mkdir "$T/dir"
	fails_with 'Is a directory' size=1G fallback="$T/dir"
	fails_with 'No such file or directory' size=1G fallback="$T/none/file"
	echo precious >"$T/file"
	fails_with 'holds something that is not tmem' size=1G fallback="$T/file"
	[ "$(cat "$T/file")" = precious ]
	fails_with 'neither a regular file nor a block device' size=1G fallback=/dev/null
}

@test "a fallback on a read-only or full disk: one clear line" {
	mkdir "$T/disk"
	mount -t tmpfs -o size=64k tmpfs "$T/disk"
	defer "umount $T/disk"
	head -c 64k /dev/zero >"$T/disk/filler"
	fails_with 'No space left on device' size=1G fallback="$T/disk/fb"
	rm "$T/disk/filler"
	mount -o remount,ro "$T/disk"
	fails_with 'Read-only file system' size=1G fallback="$T/disk/fb"
}

@test "two servers never share a fallback" {
	serve size=16M fallback="$T/fb"
	fails_with 'another server uses it' size=16M fallback="$T/fb"
}

@test "in memory: fio verifies random mixed sizes, four connections" {
	serve size=64M limit=256M
	verify --rw=randrw --bsrange=512-128k --size=16M --offset_increment=16M --numjobs=4 --iodepth=8
	try 0 nbdinfo "$URI"
	contains 'can_multi_conn: true'
	contains 'can_fast_zero: true'
	contains 'can_cache: true'
	contains 'block_size_preferred: 4096'
}

@test "most pages overflow: fio verifies aligned, unaligned, small and large, with FUA" {
	serve size=64M limit=4M fallback="$T/fb"
	verify --rw=randrw --bs=4k --size=16M --offset_increment=16M --numjobs=4 --iodepth=8
	verify --rw=randwrite --bsrange=512-64k --bs_unaligned=1 --size=60M --iodepth=4
	verify --rw=randrw --bs=128k --size=64M --iodepth=4 --sync=1
	[ "$(allocated "$T/fb")" -gt $((32 << 20)) ]
}

@test "trims between writes leave the rest right" {
	serve size=64M limit=4M fallback="$T/fb"
	verify --rw=randtrimwrite --bs=16k --size=64M --iodepth=4 --verify=0
	verify --rw=randwrite --bs=16k --size=64M --iodepth=4
}

@test "unaligned writes, zeros and odd sizes against a reference file" {
	serve size=300001 limit=2M fallback="$T/fb"
	head -c 300001 /dev/urandom >"$T/ref"
	nbdcopy "$T/ref" "$URI"
	mkdir "$T/mnt"
	nbdfuse -P "$T/fuse.pid" "$T/mnt/disk" "$URI" >/dev/null &
	defer "umount $T/mnt"
	retry 10 test -s "$T/fuse.pid"
	for i in $(seq 60); do
		head -c $((RANDOM % 9000 + 1)) /dev/urandom >"$T/piece"
		[ $((i % 3)) -ne 0 ] || truncate -s $((RANDOM % 9000 + 1)) "$T/piece" # some end in zeros
		at=$((RANDOM * 9 % 290000))
		for f in "$T/ref" "$T/mnt/disk"; do
			dd if="$T/piece" of="$f" bs=65536 seek=$at oflag=seek_bytes conv=notrunc status=none
		done
	done
	truncate -s 300001 "$T/ref"
	cmp "$T/ref" "$T/mnt/disk"
	nbdcopy "$URI" "$T/back"
	cmp "$T/ref" "$T/back"
}

@test "nbdcopy brings real files back, from memory and from the fallback" {
	tar -C /usr/include -cf "$T/real" .
	for limit in 256M 4M; do
		serve size=128M limit=$limit fallback="$T/fb"
		nbdcopy "$T/real" "$URI"
		nbdcopy "$URI" "$T/back"
		cmp -n "$(stat -c %s "$T/real")" "$T/real" "$T/back"
		stop_server
	done
}

@test "the map is exact after writes, zeros and trims, wherever a page lives" {
	serve size=1M limit=2M fallback="$T/fb"
	[ "$(map)" = "0 1048576 3" ]
	head -c 65536 /dev/urandom >"$T/noise"       # does not compress: goes to the fallback
	yes tmem | head -c 65536 >"$T/text" || true # stays in memory
	truncate -s 262144 "$T/image"
	dd if="$T/noise" of="$T/image" bs=4k seek=4 conv=notrunc status=none
	dd if="$T/text" of="$T/image" bs=4k seek=40 conv=notrunc status=none
	nbdcopy --destination-is-zero "$T/image" "$URI"
	[ "$(map)" = "0 16384 3
16384 65536 0
81920 81920 3
163840 65536 0
229376 819200 3" ]
	nbdcopy "$URI" "$T/back"
	cmp -n 262144 "$T/image" "$T/back"
	[ "$(allocated "$T/fb")" -ge 65536 ]
	blank() { nbdcopy -- [ nbdkit null "size=$1" ] "$URI"; }
	blank 1M # zeros everywhere
	[ "$(map)" = "0 1048576 3" ]
	[ "$(allocated "$T/fb")" -le 8192 ] # the disk space is back
}

@test "without a fallback a full memory is ENOSPC, and nothing else changes" {
	serve size=64M limit=4M
	head -c 64M /dev/urandom >"$T/noise"
	run nbdcopy "$T/noise" "$URI"
	[ "$status" -ne 0 ]
	contains 'No space left'
	# What is there is the beginning of what was written, or zeros; never anything else.
	nbdcopy "$URI" "$T/back"
	python3 - "$T/noise" "$T/back" <<-'EOF'
	import sys
	a, b = (open(f, "rb").read() for f in sys.argv[1:])
	kept = 0
	for i in range(0, len(a), 4096):
	    page = b[i:i + 4096]
	    assert page == a[i:i + 4096] or page == bytes(4096), i
	    kept += page != bytes(4096)
	assert kept > 400, kept
	EOF
	# Overwriting what is stored with something that does not fit keeps the old page readable.
	run nbdcopy "$T/noise" "$URI"
	[ "$status" -ne 0 ]
	nbdcopy "$URI" "$T/again"
	cmp "$T/back" "$T/again"
}

@test "a fallback that fills up fails the write and keeps every other page" {
	mkdir "$T/disk"
	mount -t tmpfs -o size=8M tmpfs "$T/disk"
	defer "umount $T/disk"
	serve size=64M limit=4M fallback="$T/disk/fb"
	head -c 4M /dev/urandom >"$T/noise"
	nbdcopy "$T/noise" "$URI"
	head -c 32M /dev/urandom >"$T/more"
	cat "$T/noise" "$T/more" >"$T/all"
	run nbdcopy "$T/all" "$URI"
	[ "$status" -ne 0 ]
	contains 'No space left'
	nbdcopy "$URI" "$T/back"
	cmp -n $((4 << 20)) "$T/noise" "$T/back"
}

@test "a clean stop gives the disk space back" {
	serve size=64M limit=4M fallback="$T/fb"
	head -c 16M /dev/urandom >"$T/noise"
	nbdcopy "$T/noise" "$URI"
	[ "$(allocated "$T/fb")" -ge $((16 << 20)) ]
	stop_server
	[ "$(allocated "$T/fb")" -le 8192 ]
	serve size=64M limit=4M fallback="$T/fb" # and the file may be used again
	[ "$(map)" = "0 67108864 3" ]
}

@test "mount: each device is a file as well, and the same one" {
	mkdir "$T/files"
	serve size=8M mount="$T/files" export=two size=4M
	retry 10 test -f "$T/files/disk"
	[ "$(ls "$T/files")" = $'disk\ntwo' ]
	[ "$(stat -c %s "$T/files/disk" "$T/files/two")" = $'8388608\n4194304' ]
	head -c 4M "$B/nbdkit-tmem-plugin.so" >"$T/data"
	truncate -s 8M "$T/data"

	try 0 nbdcopy "$T/data" "$URI"
	try 0 cmp "$T/data" "$T/files/disk"
	head -c 123457 /dev/urandom | tee "$T/piece" | dd of="$T/data" bs=4K seek=7777 oflag=seek_bytes conv=notrunc status=none
	try 0 dd if="$T/piece" of="$T/files/disk" bs=4K seek=7777 oflag=seek_bytes conv=notrunc,fsync status=none
	fallocate --punch-hole -o 5000 -l 70000 "$T/data"
	try 0 fallocate --punch-hole -o 5000 -l 70000 "$T/files/disk"
	try 0 nbdcopy "$URI" "$T/back"
	try 0 cmp "$T/data" "$T/back"
	try 0 cmp "$T/data" "$T/files/disk"
	try 0 cmp -n 4194304 /dev/zero "$T/files/two"

	try 1 dd if=/dev/zero of="$T/files/two" bs=4K seek=1024 count=1 conv=notrunc
	contains 'too large'
	try 0 fio --name=v --filename="$T/files/disk" --size=8M --rw=randwrite --bsrange=512-300k --bs_unaligned=0 --direct=1 \
		--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --minimal
}

@test "mount: a server that ends while a file is open leaves errors, not a hang" {
	mkdir "$T/files"
	serve size=8M mount="$T/files"
	retry 10 test -f "$T/files/disk"
	exec 9<"$T/files/disk"
	stop_server
	try 1 head -c 1 /dev/fd/9
	exec 9<&-
	[ -z "$(ls "$T/files")" ]
	fails_with 'No such file' size=8M tmem-socket=none mount="$T/nowhere"
}
