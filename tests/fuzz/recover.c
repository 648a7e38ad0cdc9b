/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * recover.c - libFuzzer: a store is opened on a mapping that anything may have happened to
 *
 * A good mapping is made once: persistent and ephemeral pages, of every codec, dead ones among
 * them. An input is a list of changes to a copy of it, 8 bytes each:
 *
 *      op:8  segment:8  offset:16 (x 16 in the lower half of ops)  value:32
 *
 * The store that is then opened on it is read, written, cleaned, packed and closed. Nothing may
 * crash, and unless a change forged a checksum, each page is what was put or is not there.
 *
 * `recover` with a directory of inputs runs them, and makes new ones from them.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/store_private.h"
#include "core/util.h"

#define SEGMENT  TM_SEGMENT_BYTES_MIN
#define SEGMENTS 16u
#define PAGES    64u

#define EPHEMERAL_ATTRS (TM_POOL_RETAIN | TM_POOL_DEDUP)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct tm_oid oids[2] = {{{1, 2, 3}}, {{4, 5, 6}}};
static uint8_t *good; /* [SEGMENTS * SEGMENT] */
static uint32_t used; /* segments of it, the first ones, that are not all zeros */

static void require(bool what)
{
	if (!what)
		__builtin_trap();
}

/* Same-filled, LZ4, raw and, since its text is what zstd alone makes smaller, ZSTD; each of them
 * twice, for DUP. */
static void make_page(uint32_t n, uint8_t *page)
{
	n &= ~16u;
	uint64_t r = n * 0x9e3779b97f4a7c15u + 1;

	for (uint32_t i = 0; i < TM_PAGE_SIZE; i++) {
		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		page[i] = n % 4 == 0 ? (uint8_t)n
			: n % 4 == 1 ? (uint8_t)(i / 64 + n)
			: n % 4 == 2 ? (uint8_t)(r >> 20)
				     : (uint8_t) "etaoin shrdlu"[(r >> 20) % 13];
	}
}

static int open_pool(struct tm_store *s, uint32_t kind, uint32_t attrs)
{
	struct tm_pool_params params = {
		.flags = tm_pool_flags(kind, 0), .attrs = attrs, .name = "fuzz"};

	return tm_store_new_pool(s, &params);
}

static void make_good(void)
{
	struct tm_store_params params = {.limit = SEGMENTS * SEGMENT,
		.segment_bytes = SEGMENT,
		.upkeep_percent = 100,
		.cold_ms = 1};
	uint8_t page[TM_PAGE_SIZE];
	struct tm_store *s;
	int fd;

	require(tm_ledger_create(&params.ledger, &fd) == 0);
	close(fd);
	require(tm_store_create(&params, &s) == 0);
	require(open_pool(s, TM_POOL_PERSIST, 0) == 0 && open_pool(s, 0, EPHEMERAL_ATTRS) == 1);
	for (uint32_t i = 0; i < PAGES * 3 / 2; i++) { /* some of them twice */
		make_page(i % PAGES, page);
		require(tm_store_put(s, (int)(i / 8 % 2), &oids[i % 2], i % PAGES, page) == 0);
	}
	atomic_store(&params.ledger->recompress, 1);
	while (atomic_load(&params.ledger->pools[0].stat[TM_STAT_PACKED]) == 0) {
		tm_log_seal(&s->pools[0].log, 0); /* what cleaning gathered, too */
		usleep(2000);                     /* until that is cold */
		while (tm_upkeep_work(s, NULL) == 0)
			;
	}
	for (uint32_t i = 0; i < 8; i++) {
		make_page(i, page);
		require(tm_store_put(s, 0, &oids[i % 2], i, page) == 0);
	}
	good = malloc(SEGMENTS * SEGMENT);
	require(good && pread(tm_store_fd(s), good, SEGMENTS * SEGMENT, 0) == SEGMENTS * SEGMENT);
	while (memcmp(good + (size_t)used * SEGMENT, "tmsg", 4) == 0)
		used++;
	require(used > 2);
	tm_store_destroy(s);
	tm_ledger_unmap(params.ledger);
}

