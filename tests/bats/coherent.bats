#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemfs: who sees what when. docs/tmemfs.md states it; each sentence there has a test here.

load helpers
load mount

# old FILE...: stamps that are not too young to be trusted.
old() { find "$@" -exec touch -h -d '2020-02-02 02:02:02.02' {} + && aged "$@"; }

# few DIR: some files of each kind that metadata is about.
few() {
	mkdir -p "$1/d/e"
	local i
	for i in $(seq 20); do echo "file $i" >"$1/d/f$i"; done
	ln -s f1 "$1/d/link"
	ln "$1/d/f1" "$1/d/e/hard"
	setfattr -n user.colour -v blue "$1/d/f2"
	old "$1"
}

# walk DIR: everything that reading programs ask.
walk() {
	find "$1" -printf '%P %y %s %T@ %l\n' | sort
	find "$1" -type f -exec cat {} + | sort
	(cd "$1" && getfattr -R -d .)
	ls -A "$1/d" | sort
	[ ! -e "$1/d/absent" ]
}

# --- what is asked ----------------------------------------------------------------------------

@test "consistency=ttl: the second walk asks the backing nothing, whatever the kernel has dropped" {
	few "$BACK"
	rm "$BACK/d/e/hard" # one place an inode is remembered
	slow "$BACK"
	mnt -o consistency=ttl=600
	walk "$MNT" >"$T/first"
	retry 20 eval "drop_caches; asks_little walk '$MNT'"
	drop_caches
	walk "$MNT" | diff "$T/first" -
	walk "$T/back" | diff "$T/first" -
}

@test "consistency=ttl: what was young when it was first seen is remembered, too" {
	few "$BACK"
	slow "$BACK"
	mnt -o consistency=ttl=600
	echo young >"$T/back/d/e/new"
	walk "$MNT" >"$T/first"
	retry 20 eval "drop_caches; asks_little walk '$MNT'"
	walk "$MNT" | diff "$T/first" -
}

@test "consistency=immutable: the same, and no change below is ever looked for" {
	few "$BACK"
	rm "$BACK/d/e/hard"
	slow "$BACK"
	mnt -o consistency=immutable
	retry 20 eval "drop_caches; asks_little walk '$MNT'"
	walk "$MNT" >"$T/first"
	echo changed >>"$T/back/d/f3"
	rm "$T/back/d/f4"
	drop_caches
	walk "$MNT" | diff "$T/first" -
}

@test "consistency=open: opening a cached file asks once" {
	few "$BACK"
	slow "$BACK"
	mnt -o actimeo=600
	cat_all() { cat "$MNT"/d/f*; }
	retry 20 warm_reads_nothing cat_all
	local before
	before=$(slow_ops)
	cat_all >/dev/null
	# One directory and 20 files.
	[ "$(($(slow_ops) - before))" -le 22 ]
	[ "$(($(slow_ops) - before))" -ge 20 ]
}

@test "inodes=0 and inodes=3: less is remembered, and nothing is wrong" {
	few "$BACK"
	local n
	for n in 0 3; do
		tmemfs -S none -o consistency=ttl=600,inodes=$n "$BACK" "$MNT" 3>&-
		defer "umount -l '$MNT'"
		walk "$MNT" >"$T/first"
		drop_caches
		walk "$MNT" | diff "$T/first" -
		umount "$MNT"
	done
}

# --- changes below ----------------------------------------------------------------------------

@test "consistency=open: the next open sees a change, cached attributes or not" {
	few "$BACK"
	mnt -o actimeo=600
	walk "$MNT" >/dev/null
	local i
	for i in $(seq 5); do
		echo "longer $i$i" >>"$BACK/d/f5"
		cmp "$MNT/d/f5" "$BACK/d/f5"
		[ "$(stat -c %s "$MNT/d/f5")" -eq "$(stat -c %s "$BACK/d/f5")" ]
		echo "new $i" >"$T/new" && mv "$T/new" "$BACK/d/f6"
		cmp "$MNT/d/f6" "$BACK/d/f6"
	done
	touch "$BACK/d/new"
	ls "$MNT/d" | diff - <(ls "$BACK/d")
	rm "$BACK/d/f7"
	ls "$MNT/d" | diff - <(ls "$BACK/d")
	try 1 cat "$MNT/d/f7"
}

@test "a file that others change while it is too young to be cached has its new size at the next open" {
	mnt -o attr_timeout=60
	python3 - "$MNT/young" "$BACK/young" <<-'PY'
		import os, sys, time
		path, below = sys.argv[1:]
		for i in range(10):
		    open(below, "w").write("1" * 100)
		    fd = os.open(path, os.O_RDONLY)
		    os.pread(fd, 10, 0)
		    open(below, "a").write("2" * 100)
		    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
		    time.sleep(0.03) # a stat this old is trusted
		    os.pread(fd, 10, 0)
		    assert len(open(path).read()) == 200
		    os.close(fd)
	PY
}

