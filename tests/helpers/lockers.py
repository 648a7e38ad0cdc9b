# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that lock files as they are told, for tests/bats/locks.bats.

    a = Locker()
    a.open("f", path)                    # a descriptor called f
    a.lock("f", WR, 0, 10)               # "ok", or the name of the error
    b.start("lock", "f", WR, 0, 10, wait=True)
    b.blocked()                          # it waits
    b.result()                           # how that ended
"""
import errno, fcntl, json, os, select, signal, struct, sys, time

RD, WR, UN = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38
FLOCK = "hhqqi4x"


class Locker:
    """One process."""

    def __init__(self):
        down, self.down = os.pipe()
        self.up, up = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.down), os.close(self.up)
            signal.signal(signal.SIGALRM, interrupted)
            serve(os.fdopen(down), up)
        os.close(down), os.close(up)
        self.answers = os.fdopen(self.up)

    def start(self, verb, *args, **named):
        os.write(self.down, (json.dumps([verb, args, named]) + "\n").encode())

    def blocked(self, seconds=0.3):
        assert not select.select([self.up], [], [], seconds)[0], "it should wait"

    def result(self, seconds=20):
        assert select.select([self.up], [], [], seconds)[0], "no answer"
        return json.loads(self.answers.readline())

    def __getattr__(self, verb):
        def call(*args, **named):
            self.start(verb, *args, **named)
            return self.result()
        return call

    def end(self, sig=signal.SIGKILL):
        os.kill(self.pid, sig)
        os.waitpid(self.pid, 0)


def interrupted(*_):
    raise InterruptedError(errno.EINTR, "signal")  # else Python calls again


def raw(f, cmd, kind, start, length):
    out = fcntl.fcntl(f, cmd, struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0))
    return struct.unpack(FLOCK, out)


class Verbs:
    def __init__(self):
        self.fds = {}

    def open(self, name, path, mode="r+"):
        flags = {"r": os.O_RDONLY, "r+": os.O_RDWR, "w": os.O_WRONLY}[mode]
        self.fds[name] = os.open(path, flags)

    def close(self, name):
        os.close(self.fds.pop(name))

    def dup(self, name, other):
        self.fds[other] = os.dup(self.fds[name])

    def flock(self, name, op, wait=False):
        fcntl.flock(self.fds[name], op if wait else op | fcntl.LOCK_NB)

    def lock(self, name, kind, start=0, length=0, wait=False):
        raw(self.fds[name], fcntl.F_SETLKW if wait else fcntl.F_SETLK, kind, start, length)

    def ofd(self, name, kind, start=0, length=0, wait=False):
        raw(self.fds[name], OFD_SETLKW if wait else OFD_SETLK, kind, start, length)

    def test(self, name, kind, start=0, length=0):
        kind, _, start, length, pid = raw(self.fds[name], fcntl.F_GETLK, kind, start, length)
        return [kind, start, length, pid] if kind != UN else None

    def alarm(self, seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def linger(self, seconds):
        """A child with the same descriptors."""
        pid = os.fork()
        if pid == 0:
            time.sleep(seconds)
            os._exit(0)
        return pid

    def count(self, name, lock, times):
        """A number in the file goes up, under the lock."""
        fd = self.fds[name]
        for _ in range(times):
            self.flock(name, fcntl.LOCK_EX, True) if lock == "flock" else self.lock(name, WR, wait=True)
            number = int(os.pread(fd, 20, 0) or b"0")
            os.pwrite(fd, b"%-20d" % (number + 1), 0)
            self.flock(name, fcntl.LOCK_UN) if lock == "flock" else self.lock(name, UN)


def serve(commands, up):
    verbs = Verbs()
    for line in commands:
        verb, args, named = json.loads(line)
        try:
            answer = getattr(verbs, verb)(*args, **named)
            answer = "ok" if answer is None and verb != "test" else answer
        except OSError as e:
            answer = errno.errorcode[e.errno]
        os.write(up, (json.dumps(answer) + "\n").encode())
    os._exit(0)


def eventually(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.02)


def the_same(got, want, what=""):
    assert got == want, f"{what}: {got}, should be {want}"
