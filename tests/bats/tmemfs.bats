#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemfs: the mount shows what is below it, byte for byte, whatever is done to either.

load helpers
load mount

# tree DIR: fill it with one of everything.
tree() {
	mkdir -p "$1/dir/deep/deeper" "$1/with space" "$1/$(printf 'odd\nname\t\001')"
	echo hello >"$1/hello"
	: >"$1/empty"
	head -c 1 /dev/urandom >"$1/one"
	head -c 4095 /dev/urandom >"$1/4095"
	head -c 4097 /dev/urandom >"$1/dir/4097"
	head -c 16384 /dev/urandom >"$1/dir/16384"
	head -c 16385 /dev/zero >"$1/dir/zeros"
	head -c 20000000 /dev/urandom >"$1/big"
	seq 1000000 >"$1/dir/deep/numbers"
	truncate -s 100M "$1/sparse"
	printf middle | dd of="$1/sparse" bs=1 seek=50000000 conv=notrunc status=none
	ln "$1/hello" "$1/dir/hard"
	ln -s ../hello "$1/dir/soft"
	ln -s /nowhere/at/all "$1/broken"
	mkfifo "$1/fifo"
	cp -r /usr/include/linux "$1/linux"
	touch "$1/$(printf 'n%.0s' $(seq 255))" "$1/-rf" "$1/ümläut" "$1/back\\slash,comma"
	chmod 4755 "$1/one"
	chmod 1777 "$1/dir"
	# Stamps this young are not trusted yet.
	find "$1" -exec touch -h -d '2020-02-02 02:02:02.02' {} +
}

# sums DIR: names, kinds, modes, owners, sizes, times, link targets, contents.
sums() (
	cd "$1"
	find . -printf '%p %y %m %U:%G %s %n %T@ %l\n' | sort
	find . -type f -print0 | sort -z | xargs -0 sha256sum
)

same_tree() { # A B
	diff <(sums "$1") <(sums "$2")
}

# --- the whole tree ---------------------------------------------------------------------------

@test "a tree is the same through the mount, cold and warm" {
	tree "$BACK"
	mnt
	same_tree "$BACK" "$MNT"
	drop_caches
	same_tree "$BACK" "$MNT"
	drop_caches
	same_tree "$BACK" "$MNT"
}

@test "a tree is the same at every page order" {
	tree "$BACK"
	local order
	for order in 0 1 3 4; do
		tmemfs -S none -o order=$order "$BACK" "$MNT" 3>&-
		defer "umount -l '$MNT'"
		same_tree "$BACK" "$MNT"
		drop_caches
		same_tree "$BACK" "$MNT"
		umount "$MNT"
	done
}

@test "a limit of a few MiB evicts all the time and stays right" {
	mkdir "$BACK/a"
	cp -r /usr/include "$BACK/a"
	head -c 30000000 /dev/urandom >"$BACK/big"
	mnt -o limit=4M
	local i
	for i in 1 2 3; do
		diff -r --no-dereference "$BACK" "$MNT"
		drop_caches
	done
}

@test "a warm read does not touch the backing" {
	tree "$BACK"
	slow "$BACK"
	mnt
	sums "$MNT" >"$T/first"
	[ "$(slow_reads)" -gt 0 ]
	# The last puts may still be under way, or were dropped: read until everything is there.
	retry 20 warm_reads_nothing sums "$MNT"
	warm_reads_nothing sums "$MNT"
	sums "$MNT" | diff "$T/first" -
}

@test "a read of part of a file is answered from the pages of another" {
	head -c 3000000 /dev/urandom >"$BACK/f"
	touch -d 2020-02-02 "$BACK/f"
	slow "$BACK"
	mnt
	cat "$MNT/f" >"$T/whole"
	retry 20 warm_reads_nothing cat "$MNT/f"
	part() { dd if="$MNT/f" bs=1 skip=$1 count=$2 status=none | cmp - <(tail -c +$(($1 + 1)) "$T/whole" | head -c $2); }
	all_parts() { part 0 1 && part 4095 2 && part 16383 5000 && part 1234567 4321 && part 2999990 100; }
	warm_reads_nothing all_parts
}

@test "MOUNTPOINT may be BACKING itself, and what is written lands below" {
	tree "$BACK"
	sums "$BACK" >"$T/before"
	tmemfs -S none "$BACK" "$BACK" 3>&-
	defer "umount -l '$BACK'"
	sums "$BACK" | diff "$T/before" -
	echo new >"$BACK/new"
	umount "$BACK"
	[ "$(cat "$BACK/new")" = new ]
}

@test "MOUNTPOINT below BACKING does not lead into itself" {
	mkdir "$BACK/mnt"
	echo x >"$BACK/x"
	tmemfs -S none "$BACK" "$BACK/mnt" 3>&-
	defer "umount -l '$BACK/mnt'"
	[ "$(cat "$BACK/mnt/x")" = x ]
	try 1 stat "$BACK/mnt/mnt"
}

@test "a mount point that is not empty is hidden while mounted" {
	echo below >"$MNT/below"
	echo x >"$BACK/x"
	mnt
	[ "$(ls "$MNT")" = x ]
	umount "$MNT"
	[ "$(ls "$MNT")" = below ]
}

# --- changes through the mount ----------------------------------------------------------------

