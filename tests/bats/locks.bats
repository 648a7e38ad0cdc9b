#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-or-later
#
# flock(2) and fcntl(2) locks through a mount: as on the directory below, and against its users

load helpers
load mount

# lockers: the Python on stdin, with tests/helpers/lockers.py, $BACK and $MNT.
lockers() {
	BACK=$BACK MNT=$MNT PYTHONPATH=$REPO/tests/helpers PYTHONDONTWRITEBYTECODE=1 timeout 100 python3 -c "
import os, random, time
from lockers import *
from fcntl import LOCK_SH, LOCK_EX, LOCK_UN
BACK, MNT = os.environ['BACK'], os.environ['MNT']
$(cat)" 3>&-
}

@test "flock: among the mount's users, against those below, against another mount's" {
	mnt
	mkdir "$T/second"
	tmemfs -S none "$BACK" "$T/second" 3>&-
	defer "umount -l '$T/second'"
	echo data >"$BACK/f"
	SECOND=$T/second lockers <<-'PY'
		places = [MNT, MNT, BACK, os.environ["SECOND"]]
		users = [Locker() for _ in places]
		for mode in "r", "r+":
		    for user, place in zip(users, places): user.open("f", place + "/f", mode)
		    for holder in users:
		        for other in users:
		            if other is holder: continue
		            the_same(holder.flock("f", LOCK_EX), "ok")
		            the_same(other.flock("f", LOCK_SH), "EAGAIN")
		            the_same(holder.flock("f", LOCK_SH), "ok")
		            the_same(other.flock("f", LOCK_SH), "ok")
		            the_same(holder.flock("f", LOCK_EX), "EAGAIN")
		            the_same(other.flock("f", LOCK_UN), "ok")
		            the_same(holder.flock("f", LOCK_UN), "ok")
		            the_same(holder.flock("f", LOCK_UN), "ok")
		    # It is the open file's: a copy of the descriptor has it too.
		    a, b = users[1], users[2]
		    the_same(a.flock("f", LOCK_EX), "ok")
		    a.dup("f", "g"), a.close("f")
		    the_same(b.flock("f", LOCK_SH), "EAGAIN")
		    a.close("g")
		    eventually(lambda: b.flock("f", LOCK_EX) == "ok")
		    for user in users[0], users[2], users[3]: user.close("f")
	PY
}

@test "fcntl: whatever four processes do, two above and two below, is as on a plain file" {
	mnt
	mkdir "$T/plain"
	head -c 100 /dev/zero | tee "$T/plain/f" >"$BACK/f"
	PLAIN=$T/plain lockers <<-'PY'
		plain, mixed = [Locker() for _ in range(4)], [Locker() for _ in range(4)]
		for i in range(4):
		    for name in "f", "g":
		        plain[i].open(name, os.environ["PLAIN"] + "/f")
		        mixed[i].open(name, (MNT if i < 2 else BACK) + "/f")
		random.seed(1)
		taken = refused = 0
		for step in range(3000):
		    who, name, start = random.randrange(4), random.choice("fg"), random.randrange(12)
		    length = random.choice([0, 1, 1, 2, 3, 5])
		    kind = random.choice([RD, RD, WR, UN, UN])
		    if random.random() < 0.02:
		        # Closing any descriptor takes all of the process's locks.
		        for all, path in (plain, os.environ["PLAIN"]), (mixed, MNT if who < 2 else BACK):
		            all[who].close(name), all[who].open(name, path + "/f")
		    elif random.random() < 0.2 and kind != UN:
		        want, got = plain[who].test(name, kind, start, length), mixed[who].test(name, kind, start, length)
		        the_same(got is None, want is None, f"{step}: {who} tests {kind} {start}+{length}: {got} {want}")
		    else:
		        want, got = plain[who].lock(name, kind, start, length), mixed[who].lock(name, kind, start, length)
		        the_same(got, want, f"{step}: {who} locks {kind} {start}+{length}")
		        taken, refused = taken + (want == "ok"), refused + (want == "EAGAIN")
		assert taken > 500 and refused > 500, (taken, refused)
	PY
}

