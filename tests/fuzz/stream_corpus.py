#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
#
# stream_corpus.py DIR - streams for the target stream to start from, frame by frame as core/stream.h says
import struct, sys

HEAD, POOL, PAGES, END = 1, 2, 3, 4
RAW, SAME, LZ4 = 1, 2, 3
PERSIST, VERSION, RETAIN = 1, 1 << 24, 1
FORGETS = 2**64 - 1


def frame(kind, body):
    return struct.pack("<BH", kind, len(body)) + body


def head(pools, front=b"", kind=b"fuzz"):
    return frame(HEAD, struct.pack("<64s64sII", b"name", kind, pools, len(front)) + front)


def pool(number, flags, attrs):
    return frame(POOL, struct.pack("<IIIIQQ64s", number, flags | VERSION, attrs, 0, 3, 300, b"pool"))


def record(index, codec=0, payload=b"", oid=None, flags=0):
    meta = len(payload) | codec << 20 | flags << 24 | (1 << 25 if oid else 0)
    return struct.pack("<II", index, meta) + (struct.pack("<QQQ", *oid) if oid else b"") + \
        payload + b"\0" * (-len(payload) % 4)


def pages(number, *records):
    return frame(PAGES, struct.pack("<II", number, 0) + b"".join(records))


def end(*counts):
    return frame(END, b"".join(struct.pack("<Q", n) for n in counts))


GONE, MAIN, HIT = 1, 4, 0x10
swap, cache = pool(0, PERSIST, 0), pool(1, 0, RETAIN)
some = pages(0, record(1, SAME, b"8 bytes.", (0, 0, 0)), record(2, RAW, bytes(4096), flags=MAIN | HIT),
             record(70, LZ4, b"\x1fa\x01\x00" + b"\xff" * 15 + b"\x80\x50bbbbb"))
more = pages(1, record(5, SAME, b"8 bytes.", (1, 2, 3)), record(5, flags=GONE), record(6, SAME, b"88888888"))
whole = [
    head(2) + swap + cache + some + more + end(3, FORGETS),
    head(2) + swap + cache + some + pages(0, record(2, flags=GONE, oid=(0, 0, 0))) + end(2, FORGETS),
    head(1) + swap + some + some + end(3),
    head(1) + swap + some + end(4),
    head(1) + pool(0, 0, RETAIN) + pages(0, *(record(i, SAME, b"%08d" % i, (i, 0, 0)) for i in range(99))) + end(FORGETS),
    head(0) + end(),
    head(0, b"front", b"nbd") + end(),
    head(1) + pool(0, PERSIST | 2 << 4, 0) + pages(0, record(0, RAW, bytes(16384), (9, 9, 9))) + end(1),
]
for n, stream in enumerate(whole):
    for how in (1, 2, 0x41):
        with open(f"{sys.argv[1]}/{n}-{how}", "wb") as f:
            f.write(bytes([how]) + stream)
with open(f"{sys.argv[1]}/start", "wb") as f:
    f.write(b"\0tmemsave" + struct.pack("<IIIIQ", 1, 0, HEAD, 136, 0))
