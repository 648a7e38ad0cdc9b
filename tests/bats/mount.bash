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

# fault NAME VALUE: see bench/slowfs.c.
fault() { setfattr -n "user.slowfs.$1" -v "$2" "$T/slow"; }

# hung_readers N: so many processes wait for different parts of $MNT/hung.
hung_readers() {
	python3 - "$MNT/hung" "$1" "$T/reading" <<-'PY' 3>&- &
		import os, sys, threading, time
		path, count, reading = sys.argv[1], int(sys.argv[2]), sys.argv[3]
		fds = [os.open(path, os.O_RDONLY) for i in range(count)]
		open(reading, "w").close()
		while not os.path.exists(reading + ".go"): time.sleep(0.01)
		threads = [threading.Thread(target=os.pread, args=(fds[i], 4096, i << 20)) for i in range(count)]
		for t in threads: t.start()
		open(reading + ".all", "w").close()
		for t in threads: t.join()
	PY
	HUNG=$!
	defer "fault hang ''"
	retry 10 test -e "$T/reading"
	fault hang /hung
	touch "$T/reading.go"
	retry 10 test -e "$T/reading.all"
}

# waits_for_fuse PID...: each of them has asked for something and has no answer.
waits_for_fuse() {
	local pid
	for pid; do grep -qs request_wait_answer "/proc/$pid/stack" || return 1; done
}

# others_go_on: while $MNT/hung hangs, what is in $MNT/d can be read and written.
others_go_on() {
	hung_readers 60
	timeout 60 diff -r "$T/back/d" "$MNT/d"
	echo new >"$MNT/d/new"
	timeout 60 cat "$MNT/d/new"
	kill -0 "$HUNG"
	fault hang ""
	wait "$HUNG"
	cmp "$MNT/hung" "$T/back/hung"
}
