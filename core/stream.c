/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/stream.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"

/* --- what is on the wire ---------------------------------------------------------------------- */

struct wire_start {
	char magic[8];
	uint32_t version, zero;
};

struct wire_frame {
	uint32_t type, bytes;
	uint64_t check;
};

struct wire_head {
	char name[TM_NAME_MAX + 1], type[TM_NAME_MAX + 1];
	uint32_t pools, front_bytes;
}; /* front */

struct wire_pool {
	uint32_t number, flags, attrs, zero;
	uint64_t pages, bytes;
	char name[TM_NAME_MAX + 1];
};

struct wire_pages {
	uint32_t pool, zero;
}; /* records */

struct wire_record {
	uint32_t index, meta;
}; /* [object], payload */

struct wire_object {
	uint64_t w[3];
};

#define META_BYTES       0x000fffffu
#define META_CODEC_SHIFT 20
#define META_CODEC       0x00f00000u
#define META_GONE        (1u << 24)
#define META_OBJECT      (1u << 25)
#define META_MAIN        (1u << 26)
#define META_HITS_SHIFT  28
#define META_HITS        0x30000000u
#define META_ALL         (META_BYTES | META_CODEC | META_GONE | META_OBJECT | META_MAIN | META_HITS)

#define SAME_BYTES 8u /* what a page of one word is stored in */

static uint64_t start_check(const struct wire_start *start)
{
	return XXH3_64bits(start, sizeof(*start));
}

/* Of a frame that follows one with check `before`. */
static uint64_t frame_check(uint64_t before, uint32_t type, const void *body, uint32_t bytes)
{
	uint64_t name[2] = {htole64(before), htole64((uint64_t)type << 32 | bytes)};

	return XXH3_64bits_withSeed(body, bytes, XXH3_64bits(name, sizeof(name)));
}

/* --- writing ---------------------------------------------------------------------------------- */

struct tm_stream_writer {
	tm_stream_write_fn *write;
	void *opaque;
	uint64_t check, written;
	uint32_t pools; /* declared so far */

	uint32_t pool; /* of the PAGES frame in `body` */
	uint32_t bytes;
	struct tm_oid oid; /* of the last record in it */
	uint8_t body[TM_STREAM_BODY_MAX];
};

int tm_stream_writer_open(
	tm_stream_write_fn *write, void *opaque, struct tm_stream_writer **ret_writer)
{
	struct tm_stream_writer *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->write = write;
	w->opaque = opaque;
	*ret_writer = w;
	return 0;
}

void tm_stream_writer_close(struct tm_stream_writer *w)
{
	free(w);
}

uint64_t tm_stream_written(const struct tm_stream_writer *w)
{
	return w->written;
}

static int put_bytes(struct tm_stream_writer *w, const void *data, size_t bytes)
{
	int rc = w->write(w->opaque, data, bytes);

	if (rc == 0)
		w->written += bytes;
	return rc;
}

static int put_frame(
	struct tm_stream_writer *w, enum tm_stream_kind kind, const void *body, uint32_t bytes)
{
	struct wire_frame frame = {htole32(kind), htole32(bytes), 0};
	int rc;

	w->check = frame_check(w->check, kind, body, bytes);
	frame.check = htole64(w->check);
	rc = put_bytes(w, &frame, sizeof(frame));
	return rc < 0 ? rc : put_bytes(w, body, bytes);
}

/* Send the pages that wait. */
static int flush(struct tm_stream_writer *w)
{
	uint32_t bytes = w->bytes;

	w->bytes = 0;
	return bytes ? put_frame(w, TM_STREAM_PAGES, w->body, bytes) : 0;
}

int tm_stream_put_head(struct tm_stream_writer *w, const struct tm_stream_head *head)
{
	struct wire_start start = {.version = htole32(TM_STREAM_VERSION)};
	struct {
		struct wire_head head;
		uint8_t front[TM_STREAM_FRONT_MAX];
	} body = {
		.head = {.pools = htole32(head->pools), .front_bytes = htole32(head->front_bytes)}};
	int rc;

	memcpy(start.magic, TM_STREAM_MAGIC, sizeof(start.magic));
	memcpy(body.head.name, head->name, sizeof(head->name));
	memcpy(body.head.type, head->type, sizeof(head->type));
	memcpy(body.front, head->front, head->front_bytes);
	w->check = start_check(&start);
	rc = put_bytes(w, &start, sizeof(start));
	return rc < 0 ? rc
		      : put_frame(w, TM_STREAM_HEAD, &body,
				(uint32_t)sizeof(body.head) + head->front_bytes);
}

