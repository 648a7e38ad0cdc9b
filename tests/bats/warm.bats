#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# warm.bats - tmemctl warm, pin, unpin and pinned: files are in tmem that nobody has read

load helpers
load mount

# serve [OPTION...]: tmemfs over $BACK with a host of its own.
serve() {
	export TMEM_TMEMD=$B/tmemd
	tmemfs -o name=cache,allow_other "$@" "$BACK" "$MNT" 3>&-
	defer 'kill "$(head -n 1 "$TMEM_SOCKET.lock")"'
	defer "umount -l '$MNT'"
	retry 10 joined
}
joined() { [ "$(tmemctl list --json | jq '.clients | length')" = 1 ]; }

# of KEY: a counter of the mount.
of() { tmemctl list --json | jq ".clients[0].pools[0].$1"; }
at_least() { [ "$(of "$1")" -ge "$2" ] || { echo "$1 is $(of "$1")"; return 1; }; }

# some DIR: 40 files of 100 KB, and one of 3 MB.
some() {
	mkdir -p "$1/deep/er"
	for i in $(seq 40); do seq "$i" 100000 | head -c 100000 >"$1/deep/f$i"; done
	seq 1000000 | head -c 3000000 >"$1/deep/er/long"
	: >"$1/empty"
	ln -s deep/f1 "$1/link"
	mkfifo "$1/fifo"
}

# reads_nothing COMMAND...: none of the backing's bytes are read.
reads_nothing() {
	local before
	before=$(of backing_reads)
	"$@"
	[ "$(of backing_reads)" = "$before" ]
}

@test "warm: what nobody has read is read from the cache" {
	some "$BACK/a"
	some "$BACK/b"
	serve
	try 0 tmemctl warm "$MNT/a"
	contains 'warmed 42 files: 6.68M read, 6.68M of 6.68M are cached'
	at_least warmed 460
	reads_nothing cat "$MNT"/a/deep/f* "$MNT/a/deep/er/long" | cmp - <(cat "$BACK"/a/deep/f* "$BACK/a/deep/er/long")
	# A second time there is nothing to do; single files, and several.
	reads_nothing try 0 tmemctl warm "$MNT/a" "$MNT/a/deep/f1"
	contains ': 0 read'
	try 0 tmemctl warm --json "$MNT/b/deep/er/long" "$MNT/b/deep/f1"
	jq -e '.files == 2 and .read_bytes == 3100000 and .cached_bytes == 3100000 and .end == "done"' <<<"$output"
	reads_nothing cmp "$MNT/b/deep/er/long" "$BACK/b/deep/er/long"
}

@test "warm takes no memory of the kernel's above, and next to none below" {
	head -c 20M /dev/urandom >"$BACK/f"
	sync "$BACK/f"
	resident() { fincore -nbo res "$1" | tr -d ' '; }
	drop_caches
	serve
	try 0 tmemctl warm "$MNT/f"
	[ "$(resident "$MNT/f")" -eq 0 ]
	# What its read-ahead brought behind a piece that had been let go of already.
	[ "$(resident "$BACK/f")" -lt 5000000 ]
}

@test "warm: more than there is room for, and it says so" {
	head -c 80M /dev/urandom >"$BACK/f"
	mkdir "$BACK/few"
	head -c 2M /dev/urandom >"$BACK/few/g"
	serve -o limit=16M
	try 1 tmemctl warm --json "$MNT/f"
	# It did not go through all of it, and knows how much of it is there.
	jq -e '.end == "full" and .total_bytes == 83886080 and .read_bytes < 60000000 and
		.cached_bytes < 16777216 and .cached_bytes > 4194304' <<<"$output"
	try 1 tmemctl warm "$MNT/f"
	contains 'the cache is full'
	# What comes now finds room.
	[ "$(tmemctl warm --json "$MNT/few" | jq .cached_bytes)" -gt 1000000 ]
	cmp "$MNT/f" "$BACK/f"
}

