#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# tmemfs under load: what happens on the mount is what happens on the directory below it
#
# The cache is too small for anything to stay, and attributes are asked for again and again. `make
# check-long` does more of each: $FILEOPS, $TREEOPS operations, $RACE seconds.

load helpers

test_setup() {
	[ "$(id -u)" -eq 0 ] || skip "mounting needs root"
	[ -c /dev/fuse ] || skip "no /dev/fuse"
	PATH=$PATH:$B/tests
	BACK=$T/back MNT=$T/mnt
	mkdir "$BACK" "$MNT"
	chmod 755 "$T" "$BATS_TEST_TMPDIR" # other users walk through it
}

# mnt [OPTION...]: tmemfs over $BACK at $MNT, with a host of its own.
mnt() {
	defer 'kill "$(tmemctl list --json | jq -e .host.pid)"'
	tmemfs -o allow_other,suid,dev "$@" "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
}

# counted FILTER: the mount's counters are so.
counted() {
	local all
	all=$(tmemctl list --json)
	jq -e ".clients[0].pools[0] | $1" >/dev/null <<<"$all" || { echo "not $1: $all"; return 1; }
}

# pressure: from here on, others fill the cache with what does not fit.
pressure() {
	head -c 8M /dev/urandom >"$BACK/ballast"
	(while dd if="$MNT/ballast" iflag=nocache of=/dev/null bs=1M status=none; do sleep 0.05; done) 3>&- &
	defer "kill $!; wait $!"
}

drop_caches() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# --- bytes ------------------------------------------------------------------------------------

@test "fileops on a plain directory: the exerciser itself" {
	try 0 fileops -n 10000 -p 2 -b "$BACK" "$BACK/f"
}

@test "fileops on a cache that evicts all the time" {
	mnt -o limit=2M
	pressure
	try 0 fileops -n "${FILEOPS:-40000}" -p 4 -b "$BACK" "$MNT/f"
	# It was about the cache.
	counted '.hits > 1000 and .evicted > 1000 and .flushed > 1000'
}

@test "fileops at other page orders, and with attributes that are never trusted" {
	local order
	for order in 0 4; do
		mnt -o limit=4M,order=$order,attr_timeout=0
		try 0 fileops -s $((100 + order)) -n 10000 -p 2 -b "$BACK" "$MNT/f"
		umount "$MNT"
	done
}

@test "fileops while nothing may be cached" {
	mnt
	retry 10 tmemctl freeze
	try 0 fileops -s 200 -n 10000 -p 2 -b "$BACK" "$MNT/f"
}

@test "what is appended to a file that is cached is seen" {
	echo -n begin >"$BACK/f"
	mnt
	exec 7<>"$MNT/f"
	settled() { cat "$MNT/f" >/dev/null; drop_caches; counted '.pages > 0'; }
	retry 10 settled
	echo -n end >>"$MNT/f"
	drop_caches
	[ "$(cat <&7)" = beginend ]
	exec 7>&-
}

@test "damaged pages are read again from the backing, and counted" {
	seq 400000 >"$BACK/f"
	touch -d 2020-02-02 "$BACK/f"
	mnt
	kept() { cat "$MNT/f" >/dev/null; drop_caches; counted '.pages > 100'; }
	retry 20 kept
	# A bit in every few hundred bytes of the store's memory.
	python3 - "$(pgrep -f "tmemfs .* $BACK $MNT")" <<-'PY'
		import re, sys
		pid = sys.argv[1]
		with open(f"/proc/{pid}/mem", "r+b", buffering=0) as mem:
		    for line in open(f"/proc/{pid}/maps"):
		        if " rw-s " not in line or "ledger" in line or not re.search("/#|tmem-store", line): continue
		        start, end = (int(x, 16) for x in line.split()[0].split("-"))
		        mem.seek(start)
		        data = bytearray(mem.read(end - start))
		        for i in range(100, len(data), 509):
		            if data[i]: data[i] ^= 8
		        mem.seek(start)
		        mem.write(data)
	PY
	drop_caches
	cmp "$MNT/f" "$BACK/f"
	counted '.corrupt > 10'
	drop_caches
	cmp "$MNT/f" "$BACK/f"
}

# --- names and attributes ---------------------------------------------------------------------

@test "treeops on two plain directories: the exerciser itself" {
	mkdir "$T/plain"
	try 0 treeops -n 5000 -p 3 "$T/plain" "$BACK"
	echo differs >>"$BACK/shared/new"
	try 1 treeops -n 0 "$T/plain" "$BACK"
}

@test "treeops: many processes, every result as on a plain directory, then the same tree" {
	mkdir "$T/plain"
	mnt -o limit=2M
	try 0 treeops -n "${TREEOPS:-15000}" -p 6 "$T/plain" "$MNT"
	try 0 treeops -n 0 "$T/plain" "$BACK"
	drop_caches
	try 0 treeops -n 0 "$T/plain" "$MNT"
}

