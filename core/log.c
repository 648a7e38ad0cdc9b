/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/log.h"

#include <errno.h>
#include <sched.h>

#include "core/slot.h"
#include "core/util.h"

unsigned int tm_log_heads_for(const struct tm_arena *a)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	long heads = TM_MIN(cpus, (long)tm_arena_segments(a) / 16);

	return (unsigned int)(heads < 1 ? 1 : TM_MIN(heads, (long)TM_LOG_HEADS_MAX));
}

void tm_log_init(struct tm_log *log, struct tm_arena *a, const struct tm_owner *owner)
{
	log->arena = a;
	for (int i = 0; i < TM_QUEUES; i++)
		log->owner[i] = *owner;
	log->heads = tm_log_heads_for(a);
	for (unsigned int i = 0; i < TM_ARRAY_SIZE(log->head); i++) {
		tm_lock_init(&log->head[i].lock, TM_LOCK_HEAD);
		log->head[i].segment = TM_SEGMENT_NONE;
	}
}

enum tm_queue tm_log_queue(const struct tm_log *log, const struct tm_segment *s)
{
	return (enum tm_queue)(s->owner - log->owner);
}

static struct tm_log_head *pick_head(struct tm_log *log, enum tm_queue queue)
{
	int cpu;

	if (queue != TM_QUEUE_NEW)
		return &log->head[log->heads + queue - TM_QUEUE_MAIN];
	cpu = sched_getcpu();
	return &log->head[cpu < 0 ? 0 : (unsigned int)cpu % log->heads];
}

/* Does `bytes` of payload for `oid` fit behind the tail of the open segment? */
static bool fits(const struct tm_log *log, uint32_t id, const struct tm_oid *oid, uint32_t bytes)
{
	const struct tm_segment *s = tm_segment(log->arena, id);
	uint32_t total = tm_entry_total(bytes, !tm_oid_equal(oid, &s->oid));

	return total <= tm_arena_segment_bytes(log->arena) - s->tail;
}

static int make_room_locked(struct tm_log *log, struct tm_log_head *head, enum tm_queue queue,
	bool privileged, const struct tm_oid *oid, uint32_t bytes)
{
	uint32_t id;
	int rc;

	if (head->segment != TM_SEGMENT_NONE && fits(log, head->segment, oid, bytes))
		return 0;
	rc = tm_segment_open(log->arena, &log->owner[queue], oid, privileged, &id);
	if (rc < 0)
		return rc; /* the open segment stays: a smaller page may still fit */
	if (head->segment != TM_SEGMENT_NONE)
		tm_segment_seal(log->arena, head->segment);
	head->segment = id;
	return 0;
}

static uint64_t append_locked(
	struct tm_log *log, struct tm_log_head *head, const struct tm_entry_view *e)
{
	struct tm_segment *s = tm_segment(log->arena, head->segment);
	bool has_oid = !tm_oid_equal(&e->oid, &s->oid);
	uint32_t total = tm_entry_total(e->bytes, has_oid);
	uint64_t slot = tm_slot(head->segment, s->tail, total, e->codec);

	tm_entry_write(tm_segment_data(log->arena, head->segment) + s->tail, e, has_oid);
	tm_segment_ref(log->arena, head->segment);
	atomic_fetch_add(&s->live_bytes, total);
	s->tail += total;
	return slot;
}

int tm_log_append(struct tm_log *log, enum tm_queue queue, bool privileged,
	const struct tm_entry_view *e, uint64_t *ret_slot)
{
	struct tm_log_head *head = pick_head(log, queue);
	int rc;

	tm_lock(&head->lock);
	rc = make_room_locked(log, head, queue, privileged, &e->oid, e->bytes);
	if (rc == 0)
		*ret_slot = append_locked(log, head, e);
	tm_unlock(&head->lock);
	return rc;
}

int tm_log_view(struct tm_arena *a, uint64_t slot, struct tm_entry_view *ret_view)
{
	uint32_t id = tm_slot_segment(slot), offset = tm_slot_offset(slot);

	return tm_entry_view(tm_segment_data(a, id) + offset, tm_arena_segment_bytes(a) - offset,
		&tm_segment(a, id)->oid, ret_view);
}

void tm_log_kill(struct tm_arena *a, uint64_t slot)
{
	uint32_t id = tm_slot_segment(slot);

	tm_entry_kill(tm_segment_data(a, id) + tm_slot_offset(slot));
	atomic_fetch_sub(&tm_segment(a, id)->live_bytes, tm_slot_total(slot));
}

/* The open segment, which is no longer the head's, or TM_SEGMENT_NONE. */
static uint32_t take_open(struct tm_log *log, struct tm_log_head *head, uint32_t dead_min)
{
	uint32_t id, taken = TM_SEGMENT_NONE;

	tm_lock(&head->lock);
	id = head->segment;
	if (id != TM_SEGMENT_NONE) {
		const struct tm_segment *s = tm_segment(log->arena, id);
		uint64_t live = atomic_load(&s->live_bytes);

		if (live == 0 || s->tail - sizeof(struct tm_segment_header) >= live + dead_min) {
			head->segment = TM_SEGMENT_NONE;
			taken = id;
		}
	}
	tm_unlock(&head->lock);
	return taken;
}

unsigned int tm_log_seal(struct tm_log *log, uint32_t dead_min)
{
	unsigned int sealed = 0;

	for (unsigned int i = 0; i < log->heads + TM_QUEUES - 1; i++) {
		uint32_t id = take_open(log, &log->head[i], dead_min);

		if (id == TM_SEGMENT_NONE)
			continue;
		tm_segment_seal(log->arena, id);
		sealed++;
	}
	return sealed;
}