@test "write, append, overwrite, truncate, rename and unlink reach the backing and later reads" {
	mnt
	echo one >"$MNT/f"
	[ "$(cat "$BACK/f")" = one ]
	echo two >>"$MNT/f"
	[ "$(cat "$MNT/f")" = "$(printf 'one\ntwo')" ]
	head -c 200000 /dev/urandom >"$MNT/g"
	cat "$MNT/g" >/dev/null
	printf XYZ | dd of="$MNT/g" bs=1 seek=70000 conv=notrunc status=none
	cmp "$MNT/g" "$BACK/g"
	[ "$(dd if="$MNT/g" bs=1 skip=70000 count=3 status=none)" = XYZ ]
	truncate -s 100000 "$MNT/g"
	truncate -s 150000 "$MNT/g"
	drop_caches
	cmp "$MNT/g" "$BACK/g"
	[ "$(tail -c 50000 "$MNT/g" | tr -d '\0' | wc -c)" -eq 0 ]
	mv "$MNT/g" "$MNT/f"
	cmp "$MNT/f" "$BACK/f"
	[ ! -e "$BACK/g" ]
	rm "$MNT/f"
	[ ! -e "$BACK/f" ]
	mkdir "$MNT/d"
	rmdir "$MNT/d"
	[ ! -e "$BACK/d" ]
}

@test "cached pages of a file do not outlive a write, a truncation or a hole" {
	seq 300000 >"$BACK/f"
	cp "$BACK/f" "$T/copy"
	touch -d 2020-02-02 "$BACK/f"
	mnt
	cat "$MNT/f" >/dev/null
	local f
	for f in "$MNT/f" "$T/copy"; do
		printf changed | dd of="$f" bs=1 seek=300000 conv=notrunc status=none
		fallocate -p -o 500000 -l 100000 "$f"
		truncate -s 1500000 "$f"
		truncate -s 1900000 "$f"
	done
	cmp "$MNT/f" "$T/copy"
	drop_caches
	cmp "$MNT/f" "$T/copy"
	drop_caches
	cmp "$MNT/f" "$T/copy"
	cmp "$BACK/f" "$T/copy"
}

@test "what mmap writes is in the backing and in later reads" {
	seq 100000 >"$BACK/f"
	mnt
	cat "$MNT/f" >/dev/null
	python3 - "$MNT/f" <<-'PY'
		import mmap, sys
		with open(sys.argv[1], "r+b") as f:
		    m = mmap.mmap(f.fileno(), 0)
		    m[20000:20005] = b"mmap!"
		    m.flush()
	PY
	[ "$(dd if="$BACK/f" bs=1 skip=20000 count=5 status=none)" = "mmap!" ]
	drop_caches
	cmp "$MNT/f" "$BACK/f"
}

@test "mmap writes through a descriptor that appends change pages in place" {
	head -c 100000 /dev/zero >"$BACK/f"
	mnt
	python3 - "$MNT/f" <<-'PY'
		import mmap, os, sys
		fd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)
		m = mmap.mmap(fd, 100000)
		m[5:8] = b"abc"
		m.flush()
		os.write(fd, b"tail")
	PY
	[ "$(stat -c %s "$BACK/f")" -eq 100004 ]
	[ "$(tr -d '\0' <"$BACK/f")" = abctail ]
	cmp "$MNT/f" "$BACK/f"
}

@test "two that append lose nothing, and nor does a third below" {
	mnt
	appender() { # FILE LETTER
		python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for i in range(2000): os.write(fd, b"%s%05d\n" % (sys.argv[2].encode(), i))' "$1" "$2"
	}
	appender "$MNT/log" a & appender "$MNT/log" b & appender "$BACK/log" c &
	wait
	[ "$(wc -l <"$BACK/log")" -eq 6000 ]
	[ "$(sort -u "$BACK/log" | wc -l)" -eq 6000 ]
	cmp "$MNT/log" "$BACK/log"
}

@test "hard links, symbolic links, times, owners, modes" {
	mnt
	echo x >"$MNT/a"
	ln "$MNT/a" "$MNT/b"
	[ "$(stat -c %h "$MNT/a")" -eq 2 ]
	[ "$(stat -c %i "$MNT/a")" -eq "$(stat -c %i "$BACK/b")" ]
	echo y >>"$MNT/a"
	cmp "$MNT/a" "$MNT/b"
	ln -s a "$MNT/s"
	[ "$(readlink "$BACK/s")" = a ]
	cmp "$MNT/s" "$MNT/a"
	ln -P "$MNT/s" "$MNT/s2"
	[ "$(readlink "$MNT/s2")" = a ]
	touch -d '2001-02-03 04:05:06.789' "$MNT/a"
	[ "$(stat -c %y "$MNT/a")" = "$(stat -c %y "$BACK/a")" ]
	touch -h -d '2001-02-03' "$MNT/s"
	[ "$(stat -c %Y "$MNT/s")" = "$(stat -c %Y "$BACK/s")" ]
	chown 12:34 "$MNT/a"
	chown -h 56:78 "$MNT/s"
	chmod 6751 "$MNT/a"
	[ "$(stat -c %u:%g:%a "$BACK/a")" = 12:34:6751 ]
	[ "$(stat -c %u:%g "$BACK/s")" = 56:78 ]
}