@test "fcntl: F_GETLK names the process, F_OFD_SETLK is the open file's, a child has no locks" {
	mnt
	: >"$BACK/f"
	lockers <<-'PY'
		a, b, below = Locker(), Locker(), Locker()
		for user in a, b: user.open("f", MNT + "/f"), user.open("g", MNT + "/f")
		below.open("f", BACK + "/f")
		the_same(a.lock("f", WR, 3, 4), "ok")
		the_same(b.test("f", RD, 0, 10), [WR, 3, 4, a.pid])
		the_same(a.test("g", WR), None)
		the_same(below.lock("f", WR, 20, 1), "ok")
		the_same(b.test("f", RD, 20, 1), [WR, 20, 1, below.pid])
		the_same(a.lock("f", UN), "ok")
		# Open file descriptions exclude each other in one process, too, and last until the last close.
		the_same(a.ofd("f", WR, 3, 4), "ok")
		the_same(a.ofd("g", WR, 5, 1), "EAGAIN")
		the_same(a.lock("g", WR, 5, 1), "EAGAIN")
		the_same(below.lock("f", RD, 3, 1), "EAGAIN")
		a.dup("f", "copy"), a.close("f")
		the_same(below.lock("f", RD, 3, 1), "EAGAIN")
		a.close("copy")
		eventually(lambda: below.lock("f", RD, 3, 1) == "ok")
		# A process's locks end with it, though a child has the file open still.
		the_same(b.lock("f", WR, 50, 1), "ok")
		child = b.linger(60)
		the_same(below.lock("f", WR, 50, 1), "EAGAIN")
		b.end()
		eventually(lambda: below.lock("f", WR, 50, 1) == "ok")
		os.kill(child, signal.SIGKILL)
	PY
}

@test "waiting: for a lock of the mount, of those below, of who is killed; until a signal" {
	mnt
	: >"$BACK/f"
	lockers <<-'PY'
		a, b, below = Locker(), Locker(), Locker()
		for user in a, b: user.open("f", MNT + "/f")
		below.open("f", BACK + "/f")
		for verb, lock, un in ("flock", [LOCK_EX], [LOCK_UN]), ("lock", [WR, 3, 4], [UN, 3, 4]), ("ofd", [WR], [UN]):
		    def take(who): return getattr(who, verb)("f", *lock)
		    def give(who): return getattr(who, verb)("f", *un)
		    def wait(who): who.start(verb, "f", *lock, wait=True)
		    for holder, waiter in (a, b), (below, b), (a, below):
		        the_same(take(holder), "ok")
		        wait(waiter), waiter.blocked()
		        the_same(give(holder), "ok")
		        the_same(waiter.result(), "ok")
		        the_same(take(holder), "EAGAIN")
		        the_same(give(waiter), "ok")
		    # A signal.
		    the_same(take(below), "ok")
		    a.alarm(0.2), wait(a)
		    the_same(a.result(), "EINTR")
		    # Who is killed while it waits gets nothing.
		    c = Locker()
		    c.open("f", MNT + "/f"), wait(c), c.blocked(), c.end()
		    the_same(give(below), "ok")
		    the_same(take(a), "ok")
		    # Who is killed while it has the lock lets go.
		    wait(b), b.blocked(), a.end()
		    the_same(b.result(), "ok")
		    the_same(give(b), "ok")
		    a = Locker()
		    a.open("f", MNT + "/f")
	PY
}

@test "300 wait with two threads to serve them: everybody else goes on, each has its turn" {
	mnt -o threads=2
	: >"$BACK/f"
	lockers <<-'PY'
		holder, waiters = Locker(), [Locker() for _ in range(300)]
		holder.open("f", MNT + "/f"), holder.lock("f", WR)
		for w in waiters: w.open("f", MNT + "/f"), w.start("lock", "f", WR, wait=True)
		waiters[0].blocked()
		for i in range(100): open(f"{MNT}/other{i}", "w").write("x")
		the_same(holder.lock("f", UN), "ok")
		left = {w.up: w for w in waiters}
		while left:
		    ready = select.select(list(left), [], [], 30)[0]
		    the_same(len(ready), 1, "have it at once")
		    w = left.pop(ready[0])
		    the_same(w.result(), "ok"), the_same(w.lock("f", UN), "ok")
	PY
}