@test "consistency=ttl: a change below is seen once the time is over" {
	few "$BACK"
	mnt -o consistency=ttl=2
	walk "$MNT" >/dev/null
	echo changed >>"$BACK/d/f5"
	chmod 600 "$BACK/d/f6"
	ln -sfn f2 "$BACK/d/link"
	rm "$BACK/d/f7"
	setfattr -n user.colour -v red "$BACK/d/f2"
	same() { diff <(walk "$MNT") <(walk "$BACK"); }
	retry 10 same
	[ "$(stat -c %a "$MNT/d/f6")" = 600 ]
}

@test "negative_timeout: an absent name stays absent that long; by default not at all" {
	mnt
	try 1 stat "$MNT/new"
	echo x >"$BACK/new"
	[ "$(cat "$MNT/new")" = x ]
	umount "$MNT"
	mnt -o negative_timeout=600
	try 1 stat "$MNT/later"
	echo x >"$BACK/later"
	try 1 stat "$MNT/later"
	# Our own names are not concerned.
	try 1 stat "$MNT/mine"
	echo x >"$MNT/mine"
	[ "$(cat "$MNT/mine")" = x ]
}

# --- watch ------------------------------------------------------------------------------------

# watched [OPTION...]: a mount that asks nothing again unless it hears of a change.
watched() {
	tmemfs -S none -o watch,consistency=immutable "$@" "$BACK" "$MNT" >"$T/said" 2>&1 3>&-
	defer "umount -l '$MNT'"
	[ ! -s "$T/said" ] || skip "no fanotify here: $(cat "$T/said")"
}

same_walk() { diff <(walk "$MNT") <(walk "$BACK"); }

@test "watch: what others change is seen soon, whatever is remembered" {
	few "$BACK"
	watched
	walk "$MNT" >/dev/null
	try 1 stat "$MNT/d/new"
	echo new >"$BACK/d/new"
	retry 5 same_walk
	[ "$(cat "$MNT/d/new")" = new ]
	rm "$BACK/d/f7" && retry 5 same_walk
	try 1 cat "$MNT/d/f7"
	mv "$BACK/d/f8" "$BACK/d/e/f8" && retry 5 same_walk
	mv "$BACK/d/f9" "$BACK/d/f10" && retry 5 same_walk
	echo replaced >"$BACK/tmp" && mv "$BACK/tmp" "$BACK/d/f11" && retry 5 same_walk
	ln -sfn f2 "$BACK/d/link" && retry 5 same_walk
	setfattr -n user.colour -v red "$BACK/d/f2" && retry 5 same_walk
	mkdir "$BACK/d/e/sub" && touch "$BACK/d/e/sub/file" && retry 5 same_walk
	rm -r "$BACK/d/e/sub" && retry 5 same_walk
	mv "$BACK/d/e" "$BACK/d/moved" && retry 5 same_walk
	chmod 600 "$BACK/d/f3"
	retry 5 eval '[ "$(stat -c %a "$MNT/d/f3")" = 600 ]'
	echo by another name >>"$BACK/d/moved/hard"
	retry 5 cmp "$MNT/d/f1" "$BACK/d/f1"
	# Both ways at once: our own changes are not taken for others'.
	echo ours >>"$MNT/d/f12"
	echo theirs >>"$BACK/d/f12"
	retry 5 cmp "$MNT/d/f12" "$BACK/d/f12"
	retry 5 same_walk
}

@test "watch: a change reaches a file that is open, and pages that the kernel has" {
	seq 100000 >"$BACK/f"
	old "$BACK"
	watched
	python3 - "$MNT/f" "$BACK/f" <<-'PY'
		import mmap, os, sys, time
		up, down = (os.open(p, os.O_RDWR) for p in sys.argv[1:])
		seen = mmap.mmap(up, 0, prot=mmap.PROT_READ)
		os.pread(up, 100000, 0)
		for i in range(20):
		    word = b"%08d" % i
		    os.pwrite(down, word, 50000)
		    end = time.time() + 10
		    while os.pread(up, 8, 50000) != word or seen[50000:50008] != word:
		        assert time.time() < end, "never seen"
		        time.sleep(0.002)
	PY
	cmp "$MNT/f" "$BACK/f"
}