@test "rename flags: no replacing, exchange" {
	mnt
	echo a >"$MNT/a"
	echo b >"$MNT/b"
	mkdir "$MNT/d"
	renameat2() { python3 -c 'import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
r = libc.renameat2(-100, os.fsencode(sys.argv[1]), -100, os.fsencode(sys.argv[2]), int(sys.argv[3]))
sys.exit(ctypes.get_errno() if r else 0)' "$@"; }
	try 17 renameat2 "$MNT/a" "$MNT/b" 1
	try 0 renameat2 "$MNT/a" "$MNT/d" 2
	[ "$(cat "$MNT/d")" = a ]
	[ -d "$MNT/a" ] && [ -d "$BACK/a" ]
	echo in >"$MNT/a/in"
	[ "$(cat "$BACK/a/in")" = in ]
}

@test "extended attributes and ACLs" {
	requires setfattr setfacl
	mnt -o allow_other
	echo x >"$MNT/f"
	setfattr -n user.colour -v blue "$MNT/f"
	[ "$(getfattr --only-values -n user.colour "$BACK/f")" = blue ]
	getfattr -d "$MNT/f" | grep -q colour
	setfattr -x user.colour "$MNT/f"
	try 1 getfattr -n user.colour "$MNT/f"
	ln -s f "$MNT/s"
	setfattr -h -n trusted.of -v link "$MNT/s"
	[ "$(getfattr -h --only-values -n trusted.of "$BACK/s")" = link ]
	chmod 600 "$MNT/f"
	setfacl -m u:12345:r "$MNT/f"
	[ "$(getfacl -c "$MNT/f")" = "$(getfacl -c "$BACK/f")" ]
	chmod 711 "$T" "$BATS_TEST_TMPDIR"
	mkdir "$MNT/d"
	setfacl -d -m u:12345:rwx "$MNT/d"
	(umask 077 && echo x >"$MNT/d/made")
	getfacl -c "$BACK/d/made" | grep -q user:12345
}

@test "what others make belongs to them, and the kernel keeps them out of the rest" {
	requires setpriv
	mnt -o allow_other
	chmod 755 "$MNT"
	mkdir -m 1777 "$MNT/tmp"
	mkdir -m 2777 "$MNT/shared"
	chgrp 777 "$MNT/shared"
	echo secret >"$MNT/secret"
	chmod 600 "$MNT/secret"
	as() { (cd "$MNT" && setpriv --reuid=12345 --regid=54321 --groups=54321,999 "$@"); }
	as sh -c 'umask 027; echo x >tmp/f; mkdir tmp/d shared/d; ln -s x tmp/s; mkfifo tmp/p'
	[ "$(stat -c %u:%g:%a "$BACK/tmp/f")" = 12345:54321:640 ]
	[ "$(stat -c %u:%g:%a "$BACK/tmp/d")" = 12345:54321:750 ]
	[ "$(stat -c %u:%g:%a "$BACK/shared/d")" = 12345:777:2750 ]
	[ "$(stat -c %u:%g "$BACK/tmp/s")" = 12345:54321 ]
	try 1 as cat secret
	try 1 as touch nope
	echo mine >"$MNT/tmp/root"
	try 1 as rm -f tmp/root
}

@test "an unlinked file and a removed directory live as long as they are open" {
	mnt
	seq 100000 >"$MNT/f"
	seq 100000 >"$T/copy"
	exec 7<>"$MNT/f"
	rm "$MNT/f"
	cmp /proc/self/fd/7 "$T/copy"
	drop_caches
	cmp /proc/self/fd/7 "$T/copy"
	printf X >&7
	[ "$(stat -L -c %s-%h /proc/self/fd/7)" = "588895-0" ]
	exec 7>&-
	mkdir "$MNT/d"
	cd "$MNT/d"
	rmdir "$MNT/d"
	drop_caches
	stat . >/dev/null
	cd /
}

@test "the same where the backing hides what is unlinked while open" {
	slow "$BACK"
	mnt
	seq 1000 >"$MNT/f"
	exec 7<>"$MNT/f"
	rm "$MNT/f"
	drop_caches
	stat -L /proc/self/fd/7 >/dev/null
	seq 1000 | cmp - <(cat <&7)
	printf X >&7
	exec 7>&-
	[ -z "$(ls "$MNT")" ]
}

@test "sparse files: holes stay holes, seek finds data" {
	mnt
	truncate -s 1T "$MNT/huge"
	printf data | dd of="$MNT/huge" bs=1 seek=500000000000 conv=notrunc status=none
	[ "$(stat -c %b "$BACK/huge")" -lt 100 ]
	[ "$(dd if="$MNT/huge" bs=1 skip=500000000000 count=4 status=none)" = data ]
	python3 - "$MNT/huge" <<-'PY'
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDONLY)
		at = os.lseek(fd, 0, os.SEEK_DATA)
		assert 499999990000 < at <= 500000000000, at
		assert os.lseek(fd, at, os.SEEK_HOLE) > at
	PY
	head -c 1M /dev/urandom >"$MNT/a"
	cp --reflink=auto "$MNT/a" "$MNT/b"
	cmp "$MNT/b" "$BACK/a"
}

@test "O_DIRECT beside buffered access" {
	head -c 1000000 /dev/urandom >"$BACK/f"
	mnt
	dd if="$MNT/f" bs=64k iflag=direct status=none | cmp - "$BACK/f"
	cat "$MNT/f" >/dev/null
	head -c 65536 /dev/urandom >"$T/block"
	dd if="$T/block" of="$MNT/f" bs=64k seek=3 oflag=direct conv=notrunc status=none
	dd if="$MNT/f" bs=64k skip=3 count=1 status=none | cmp - "$T/block"
	cmp "$MNT/f" "$BACK/f"
}

@test "flock and fcntl locks exclude" {
	requires flock
	mnt
	: >"$MNT/l"
	exec 8>"$MNT/l"
	flock -n 8
	try 1 flock -n "$MNT/l" true
	exec 8>&-
	flock -n "$MNT/l" true
	python3 - "$MNT/l" <<-'PY'
		import fcntl, os, sys
		f = open(sys.argv[1], "w"); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
		if os.fork() == 0:
		    try: fcntl.lockf(open(sys.argv[1], "w"), fcntl.LOCK_EX | fcntl.LOCK_NB)
		    except BlockingIOError: os._exit(0)
		    os._exit(1)
		sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
	PY
}

