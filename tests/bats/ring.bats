#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemfs: requests that come by io_uring (Linux 6.14, fuse.enable_uring=1, which this suite sets while it runs)

load helpers
load mount

ENABLE=/sys/module/fuse/parameters/enable_uring

setup_file() {
	if [ "$(id -u)" -eq 0 ] && [ -w $ENABLE ]; then
		cat $ENABLE >"$BATS_FILE_TMPDIR/enabled"
		echo Y >$ENABLE
	fi
}

teardown_file() {
	[ ! -e "$BATS_FILE_TMPDIR/enabled" ] || cat "$BATS_FILE_TMPDIR/enabled" >$ENABLE
}

# ring [OPTION...]: a mount whose requests come by io_uring.
ring() {
	[ -e $ENABLE ] || skip "this kernel has no FUSE over io_uring"
	[ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" -eq 0 ] || skip "io_uring is forbidden here"
	mnt "$@"
	ls "$MNT" >/dev/null
}

server() { pgrep -f "tmemfs -S none.* $MNT\$"; }

# rings: how many io_urings the mount has
rings() { find "/proc/$(server)/fd" -lname 'anon_inode:\[io_uring\]' 2>/dev/null | wc -l; }

@test "--version says what this program can do" {
	try 0 tmemfs --version
	[[ $output =~ io_uring\ +yes ]]
	[[ $output =~ passthrough\ +(yes|no) ]]
}

@test "io_uring: used where the kernel offers it, and only if that is wanted" {
	ring
	[ "$(rings)" -gt 0 ]
	umount "$MNT"
	retry 10 not server
	mnt -o io_uring=off
	ls "$MNT"
	[ "$(rings)" -eq 0 ]
	umount "$MNT"
	retry 10 not server
	echo N >$ENABLE
	mnt
	ls "$MNT"
	[ "$(rings)" -eq 0 ]
	echo Y >$ENABLE
	try 2 tmemfs -o io_uring=perhaps "$BACK" "$MNT"
}

@test "io_uring: bytes, names and attributes of every length" {
	ring
	PATH=$PATH:$B/tests
	try 0 fileops -n 10000 -p 4 -b "$BACK" "$MNT/f"
	head -c 9M /dev/urandom >"$T/bytes"
	cp "$T/bytes" "$MNT/bytes"
	cmp "$T/bytes" "$BACK/bytes"
	cmp "$T/bytes" "$MNT/bytes"
	# In one piece with the request: short, and longer than what is copied.
	python3 - "$MNT/bytes" <<-'PY'
		import errno, os, sys
		for size in 1, 4000, 8191, 8192, 8193, 20000, 65536:
		    value = os.urandom(size)
		    try: os.setxattr(sys.argv[1], "user.x", value)
		    except OSError as e:
		        assert e.errno in (errno.ENOSPC, errno.E2BIG, errno.EOPNOTSUPP, errno.ERANGE), e
		    else: assert os.getxattr(sys.argv[1], "user.x") == value, size
	PY
	local name
	name=$(printf 'n%.0s' {1..255})
	echo "$name" >"$MNT/$name"
	[ "$(cat "$BACK/$name")" = "$name" ]
	mv "$MNT/$name" "$MNT/${name/n/m}"
	[ ! -e "$BACK/$name" ]
	ln -s "$(printf 'd/%.0s' {1..2000})" "$MNT/link"
	[ "$(readlink "$BACK/link")" = "$(readlink "$MNT/link")" ]
}

@test "io_uring: a file that hangs keeps nobody from the others" {
	mkdir "$BACK/d"
	local i
	for i in {1..50}; do echo "$i" >"$BACK/d/$i"; done
	truncate -s 100M "$BACK/hung"
	slow "$BACK"
	ring
	others_go_on
}

@test "io_uring: whoever waits can be killed, again and again, and what waited is of use again" {
	echo x >"$BACK/hung"
	echo y >"$BACK/other"
	slow "$BACK"
	ring -o threads=4
	local pids pid
	for _ in {1..5}; do
		fault hang /hung
		pids=()
		for _ in 1 2 3; do
			cat "$MNT/hung" 3>&- & pids+=($!)
		done
		retry 10 waits_for_fuse "${pids[@]}"
		kill -9 "${pids[@]}"
		for pid in "${pids[@]}"; do retry 20 eval "! kill -0 $pid || grep -q '^State:.*Z' /proc/$pid/status"; done
		timeout 20 cat "$MNT/other"
		fault hang ''
		retry 20 cmp "$MNT/hung" "$T/back/hung"
	done
}

@test "io_uring: a killed server leaves nothing that hangs" {
	head -c 20M /dev/urandom >"$BACK/f"
	ring
	(while cat "$MNT/f" >/dev/null 2>&1 && touch "$MNT/x" 2>/dev/null; do :; done) 3>&- &
	local load=$!
	retry 10 test -e "$BACK/x"
	kill -9 "$(server)"
	timeout 20 tail --pid=$load -f /dev/null
	timeout 20 tmemfs --recover "$MNT"
	ring
	cmp "$BACK/f" "$MNT/f"
}

@test "io_uring: unmounted while it is busy, it ends" {
	head -c 20M /dev/urandom >"$BACK/f"
	ring
	(while cat "$MNT/f" >/dev/null 2>&1; do :; done) 3>&- &
	local load=$! pid
	pid=$(server)
	has_read() { [ "$(awk '$1 == "rchar:" { print $2 }' "/proc/$pid/io")" -gt 20000000 ]; }
	retry 20 has_read # and goes on
	kill "$pid"
	retry 20 not kill -0 "$pid"
	kill $load 2>/dev/null || true
	wait $load || true
}