@test "watch: more changes than the kernel queues are seen as well" {
	few "$BACK"
	watched
	walk "$MNT" >/dev/null
	local pid
	pid=$(pgrep -f "tmemfs -S none -o watch,consistency=immutable $BACK $MNT")
	kill -STOP "$pid"
	defer "kill -CONT $pid"
	retry 5 eval "grep -q '^State:.*T' /proc/$pid/status"
	python3 - "$BACK/d" <<-'PY'
		import os, sys
		for i in range(20000): os.close(os.open(f"{sys.argv[1]}/n{i}", os.O_CREAT | os.O_WRONLY))
	PY
	rm "$BACK/d/f3"
	echo changed >>"$BACK/d/f4"
	kill -CONT "$pid"
	retry 10 eval "[ ! -e '$MNT/d/f3' ]"
	retry 10 cmp "$MNT/d/f4" "$BACK/d/f4"
	retry 10 eval "[ \$(ls '$MNT/d' | wc -l) -eq \$(ls '$BACK/d' | wc -l) ]"
}

@test "watch: where it is not possible, one line says so and the mount works" {
	few "$BACK"
	slow "$BACK"
	try 0 tmemfs -S none -o watch "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
	one_line
	contains "cannot watch"
	contains "the next open"
	diff -r "$BACK" "$MNT"
}

# --- changes through the mount ----------------------------------------------------------------

@test "whatever is remembered, the mount's own changes are seen at once" {
	few "$BACK"
	mnt -o consistency=ttl=600
	walk "$MNT" >/dev/null
	cd "$MNT/d"
	echo more >>f1
	[ "$(stat -c %s e/hard)" -eq "$(stat -c %s "$BACK/d/f1")" ]
	chmod 640 f2
	setfattr -n user.colour -v green f2
	setfattr -n user.size -v big f3
	mv f4 e/f4
	mv f5 f6
	rm f7
	ln f8 also8
	ln -sfn f9 link
	mkdir e/new
	touch e/new/file
	truncate -s 3 f10
	touch -d 2001-01-01 f11
	cp f12 f13
	rm -r e/new
	mkdir e/new
	cd /
	diff <(walk "$MNT") <(walk "$BACK")
	drop_caches
	diff <(walk "$MNT") <(walk "$BACK")
	[ "$(stat -c '%a %h' "$MNT/d/f2" "$MNT/d/f8")" = "$(stat -c '%a %h' "$BACK/d/f2" "$BACK/d/f8")" ]
	try 1 stat "$MNT/d/f7"
	getfattr -n user.size "$MNT/d/f3"
}

@test "a mapping that is read while somebody writes has the new bytes once the write is done" {
	head -c 16384 /dev/zero | tr '\0' 0 >"$BACK/f"
	: >"$T/fault"
	FAULTIO=$T/fault FAULTIO_TARGET=$BACK/f LD_PRELOAD=$B/tests/faultio.so mnt -o attr_timeout=0
	python3 - "$MNT/f" "$BACK/f" "$T/fault" <<-'PY'
		import mmap, os, sys, threading, time
		path, below, fault = sys.argv[1:]
		reader, other, writer = (os.open(path, os.O_RDWR) for i in range(3))
		seen = mmap.mmap(reader, 16384, prot=mmap.PROT_READ)
		assert seen[0:1] == b"0"
		def wait(what):
		    end = time.monotonic() + 20
		    while not what():
		        assert time.monotonic() < end
		        time.sleep(0.01)
		open(fault, "w").write("pwrite=stall")
		writing = threading.Thread(target=lambda: os.pwrite(writer, b"1" * 4096, 0))
		writing.start()
		wait(lambda: os.path.exists(fault + ".waiting"))
		os.utime(below)          # the next read finds other times, and drops all pages
		os.pread(other, 1, 12288)
		seen[0:1]                # before the write: whatever
		open(fault, "w").close()
		writing.join()
		wait(lambda: seen[0:1] == b"1")
		assert open(below, "rb").read(1) == b"1"
	PY
}

@test "a file that is open from memory stays readable when its last name goes" {
	seq 100000 >"$BACK/f"
	old "$BACK"
	cp "$BACK/f" "$T/copy"
	slow "$BACK"
	mnt -o consistency=ttl=600,limit=2M
	cat "$MNT/f" >/dev/null
	retry 20 warm_reads_nothing head -c 1 "$MNT/f"
	exec 7<"$MNT/f"
	rm "$MNT/f"
	drop_caches
	cmp /proc/self/fd/7 "$T/copy"
	exec 7<&-
	retry 5 eval '[ -z "$(ls -A "$MNT")" ]' # closing is not waited for
}