@test "25,000 inodes are walked, twice, with the descriptors there are" {
	python3 - "$BACK" <<-'PY'
		import os, sys
		for d in range(250):
		    os.mkdir(f"{sys.argv[1]}/{d}")
		    for f in range(100): open(f"{sys.argv[1]}/{d}/{f}", "w").write(f"{d} {f}")
	PY
	mnt
	[ "$(find "$MNT" -type f -size -20c | wc -l)" -eq 25000 ]
	local pid fds
	pid=$(pgrep -f "tmemfs -S none $BACK $MNT")
	fds=$(ls "/proc/$pid/fd" | wc -l)
	[ "$fds" -lt 5000 ]
	diff -r "$BACK" "$MNT"
	rm -rf "$MNT"/1*
	[ "$(find "$MNT" -type f | wc -l)" -eq "$(find "$BACK" -type f | wc -l)" ]
}

@test "the same on a backing whose handles cannot be opened" {
	python3 - "$BACK" <<-'PY'
		import os, sys
		for d in range(60):
		    os.mkdir(f"{sys.argv[1]}/{d}")
		    for f in range(100): open(f"{sys.argv[1]}/{d}/{f}", "w").write(f"{d} {f}")
	PY
	slow "$BACK"
	mnt
	diff -r "$T/back" "$MNT"
	mkdir "$MNT/new"
	mv "$MNT/1" "$MNT/new/one"
	drop_caches
	diff -r "$T/back" "$MNT"
	[ "$(cat "$MNT/new/one/7")" = "1 7" ]
}

@test "git clone, commit, fsck and a build on the mount" {
	requires git gcc make
	mnt
	git init -q "$T/origin"
	mkdir "$T/origin/src"
	local i
	for i in $(seq 40); do echo "int f$i(void) { return $i; }" >"$T/origin/src/f$i.c"; done
	echo 'int main(void) { return 0; }' >"$T/origin/src/main.c"
	printf 'prog: $(patsubst %%.c,%%.o,$(wildcard src/*.c))\n\t$(CC) -o $@ $^\n' >"$T/origin/Makefile"
	git -C "$T/origin" add .
	git -C "$T/origin" -c user.name=t -c user.email=t commit -qm one
	git clone -q "$T/origin" "$MNT/clone"
	make -s -j4 -C "$MNT/clone"
	"$MNT/clone/prog"
	git -C "$MNT/clone" add -A
	git -C "$MNT/clone" -c user.name=t -c user.email=t commit -qm two
	git -C "$MNT/clone" gc -q
	drop_caches
	git -C "$MNT/clone" fsck --strict
	[ -z "$(git -C "$MNT/clone" status --porcelain)" ]
	rm -rf "$MNT/clone"
	[ -z "$(ls "$BACK")" ]
}

@test "exclude and maxfile: what they name is read from the backing each time" {
	mkdir -p "$BACK/cache/sub" "$BACK/keep"
	local f
	for f in cache/sub/a keep/a keep/b.iso keep/big; do seq 3000 >"$BACK/$f"; done
	seq 100000 >"$BACK/keep/big"
	find "$BACK" -exec touch -d 2020-02-02 {} +
	slow "$BACK"
	mnt -o exclude=*.iso,exclude=cache,maxfile=100k
	retry 20 warm_reads_nothing cat "$MNT/keep/a"
	for f in cache/sub/a keep/b.iso keep/big; do
		cmp "$MNT/$f" "$T/back/$f"
		not warm_reads_nothing cat "$MNT/$f"
		cmp "$MNT/$f" "$T/back/$f"
	done
	# A name given through the mount counts as well.
	mv "$MNT/keep/a" "$MNT/keep/a.iso"
	not warm_reads_nothing cat "$MNT/keep/a.iso"
}

@test "dedup: copies take next to no room, and stay right as the first one goes" {
	mkdir "$BACK/a"
	cp -r /usr/include/linux "$BACK/a"
	cp -r "$BACK/a" "$BACK/b"
	find "$BACK" -exec touch -h -d 2020-02-02 {} +
	hosted -o dedup
	local pages
	cat_all() { find "$MNT/$1" -type f -exec cat {} + | cmp - <(find "$BACK/$1" -type f -exec cat {} +); }
	# Found in the cache, so it was there to be equal to.
	retry 20 eval "drop_caches; cat_all a; this_pool '| select(.hits > 500)'"
	pages=$(this_pool .pages)
	retry 20 eval "drop_caches; cat_all b; this_pool '| select(.pages > 1.8 * $pages and .deduped > 0.9 * .pages / 2)'"
	drop_caches
	cat_all b
	# The originals go.
	find "$MNT/a" -type f -exec sh -c 'echo more >>"$1"' - {} \;
	drop_caches
	cat_all a
	cat_all b
	rm -r "$MNT/a"
	drop_caches
	cat_all b
	try 2 tmemfs -o dedup,share=c9e1a2f0-0000-4000-8000-000000000001 "$BACK" "$MNT"
	contains 'dedup is no option of a shared pool'
}