/* Give what begins at `at` the checksum it needs: a segment's header, or an entry. */
static void forge(uint8_t *map, uint32_t id, uint32_t offset)
{
	struct tm_segment_header *header = (struct tm_segment_header *)(map + id * SEGMENT);
	struct tm_entry *entry = (struct tm_entry *)(map + id * SEGMENT + offset);
	struct tm_entry_view e;

	header->check = XXH3_64bits(header, offsetof(struct tm_segment_header, check));
	if (offset % 4 == 0 && tm_entry_view(entry, SEGMENT - offset, &header->oid, &e) == 0)
		entry->check = tm_entry_check(&e);
}

/* True when a checksum was forged. */
static bool change(uint8_t *map, const uint8_t *data, size_t size)
{
	bool forged = false;

	for (; size >= 8; data += 8, size -= 8) {
		uint32_t id = data[1] % (used + 1), offset = data[2] | (uint32_t)data[3] << 8,
			 value;
		uint8_t *at;

		memcpy(&value, data + 4, sizeof(value));
		offset = TM_MIN(data[0] & 0x80 ? offset : offset * 16, SEGMENT - 4096u);
		at = map + id * SEGMENT + offset;
		switch (data[0] & 7) {
		case 0:
			memcpy(at, &value, sizeof(value));
			break;
		case 1:
			*at ^= (uint8_t)(1u << value % 8);
			break;
		case 2:
			memset(at, (int)(value >> 16), value % 4096);
			break;
		case 3: /* a piece of somewhere else */
			memcpy(at, good + value % (used * SEGMENT), 512);
			break;
		case 4:
			memcpy(map + id * SEGMENT, good + value % used * SEGMENT, SEGMENT);
			break;
		default:
			forge(map, id, offset);
			forged = true;
		}
	}
	return forged;
}

static void use(struct tm_store *s, bool forged)
{
	int pools[2] = {open_pool(s, TM_POOL_PERSIST, 0), open_pool(s, 0, EPHEMERAL_ATTRS)};
	uint8_t page[TM_PAGE_SIZE], got[TM_PAGE_SIZE];

	for (uint32_t i = 0; i < 2 * PAGES; i++) {
		int rc = tm_store_get(s, pools[i / PAGES], &oids[i % 2], i % PAGES, got);

		make_page(i % PAGES, page);
		require(rc < 0 || forged || memcmp(page, got, sizeof(page)) == 0);
	}
	for (uint32_t i = 0; i < 2 * PAGES; i += 3) {
		make_page(i, page);
		(void)tm_store_put(s, pools[i / PAGES], &oids[0], i, page);
	}
	tm_store_release(s, SEGMENT);
	while (tm_clean(s, SEGMENT))
		;
	while (tm_upkeep_work(s, NULL) == 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tm_store_params params = {.limit = SEGMENTS * SEGMENT,
		.segment_bytes = SEGMENT,
		.recompress = true,
		.upkeep_percent = 100,
		.cold_ms = 1};
	struct tm_store *s;
	bool forged;
	uint8_t *map;
	int fd, ledger_fd;

	if (!good)
		make_good();
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	require(fd >= 0 && ftruncate(fd, SEGMENTS * SEGMENT) == 0);
	map = mmap(NULL, SEGMENTS * SEGMENT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	require(map != MAP_FAILED);
	require(tm_ledger_create(&params.ledger, &ledger_fd) == 0);
	close(ledger_fd);
	memcpy(map, good, (size_t)used * SEGMENT);
	forged = change(map, data, size);
	if (tm_store_recover(&params, fd, true, &s) == 0) {
		use(s, forged);
		tm_store_destroy(s);
	} else {
		close(fd);
	}
	munmap(map, SEGMENTS * SEGMENT);
	tm_ledger_unmap(params.ledger);
	return 0;
}