@test "two mounts of one backing: what one closed, the other's next open sees" {
	few "$BACK"
	mkdir "$T/other"
	mnt
	tmemfs -S none "$BACK" "$T/other" 3>&-
	defer "umount -l '$T/other'"
	local i
	for i in $(seq 20); do
		echo "from one $i" >>"$MNT/d/f1"
		cmp "$MNT/d/f1" "$T/other/d/f1"
		echo "from other $i" >>"$T/other/d/f1"
		cmp "$MNT/d/f1" "$T/other/d/f1"
	done
	cmp "$MNT/d/f1" "$BACK/d/f1"
}

@test "usage: consistency, actimeo, inodes" {
	local bad
	for bad in consistency consistency= consistency=never consistency=ttl consistency=ttl= \
		consistency=ttl=-1 consistency=ttl=soon actimeo=x actimeo negative_timeout=-1 inodes=-1; do
		try 2 tmemfs -S none -o "$bad" "$BACK" "$MNT"
		one_line
	done
}

# --- when things break ------------------------------------------------------------------------

@test "a file that hangs keeps nobody from the others" {
	few "$BACK"
	truncate -s 100M "$BACK/hung"
	old "$BACK"
	slow "$BACK"
	mnt
	others_go_on
}

@test "whoever waits for a file that hangs can be killed" {
	few "$BACK"
	echo x >"$BACK/hung"
	old "$BACK"
	slow "$BACK"
	mnt
	cat "$MNT/hung"
	umount "$MNT"
	mnt
	defer "fault hang ''"
	fault hang /hung
	local pids=() pid
	# A look-up; then, with its name known, attributes and an open.
	cat "$MNT/hung" 3>&- & pids+=($!)
	retry 10 waits_for_fuse "${pids[@]}"
	fault hang ''
	cat "$MNT/hung"
	fault hang /hung
	cat "$MNT/hung" 3>&- & pids+=($!)
	retry 10 waits_for_fuse "${pids[1]}"
	# Once the attributes are not known any more.
	stat_hangs() { stat "$MNT/hung" 3>&- & pids+=($!); retry 1 waits_for_fuse $!; }
	until stat_hangs; do :; done
	for pid in "${pids[@]}"; do kill -9 "$pid" || true; done
	for pid in "${pids[@]}"; do retry 20 eval "! kill -0 $pid || grep -q '^State:.*Z' /proc/$pid/status"; done
	timeout 20 cat "$MNT/d/f1"
	fault hang ''
	retry 20 cmp "$MNT/hung" "$T/back/hung"
}

# killed_while_hung FILE COMMAND...: it waits for FILE, and is gone when it is killed.
killed_while_hung() {
	fault hang "$1"
	"${@:2}" 3>&- &
	retry 10 waits_for_fuse $!
	kill -9 $!
	retry 20 eval "! kill -0 $! || grep -q '^State:.*Z' /proc/$!/status"
	fault hang ''
}

@test "whoever waits for a directory that hangs can be killed" {
	few "$BACK"
	old "$BACK"
	slow "$BACK"
	mnt -o actimeo=60
	ls "$MNT/d"
	defer "fault hang ''"
	killed_while_hung /d ls "$MNT/d"
	exec 7<"$MNT/d"
	killed_while_hung /d ls /dev/fd/7/
	exec 7<&-
	[ "$(ls "$MNT/d")" = "$(ls "$T/back/d")" ]
}

@test "a backing that fails gives its error, and is back when it is" {
	few "$BACK"
	slow "$BACK" delay_us=0,attr_timeout=0
	mnt -o actimeo=0
	cat "$MNT/d/f1"
	fault error 5
	try 1 cat "$MNT/d/f1"
	contains "Input/output error"
	try 1 truncate -s 1 "$MNT/d/f2"
	contains "Input/output error"
	fault error 116
	try 1 cat "$MNT/d/f1"
	contains "Stale file handle"
	fault error 0
	[ "$(cat "$MNT/d/f1")" = "file 1" ]
	diff -r "$T/back" "$MNT"
}

@test "stale-ok: what is remembered is shown while the backing fails, and only then" {
	few "$BACK"
	rm "$BACK/d/e/hard"
	slow "$BACK" delay_us=0,attr_timeout=0
	mnt -o stale-ok,actimeo=0
	walk "$MNT" >"$T/first"
	walk "$MNT" >"$T/first"
	retry 20 warm_reads_nothing walk "$MNT"
	fault error 5
	drop_caches
	walk "$MNT" | diff "$T/first" -
	try 1 touch "$MNT/d/f1"
	try 1 cat "$MNT/d/never"
	fault error 0
	echo changed >"$T/back/d/f1"
	retry 5 cmp "$MNT/d/f1" "$T/back/d/f1"
	diff -r "$T/back" "$MNT"
}