@test "recompress: on unless told otherwise, changed while mounted" {
	hosted
	retry 5 eval "tmemctl list --json | jq -e '.clients[0].recompress == true'"
	tmemctl set "$MNT" recompress=off
	tmemctl list --json | jq -e '.clients[0].recompress == false'
	tmemctl list --json | jq -e '.clients[0].pools[0] | .packed == 0 and .unpacked == 0'
	umount "$MNT"
	tmemfs -o recompress=off "$BACK" "$MNT" 3>&-
	retry 5 eval "tmemctl list --json | jq -e '.clients[0].recompress == false'"
	try 2 tmemfs -o recompress=yes "$BACK" "$MNT"
	contains 'bad value in option'
	try 2 tmemfs -o recompress=on,share=c9e1a2f0-0000-4000-8000-000000000001 "$BACK" "$MNT"
	contains 'recompress is no option of a shared pool'
}

@test "a write costs the backing one operation; capabilities are seen as they are" {
	: >"$BACK/f"
	slow "$BACK" delay_us=0
	mnt
	exec 7>"$MNT/f"
	echo first >&7
	setfattr -n user.slowfs.reset -v 1 "$T/slow"
	for _ in {1..50}; do echo again >&7; done
	[ "$(getfattr --only-values -n user.slowfs.ops "$T/slow" 2>/dev/null)" -le 60 ]
	try 1 getfattr -n security.capability "$MNT/f"
	setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 "$MNT/f" # cap_net_raw+ep
	getfattr -n security.capability "$MNT/f"
	# A write takes them away, here as anywhere.
	echo more >&7
	exec 7>&-
	try 1 getfattr -n security.capability "$MNT/f"
	try 1 getfattr -n security.capability "$T/back/f"
}

# --- reading ahead ----------------------------------------------------------------------------

# far: a backing slow enough to be worth it; what is read of it is counted.
far() {
	head -c 12000000 /dev/urandom >"$BACK/f"
	touch -d 2020-02-02 "$BACK/f"
	slow "$BACK" delay_us=3000
	setfattr -n user.slowfs.reset -v 1 "$T/slow"
}

bytes_below() { getfattr --only-values -n user.slowfs.read_bytes "$T/slow" 2>/dev/null; }

