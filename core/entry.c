/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/entry.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "core/util.h"

_Static_assert(sizeof(struct tm_entry) == 20, "entry headers are 20 bytes, packed");

uint32_t tm_entry_total(uint32_t payload_bytes, bool has_oid)
{
	uint32_t head = sizeof(struct tm_entry) + (has_oid ? sizeof(struct tm_oid) : 0);

	return TM_ALIGN(head + payload_bytes, 4u);
}

uint32_t tm_entry_check(const struct tm_entry_view *e)
{
	struct {
		struct tm_oid oid;
		uint64_t seq;
		uint32_t index, bytes_codec;
	} name = {e->oid, e->seq, e->index, e->bytes | (uint32_t)e->codec << TM_ENTRY_CODEC_SHIFT};

	return (uint32_t)XXH3_64bits_withSeed(
		e->payload, e->bytes, XXH3_64bits(&name, sizeof(name)));
}

void tm_entry_write(void *at, const struct tm_entry_view *e, bool has_oid)
{
	struct tm_entry *entry = at;
	uint8_t *p = (uint8_t *)(entry + 1);

	if (has_oid) {
		memcpy(p, &e->oid, sizeof(e->oid));
		p += sizeof(e->oid);
	}
	memcpy(p, e->payload, e->bytes);
	entry->check = e->check;
	entry->index = e->index;
	entry->seq_lo = (uint32_t)e->seq;
	entry->seq_hi = (uint32_t)(e->seq >> 32);
	/* Last: before this an entry of no bytes ends the segment, after it the entry is whole. */
	__atomic_store_n(&entry->meta,
		e->bytes | (uint32_t)e->codec << TM_ENTRY_CODEC_SHIFT |
			(has_oid ? TM_ENTRY_HAS_OID : 0),
		__ATOMIC_RELEASE);
}

int tm_entry_view(const void *at, uint32_t room, const struct tm_oid *segment_oid,
	struct tm_entry_view *ret_view)
{
	const struct tm_entry *e = at;
	const uint8_t *p = (const uint8_t *)(e + 1);
	struct tm_entry_view v;
	uint32_t meta;

	if (room < sizeof(*e))
		return -EIO;
	meta = __atomic_load_n(&e->meta, __ATOMIC_RELAXED);
	v.bytes = meta & TM_ENTRY_BYTES_MASK;
	v.total = tm_entry_total(v.bytes, meta & TM_ENTRY_HAS_OID);
	if (v.total > room || v.bytes == 0)
		return -EIO;
	v.codec = meta >> TM_ENTRY_CODEC_SHIFT & 0xf;
	v.dead = meta & TM_ENTRY_DEAD;
	v.seq = (uint64_t)e->seq_hi << 32 | e->seq_lo;
	v.index = e->index;
	v.check = e->check;
	v.oid = *segment_oid;
	if (meta & TM_ENTRY_HAS_OID) {
		memcpy(&v.oid, p, sizeof(v.oid));
		p += sizeof(v.oid);
	}
	v.payload = p;
	*ret_view = v;
	return 0;
}

bool tm_entry_is(const struct tm_entry_view *e, const struct tm_oid *oid, uint32_t index)
{
	return e->index == index && tm_oid_equal(&e->oid, oid) && e->check == tm_entry_check(e);
}

void tm_entry_kill(void *at)
{
	struct tm_entry *e = at;

	__atomic_fetch_or(&e->meta, TM_ENTRY_DEAD, __ATOMIC_RELAXED);
}