int tm_stream_put_pool(struct tm_stream_writer *w, const struct tm_stream_pool *pool)
{
	struct wire_pool body = {
		.number = htole32(w->pools++),
		.flags = htole32(pool->flags),
		.attrs = htole32(pool->attrs),
		.pages = htole64(pool->pages),
		.bytes = htole64(pool->bytes),
	};

	memcpy(body.name, pool->name, sizeof(pool->name));
	return put_frame(w, TM_STREAM_POOL, &body, sizeof(body));
}

static void put_raw(struct tm_stream_writer *w, const void *data, uint32_t bytes)
{
	memcpy(w->body + w->bytes, data, bytes);
	w->bytes += bytes;
}

/* What a record takes at most. */
static uint32_t record_most(uint32_t payload)
{
	return sizeof(struct wire_record) + sizeof(struct wire_object) + payload + 4;
}

bool tm_stream_has_way(const struct tm_stream_writer *w, uint32_t pool, uint32_t payload_max)
{
	return w->bytes == 0 ||
		(w->pool == pool && w->bytes + record_most(payload_max) <= sizeof(w->body));
}

int tm_stream_make_way(struct tm_stream_writer *w, uint32_t pool, uint32_t payload_max)
{
	return tm_stream_has_way(w, pool, payload_max) ? 0 : flush(w);
}

int tm_stream_put_page(struct tm_stream_writer *w, const struct tm_stream_page *page)
{
	uint32_t payload = page->gone ? 0 : page->bytes;
	struct wire_record record = {.index = htole32(page->index)};
	int rc = tm_stream_make_way(w, page->pool, payload);
	bool first, object;

	if (rc < 0)
		return rc;
	first = w->bytes == 0;
	if (first) {
		struct wire_pages pages = {.pool = htole32(page->pool)};

		w->pool = page->pool;
		put_raw(w, &pages, sizeof(pages));
	}
	object = first || memcmp(&w->oid, &page->oid, sizeof(w->oid)) != 0;
	record.meta = htole32(payload | (object ? META_OBJECT : 0) |
		(page->gone ? META_GONE
			    : (uint32_t)page->codec << META_CODEC_SHIFT |
					(page->main ? META_MAIN : 0) |
					page->hits << META_HITS_SHIFT));
	put_raw(w, &record, sizeof(record));
	if (object) {
		struct wire_object id = {{htole64(page->oid.w[0]), htole64(page->oid.w[1]),
			htole64(page->oid.w[2])}};

		put_raw(w, &id, sizeof(id));
		w->oid = page->oid;
	}
	if (payload) {
		put_raw(w, page->payload, payload);
		put_raw(w, "\0\0\0", TM_ALIGN(payload, 4u) - payload);
	}
	return 0;
}

int tm_stream_put_end(struct tm_stream_writer *w, const struct tm_stream_end *end)
{
	uint64_t pages[TM_POOLS_MAX];
	int rc = flush(w);

	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < w->pools; i++)
		pages[i] = htole64(end->pages[i]);
	return put_frame(w, TM_STREAM_END, pages, w->pools * (uint32_t)sizeof(pages[0]));
}

/* --- reading ---------------------------------------------------------------------------------- */

struct tm_stream_reader {
	tm_stream_read_fn *read;
	void *opaque;
	uint64_t check, position;
	enum tm_stream_kind last; /* frame; 0: none yet */
	uint32_t pools;           /* that are to come or came */
	uint32_t known;           /* of which these came */
	uint32_t page_bytes[TM_POOLS_MAX];

	/* The PAGES frame in `body`: at < bytes while it has records left. */
	uint32_t pool, at, bytes;
	struct tm_oid oid;
	bool has_oid;
	uint8_t body[TM_STREAM_BODY_MAX];
};

int tm_stream_reader_open(
	tm_stream_read_fn *read, void *opaque, struct tm_stream_reader **ret_reader)
{
	struct tm_stream_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->read = read;
	r->opaque = opaque;
	*ret_reader = r;
	return 0;
}

void tm_stream_reader_close(struct tm_stream_reader *r)
{
	free(r);
}

uint64_t tm_stream_position(const struct tm_stream_reader *r)
{
	return r->position;
}

