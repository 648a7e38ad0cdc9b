# SPDX-License-Identifier: GPL-2.0-or-later
#
# mount.bash - a backing ($BACK), maybe a slow one, and tmemfs over it ($MNT)

# shellcheck disable=SC2154 # B, T come from helpers.bash
test_setup() {
	[ "$(id -u)" -eq 0 ] || skip "mounting needs root"
	[ -c /dev/fuse ] || skip "no /dev/fuse"
	BACK=$T/back MNT=$T/mnt
	mkdir "$BACK" "$MNT"
}

# mounted DIR: it is a mount point now.
mounted() { findmnt -n -M "$1" >/dev/null; }

# mnt [OPTION...]: tmemfs over $BACK at $MNT, no host.
mnt() {
	tmemfs -S none "$@" "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
}

# slow SOURCE [OPTIONS]: slowfs over it at $T/slow, which becomes $BACK.
slow() {
	mkdir -p "$T/slow"
	"$B/bench/slowfs" -o "${2:-delay_us=0}" "$1" "$T/slow" 3>&-
	defer "umount -l '$T/slow'"
	BACK=$T/slow
}

slow_reads() { getfattr --only-values -n user.slowfs.reads "$T/slow" 2>/dev/null; }

drop_caches() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# warm_reads_nothing COMMAND...: once the kernel has dropped its cache, it reads nothing of slowfs.
warm_reads_nothing() {
	local before
	drop_caches
	before=$(slow_reads)
	"$@"
	[ "$(slow_reads)" -eq "$before" ]
}

# slow_ops: how often slowfs was asked anything.
slow_ops() { getfattr --only-values -n user.slowfs.ops "$T/slow" 2>/dev/null; }

# asks_little COMMAND...: it makes no operation on slowfs, but for a statfs a second.
asks_little() {
	local before=$(slow_ops) start=$SECONDS n
	"$@"
	n=$(($(slow_ops) - before))
	[ "$n" -le $((2 * (SECONDS - start + 1))) ] || {
		echo "$n operations: $*"
		return 1
	}
}
