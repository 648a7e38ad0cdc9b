#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# save.bats - tmemctl save and restore: a mount's cache and a swap device, in files and through pipes

load helpers

PLUGIN=$B/nbdkit-tmem-plugin.so

test_setup() {
	export TMEM_TMEMD=$B/tmemd
	defer 'kill -9 $(host_pid)'
}

host_pid() { tmemctl list --json | jq .host.pid; }
clients_are() { [ "$(tmemctl list --json | jq '.clients | length')" = "$1" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }

# pool CLIENT KEY, of CLIENT KEY: a number of its first pool, or its own.
pool() { tmemctl list --json | jq --arg n "$1" --arg k "$2" '.clients[] | select(.name == $n) | .pools[0][$k]'; }
of() { tmemctl list --json | jq -r --arg n "$1" --arg k "$2" '.clients[] | select(.name == $n) | .[$k]'; }
has_pages() { [ "$(pool "$1" pages)" -gt 0 ]; }

# device NAME [PARAMETER...]: a server on $T/NAME.sock that is a client NAME.
device() {
	local name=$1
	shift
	nbdkit -U "$T/$name.sock" -P "$T/$name.pid" "$PLUGIN" pool="$name" "$@" 2>>"$T/$name.err" 3>&-
	defer "kill -9 \$(cat $T/$name.pid)"
	retry 10 joined "$name"
}
joined() { [ "$(pool "$1" pages)" != "" ] && [ "$(pool "$1" pages)" != null ]; }
uri() { echo "nbd+unix:///?socket=$T/$1.sock"; }

# image FILE SIZE: text, noise and zeros.
image() {
	{
		seq 1000000 9999999 | head -c 5M
		openssl enc -aes-128-ctr -nosalt -pass pass:1 </dev/zero 2>/dev/null | head -c 3M
	} >"$1"
	truncate -s "$2" "$1"
}

same() { # DEVICE FILE
	rm -f "$T/same"
	nbdcopy "$(uri "$1")" "$T/same"
	cmp "$T/same" "$2"
}

# fails TEXT COMMAND...: exit 1 and one line that says TEXT.
fails() {
	local text=$1
	shift
	try 1 "$@"
	contains "$text"
	one_line
}

# --- a mount's cache ----------------------------------------------------------------------------

mnt() {
	tmemfs -o name=cache,limit=64M "$T/back" "$T/mnt" 3>&-
	retry 10 joined cache
}

backing_reads() { pool cache backing_reads; }
cached() { # FILES...: reading them reads nothing of the backing
	local before
	before=$(backing_reads)
	cat "$@" >/dev/null
	[ "$(backing_reads)" = "$before" ]
}
warm() { cat "$T"/mnt/* >/dev/null && sync && echo 3 >/proc/sys/vm/drop_caches && cached "$T"/mnt/*; }

remount() {
	umount "$T/mnt"
	retry 10 clients_are 0
	mnt
}

tree() {
	[ "$(id -u)" -eq 0 ] && [ -c /dev/fuse ] || skip "mounting needs root and /dev/fuse"
	mkdir "$T/back" "$T/mnt"
	for i in 1 2 3 4; do seq "$i" 400000 | head -c 300000 >"$T/back/f$i"; done
	: >"$T/back/empty"
	find "$T/back" -exec touch -d '2020-02-02 02:02:02.02' {} +
	mnt
	defer "umount -l $T/mnt"
}

@test "a warm cache is saved before a remount and restored after it" {
	tree
	retry 20 warm
	try 0 tmemctl save --live cache "$T/stream"
	contains 'saved'
	[ "$(stat -c %a "$T/stream")" = 600 ]
	remount
	try 0 tmemctl restore cache "$T/stream"
	contains 'restored 76 pages'
	cached "$T"/mnt/*
	for i in 1 2 3 4; do cmp "$T/mnt/f$i" "$T/back/f$i"; done
	# A second time, and into the life that it was saved from: there is nothing to add.
	try 0 tmemctl restore cache "$T/stream"
	contains 'restored 0 pages, left out 76'
	[ "$(pool cache corrupt)" = 0 ]
}

@test "files that changed between save and restore are read anew" {
	tree
	retry 20 warm
	try 0 tmemctl save cache "$T/stream"
	umount "$T/mnt"
	retry 10 clients_are 0
	tr 1 2 <"$T/back/f1" >"$T/new" && cat "$T/new" >"$T/back/f1" # another content of this size
	touch -d '2020-02-02 02:02:02.02' "$T/back/f1"                # and with its old date
	rm "$T/back/f2" && cp "$T/back/f3" "$T/back/f2"               # another file of this name
	mnt
	printf changed | dd of="$T/mnt/f3" conv=notrunc status=none   # changed before the restore
	try 0 tmemctl restore cache "$T/stream"
	printf again | dd of="$T/mnt/f4" conv=notrunc status=none     # and after it
	for i in 1 2 3 4; do cmp "$T/mnt/f$i" "$T/back/f$i"; done
	cmp "$T/mnt/f1" "$T/new"
	[ "$(head -c 7 "$T/mnt/f3")" = changed ]
	[ "$(head -c 5 "$T/mnt/f4")" = again ]
}

@test "a file that is open and written to before and after a restore into its own mount" {
	tree
	retry 20 warm
	try 0 tmemctl save cache "$T/stream"
	exec 7<>"$T/mnt/f1"
	printf mine >&7
	echo 3 >/proc/sys/vm/drop_caches
	try 0 tmemctl restore cache "$T/stream"
	[ "$(head -c 4 "$T/mnt/f1")" = mine ]
	exec 7>&-
	cmp "$T/mnt/f1" "$T/back/f1"
	[ "$(head -c 4 "$T/back/f1")" = mine ]
}

# --- a swap device ------------------------------------------------------------------------------

@test "a device moves to another server: frozen, saved, restored, byte for byte" {
	image "$T/image" 32M
	device a size=32M limit=64M lock=no
	device b size=32M limit=64M
	nbdcopy "$T/image" "$(uri a)"
	try 0 tmemctl freeze a
	try 0 tmemctl save a "$T/stream"
	try 0 tmemctl restore b "$T/stream"
	same b "$T/image"
	[ "$(nbdinfo --map "$(uri a)")" = "$(nbdinfo --map "$(uri b)")" ]
	[ "$(pool a pages)" = "$(pool b pages)" ]
	[ "$(of a frozen)" = true ]
	# Both are devices like any other from here on.
	try 0 tmemctl thaw a
	nbdcopy "$T/stream" "$(uri a)"
	head -c "$(stat -c %s "$T/stream")" /dev/zero | nbdcopy - "$(uri b)"
	same a <(cat "$T/stream" <(tail -c +$(($(stat -c %s "$T/stream") + 1)) "$T/image"))
}

@test "through a pipe, between two hosts" {
	image "$T/image" 32M
	device a size=32M limit=64M
	nbdcopy "$T/image" "$(uri a)"
	first=$TMEM_SOCKET
	export TMEM_SOCKET=$T/other.sock
	defer "kill -9 \$(TMEM_SOCKET=$T/other.sock tmemctl list --json | jq .host.pid)"
	device b size=32M limit=64M
	set -o pipefail
	tmemctl -S "$first" save --live a - | tmemctl restore b -
	same b "$T/image"
}

# moves [PARAMETER...]: from a to b to c, while fio writes and verifies; each server has these, @ in them is its name.
moves() {
	requires fio
	local plugins to
	plugins=$(pkg-config --variable=plugindir nbdkit)
	[ -e "$plugins/nbdkit-nbd-plugin.so" ] || skip "no nbdkit-nbd-plugin on this machine"
	device a size=64M "${@//@/a}"
	mkdir "$T/live"
	ln -s "$T/a.sock" "$T/live/sock"
	# Who connects here is connected again, and asked again for what was not answered.
	nbdkit -U "$T/front.sock" -P "$T/front.pid" --filter=retry nbd socket="$T/live/sock" \
		retries=60 retry-delay=1 retry-exponential=no 2>"$T/front.err" 3>&-
	defer "kill \$(cat $T/front.pid)"
	(while [ ! -e "$T/stop" ]; do
		fio --name=v --ioengine=nbd --uri="$(uri front)" --verify=crc32c --verify_fatal=1 \
			--verify_state_save=0 --verify_backlog=512 --rw=randwrite --bs=4k --size=64M \
			--iodepth=8 --randrepeat=0 --refill_buffers --buffer_compress_percentage=60 --minimal >"$T/fio.log" 2>&1 || exit 1
	done) 3>&- &
	fio=$!
	defer "touch $T/stop"
	from=a
	for to in b c; do
		retry 20 has_pages $from
		if [ $# -gt 1 ]; then retry 20 overflows $from; fi
		device $to size=64M "${@//@/$to}"
		(set -o pipefail; tmemctl save --live --hold $from - 2>>"$T/said" | tmemctl restore $to -)
		[ "$(of $from held)" = true ]
		ln -sfT "$T/$to.sock" "$T/live/sock"
		kill -9 "$(cat "$T/$from.pid")"
		retry 10 gone "$(cat "$T/$from.pid")"
		try 0 tmemctl destroy --force $from
		from=$to
	done
	touch "$T/stop"
	wait $fio || { cat "$T/fio.log"; false; }
	has_pages c
	[ "$(grep -c 'changes waited' "$T/said")" = 2 ]
}
overflows() { [ "$(pool "$1" fallback_pages)" -gt 1000 ]; }

@test "a device moves while its client writes: fio notices nothing" { moves limit=128M; }

@test "a device moves with most of it on its fallback while its client writes: fio notices nothing" {
	moves limit=8M fallback="$T/@.disk"
	overflows c
	[ "$(pool c corrupt)" = 0 ]
}

@test "a save that is read slowly fails no write of a device that is nearly full" {
	local n=0
	for i in 0 1; do openssl enc -aes-128-ctr -nosalt -pass pass:$i </dev/zero 2>/dev/null | head -c 10M >"$T/noise$i"; done
	device a size=10M limit=16M
	for i in 0 1 0; do nbdcopy "$T/noise$i" "$(uri a)"; done
	{ tmemctl save --live a - 2>"$T/save.err" 3>&- || touch "$T/gave-way"; } |
		while [ "$(head -c 400000 | wc -c)" -gt 0 ]; do
			n=$((n + 1))
			[ $n -gt 50 ] || nbdcopy "$T/noise$((n % 2))" "$(uri a)" || touch "$T/failed"
			echo $n >"$T/rounds"
		done
	[ ! -e "$T/failed" ]
	[ "$(cat "$T/rounds")" -gt 20 ]
	[ ! -e "$T/gave-way" ] || grep -E 'its memory is full|change faster' "$T/save.err"
	[ "$(pool a puts_rejected)" = 0 ]
	try 0 tmemctl save --live a "$T/stream"
	nbdcopy "$T/noise0" "$(uri a)"
	same a "$T/noise0"
}

@test "held changes wait until the client is thawed, and reads do not" {
	image "$T/image" 16M
	device a size=16M limit=64M
	nbdcopy "$T/image" "$(uri a)"
	try 0 tmemctl save --live --hold a "$T/stream"
	try 0 tmemctl list
	contains held
	same a "$T/image"
	fails 'changes wait' tmemctl restore a "$T/stream"
	nbdcopy "$T/stream" "$(uri a)" 3>&- &
	writer=$!
	try 0 tmemctl save --live a "$T/again" # as often as wanted
	device b size=16M limit=64M
	try 0 tmemctl restore b "$T/again"
	same b "$T/image"
	kill -0 $writer
	try 0 tmemctl thaw a
	wait $writer
	not same a "$T/image"
}

@test "a device with pages on its fallback moves: to one with another fallback, with none, and back" {
	image "$T/image" 32M
	device a size=32M limit=2M fallback="$T/fa" # encrypted, and written to by write-back
	nbdcopy "$T/image" "$(uri a)"
	[ "$(pool a fallback_pages)" -gt 1000 ] # a third does not compress, nor fits the rest
	device b size=32M limit=64M
	try 0 tmemctl save --live a "$T/stream"
	[ "$(stat -c %a "$T/stream")" = 600 ]
	try 0 tmemctl restore b "$T/stream"
	same b "$T/image"
	[ "$(pool b fallback_pages)" = 0 ]
	[ "$(nbdinfo --map "$(uri a)")" = "$(nbdinfo --map "$(uri b)")" ]
	same a "$T/image"
	device c size=32M limit=2M fallback="$T/fc" encrypt=no
	try 0 tmemctl save --live b "$T/again"
	try 0 tmemctl restore c "$T/again"
	same c "$T/image"
	[ "$(pool c fallback_pages)" -gt 1000 ]
	# Without room in memory for what its fallback has no room for either: nothing.
	device d size=32M limit=4M
	fails 'no room' tmemctl restore d "$T/stream"
	[ "$(pool d pages)" = 0 ]
	# What was restored outlives its server, in both places.
	kill -9 "$(cat "$T/c.pid")"
	retry 10 gone "$(cat "$T/c.pid")"
	rm -f "$T/c.sock"
	device c size=32M limit=2M fallback="$T/fc" encrypt=no
	same c "$T/image"
	# And can be written to.
	nbdcopy "$T/stream" "$(uri c)"
	head -c "$(stat -c %s "$T/stream")" <(nbdcopy "$(uri c)" -) | cmp - "$T/stream"
}

@test "held changes of pages on a fallback wait as well" {
	image "$T/image" 16M
	device a size=16M limit=2M fallback="$T/fa" lock=no
	nbdcopy "$T/image" "$(uri a)"
	try 0 tmemctl save --live --hold a "$T/stream"
	same a "$T/image"
	nbdcopy "$T/stream" "$(uri a)" 3>&- &
	writer=$!
	try 0 tmemctl save a "$T/again" # as often as wanted
	device b size=16M limit=64M
	try 0 tmemctl restore b "$T/again"
	same b "$T/image"
	kill -0 $writer
	same a "$T/image"
	try 0 tmemctl thaw a
	wait $writer
	not same a "$T/image"
	# Destroyed while it is held: whoever waits gets an answer.
	try 0 tmemctl save --live --hold a "$T/stream"
	nbdcopy "$T/image" "$(uri a)" 3>&- 2>"$T/writer.err" &
	writer=$!
	try 0 tmemctl destroy --force a
	retry 10 gone $writer
}

@test "a damaged page on the fallback: the device is not saved, and goes on" {
	image "$T/image" 16M
	device a size=16M limit=64M fallback="$T/fa" writeback=off
	device b size=16M limit=64M
	nbdcopy "$T/image" "$(uri a)"
	page=$((5 * 256 + 10)) # of the noise
	printf '\xa5\x5a' | dd of="$T/fa" bs=1 seek=$(((page + 1) * 4096 + 100)) conv=notrunc status=none
	fails 'cannot be read, or is damaged' tmemctl save --live --hold a "$T/stream"
	[ ! -e "$T/stream" ]
	nbdcopy "$T/image" "$(uri a)"
	try 0 tmemctl save --live a "$T/stream"
	try 0 tmemctl restore b "$T/stream"
	same b "$T/image"
}

@test "what was restored outlives its server" {
	image "$T/image" 16M
	device a size=16M limit=64M
	device b size=16M limit=64M
	nbdcopy "$T/image" "$(uri a)"
	tmemctl save --live a - | tmemctl restore b -
	kill -9 "$(cat "$T/b.pid")"
	retry 10 gone "$(cat "$T/b.pid")"
	rm -f "$T/b.sock"
	fails 'orphan' tmemctl save --live b "$T/stream"
	device b size=16M limit=64M
	same b "$T/image"
}

# --- what goes wrong ----------------------------------------------------------------------------

# a device with something on it, its stream, and an empty one
pair() {
	image "$T/image" 16M
	device a size=16M limit=64M
	device b "${@:-size=16M}" limit=64M
	nbdcopy "$T/image" "$(uri a)"
	tmemctl save --live a "$T/stream"
}

# untouched: b is empty, and has no more than it had.
untouched() {
	[ "$(pool b pages)" = 0 ] && [ "$(pool b used_bytes)" -le "$((4 << 20))" ] &&
		[ "$(nbdinfo --map --totals "$(uri b)" | awk '{ print $NF }')" = "hole,zero" ]
}

@test "cut, damaged, foreign or newer streams change nothing" {
	pair
	local size
	size=$(stat -c %s "$T/stream")
	fails 'nothing that tmemctl save wrote' tmemctl restore b /dev/null
	fails 'nothing that tmemctl save wrote' tmemctl restore b "$T/image"
	for at in 1 15 16 100 500 $((size / 2)) $((size - 1)); do
		head -c "$at" "$T/stream" >"$T/cut"
		fails 'ends too early' tmemctl restore b "$T/cut"
	done
	for at in 17 40 400 $((size / 3)) $((size - 2)); do
		cp "$T/stream" "$T/bad"
		printf '\xa5' | dd of="$T/bad" bs=1 seek="$at" conv=notrunc status=none
		try 1 tmemctl restore b "$T/bad"
		one_line
	done
	cp "$T/stream" "$T/bad"
	printf '\x63' | dd of="$T/bad" bs=1 seek=8 conv=notrunc status=none
	fails 'another version' tmemctl restore b "$T/bad"
	cat "$T/stream" "$T/stream" >"$T/twice"
	fails 'damaged' tmemctl restore b "$T/twice"
	untouched
	try 0 tmemctl restore b "$T/stream"
	same b "$T/image"
	fails 'not empty' tmemctl restore b "$T/stream"
	same b "$T/image"
}

@test "a device of another size, another kind of client, too little room" {
	pair size=32M
	fails 'a device of 16777216 bytes was saved, this one has 33554432' tmemctl restore b "$T/stream"
	untouched
	device small size=16M limit=4M
	fails 'no room' tmemctl restore small "$T/stream"
	[ "$(pool small pages)" = 0 ]
	if [ "$(id -u)" -eq 0 ] && [ -c /dev/fuse ]; then
		mkdir "$T/back" "$T/mnt"
		mnt
		defer "umount -l $T/mnt"
		fails 'a client of type nbd was saved' tmemctl restore cache "$T/stream"
		try 0 tmemctl save cache "$T/other"
		umount "$T/mnt"
		retry 10 clients_are 3
		tmemfs -o name=cache,limit=64M,order=0 "$T/back" "$T/mnt" 3>&-
		retry 10 joined cache
		fails 'pages of 16 KiB' tmemctl restore cache "$T/other"
	fi
}

@test "what cannot be read or written: one line, and no half of a file" {
	pair
	before=$(of a used_bytes)
	fails 'No space left' tmemctl save --live a /dev/full
	fails 'No such file' tmemctl save --live a "$T/none/file"
	fails 'No such file' tmemctl restore b "$T/none"
	fails 'Is a directory' tmemctl restore b "$T"
	fails 'Is a directory' tmemctl save --live a "$T"
	if [ "$(id -u)" -eq 0 ]; then
		mkdir "$T/disk"
		mount -t tmpfs -o size=1m tmpfs "$T/disk"
		defer "umount $T/disk"
		fails 'No space left' tmemctl save --live a "$T/disk/stream"
		[ -z "$(ls "$T/disk")" ]
	fi
	bash -c "tmemctl save --live a - | head -c 100000 >/dev/null; exit \${PIPESTATUS[0]}" 2>"$T/err" && false
	grep -q 'Broken pipe' "$T/err"
	[ "$(wc -l <"$T/err")" = 1 ]
	try 4 tmemctl save nobody "$T/x"
	try 4 tmemctl restore nobody "$T/stream"
	try 2 tmemctl save a
	try 2 tmemctl restore --live a "$T/stream"
	[ ! -e "$T/x" ]
	try 1 tmemctl save a "$T/x" # nbdkit's memory is locked: the machine may swap to it
	contains 'saved live'
	untouched
	same a "$T/image"
	[ "$(of a used_bytes)" -le "$((before + (4 << 20)))" ]
}

# A reader that takes a little and then nothing.
slow_reader() {
	mkfifo "$T/fifo"
	(exec 8<"$T/fifo"; head -c 1 <&8 >/dev/null; touch "$T/begun"; exec sleep 100) 3>&- &
	defer "kill $!"
}

@test "a client that is killed in the middle, on either side" {
	pair
	slow_reader
	tmemctl save --live a "$T/fifo" >"$T/out" 2>&1 3>&- &
	saver=$!
	retry 10 test -e "$T/begun"
	fails 'is being saved or restored' tmemctl save --live a "$T/x"
	[ ! -e "$T/x" ]
	kill -9 "$(cat "$T/a.pid")"
	not wait $saver
	grep -q "has ended" "$T/out"
	mkfifo "$T/in"
	(exec 8>"$T/in"; head -c 2000000 "$T/stream" >&8; touch "$T/half"; exec sleep 100) 3>&- &
	feeder=$!
	defer "kill $feeder"
	tmemctl restore b "$T/in" >"$T/out" 2>&1 3>&- &
	restorer=$!
	retry 10 test -e "$T/half"
	kill -9 "$(cat "$T/b.pid")"
	not wait $restorer
	grep -q "has ended" "$T/out"
	rm -f "$T/b.sock"
	device b size=16M limit=64M
	untouched
	try 0 tmemctl restore b "$T/stream"
	same b "$T/image"
}

@test "tmemctl or the host killed in the middle: the client goes on, and can be saved again" {
	pair
	slow_reader
	tmemctl save --live --hold a "$T/fifo" >"$T/out" 2>&1 3>&- &
	saver=$!
	retry 10 test -e "$T/begun"
	kill -9 $saver
	retry 10 tmemctl save --live a "$T/again"
	try 0 tmemctl restore b "$T/again"
	same b "$T/image"
	[ "$(of a held)" = false ]
	rm -f "$T/begun" "$T/fifo"
	slow_reader
	tmemctl save --live a "$T/fifo" >"$T/out" 2>&1 3>&- &
	saver=$!
	retry 10 test -e "$T/begun"
	kill -9 "$(host_pid)"
	not wait $saver
	grep -q 'tmemd has gone away' "$T/out"
	retry 20 joined a
	retry 10 tmemctl save --live a "$T/again"
	device c size=16M limit=64M
	try 0 tmemctl restore c "$T/again"
	same c "$T/image"
	nbdcopy "$T/image" "$(uri a)" # nothing waits
}

@test "help and completion know both" {
	try 0 tmemctl help save
	contains '--hold'
	try 0 tmemctl restore --help
	contains 'nothing'
	device a size=16M limit=64M
	[ "$(tmemctl --complete save | sort | xargs)" = "--hold --live a" ]
	[ -z "$(tmemctl --complete restore a)" ]
}
