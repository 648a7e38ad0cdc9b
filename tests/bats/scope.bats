#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# scope.bats - a file system keeps its name when its device number is another one, and never takes that of another

load helpers
load mount

test_setup() {
	[ "$(id -u)" -eq 0 ] || skip "mounting needs root"
	[ -c /dev/fuse ] || skip "no /dev/fuse"
	requires mkfs.ext4 losetup
	BACK=$T/back MNT=$T/mnt
	mkdir "$BACK" "$MNT" "$T/tree"
	defer 'kill "$(head -n 1 "$TMEM_SOCKET.lock")"'
	defer 'umount -l "$MNT"'
}

# on_loop IMAGE: mount it at $BACK, on another device than any before.
on_loop() {
	local dev
	dev=$(losetup -f --show "$1") || skip "no loop device"
	defer "losetup -d $dev; umount -l '$BACK'"
	mount "$dev" "$BACK"
}

drop_backing() {
	umount "$MNT"
	retry 5 umount "$BACK" # once the server is gone
}

serve() { tmemfs -o name=cache "$BACK" "$MNT" 3>&-; }

# stored: the number of pages that the mount has.
stored() { tmemctl list --json | jq '.clients[] | select(.name == "cache") | .pools[0].pages'; }
warmed() {
	cat "$MNT"/f* >/dev/null
	drop_caches
	[ "$(stored)" -ge "$1" ]
}

# hits: gets that found their page since the mount began.
hits() { tmemctl list --json | jq '.clients[] | select(.name == "cache") | .pools[0].hits'; }

@test "pages are found again on another device number" {
	local one two
	truncate -s 32M "$T/image"
	mkfs.ext4 -q "$T/image"
	on_loop "$T/image"
	one=$(stat -c %d "$BACK")
	for i in 1 2 3; do head -c 300000 /dev/urandom >"$BACK/f$i"; done
	serve
	retry 20 warmed 57
	tmemctl save cache "$T/stream"
	drop_backing
	on_loop "$T/image"
	two=$(stat -c %d "$BACK")
	[ "$one" != "$two" ]
	serve
	retry 10 tmemctl restore cache "$T/stream"
	[ "$(hits)" -eq 0 ]
	cat "$MNT"/f* | cmp - <(cat "$BACK"/f*)
	[ "$(hits)" -ge 57 ]
}

@test "another file system of the same uuid, inodes and times, as makers of images give them, is another" {
	local side
	for side in a b; do
		mkdir "$T/$side"
		for i in 1 2 3; do head -c 300000 /dev/urandom >"$T/$side/f$i"; done
		find "$T/$side" -exec touch -d @1600000000 {} +
		truncate -s 32M "$T/$side.image"
		E2FSPROGS_FAKE_TIME=1600000000 SOURCE_DATE_EPOCH=1600000000 mkfs.ext4 -q -O ^has_journal \
			-U 6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b10 -E hash_seed=6f1d0c1e-3e0b-4b51-9d40-3e1f2a7c5b11 \
			-d "$T/$side" "$T/$side.image"
		# Where mkfs stamps with the time of day, all times are set.
		for i in 1 2 3; do
			debugfs -w -R "sif f$i ctime @1600000000" "$T/$side.image"
			debugfs -w -R "sif f$i ctime_extra 0" "$T/$side.image"
			debugfs -w -R "sif f$i generation 0" "$T/$side.image"
		done 2>/dev/null
	done
	on_loop "$T/a.image"
	stat -c '%i %s %y %z' "$BACK"/f* >"$T/a.stat"
	serve
	retry 20 warmed 57
	tmemctl save cache "$T/stream"
	drop_backing
	on_loop "$T/b.image"
	# Nothing of all that a page is named by tells them apart.
	stat -c '%i %s %y %z' "$BACK"/f* | cmp - "$T/a.stat"
	[ "$(blkid -o value -s UUID "$T/a.image")" = "$(blkid -o value -s UUID "$T/b.image")" ]
	serve
	retry 10 tmemctl restore cache "$T/stream"
	[ "$(stored)" -ge 57 ]
	cat "$MNT"/f* | cmp - <(cat "$T"/b/f*)
	drop_caches
	cat "$MNT"/f* | cmp - <(cat "$T"/b/f*)
}