# reads PATTERN COUNT LENGTH: of $MNT/f, compared with the file itself; prints how many bytes.
reads() {
	python3 - "$MNT/f" "$T/back/f" "$@" <<-'PY'
		import os, random, sys
		up, down = (os.open(p, os.O_RDONLY) for p in sys.argv[1:3])
		pattern, count, length = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
		random.seed(1)
		done = 0
		for i in range(count):
		    off = {"row": i * length, "stride": i * 5 * length, "back": (count - 1 - i) * length * 3,
		           "random": random.randrange(12000000 // 16384) * 16384}[pattern]
		    data = os.pread(up, length, off)
		    assert data == os.pread(down, length, off), (pattern, off)
		    done += len(data)
		print(done)
	PY
}

@test "what is read in a row or at a distance is read ahead: once, and right" {
	far
	local asked
	mnt
	asked=$(reads row 92 131072)
	[ "$(bytes_below)" -le $((asked + asked / 10)) ]
	umount "$MNT"
	local pattern
	for pattern in stride back; do
		setfattr -n user.slowfs.reset -v 1 "$T/slow"
		mnt
		asked=$(reads $pattern 35 65536)
		# Each piece ends in pages that were not asked for, and some lie beyond the last.
		[ "$(bytes_below)" -le $((asked * 2 + 8 * 131072)) ]
		umount "$MNT"
	done
}

@test "what is read at random is not" {
	far
	mnt
	# The first reads of a mount tell how slow the backing is.
	local asked
	asked=$(reads random 200 16384)
	[ "$(bytes_below)" -le $((asked + asked / 4)) ]
}

@test "read ahead into a cache that holds next to nothing, while others write" {
	far
	mnt -o limit=2M
	(for i in $(seq 20); do printf "%08d" "$i" | dd of="$T/slow/f" bs=8 seek=$((i * 50000)) conv=notrunc status=none; done) &
	local i
	for i in 1 2 3; do cat "$MNT/f" >/dev/null; done
	wait $!
	cmp "$MNT/f" "$T/back/f"
	truncate -s 5000001 "$T/slow/f"
	cmp "$MNT/f" "$T/back/f"
}

# --- changes below ----------------------------------------------------------------------------

@test "a change made in the backing is seen at the next open" {
	mnt
	local i
	for i in $(seq 20); do
		echo "version $i" >>"$BACK/f"
		cmp "$MNT/f" "$BACK/f"
		seq "$i" 1000 >"$BACK/g"
		cmp "$MNT/g" "$BACK/g"
		printf %05d "$i" >"$BACK/same_size"
		[ "$(cat "$MNT/same_size")" = "$(printf %05d "$i")" ]
		echo "new $i" >"$BACK/tmp"
		mv "$BACK/tmp" "$BACK/replaced"
		[ "$(cat "$MNT/replaced")" = "new $i" ]
	done
}

@test "a change that keeps size and mtime is seen" {
	seq 100000 >"$BACK/f"
	touch -d 2020-02-02 "$BACK/f"
	mnt
	cat "$MNT/f" >/dev/null
	drop_caches
	cat "$MNT/f" >/dev/null
	printf Z | dd of="$BACK/f" bs=1 seek=33333 conv=notrunc status=none
	touch -d 2020-02-02 "$BACK/f"
	cmp "$MNT/f" "$BACK/f"
}

@test "a new file with an old inode's number does not show old data" {
	renew() { # DIR PREFIX: files are made and removed there in turn
		local i
		for i in $(seq 30); do
			head -c 20000 /dev/urandom >"$1/$2$i"
			cat "$MNT/$2$i" | cmp - "$T/back/$2$i"
			rm "$1/$2$i"
		done
	}
	mnt
	renew "$T/back" a
	renew "$MNT" a
	umount "$MNT"
	# Without handles, and by names that slowfs has not cached either.
	slow "$BACK"
	mnt
	renew "$T/back" b
	renew "$MNT" c
}

@test "writers above and below, readers above: nobody reads what was never written" {
	truncate -s 1M "$BACK/f"
	mnt -o limit=4M
	python3 - "$MNT/f" "$BACK/f" <<-'PY'
		import os, random, sys, time
		up, down = sys.argv[1:]
		BLOCK = 4096
		def writer(path, who):
		    fd = os.open(path, os.O_WRONLY)
		    for n in range(1500):
		        b = random.randrange(256)
		        os.pwrite(fd, (b"%03d %s %06d " % (b, who, n)).ljust(16) * (BLOCK // 16), b * BLOCK)
		def reader():
		    for n in range(60):
		        fd = os.open(up, os.O_RDONLY)
		        for b in range(256):
		            d = os.pread(fd, BLOCK, b * BLOCK)
		            assert len(d) == BLOCK
		            words = {d[i:i + 16] for i in range(0, BLOCK, 16)}
		            assert all(w == bytes(16) or w[:3] == b"%03d" % b for w in words), (b, words)
		        os.close(fd)
		kids = []
		for job in (lambda: writer(up, b"u"), lambda: writer(down, b"d"), reader, reader):
		    pid = os.fork()
		    if pid == 0:
		        try: job()
		        except BaseException as e: print(e); os._exit(1)
		        os._exit(0)
		    kids.append(pid)
		assert all(os.waitpid(k, 0)[1] == 0 for k in kids)
	PY
	cmp "$MNT/f" "$BACK/f"
}

@test "an open never shows what was replaced before it, by whomever" {
	mnt -o limit=8M
	python3 - "$MNT" "$BACK" "$T/lock" <<-'PY'
		import fcntl, mmap, os, random, struct, sys
		up, down, lock = sys.argv[1:]
		FILES, BLOCK = 4, 4096
		latest = mmap.mmap(-1, BLOCK) # shared: the version of each file that is in place
		for f in range(FILES): open(f"{down}/{f}", "wb").write(b"%016d" % 0 * 4096)
		def writer(where, seed):
		    random.seed(seed)
		    with open(lock, "w") as l:
		        for n in range(1500):
		            f = random.randrange(FILES)
		            fcntl.flock(l, fcntl.LOCK_EX)
		            version, = struct.unpack_from("Q", latest, 8 * f)
		            fd = os.open(f"{where}/{f}", os.O_RDWR)
		            os.pwrite(fd, b"%016d" % (version + 1) * 256, 9 * BLOCK)
		            os.close(fd)
		            struct.pack_into("Q", latest, 8 * f, version + 1)
		            fcntl.flock(l, fcntl.LOCK_UN)
		def reader(seed):
		    random.seed(seed)
		    for n in range(6000):
		        f = random.randrange(FILES)
		        version, = struct.unpack_from("Q", latest, 8 * f)
		        fd = os.open(f"{up}/{f}", os.O_RDONLY)
		        seen = int(os.pread(fd, 16, 9 * BLOCK))
		        os.pread(fd, 65536, 0)
		        os.close(fd)
		        assert seen >= version, (f, version, seen)
		kids = []
		for job in (lambda: writer(up, 1), lambda: writer(down, 2), lambda: reader(3), lambda: reader(4)):
		    pid = os.fork()
		    if pid == 0:
		        try: job()
		        except BaseException as e: print(e); os._exit(1)
		        os._exit(0)
		    kids.append(pid)
		assert all(os.waitpid(k, 0)[1] == 0 for k in kids)
	PY
	diff -r "$MNT" "$BACK"
}

# --- with a host ------------------------------------------------------------------------------

host_pid() { tmemctl list --json | jq -e .host.pid; }
this_pool() { tmemctl list --json | jq -e ".clients[0].pools[0]$1"; }

# hosted [OPTION...]: as mnt, with a tmemd of its own, started on demand.
hosted() {
	requires jq
	# Whichever host is there at the end: a killed one is started again.
	defer 'kill "$(host_pid)"'
	tmemfs "$@" "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
	retry 5 this_pool ""
}

@test "the host is started on demand and sees what the mount does" {
	seq 500000 >"$BACK/f"
	touch -d 2020-02-02 "$BACK/f"
	hosted
	cat "$MNT/f" >/dev/null
	retry 5 this_pool "| select(.puts > 0 and .backing_reads > 0 and .pages > 0)"
	retry 20 eval "drop_caches; cat '$MNT/f' >/dev/null; this_pool '| select(.hits > 0)'"
	[ "$(this_pool .type)" = '"ephemeral"' ]
	umount "$MNT"
	retry 5 eval '[ "$(tmemctl list --json | jq ".clients | length")" -eq 0 ]'
}

@test "frozen, destroyed or killed off: the mount goes on" {
	tree "$BACK"
	hosted
	same_tree "$BACK" "$MNT"
	tmemctl freeze
	drop_caches
	same_tree "$BACK" "$MNT"
	tmemctl thaw
	tmemctl destroy "$MNT" || tmemctl destroy --force "$MNT"
	drop_caches
	same_tree "$BACK" "$MNT"
	echo new >"$MNT/new"
	[ "$(cat "$BACK/new")" = new ]
	kill -9 "$(host_pid)"
	drop_caches
	same_tree "$BACK" "$MNT"
}

# --- mounting ---------------------------------------------------------------------------------

@test "ready when it returns; df and mount show where it comes from; umount ends it" {
	echo x >"$BACK/x"
	mnt
	[ "$(cat "$MNT/x")" = x ]
	[ "$(findmnt -n -o SOURCE,FSTYPE -M "$MNT" | tr -s ' ')" = "$BACK fuse.tmemfs" ]
	df "$MNT" | grep -q "$BACK"
	local pid
	pid=$(pgrep -f "tmemfs -S none $BACK $MNT")
	umount "$MNT"
	retry 5 eval "! kill -0 $pid || [ \$(ps -o stat= -p $pid) = Z ]"
}

@test "relative paths, odd paths, no_subtype" {
	mkdir "$T/odd, dir\\"
	echo x >"$T/odd, dir\\/x"
	cd "$T"
	tmemfs -S none -o no_subtype "odd, dir\\" mnt 3>&-
	defer "umount -l '$MNT'"
	cd /
	[ "$(cat "$MNT/x")" = x ]
	[ "$(findmnt -n -o FSTYPE -M "$MNT")" = fuse ]
}

@test "fsname is what mount and df show, and what umount takes" {
	tmemfs -S none -o "fsname=somewhere:/else" "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
	[ "$(findmnt -n -o SOURCE -M "$MNT")" = somewhere:/else ]
	[ "$(df --output=source "$MNT" | tail -1)" = somewhere:/else ]
	umount somewhere:/else
	not mounted "$MNT"
}

@test "mount -o remount" {
	echo x >"$BACK/x"
	mnt
	tmemfs -o remount,ro,nosuid,limit=1G,user_id=0 "$BACK" "$MNT"
	try 1 touch "$MNT/y"
	contains "Read-only file system"
	findmnt -n -o OPTIONS -M "$MNT" | grep -qw ro
	exec 5<"$MNT/x"
	tmemfs -o rw,remount "$BACK" "$MNT"
	touch "$MNT/y"
	exec 5>>"$MNT/y"
	try 1 tmemfs -o remount,ro "$BACK" "$MNT"
	[ "$output" = "tmemfs: cannot remount $MNT: Device or resource busy" ]
	exec 5>&-
	try 1 tmemfs -o remount,ro "$BACK" "$BACK"
	contains "cannot remount"
}

@test "SIGTERM and SIGINT unmount and exit 0" {
	local sig pid
	for sig in TERM INT; do
		# A shell's background job ignores SIGINT; ours is started as a terminal would.
		python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])' \
			tmemfs -f -S none "$BACK" "$MNT" 3>&- &
		pid=$!
		defer "umount -l '$MNT'"
		retry 5 mounted "$MNT"
		ls "$MNT" >/dev/null
		kill -$sig $pid
		wait $pid
		not mounted "$MNT"
	done
}

@test "--recover takes a mount away whose server was killed, and no other" {
	echo x >"$BACK/x"
	tmemfs -f -S none "$BACK" "$MNT" 3>&- &
	local pid=$!
	defer "umount -l '$MNT'"
	retry 5 mounted "$MNT"
	try 0 tmemfs --recover "$MNT"
	[ "$(cat "$MNT/x")" = x ]
	kill -9 $pid
	wait $pid || true
	try 1 cat "$MNT/x"
	try 0 tmemfs --recover "$MNT"
	not mounted "$MNT"
	try 0 tmemfs --recover "$MNT"
	mnt
	[ "$(cat "$MNT/x")" = x ]
	try 1 tmemfs --recover "$T/nowhere"
	one_line
	try 2 tmemfs --recover
	try 2 tmemfs --recover "$MNT" "$MNT"
}

@test "-o ro refuses to write" {
	echo x >"$BACK/x"
	mnt -o ro
	[ "$(cat "$MNT/x")" = x ]
	try 1 touch "$MNT/x"
	contains "Read-only file system"
	[ "$(cat "$BACK/x")" = x ]
}

@test "what mount(8) and fstab pass" {
	echo x >"$BACK/x"
	mnt -o rw,user,nofail,noauto,_netdev,dev,suid,exec,defaults,x-systemd.automount,relatime
	[ "$(cat "$MNT/x")" = x ]
	umount "$MNT"
	# As mount.fuse.tmemfs, which is a link to the program.
	ln -s "$B/tmemfs" "$T/mount.fuse.tmemfs"
	"$T/mount.fuse.tmemfs" "$BACK" "$MNT" -n -v -o rw,socket=none,limit=8M,noauto -t fuse.tmemfs 3>&-
	[ "$(cat "$MNT/x")" = x ]
	umount "$MNT"
	"$T/mount.fuse.tmemfs" "$BACK" "$MNT" -f -o socket=none 3>&-
	not mounted "$MNT"
}

@test "mount -t fuse.tmemfs" {
	[ -x /sbin/mount.fuse ] || [ -x /sbin/mount.fuse3 ] || skip "no mount.fuse"
	echo x >"$BACK/x"
	mount -t "fuse.$B/tmemfs" "$BACK" "$MNT" -o socket=none,ro,allow_other,nofail,limit=8M 3>&-
	defer "umount -l '$MNT'"
	[ "$(cat "$MNT/x")" = x ]
	findmnt -n -o OPTIONS -M "$MNT" | grep -q '^ro,'
}

# --- bad input --------------------------------------------------------------------------------

@test "usage errors: one line, exit 2" {
	local args
	for args in "-o frobnicate $BACK $MNT" "-o limit=12Q $BACK $MNT" "-o limit=1 $BACK $MNT" \
		"-o limit $BACK $MNT" "-o order=5 $BACK $MNT" "-o order=-1 $BACK $MNT" "-o order= $BACK $MNT" \
		"-o attr_timeout=soon $BACK $MNT" "-o ro=1 $BACK $MNT" "-x $BACK $MNT" "--frob $BACK $MNT" \
		"$BACK" "" "$BACK $MNT extra" "$BACK $MNT -o"; do
		# shellcheck disable=SC2086
		try 2 tmemfs $args
		one_line
		contains "try --help"
	done
	not mounted "$MNT"
}

@test "what is missing or no directory: one line, exit 1" {
	: >"$T/file"
	local args
	for args in "$T/nowhere $MNT" "$BACK $T/nowhere" "$T/file $MNT" "$BACK $T/file"; do
		# shellcheck disable=SC2086
		try 1 tmemfs -S none $args
		one_line
	done
	try 1 tmemfs -S none "$T/nowhere" "$MNT"
	contains "$T/nowhere: No such file or directory"
}

@test "--help and --version" {
	try 0 tmemfs --help
	contains "Usage: tmemfs"
	contains "limit=SIZE"
	try 0 tmemfs --version
	[[ ${lines[0]} =~ ^tmemfs\ [0-9.]+,\ libfuse\ [0-9.]+$ ]]
}

@test "a backing that vanishes gives errors, and the mount stays up" {
	mkdir "$T/slow"
	echo x >"$BACK/x"
	"$B/bench/slowfs" -f -o delay_us=0 "$BACK" "$T/slow" 3>&- &
	local pid=$!
	defer "umount -l '$T/slow'"
	retry 5 mounted "$T/slow"
	BACK=$T/slow
	mnt -o attr_timeout=0,entry_timeout=0
	[ "$(cat "$MNT/x")" = x ]
	kill -9 $pid
	wait $pid || true
	drop_caches
	try 1 timeout 10 cat "$MNT/x"
	mounted "$MNT"
	try 1 timeout 10 stat "$MNT/y"
	mounted "$MNT"
	umount "$MNT"
}

# --- what only some passthroughs have ----------------------------------------------------------

@test "lsattr and chattr: flags and generation are the backing's" {
	requires lsattr chattr
	echo x >"$BACK/f"
	mkdir "$BACK/d"
	chattr +d "$BACK/f" || skip "a backing without flags"
	chmod 666 "$BACK/f"
	chmod 755 "$T" "$BATS_TEST_TMPDIR" "$BATS_TEST_TMPDIR"/.. "$BATS_RUN_TMPDIR" "$BACK"
	mnt -o allow_other
	flags() { (cd "$1" && lsattr -vd f d); }
	diff <(flags "$MNT") <(flags "$BACK")
	chattr +A "$MNT/f" "$MNT/d"
	chattr -d "$MNT/f"
	diff <(flags "$MNT") <(flags "$BACK")
	flags "$MNT" | grep -q 'A.* f$'
	chattr +i "$MNT/f"
	not eval "echo y >>'$MNT/f'"
	chattr -i "$MNT/f"
	echo y >>"$MNT/f"
	# Who may write to a file may not for that set its flags; its owner may set some.
	not setpriv --reuid 65534 --clear-groups chattr +A "$MNT/d"
	not setpriv --reuid 65534 --clear-groups chattr -A "$MNT/f"
	chown 65534 "$MNT/f"
	setpriv --reuid 65534 --clear-groups chattr -A "$MNT/f"
	not setpriv --reuid 65534 --clear-groups chattr +i "$MNT/f"
	diff <(flags "$MNT") <(flags "$BACK")
	# What else there is, is nobody's.
	python3 - "$MNT/f" <<-'PY'
		import errno, fcntl, os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		for cmd in (0x5401, 0xc0045877, 0x40046602 ^ 0x70, 0x8004f5ff):
		    try:
		        fcntl.ioctl(fd, cmd, bytes(64))
		        raise SystemExit(f"{cmd:x} did something")
		    except OSError as e:
		        assert e.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL), (hex(cmd), e)
	PY
}

@test "a file without a name, and then with one" {
	mnt
	python3 - "$MNT" "$BACK" <<-'PY'
		import os, sys
		mnt, back = sys.argv[1], sys.argv[2]
		fds = [os.open(mnt, os.O_TMPFILE | os.O_RDWR, 0o640) for i in range(20)]
		assert os.listdir(back) == []
		data = [os.urandom(10000 + i) for i in range(20)]
		for fd, d in zip(fds, data):
		    os.pwrite(fd, d, 0)
		    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
		for fd, d in zip(fds, data):
		    assert os.pread(fd, 20000, 0) == d and os.fstat(fd).st_nlink == 0
		top = os.open(mnt, os.O_RDONLY) # makes it linkat(), which follows
		os.link(f"/proc/self/fd/{fds[3]}", "named", dst_dir_fd=top, follow_symlinks=True)
		assert os.fstat(fds[3]).st_nlink == 1 and os.listdir(back) == ["named"]
		for fd in fds: os.close(fd)
		assert open(mnt + "/named", "rb").read() == open(back + "/named", "rb").read() == data[3]
		assert os.stat(mnt + "/named").st_mode & 0o777 == 0o640
		os.unlink(mnt + "/named")
		excl = os.open(mnt, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
		try:
		    os.link(f"/proc/self/fd/{excl}", "never", dst_dir_fd=top, follow_symlinks=True)
		    raise SystemExit("linked")
		except FileNotFoundError:
		    pass
	PY
}

@test "--version lists what is used of FUSE" {
	try 0 tmemfs --version
	local feature
	for feature in max_threads clone_fd async_dio tmpfile splice parallel_direct_writes passthrough io_uring; do
		contains "  $feature "
	done
}