@test "treeops with attributes and names that are never trusted, and few descriptors" {
	mkdir "$T/plain"
	(ulimit -n 400 && tmemfs -S none -o allow_other,suid,dev,attr_timeout=0,entry_timeout=0 "$BACK" "$MNT" 3>&-)
	defer "umount -l '$MNT'"
	try 0 treeops -s 100 -n 10000 -p 6 "$T/plain" "$MNT"
}

@test "a tree goes through tar and rsync, both ways, and is the same" {
	requires rsync
	mkdir "$T/plain" "$T/again"
	treeops -n 6000 -s 50 -p 4 "$T/plain" "$T/again"
	rm -rf "$T/again"
	mkdir -p "$T/again/tar" "$T/again/rsync" "$BACK/tar" "$BACK/rsync"
	mnt -o limit=2M
	archive() { tar -C "$1" --xattrs --xattrs-include='*' --acls -cf - . | tar -C "$2" --xattrs --xattrs-include='*' --acls -xpf -; }
	# Sockets are nothing for tar.
	find "$T/plain" -type s -delete
	archive "$T/plain" "$MNT/tar" && archive "$MNT/tar" "$T/again/tar"
	rsync -aHAX "$T/plain/" "$MNT/rsync" && rsync -aHAX "$MNT/rsync/" "$T/again/rsync"
	local d
	for d in "$MNT/tar" "$MNT/rsync" "$T/again/tar" "$T/again/rsync"; do
		try 0 treeops -n 0 "$T/plain" "$d"
	done
	[ -z "$(rsync -aHAXni --checksum --delete "$T/plain/" "$MNT/rsync")" ]
}

# --- races ------------------------------------------------------------------------------------

@test "writers above and below, readers above: nothing torn, nothing older than its open allows" {
	mnt -o limit=2M
	pressure
	try 0 racefiles -t "${RACE:-10}" "$MNT" "$BACK"
	echo "# ${lines[0]}" >&3
	# Some of the writes are such that the next read has to show them.
	not contains ', 0 of them alone'
	counted '.hits > 0 and .evicted > 0'
}

@test "the same, few blocks and many readers, without a cache" {
	mnt
	retry 10 tmemctl freeze
	try 0 racefiles -t 5 -f 1 -b 16 -r 8 -u 1 -d 1 "$MNT" "$BACK"
}

@test "a file that others replace without pause can always be opened" {
	: >"$BACK/f"
	mnt
	python3 - "$MNT" "$BACK" <<-'PY'
		import os, sys
		up, down = sys.argv[1:]
		kids = []
		for opener in range(3):
		    kids.append(os.fork())
		    if kids[-1] == 0:
		        try:
		            for i in range(5000): os.close(os.open(up + "/f", os.O_RDONLY))
		        except BaseException as e: print(repr(e)); os._exit(1)
		        os._exit(0)
		while kids:
		    for i in range(10):
		        open(down + "/new", "w").write("text")
		        os.rename(down + "/new", down + "/f")
		    pid, status = os.waitpid(-1, os.WNOHANG)
		    assert status == 0
		    if pid: kids.remove(pid)
	PY
}

@test "writers, readers and both exercisers under ThreadSanitizer" {
	[ -x "$REPO/build/tsan/tmemfs" ] || skip "no build/tsan/tmemfs (make check builds it)"
	TSAN_OPTIONS=log_path=$T/tsan "$REPO/build/tsan/tmemfs" -S none -o limit=2M,allow_other,suid,dev "$BACK" "$MNT" 3>&-
	defer "umount -l '$MNT'"
	try 0 racefiles -t "${RACE:-8}" "$MNT" "$BACK"
	fileops -n 3000 -p 2 -b "$BACK" "$MNT/f"
	mkdir "$T/plain" "$MNT/tree"
	chmod 755 "$MNT"
	treeops -n 3000 -p 4 "$T/plain" "$MNT/tree"
	umount "$MNT"
	if compgen -G "$T/tsan*"; then cat "$T"/tsan*; return 1; fi
}

# --- programs ---------------------------------------------------------------------------------