/* All of `bytes`, or -ENODATA. */
static int get_bytes(struct tm_stream_reader *r, void *ret_data, size_t bytes)
{
	uint8_t *to = ret_data;

	while (bytes > 0) {
		int64_t n = r->read(r->opaque, to, bytes);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return -ENODATA;
		to += n;
		bytes -= (size_t)n;
		r->position += (uint64_t)n;
	}
	return 0;
}

static int get_start(struct tm_stream_reader *r)
{
	struct wire_start start;
	int rc = get_bytes(r, &start, sizeof(start));

	if (rc < 0)
		return rc == -ENODATA && r->position == 0 ? -ENOMSG : rc;
	if (memcmp(start.magic, TM_STREAM_MAGIC, sizeof(start.magic)) != 0)
		return -ENOMSG;
	if (le32toh(start.version) != TM_STREAM_VERSION || start.zero != 0)
		return -EPROTO;
	r->check = start_check(&start);
	return 0;
}

/* What may follow what. */
static bool is_due(const struct tm_stream_reader *r, uint32_t type)
{
	switch (type) {
	case TM_STREAM_HEAD:
		return r->last == 0;
	case TM_STREAM_POOL:
		return r->last != 0 && r->known < r->pools;
	case TM_STREAM_PAGES:
	case TM_STREAM_END:
		return r->last != 0 && r->known == r->pools;
	default:
		return false;
	}
}

/* The next frame into `body`. */
static int get_frame(struct tm_stream_reader *r, enum tm_stream_kind *ret_kind)
{
	struct wire_frame frame;
	uint32_t type, bytes;
	int rc = get_bytes(r, &frame, sizeof(frame));

	if (rc < 0)
		return rc;
	type = le32toh(frame.type);
	bytes = le32toh(frame.bytes);
	if (bytes > sizeof(r->body) || !is_due(r, type))
		return -EBADMSG;
	rc = get_bytes(r, r->body, bytes);
	if (rc < 0)
		return rc;
	r->check = frame_check(r->check, type, r->body, bytes);
	if (r->check != le64toh(frame.check))
		return -EBADMSG;
	r->bytes = bytes;
	r->at = 0;
	*ret_kind = r->last = (enum tm_stream_kind)type;
	return 0;
}

static bool is_name(const char name[static TM_NAME_MAX + 1])
{
	return memchr(name, '\0', TM_NAME_MAX + 1) != NULL;
}

static int get_head(struct tm_stream_reader *r, struct tm_stream_head *ret_head)
{
	struct wire_head wire;
	struct tm_stream_head head = {.pools = 0};

	if (r->bytes < sizeof(wire))
		return -EBADMSG;
	memcpy(&wire, r->body, sizeof(wire));
	head.pools = le32toh(wire.pools);
	head.front_bytes = le32toh(wire.front_bytes);
	if (!is_name(wire.name) || !is_name(wire.type) || head.pools > TM_POOLS_MAX ||
		head.front_bytes > sizeof(head.front) ||
		r->bytes != sizeof(wire) + head.front_bytes)
		return -EBADMSG;
	memcpy(head.name, wire.name, sizeof(head.name));
	memcpy(head.type, wire.type, sizeof(head.type));
	memcpy(head.front, r->body + sizeof(wire), head.front_bytes);
	r->pools = head.pools;
	*ret_head = head;
	return 0;
}

static int get_pool(struct tm_stream_reader *r, struct tm_stream_pool *ret_pool)
{
	struct tm_stream_pool pool;
	struct wire_pool wire;
	uint32_t order;

	if (r->bytes != sizeof(wire))
		return -EBADMSG;
	memcpy(&wire, r->body, sizeof(wire));
	pool.flags = le32toh(wire.flags);
	pool.attrs = le32toh(wire.attrs);
	pool.pages = le64toh(wire.pages);
	pool.bytes = le64toh(wire.bytes);
	order = (pool.flags & TM_POOL_ORDER_MASK) >> TM_POOL_ORDER_SHIFT;
	if (le32toh(wire.number) != r->known || !is_name(wire.name) || order > TM_ORDER_MAX)
		return -EBADMSG;
	memcpy(pool.name, wire.name, sizeof(pool.name));
	r->page_bytes[r->known++] = TM_PAGE_SIZE << order;
	*ret_pool = pool;
	return 0;
}

static int get_pages(struct tm_stream_reader *r)
{
	struct wire_pages wire;

	if (r->bytes <= sizeof(wire))
		return -EBADMSG;
	memcpy(&wire, r->body, sizeof(wire));
	r->pool = le32toh(wire.pool);
	r->at = sizeof(wire);
	r->has_oid = false;
	return r->pool < r->pools ? 0 : -EBADMSG;
}

