/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stream.h - a client's pools as a stream of bytes: what save writes and restore reads
 *
 * Who does what. The client itself writes its pages and reads them (save.c, restore.c): nobody else
 * sees a consistent version of them. It is handed one end of a socket by the host, as a descriptor
 * that travels along the control link; `tmemctl` holds the other end and moves bytes between it and
 * a file or a pipe. Neither the host nor tmemctl looks into the stream.
 *
 *      tmemctl --save, descriptor--> tmemd --save, descriptor--> client
 *         |  <------------------------ the stream --------------- |
 *         v                                                       | transferred
 *      FILE | -          <----- reply ------ tmemd <--------------+
 *
 * A restore is the same with the stream going the other way. Whoever disappears, the others see the
 * end of the socket: the client stops, frees what it had prepared and says why.
 *
 * Layout. All numbers are little-endian; a frame's body has at most TM_STREAM_BODY_MAX bytes.
 *
 *      stream  | "tmemsave" | version:32 | 0:32 | frame | frame | ...  END, then nothing
 *      frame   | type:32 | bytes:32 | check:64 | body
 *
 *      HEAD    who was saved: name, type, number of pools, and a few bytes of the front end's own
 *      POOL    number, flags, attributes, name, pages and bytes at the time      one for each
 *      PAGES   pool:32 | 0:32 | record | record | ...
 *      END     for each pool how many pages it has, or UINT64_MAX for a pool that may forget
 *
 *      record  | index:32 | meta:32 | [object: 192] | payload | pad to 4
 *      meta    | 0:2 | hits:2 | 0:1 | main:1 | object:1 | gone:1 | codec:4 | bytes:20 |
 *
 * A record does not say where its page was, in the store or with the front end (struct
 * tm_elsewhere_ops): a restore finds it a place of its own.
 * A record without an object id has that of the record before it. Payloads are compressed as the
 * store has them. Of two records of one page the later one counts, and `gone` says that there is no
 * page (any more): that is how changes made during a live save get in. Each pool's pages come in
 * the order of its queues, the main queue first, in each the packed ones: read front to back by the
 * saver, appended front to back by the restorer, and as old relative to each other as they were.
 *
 * `check` is XXH3 of the body, seeded with the hash of type, bytes and the check before it (the
 * first: of magic and version). So a frame that is damaged, left out, repeated or moved is found,
 * and so is an end that is missing. It is no signature: whoever may restore vouches for the file.
 *
 * A restore publishes nothing before END was read, every check was right and nothing follows. What
 * cannot be read whole changes nothing in the target.
 *
 * Locking: none; a writer or reader belongs to one thread.
 */
#ifndef TM_STREAM_H
#define TM_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/codec.h"
#include "core/tmem.h"

#define TM_STREAM_MAGIC     "tmemsave" /* without the NUL */
#define TM_STREAM_VERSION   1u
#define TM_STREAM_BODY_MAX  (256u << 10)
#define TM_STREAM_FRONT_MAX 256u
#define TM_STREAM_FORGETS   UINT64_MAX

struct tm_stream_head {
	char name[TM_NAME_MAX + 1], type[TM_NAME_MAX + 1]; /* of the client */
	uint32_t pools;
	uint32_t front_bytes;
	uint8_t front[TM_STREAM_FRONT_MAX]; /* the front end's; means nothing here */
};

struct tm_stream_pool {
	uint32_t flags, attrs;
	uint64_t pages, bytes; /* about; for plans, not for checks */
	char name[TM_NAME_MAX + 1];
};

struct tm_stream_page {
	uint32_t pool; /* counted from 0 in the order of the POOL frames */
	struct tm_oid oid;
	uint32_t index;
	bool gone; /* then nothing of what follows means anything */
	bool main; /* of the main queue */
	uint32_t hits;
	enum tm_codec codec;
	uint32_t bytes;
	const uint8_t *payload;
};

struct tm_stream_end {
	uint64_t pages[TM_POOLS_MAX];
};

/* --- writing ---------------------------------------------------------------------------------- */

struct tm_stream_writer;

/* Takes all of `bytes`; 0 or a negative errno, which ends the stream. */
typedef int tm_stream_write_fn(void *opaque, const void *data, size_t bytes);

/* 0; -ENOMEM. Closing sends nothing: what was not flushed is lost. NULL is fine. */
int tm_stream_writer_open(
	tm_stream_write_fn *write, void *opaque, struct tm_stream_writer **ret_writer);
void tm_stream_writer_close(struct tm_stream_writer *w);

/* In this order: one head, its pools, any number of pages, one end, which also flushes. A page is
 * copied, and sent when a frame is full. 0; the errno of the write function. */
int tm_stream_put_head(struct tm_stream_writer *w, const struct tm_stream_head *head);
int tm_stream_put_pool(struct tm_stream_writer *w, const struct tm_stream_pool *pool);
int tm_stream_put_page(struct tm_stream_writer *w, const struct tm_stream_page *page);

/* Would put_page take a page of such a pool and payload without sending anything? And: send what
 * has to be sent for that. The errors of put_page. */
bool tm_stream_has_way(const struct tm_stream_writer *w, uint32_t pool, uint32_t payload_max);
int tm_stream_make_way(struct tm_stream_writer *w, uint32_t pool, uint32_t payload_max);
int tm_stream_put_end(struct tm_stream_writer *w, const struct tm_stream_end *end);

/* Bytes handed to the write function so far. */
uint64_t tm_stream_written(const struct tm_stream_writer *w);

/* --- reading ---------------------------------------------------------------------------------- */

enum tm_stream_kind {
	TM_STREAM_HEAD = 1,
	TM_STREAM_POOL,
	TM_STREAM_PAGES, /* one page of it at a time */
	TM_STREAM_END,
};

struct tm_stream_item {
	enum tm_stream_kind kind;
	union {
		struct tm_stream_head head;
		struct tm_stream_pool pool;
		struct tm_stream_page page; /* its payload is good until the next call */
		struct tm_stream_end end;
	};
};

struct tm_stream_reader;

/* Reads up to `bytes`; the number read, 0 at the end, or a negative errno. */
typedef int64_t tm_stream_read_fn(void *opaque, void *ret_data, size_t bytes);

/* 0; -ENOMEM. NULL is fine for close. */
int tm_stream_reader_open(
	tm_stream_read_fn *read, void *opaque, struct tm_stream_reader **ret_reader);
void tm_stream_reader_close(struct tm_stream_reader *r);

/*
 * The next item, in the order above; of each frame only when all of it is there and its check is
 * right. Every number in it is in its range: a pool that was declared, a payload that can belong to
 * a page of it, names that end. After END, and never before it, the stream has been read to its
 * last byte. 0; -ENOMSG no such stream at all; -EPROTO another version; -ENODATA it is cut;
 * -EBADMSG it is damaged; the errno of the read function. No call after an error or END.
 */
int tm_stream_next(struct tm_stream_reader *r, struct tm_stream_item *ret_item);

/* Bytes read so far. */
uint64_t tm_stream_position(const struct tm_stream_reader *r);

#endif