@test "sqlite: many writers and readers, with a WAL that is mapped, with a journal" {
	mnt -o limit=2M
	local mode
	for mode in WAL DELETE TRUNCATE; do
		python3 - "$MNT/$mode.db" "$mode" "${SQLITE:-150}" <<-'PY'
			import os, random, sqlite3, sys
			path, mode, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
			def connect():
			    db = sqlite3.connect(path, timeout=300, isolation_level=None)
			    db.execute("pragma mmap_size=100000000")
			    db.execute("pragma cache_size=20") # so that it reads
			    db.execute("pragma synchronous=off") # the disk is nobody's business here
			    return db
			db = connect()
			assert db.execute(f"pragma journal_mode={mode}").fetchone()[0].upper() == mode
			db.execute("create table account(id integer primary key, amount, padding)")
			db.execute("create table log(worker, round, data, primary key(worker, round))")
			db.executemany("insert into account values(?, 1000, ?)", ((i, os.urandom(random.randrange(500))) for i in range(500)))
			db.close()
			def writer(n):
			    db = connect()
			    random.seed(n)
			    for i in range(rounds):
			        db.execute("begin immediate")
			        for _ in range(5):
			            a, b, x = random.randrange(500), random.randrange(500), random.randrange(100)
			            db.execute("update account set amount = amount - ?, padding = ? where id = ?", (x, os.urandom(random.randrange(900)), a))
			            db.execute("update account set amount = amount + ? where id = ?", (x, b))
			        db.execute("insert into log values(?, ?, ?)", (n, i, os.urandom(random.randrange(3000))))
			        db.execute("rollback" if i % 10 == 9 else "commit")
			        if i % 40 == 39: db.execute("pragma wal_checkpoint(truncate)"); db.close(); db = connect()
			def reader():
			    for i in range(rounds):
			        db = connect()
			        assert db.execute("select sum(amount) from account").fetchone()[0] == 500000
			        db.execute("select sum(length(data)) from log").fetchone()
			        db.close()
			kids = []
			for job in [lambda n=n: writer(n) for n in range(4)] + [reader, reader]:
			    pid = os.fork()
			    if pid == 0:
			        try: job()
			        except BaseException as e: print(repr(e)); os._exit(1)
			        os._exit(0)
			    kids.append(pid)
			assert all([os.waitpid(k, 0)[1] == 0 for k in kids])
			db = connect()
			assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
			assert db.execute("select count(*) from log").fetchone()[0] == 4 * (rounds - rounds // 10)
		PY
		drop_caches
		cmp "$MNT/$mode.db" "$BACK/$mode.db"
		[ "$(python3 -c 'import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute("pragma integrity_check").fetchone()[0])' "$BACK/$mode.db")" = ok ]
	done
}

@test "git and make: our own sources, cloned, built with -j, packed and checked" {
	requires git gcc make
	mnt -o limit=2M
	mkdir "$T/plain"
	(cd "$REPO" && cp -r Makefile .clang-format core tools tmemfs "$T/plain")
	git -C "$T/plain" init -q
	git -C "$T/plain" add .
	git -C "$T/plain" -c user.name=t -c user.email=t commit -qm one
	git clone -q --no-hardlinks "$T/plain" "$MNT/clone"
	local d
	for d in "$T/plain" "$MNT/clone"; do
		# Without -g, whose output has the directory in it.
		make -s -j4 -C "$d" CFLAGS=-O0 build/tmemfs build/tmemctl
		git -C "$d" -c gc.auto=0 -c user.name=t -c user.email=t commit -q --allow-empty -m two
	done
	(cd "$T/plain/build" && find . -name '*.o' -print0 | sort -z | xargs -0 sha256sum) >"$T/objects"
	[ "$(wc -l <"$T/objects")" -gt 20 ]
	drop_caches
	(cd "$MNT/clone/build" && sha256sum --quiet -c "$T/objects")
	cmp "$MNT/clone/build/tmemfs" "$T/plain/build/tmemfs"
	[ -z "$(make -s -q -C "$MNT/clone" CFLAGS=-O0 build/tmemfs build/tmemctl)" ]
	git -C "$MNT/clone" gc -q --prune=now
	git -C "$MNT/clone" repack -qadf --window=5
	drop_caches
	git -C "$MNT/clone" fsck --strict --full
	git -C "$MNT/clone" checkout -q HEAD~1
	rm -rf "$MNT/clone/core"
	git -C "$MNT/clone" reset -q --hard
	diff -r --exclude=.git --exclude=build "$T/plain" "$MNT/clone"
}

@test "fio writes and verifies: buffered, direct, mapped" {
	requires fio
	mnt -o limit=4M
	local engine
	verify() { # FIO'S OPTION...
		try 0 fio --name=v --directory="$MNT" --rw=randwrite --bs=12k --size="${FIO:-24M}" --numjobs=2 \
			--verify=crc32c --verify_fatal=1 --output="$T/fio.log" "$@"
	}
	for engine in "psync --verify_backlog=64" "psync --direct=1" mmap; do
		# shellcheck disable=SC2086
		verify --ioengine=$engine
		drop_caches
		# shellcheck disable=SC2086
		verify --ioengine=$engine --verify_only
		rm "$MNT"/v.*
	done
}

# --- much of it -------------------------------------------------------------------------------

# descriptors: how many the mount has open.
descriptors() { ls "/proc/$(pgrep -f "tmemfs .* $BACK $MNT")/fd" | wc -l; }

@test "a directory of 100,000 entries is listed, looked up and partly removed" {
	mkdir "$BACK/d"
	python3 - "$BACK/d" <<-'PY'
		import os, sys
		os.chdir(sys.argv[1])
		for i in range(100000): os.close(os.open(f"entry {i} " + "x" * (i % 240), os.O_CREAT | os.O_WRONLY))
	PY
	mnt
	ls -f "$MNT/d" | sort | cmp - <(ls -f "$BACK/d" | sort)
	show() { find "$1/d" -printf '%f %y %m %s %i %T@\n' | sort; }
	cmp <(show "$MNT") <(show "$BACK")
	[ "$(descriptors)" -lt 5000 ]
	# Removing while listing, and the last that are left.
	find "$MNT/d" -name 'entry *[05] *' -delete
	[ "$(ls -f "$MNT/d" | wc -l)" -eq 80002 ]
	ls -f "$MNT/d" | sort | cmp - <(ls -f "$BACK/d" | sort)
}

@test "look-ups leave no descriptor behind" {
	python3 - "$BACK" <<-'PY'
		import os, sys
		for d in range(100):
		    os.mkdir(f"{sys.argv[1]}/{d}")
		    for f in range(200): os.close(os.open(f"{sys.argv[1]}/{d}/{f}", os.O_CREAT | os.O_WRONLY))
	PY
	mnt
	local before
	stat "$MNT"/*/0 >/dev/null
	before=$(descriptors)
	python3 - "$MNT" "${LOOKUPS:-100000}" <<-'PY'
		import os, random, sys
		mnt, count = sys.argv[1], int(sys.argv[2])
		for i in range(count):
		    if i % 50000 == 0: open("/proc/sys/vm/drop_caches", "w").write("2")
		    path = f"{mnt}/{random.randrange(100)}/{random.randrange(200)}"
		    os.stat(path)
		    if i % 10 == 0: os.close(os.open(path, os.O_RDONLY))
		    if i % 100 == 0:
		        try: os.stat(path + "nothing")
		        except FileNotFoundError: pass
	PY
	[ "$(descriptors)" -lt 5000 ]
	# What the kernel forgets is closed.
	forgotten() { echo 2 >/proc/sys/vm/drop_caches; [ "$(descriptors)" -le $((before + 200)) ]; }
	retry 20 forgotten
}

@test "10,000 files open at once, each written and read, some of them removed" {
	mnt
	local before
	before=$(descriptors)
	python3 - "$MNT" <<-'PY'
		import os, resource, sys
		os.chdir(sys.argv[1])
		hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
		count = min(10000, hard - 100)
		resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
		fds = [os.open(f"file {i}", os.O_CREAT | os.O_RDWR) for i in range(count)]
		for i, fd in enumerate(fds): os.write(fd, b"%d" % i)
		for i in range(0, count, 3): os.unlink(f"file {i}")
		for i, fd in enumerate(fds): assert os.pread(fd, 100, 0) == b"%d" % i
		for fd in fds: os.close(fd)
		assert len(os.listdir()) == count - len(range(0, count, 3))
	PY
	forgotten() { echo 2 >/proc/sys/vm/drop_caches; [ "$(descriptors)" -le $((before + 200)) ]; }
	retry 20 forgotten
}

@test "64 clients at once" {
	mnt -o limit=4M
	try 0 fileops -n 400 -p 64 -l 600000 -b "$BACK" "$MNT/f"
	mkdir "$T/plain" "$MNT/tree"
	chmod 755 "$MNT"
	try 0 treeops -n 400 -p 64 "$T/plain" "$MNT/tree"
}

@test "a sparse file of 8 TiB: its end and its middle" {
	mnt
	truncate -s 8T "$MNT/f"
	[ "$(stat -c %s "$BACK/f")" -eq $((8 << 40)) ]
	python3 - "$MNT/f" "$BACK/f" <<-'PY'
		import os, sys
		fd, below = (os.open(p, os.O_RDWR) for p in sys.argv[1:])
		size = 8 << 40
		for at in (size - 7, size // 2 - 3, (4 << 40) + 12345, (1 << 44) // 2 - (1 << 20)):
		    data = os.urandom(7)
		    os.pwrite(fd, data, at)
		    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
		    assert os.pread(fd, 7, at) == data == os.pread(below, 7, at), at
		    assert os.pread(fd, 100, at - 5000)[:100] == bytes(100)
		    assert os.lseek(fd, at, os.SEEK_DATA) == at
		assert os.pread(fd, 10, size) == b""
	PY
	cmp -n 100000 -i $(((8 << 40) - 100000)) "$MNT/f" "$BACK/f"
}