/* Can a payload of this kind be a page of the pool? */
static bool is_payload(const struct tm_stream_page *page, uint32_t page_bytes)
{
	switch (page->codec) {
	case TM_CODEC_RAW:
		return page->bytes == page_bytes;
	case TM_CODEC_SAME:
		return page->bytes == SAME_BYTES;
	case TM_CODEC_LZ4:
	case TM_CODEC_ZSTD:
		return page->bytes > 0 && page->bytes < page_bytes;
	case TM_CODEC_DUP: /* sent as what it names */
		break;
	}
	return false;
}

/* `bytes` more of the frame, or NULL. */
static const uint8_t *take(struct tm_stream_reader *r, uint32_t bytes)
{
	const uint8_t *at = r->body + r->at;

	if (bytes > r->bytes - r->at)
		return NULL;
	r->at += bytes;
	return at;
}

static int get_object(struct tm_stream_reader *r)
{
	const uint8_t *at = take(r, sizeof(struct wire_object));
	struct wire_object wire;

	if (!at)
		return -EBADMSG;
	memcpy(&wire, at, sizeof(wire));
	r->oid = (struct tm_oid){{le64toh(wire.w[0]), le64toh(wire.w[1]), le64toh(wire.w[2])}};
	r->has_oid = true;
	return ~(r->oid.w[0] & r->oid.w[1] & r->oid.w[2]) ? 0 : -EBADMSG;
}

/* The next record of the PAGES frame. */
static int get_record(struct tm_stream_reader *r, struct tm_stream_page *ret_page)
{
	struct tm_stream_page page = {.pool = r->pool};
	const uint8_t *at = take(r, sizeof(struct wire_record));
	struct wire_record wire;
	uint32_t meta;

	if (!at)
		return -EBADMSG;
	memcpy(&wire, at, sizeof(wire));
	meta = le32toh(wire.meta);
	if (meta & ~META_ALL || (meta & META_OBJECT && get_object(r) < 0) || !r->has_oid)
		return -EBADMSG;
	page.oid = r->oid;
	page.index = le32toh(wire.index);
	page.gone = meta & META_GONE;
	page.main = meta & META_MAIN;
	page.hits = (meta & META_HITS) >> META_HITS_SHIFT;
	page.codec = (meta & META_CODEC) >> META_CODEC_SHIFT;
	page.bytes = meta & META_BYTES;
	if (page.gone ? (meta & ~(META_GONE | META_OBJECT)) != 0
		      : !is_payload(&page, r->page_bytes[r->pool]))
		return -EBADMSG;
	page.payload = take(r, TM_ALIGN(page.bytes, 4u));
	if (!page.payload)
		return -EBADMSG;
	*ret_page = page;
	return 0;
}

/* Only after its last byte is a stream whole. */
static int get_end(struct tm_stream_reader *r, struct tm_stream_end *ret_end)
{
	struct tm_stream_end end = {{0}};
	uint8_t more;
	int64_t n;

	if (r->bytes != r->pools * sizeof(end.pages[0]))
		return -EBADMSG;
	memcpy(end.pages, r->body, r->bytes);
	for (uint32_t i = 0; i < r->pools; i++)
		end.pages[i] = le64toh(end.pages[i]);
	n = r->read(r->opaque, &more, 1);
	if (n != 0)
		return n < 0 ? (int)n : -EBADMSG;
	*ret_end = end;
	return 0;
}

int tm_stream_next(struct tm_stream_reader *r, struct tm_stream_item *ret_item)
{
	enum tm_stream_kind kind = TM_STREAM_PAGES;
	int rc = 0;

	if (r->last == 0)
		rc = get_start(r);
	if (rc == 0 && (r->last != TM_STREAM_PAGES || r->at == r->bytes)) {
		rc = get_frame(r, &kind);
		if (rc == 0 && kind == TM_STREAM_PAGES)
			rc = get_pages(r);
	}
	if (rc < 0)
		return rc;
	ret_item->kind = kind;
	switch (kind) {
	case TM_STREAM_HEAD:
		return get_head(r, &ret_item->head);
	case TM_STREAM_POOL:
		return get_pool(r, &ret_item->pool);
	case TM_STREAM_PAGES:
		return get_record(r, &ret_item->page);
	case TM_STREAM_END:
		return get_end(r, &ret_item->end);
	}
	return -EBADMSG;
}