# --- file systems that number by other rules ----------------------------------------------------

# on_btrfs: a new one at $T/btrfs.image, mounted at $BACK.
on_btrfs() {
	requires mkfs.btrfs btrfs
	grep -qw btrfs /proc/filesystems || modprobe btrfs 2>/dev/null || skip "no btrfs in this kernel"
	truncate -s 256M "$T/btrfs.image"
	mkfs.btrfs -q --mixed "$T/btrfs.image"
	on_loop "$T/btrfs.image"
}

@test "btrfs: pages are found again, in a subvolume too, whatever its device number is by then" {
	on_btrfs
	btrfs subvolume create "$BACK/sub" >/dev/null
	for i in 1 2 3; do head -c 300000 /dev/urandom >"$BACK/sub/f$i"; done
	sync -f "$BACK"
	local top=$BACK
	BACK=$top/sub
	serve
	retry 20 warmed 57
	tmemctl save cache "$T/stream"
	BACK=$top
	drop_backing
	# Its number is one of those that are given out again: somebody else's now.
	truncate -s 256M "$T/other.image"
	mkfs.btrfs -q --mixed "$T/other.image"
	mkdir "$T/other"
	mount -o loop "$T/other.image" "$T/other"
	defer "umount -l '$T/other'"
	on_loop "$T/btrfs.image"
	BACK=$top/sub
	serve
	retry 10 tmemctl restore cache "$T/stream"
	[ "$(hits)" -eq 0 ]
	cat "$MNT"/f* | cmp - <(cat "$BACK"/f*)
	[ "$(hits)" -ge 57 ]
}

@test "btrfs: subvolumes and snapshots have the same inode numbers, and other files" {
	on_btrfs
	local one two
	for one in a b; do
		btrfs subvolume create "$BACK/$one" >/dev/null
		for i in 1 2 3; do head -c 300000 /dev/urandom >"$BACK/$one/f$i"; done
	done
	btrfs subvolume snapshot "$BACK/a" "$BACK/c" >/dev/null
	head -c 300000 /dev/urandom >"$BACK/c/f1"
	sync -f "$BACK"
	[ "$(stat -c %i "$BACK/a/f1")" -eq "$(stat -c %i "$BACK/b/f1")" ]
	[ "$(stat -c '%i %y %z' "$BACK/a/f2")" = "$(stat -c '%i %y %z' "$BACK/c/f2")" ]
	serve
	for two in 1 2 3; do
		for one in a b c; do cat "$MNT/$one"/f* | cmp - <(cat "$BACK/$one"/f*); done
		drop_caches
	done
	# Written through the mount, in one: seen there only.
	echo changed >"$MNT/c/f2"
	cp "$BACK/b/f1" "$T/f1"
	head -c 300000 /dev/zero >"$MNT/a/f1"
	drop_caches
	for one in a b c; do cat "$MNT/$one"/f* | cmp - <(cat "$BACK/$one"/f*); done
	cmp "$MNT/b/f1" "$T/f1"
	# As the user sees them no two are one.
	[ "$(stat -c %d:%i "$MNT"/[abc]/f1 | sort -u | wc -l)" -eq 3 ]
}

@test "btrfs: what is saved of one snapshot is not taken for another's" {
	on_btrfs
	btrfs subvolume create "$BACK/a" >/dev/null
	for i in 1 2 3; do head -c 300000 /dev/urandom >"$BACK/a/f$i"; done
	btrfs subvolume snapshot "$BACK/a" "$BACK/b" >/dev/null
	for i in 1 2 3; do
		head -c 300000 /dev/urandom >"$BACK/b/f$i"
		touch -r "$BACK/a/f$i" "$BACK/b/f$i"
	done
	sync -f "$BACK"
	local top=$BACK
	BACK=$top/a
	serve
	retry 20 warmed 57
	tmemctl save cache "$T/stream"
	BACK=$top
	umount "$MNT"
	BACK=$top/b
	serve
	retry 10 tmemctl restore cache "$T/stream"
	[ "$(stored)" -ge 57 ]
	cat "$MNT"/f* | cmp - <(cat "$BACK"/f*)
	drop_caches
	cat "$MNT"/f* | cmp - <(cat "$BACK"/f*)
}
