/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stream.c - whatever bytes come: the parser of streams, and a restore from them
 *
 * libFuzzer, with ASan and UBSan. The input's first byte says how it is read:
 *
 *      0  as it is, by the parser alone
 *      1  frames are put together from it with checks that are right, so that what is behind a
 *         check is reached: byte by byte type, bytes (two), body; then the parser
 *      2  the same frames, by a restore into a small store with one pool of each kind; afterwards
 *         its invariants hold, and after a failure it is empty; with bit 6 of the first byte the
 *         front end takes every other page that does not compress elsewhere
 *
 * What it starts from is made by stream_corpus.py.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/move.h"
#include "core/util.h"

#define LIMIT   (4u << 20)
#define SEGMENT (256u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- the stream that is read ------------------------------------------------------------------ */

static uint8_t stream[1u << 20];
static size_t stream_size, stream_at;

static int64_t read_stream(void *opaque, void *ret_data, size_t bytes)
{
	size_t n = TM_MIN(bytes, stream_size - stream_at);

	(void)opaque;
	memcpy(ret_data, stream + stream_at, n);
	stream_at += n;
	return (int64_t)n;
}

static void add(const void *data, size_t bytes)
{
	memcpy(stream + stream_size, data, bytes);
	stream_size += bytes;
}

/* As core/stream.h describes it; written a second time, which checks the description too. */
static void add_frames(const uint8_t *data, size_t size)
{
	struct {
		char magic[8];
		uint32_t version, zero;
	} start = {.version = htole32(TM_STREAM_VERSION)};
	uint64_t check;

	memcpy(start.magic, TM_STREAM_MAGIC, sizeof(start.magic));
	add(&start, sizeof(start));
	check = XXH3_64bits(&start, sizeof(start));
	while (size >= 3 && stream_size < sizeof(stream) / 2) {
		uint32_t type = data[0], bytes = data[1] | (uint32_t)data[2] << 8;
		uint64_t name[2];
		struct {
			uint32_t type, bytes;
			uint64_t check;
		} frame;

		data += 3, size -= 3;
		bytes = (uint32_t)TM_MIN((size_t)bytes, size);
		name[0] = htole64(check);
		name[1] = htole64((uint64_t)type << 32 | bytes);
		check = XXH3_64bits_withSeed(data, bytes, XXH3_64bits(name, sizeof(name)));
		frame.type = htole32(type);
		frame.bytes = htole32(bytes);
		frame.check = htole64(check);
		add(&frame, sizeof(frame));
		add(data, bytes);
		data += bytes, size -= bytes;
	}
}

/* --- who reads it ----------------------------------------------------------------------------- */

static void parse(void)
{
	struct tm_stream_reader *reader;
	struct tm_stream_item item;
	volatile uint8_t seen;

	if (tm_stream_reader_open(read_stream, NULL, &reader) < 0)
		return;
	while (tm_stream_next(reader, &item) == 0 && item.kind != TM_STREAM_END) {
		if (item.kind == TM_STREAM_PAGES && !item.page.gone)
			for (uint32_t i = 0; i < item.page.bytes; i++) /* all of it is there */
				seen = item.page.payload[i];
	}
	tm_stream_reader_close(reader);
	(void)seen;
}

/* A front end that keeps a few pages elsewhere. */
static struct {
	bool there[256];
	uint64_t taken, restored;
	bool accepted, abandoned, begun, ended, whole;
} front;

static int front_accept(
	void *opaque, const void *data, uint32_t bytes, char ret_why[static TM_WHY_MAX])
{
	(void)opaque, (void)data, (void)bytes, (void)ret_why;
	front.accepted = true;
	return 0;
}

static int front_begin(void *opaque, char ret_why[static TM_WHY_MAX])
{
	(void)opaque, (void)ret_why;
	front.begun = true;
	return 0;
}

static void front_restored(void *opaque, int pool, const struct tm_oid *oid, uint32_t index)
{
	(void)opaque, (void)pool, (void)oid, (void)index;
	front.restored++;
}

static void front_end(void *opaque, bool whole)
{
	(void)opaque;
	front.ended = true;
	front.whole = whole;
}

static void front_abandon(void *opaque)
{
	(void)opaque;
	front.abandoned = true;
}

static int front_take(
	void *opaque, int pool, const struct tm_oid *oid, uint32_t index, void *page, bool raw)
{
	bool again;

	(void)opaque, (void)oid;
	if (pool != 0 || index % 2 || index >= TM_ARRAY_SIZE(front.there))
		return -ENOSPC;
	memset(page, raw, TM_PAGE_SIZE); /* all of it is there, and ours */
	again = front.there[index];
	front.there[index] = true;
	front.taken += !again;
	return !again;
}

static bool front_drop(void *opaque, int pool, const struct tm_oid *oid, uint32_t index)
{
	(void)opaque, (void)oid;
	if (pool != 0 || index >= TM_ARRAY_SIZE(front.there) || !front.there[index])
		return false;
	front.there[index] = false;
	front.taken--;
	return true;
}

static const struct tm_elsewhere_ops elsewhere_ops = {.take = front_take, .drop = front_drop};
static const struct tm_move_ops front_ops = {
	.accept = front_accept,
	.begin = front_begin,
	.restored = front_restored,
	.end = front_end,
	.abandon = front_abandon,
	.elsewhere = &elsewhere_ops,
};

static void restore(bool elsewhere)
{
	const struct tm_move_params who = {
		.name = "fuzz", .type = "fuzz", .ops = elsewhere ? &front_ops : NULL};
	struct tm_store_params params = {.limit = LIMIT, .segment_bytes = SEGMENT};
	struct tm_pool_params swap = {.flags = tm_pool_flags(TM_POOL_PERSIST, 0), .name = "s"};
	struct tm_pool_params cache = {
		.flags = tm_pool_flags(0, 0), .attrs = TM_POOL_RETAIN, .name = "c"};
	struct tm_move_result result;
	struct tm_store *s;
	int fd, rc;

	if (tm_ledger_create(&params.ledger, &fd) < 0)
		return;
	if (tm_store_create(&params, &s) < 0)
		abort();
	memset(&front, 0, sizeof(front));
	swap.attrs = elsewhere ? TM_POOL_REFUSE_RAW : 0;
	tm_store_new_pool(s, &swap);
	tm_store_new_pool(s, &cache);
	rc = tm_store_restore(s, &who, read_stream, NULL, &result);
	if (tm_store_check(s) != 0 || (rc < 0 && !*result.why))
		abort();
	if (front.accepted != (front.abandoned || front.whole) || front.begun != front.ended ||
		(elsewhere && front.whole != (rc == 0)) ||
		(front.whole && rc == 0 &&
			front.restored !=
				atomic_load(&params.ledger->pools[0].stat[TM_STAT_PAGES])))
		abort();
	for (int i = 0; i < 2; i++)
		if (rc < 0 && atomic_load(&params.ledger->pools[i].stat[TM_STAT_PAGES]) > 0)
			abort();
	tm_store_destroy(s);
	if (atomic_load(&params.ledger->used_bytes) != 0)
		abort();
	tm_ledger_unmap(params.ledger);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0 || size > sizeof(stream) / 4)
		return 0;
	stream_size = stream_at = 0;
	if (data[0] % 3 == 0)
		add(data + 1, size - 1);
	else
		add_frames(data + 1, size - 1);
	if (data[0] % 3 == 2)
		restore(data[0] & 0x40);
	else
		parse();
	return 0;
}