@test "what a file's last close gives up can be had at once" {
	mnt
	: >"$MNT/f"
	# The kernel does not wait for our RELEASE: some in ten thousand are that late.
	lockers <<-'PY'
		a = Locker()
		a.open("f", MNT + "/f")
		for i in range(20000):
		    f = open(MNT + "/f")
		    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
		    f.close()
	PY
	for i in {1..20}; do flock -n "$MNT/f" true; done
	# And what is not given up, not.
	exec 8<"$MNT/f"
	flock -n 8
	try 1 flock -n "$MNT/f" true
	exec 8<&-
}

@test "who has a lock sees what was written under it, above and below, though the file stays open" {
	mnt -o consistency=immutable
	mkdir "$T/second"
	tmemfs -S none "$BACK" "$T/second" 3>&-
	defer "umount -l '$T/second'"
	SECOND=$T/second lockers <<-'PY'
		for lock in "flock", "fcntl":
		    users = [Locker() for _ in range(6)]
		    open(f"{BACK}/{lock}", "w").close()
		    for i, user in enumerate(users): user.open("f", [MNT, BACK, os.environ["SECOND"]][i % 3] + "/" + lock)
		    for user in users: user.start("count", "f", lock, 150)
		    for user in users: the_same(user.result(60), "ok")
		    the_same(int(open(f"{BACK}/{lock}").read()), 6 * 150, lock)
	PY
}

@test "sqlite: writers and readers on the mount and on the directory below, one database" {
	mnt
	lockers <<-'PY'
		import sqlite3
		def connect(place):
		    db = sqlite3.connect(place + "/db", timeout=60, isolation_level=None)
		    db.execute("pragma synchronous=off")
		    return db
		connect(BACK).execute("create table t (who int, n int, pad text)")
		children = []
		for who in range(4):
		    pid = os.fork()
		    if pid == 0:
		        db = connect(MNT if who % 2 else BACK)
		        for n in range(60):
		            db.execute("begin immediate")
		            seen = db.execute("select count(*) from t where who=?", (who,)).fetchone()[0]
		            assert seen == n, (who, seen, n)
		            db.execute("insert into t values (?, ?, ?)", (who, n, "x" * random.randrange(3000)))
		            db.execute("commit")
		        os._exit(0)
		    children.append(pid)
		for pid in children: the_same(os.waitpid(pid, 0)[1], 0)
		for place in MNT, BACK:
		    db = connect(place)
		    the_same(db.execute("pragma integrity_check").fetchone()[0], "ok")
		    the_same(db.execute("select count(*) from t").fetchone()[0], 240)
	PY
}

@test "a file that is unlinked, read-only or being executed can be locked" {
	mnt
	: >"$BACK/gone"
	cp /bin/sleep "$BACK/program"
	lockers <<-'PY'
		a, b = Locker(), Locker()
		for user in a, b: user.open("f", MNT + "/gone")
		os.unlink(MNT + "/gone")
		the_same(a.flock("f", LOCK_EX), "ok"), the_same(b.flock("f", LOCK_SH), "EAGAIN")
		the_same(a.lock("f", WR), "ok"), the_same(b.lock("f", RD), "EAGAIN")
		pid = os.spawnv(os.P_NOWAIT, BACK + "/program", ["sleep", "60"])
		for user in a, b: user.open("p", MNT + "/program", "r")
		the_same(a.flock("p", LOCK_EX), "ok"), the_same(b.flock("p", LOCK_SH), "EAGAIN")
		the_same(a.lock("p", RD), "ok"), the_same(b.lock("p", RD), "ok")
		os.kill(pid, signal.SIGKILL)
	PY
}

@test "locks=mount: they hold among the users of the mount only" {
	mnt -o locks=mount
	: >"$BACK/f"
	lockers <<-'PY'
		a, b, below = Locker(), Locker(), Locker()
		for user in a, b: user.open("f", MNT + "/f")
		below.open("f", BACK + "/f")
		the_same(a.flock("f", LOCK_EX), "ok"), the_same(b.flock("f", LOCK_SH), "EAGAIN")
		the_same(below.flock("f", LOCK_EX), "ok")
		the_same(a.lock("f", WR), "ok"), the_same(b.lock("f", RD), "EAGAIN")
		the_same(below.lock("f", WR), "ok")
	PY
	try 2 tmemfs -o locks=both "$BACK" "$MNT"
	one_line
}