@test "warm: no room at all, nothing to be kept, files that changed just now" {
	some "$BACK/a"
	serve -o exclude=f1,maxfile=2M
	try 0 tmemctl warm --json "$MNT/a"
	jq -e '.excluded_bytes == 3100000 and .cached_bytes == 3900000' <<<"$output"
	tmemctl freeze
	mkdir "$BACK/b"
	for i in $(seq 80); do head -c 100000 /dev/urandom >"$BACK/b/$i"; done
	try 1 tmemctl warm "$MNT/b"
	contains 'the host gives no more memory'
	contains ', 0 of '
	tmemctl thaw
	# This one's stamp is as young as can be.
	echo young >"$MNT/b/1" && try 0 tmemctl warm "$MNT/b/1"
	contains '6 of 6 are cached'
}

@test "warm: what is no mount of tmemfs, what may not be read, what is not there" {
	some "$BACK/a"
	chmod -R a+rX "$BACK"
	chmod 700 "$BACK/a/deep/er"
	chmod 755 "$T" "$BATS_TEST_TMPDIR" "$BATS_TEST_TMPDIR"/.. "$BATS_RUN_TMPDIR" "$MNT"
	serve
	try 1 tmemctl warm "$BACK/a"
	contains 'not in a mount of tmemfs'
	try 1 tmemctl pin /dev/null
	contains 'not in a mount of tmemfs'
	try 1 tmemctl pinned /proc
	try 1 tmemctl warm "$MNT/nothing"
	contains 'No such file'
	try 2 tmemctl warm
	requires setpriv
	# Others may warm what they may read, and pin nothing.
	try 1 setpriv --reuid 65534 --clear-groups "$B/tmemctl" warm "$MNT/a"
	contains "$MNT/a/deep/er: Permission denied"
	contains 'warmed 41 files'
	try 1 setpriv --reuid 65534 --clear-groups "$B/tmemctl" pin "$MNT/a/deep/f1"
	contains 'Operation not permitted'
	try 1 setpriv --reuid 65534 --clear-groups "$B/tmemctl" unpin "$MNT"
	try 1 setpriv --reuid 65534 --clear-groups "$B/tmemctl" pinned "$MNT"
}

@test "warm: interrupted, it says what it did" {
	head -c 20M /dev/urandom >"$T/f"
	mkdir "$T/deep"
	mv "$T/f" "$T/deep"
	slow "$T/deep" delay_us=300000
	serve
	tmemctl warm "$MNT/f" >"$T/said" 2>&1 3>&- &
	retry 20 at_least warmed 1
	kill -INT $! || kill -TERM $!
	not wait $!
	grep -q 'stopped: interrupted' "$T/said"
	grep -q 'warmed 1 files' "$T/said"
}

@test "warm without a host, and in a shared pool" {
	some "$BACK/a"
	mnt
	try 0 tmemctl warm "$MNT/a"
	umount "$MNT"
	"$B/tmemd" 3>&-
	defer 'kill "$(head -n 1 "$TMEM_SOCKET.lock")"'
	tmemctl shared-auth add 6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b10 root
	tmemfs -o share=6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b10 "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
	retry 10 joined
	try 0 tmemctl warm "$MNT/a"
	contains '6.68M of 6.68M are cached'
	try 0 tmemctl pin "$MNT/a"
	contains '6.68M of 6.68M are cached'
	cmp "$MNT/a/deep/er/long" "$BACK/a/deep/er/long"
}

# --- pins -------------------------------------------------------------------------------------

# cached PATH: so many bytes of a pinned file were there when it was last looked at.
cached() { tmemctl pinned --json "$MNT" | jq --arg p "$1" '.files[] | select(.path == $p) | .cached_bytes'; }
is_cached() { [ "$(cached "$1")" = "$2" ] || { echo "$1: $(cached "$1")"; return 1; }; }
pinned() { tmemctl pinned --json "$MNT" | jq '.files | length'; }
are_pinned() { [ "$(pinned)" = "$1" ]; }

