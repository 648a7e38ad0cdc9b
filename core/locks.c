/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/locks.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TM_DEBUG_LOCKS
#endif

#ifdef TM_DEBUG_LOCKS
#include <assert.h>

/* Bit n: this thread holds a lock of rank n. No rank is ever held twice. */
static _Thread_local unsigned int held;

static void check_lock(enum tm_lock_rank rank)
{
	assert(held >> rank == 0 && "lock order");
	held |= 1u << rank;
}

static void check_unlock(enum tm_lock_rank rank)
{
	assert(held & 1u << rank && "unlock of a lock not held");
	held &= ~(1u << rank);
}
#else
static void check_lock(enum tm_lock_rank rank)
{
	(void)rank;
}

static void check_unlock(enum tm_lock_rank rank)
{
	(void)rank;
}
#endif

void tm_lock_init(struct tm_lock *lock, enum tm_lock_rank rank)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->rank = rank;
}

void tm_lock_destroy(struct tm_lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

void tm_lock(struct tm_lock *lock)
{
	check_lock(lock->rank);
	pthread_mutex_lock(&lock->mutex);
}

void tm_unlock(struct tm_lock *lock)
{
	pthread_mutex_unlock(&lock->mutex);
	check_unlock(lock->rank);
}
