#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemfs: set-user-id and set-group-id bits, and capabilities, go when others change a file, as they
# do below; and the kernel does not have to ask for them before each write.

load helpers
load mount

# A group of its own, and somebody who is in none.
OWNER=54320 GROUP=54321
as() { # USER GROUP COMMAND...
	setpriv --reuid "$1" --regid "$2" --clear-groups "${@:3}"
}

# change HOW FILE, as whoever runs it
change() {
	local file=$2
	case $1 in
	write) echo x >>"$file" ;;
	overwrite) printf x | dd of="$file" conv=notrunc status=none ;;
	direct) dd if=/dev/zero of="$file" bs=4096 count=1 oflag=direct conv=notrunc status=none ;;
	truncate) truncate -s 3 "$file" ;;
	open) : >"$file" ;;
	allocate) fallocate -l 9999 "$file" ;;
	punch) fallocate -p -l 4096 "$file" ;;
	copy) # Debian's, which anybody may run
		/usr/bin/python3 -c 'import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY)
sys.exit(os.copy_file_range(source, target, 100) != 100)' "${file%/*}/other" "$file" ;;
	esac
}
export -f change

# outcomes DIR: the mode after each change of each file by somebody else, by the owner's chown and by root
outcomes() {
	local mode how file=$1/file ways='write overwrite truncate open allocate punch copy'
	[ -z "${DIRECT:-}" ] || ways+=' direct'
	for mode in 6777 4777 2777 2767 2766 6766 0777; do
		for how in $ways; do
			fresh "$file" $mode
			as 65534 65534 bash -c 'change "$@"' - $how "$file"
			echo "$mode $how: $(stat -c %a "$file")"
			fresh "$file" $mode
			setpriv --reuid 65534 --regid 65534 --groups $GROUP bash -c 'change "$@"' - $how "$file"
			echo "$mode $how by the group: $(stat -c %a "$file")"
			fresh "$file" $mode
			change $how "$file"
			echo "$mode $how by root: $(stat -c %a "$file")"
		done
		fresh "$file" $mode
		as $OWNER $OWNER chown :$OWNER "$file"
		echo "$mode given away: $(stat -c %a:%g "$file")"
		fresh "$file" $mode
		as $OWNER $GROUP chown :$GROUP "$file"
		echo "$mode kept: $(stat -c %a:%g "$file")"
		fresh "$file" $mode 0
		as $OWNER $OWNER chown :$OWNER "$file"
		echo "$mode given away from root's group: $(stat -c %a:%g "$file")"
		fresh "$file" $mode 0
		as 65534 65534 bash -c 'change "$@"' - overwrite "$file"
		echo "$mode in root's group: $(stat -c %a "$file")"
		fresh "$file" $mode
		perl -e 'chown -1, -1, $ARGV[0] or die' "$file"
		echo "$mode given to nobody by root: $(stat -c %a:%g "$file")"
		fresh "$file" $mode
		as $OWNER $OWNER perl -e 'chown -1, -1, $ARGV[0] or die' "$file"
		echo "$mode given to nobody: $(stat -c %a:%g "$file")"
		fresh "$file" $mode
		chown 1:1 "$file"
		echo "$mode given away by root: $(stat -c %a:%g "$file")"
	done
}

fresh() { # FILE MODE [GROUP]
	rm -f "$1"
	seq 3000 >"$1"
	chown "$OWNER:${3:-$GROUP}" "$1"
	chmod "$2" "$1"
}

# open_to_all: others reach the mount, whose temporary directory is root's.
open_to_all() {
	local d=$T
	while [ "$d" != / ] && [ "$d" != /tmp ]; do
		chmod go+x "$d"
		d=$(dirname "$d")
	done
	chmod 777 "$BACK"
}

@test "set-user-id and set-group-id bits go as they do below" {
	open_to_all
	seq 1000 >"$BACK/other"
	chmod 666 "$BACK/other"
	mkdir -m 777 "$BACK/plain"
	cp -p "$BACK/other" "$BACK/plain"
	mnt -o allow_other,actimeo=600
	outcomes "$BACK/plain" >"$T/below"
	outcomes "$MNT" >"$T/mount"
	diff "$T/below" "$T/mount"
	grep -q '^6777 write: 777$' "$T/mount"
	grep -q '^2766 write by the group: 2766$' "$T/mount"
	grep -q '^6777 write by root: 6777$' "$T/mount"
	grep -q '^6777 copy: 777$' "$T/mount"
}

@test "what was written to does not run as its owner, whatever the kernel has cached" {
	open_to_all
	cp "$(command -v id)" "$BACK/id"
	chown $OWNER:$GROUP "$BACK/id"
	chmod 6777 "$BACK/id"
	mnt -o allow_other,suid,actimeo=600
	[ "$(as 65534 65534 "$MNT/id" -u)" = $OWNER ]
	as 65534 65534 bash -c "echo >>'$MNT/id'"
	[ "$(as 65534 65534 "$MNT/id" -u)" = 65534 ]
	[ "$(as 65534 65534 "$MNT/id" -g)" = 65534 ]
}

@test "capabilities go with a write, and are not asked for before each" {
	requires setcap getcap
	cp "$(command -v id)" "$BACK/id"
	tmemfs -d -S none "$BACK" "$MNT" >"$T/requests" 2>&1 3>&- &
	defer "umount -l '$MNT'"
	retry 10 mounted "$MNT"
	setcap cap_net_raw+ep "$MNT/id"
	getcap "$MNT/id" | grep -q cap_net_raw
	echo >>"$MNT/id"
	[ -z "$(getcap "$MNT/id")" ]
	: >"$T/requests"
	dd if=/dev/zero of="$MNT/zeros" bs=4096 count=500 status=none
	retry 10 eval "[ \$(grep -c 'opcode: WRITE' '$T/requests') -eq 500 ]"
	[ "$(grep -c 'opcode: GETXATTR' "$T/requests")" -le 5 ]
}