@test "pin: what is given up comes back, what others read does not take its place" {
	some "$BACK/a"
	head -c 40M /dev/urandom >"$BACK/ballast"
	serve -o limit=24M
	try 0 tmemctl pin "$MNT/a"
	contains 'pinned 42 files: 6.68M read, 6.68M of 6.68M are cached'
	retry 20 is_cached a/deep/er/long 3000000
	tmemctl flush 100M
	[ "$(of pages)" -lt 400 ]
	retry 20 at_least pins_missed 400
	retry 20 is_cached a/deep/er/long 3000000
	# Reading goes on: now and then all is there.
	(while cat "$MNT/ballast" >/dev/null; do :; done) 3>&- &
	defer "kill $!; wait $!"
	all_there() { [ "$(tmemctl warm --json "$MNT/a/deep/er/long" | jq .read_bytes)" = 0 ]; }
	retry 60 all_there
	cmp "$MNT/a/deep/er/long" "$BACK/a/deep/er/long"
}

@test "pin: a file that is changed, grows, is replaced, is removed" {
	some "$BACK/a"
	serve
	try 0 tmemctl pin "$MNT/a"
	[ "$(pinned)" -eq 42 ]
	echo changed >>"$BACK/a/deep/f1"                         # by others
	head -c 50000 /dev/urandom >>"$MNT/a/deep/f2"            # by us
	echo other >"$BACK/new" && mv "$BACK/new" "$BACK/a/deep/f3" # another file takes the name
	echo other >"$MNT/new" && mv "$MNT/new" "$MNT/a/deep/f4"
	mv "$MNT/a/deep/f5" "$MNT/moved"
	rm "$BACK/a/deep/f6" "$MNT/a/deep/f7"
	rm "$BACK/a/deep/f8" && mkdir "$BACK/a/deep/f8"
	retry 30 are_pinned 39
	retry 30 is_cached a/deep/f1 100008
	retry 30 is_cached a/deep/f2 150000
	retry 30 is_cached a/deep/f3 6
	retry 30 is_cached a/deep/f4 6
	retry 30 is_cached moved 100000
	reads_nothing cat "$MNT"/a/deep/f[1-4] "$MNT/moved" >/dev/null
	cmp "$MNT/a/deep/f2" "$BACK/a/deep/f2"
	try 0 tmemctl unpin "$MNT/moved" "$MNT/a/deep/er"
	[ "$(pinned)" -eq 37 ]
	try 0 tmemctl unpin "$MNT"
	[ "$(pinned)" -eq 0 ]
	[ "$(of pinned_bytes)" -eq 0 ]
}

@test "pin: its limit, and what is counted" {
	some "$BACK/a"
	serve -o pins=1M,exclude=f1
	try 1 tmemctl pin "$MNT/a/deep"
	contains 'no more can be pinned'
	[ "$(of pinned_bytes)" -le 1048576 ]
	try 0 tmemctl unpin "$MNT/a/deep"
	[ "$(of pinned_bytes)" -eq 0 ]
	try 0 tmemctl pin "$MNT/a/deep/f2" "$MNT/a/deep/f2" "$MNT/a/empty"
	[ "$(of pinned_bytes)" -eq $((7 * 16384 + 16384)) ]
	try 0 tmemctl pinned "$MNT/a"
	contains 'a/deep/f2'
	contains '2 files, 128K of at most 1.00M'
	# Excluded: nothing to keep.
	try 0 tmemctl pin "$MNT/a/deep/f1"
	contains '97.7K excluded'
	[ "$(pinned)" -eq 2 ]
}

@test "pinned files end with the mount, whatever is under way, and hold nothing of the backing" {
	some "$BACK/a"
	serve
	tmemctl pin "$MNT/a"
	exec 7<"$MNT/a/deep/er/long"
	umount -l "$MNT"
	exec 7<&-
	gone() { not pgrep -f "tmemfs .* $BACK $MNT"; }
	retry 10 gone
	not mounted "$MNT"
}
