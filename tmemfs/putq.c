/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * putq.c - the queue of puts
 *
 *   free (stack of slots) --add--> ring of waiting slots --worker--> in work --> free
 *
 * Invariant: every slot is in exactly one of the three. Slots are copied into outside the lock,
 * while they are in none of the lists and belong to the thread that took them.
 *
 * Locking: one mutex, held for a few instructions. Workers block every signal.
 */
#include "tmemfs/putq.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/util.h"
#include "tmemfs/inode.h"

#define SLOTS_MIN   16
#define THREADS_MAX 16
#define HOLD_EVERY  8 /* puts, 30 us or so: as long may somebody wait for the processor */
#define HOLD_NS     1000000l
#define ADD_MAX     32 /* pages queued at one go */

struct tm_putq {
	/* Constant. */
	size_t page_size;
	size_t slots;
	char *pages; /* slots * page_size */
	const struct tm_putq_ops *ops;
	void *opaque;
	unsigned int threads;
	pthread_t thread[THREADS_MAX];

	pthread_mutex_t lock;
	pthread_cond_t filled;

	/* lock */
	struct tm_put **free; /* stack */
	size_t free_count;
	struct tm_put **waiting; /* ring of `slots` */
	size_t head, count;

	atomic_bool stopping; /* set under the lock */

	struct tm_put slot[];
};

/* Wait until work is wanted. */
static void wait_while_held(struct tm_putq *queue)
{
	const struct timespec pause = {0, HOLD_NS};

	while (!atomic_load(&queue->stopping) && queue->ops->hold(queue->opaque))
		nanosleep(&pause, NULL);
}

static void *worker(void *arg)
{
	struct tm_putq *queue = arg;
	unsigned int done = 0;

	pthread_mutex_lock(&queue->lock);
	for (;;) {
		struct tm_put *put;

		while (queue->count == 0 && !atomic_load(&queue->stopping))
			pthread_cond_wait(&queue->filled, &queue->lock);
		if (done++ % HOLD_EVERY == 0) {
			pthread_mutex_unlock(&queue->lock);
			wait_while_held(queue);
			pthread_mutex_lock(&queue->lock);
		}
		if (atomic_load(&queue->stopping))
			break;
		if (queue->count == 0)
			continue;
		put = queue->waiting[queue->head];
		queue->head = (queue->head + 1) % queue->slots;
		queue->count--;
		pthread_mutex_unlock(&queue->lock);

		queue->ops->work(queue->opaque, put);
		tm_inode_unref(put->inode);

		pthread_mutex_lock(&queue->lock);
		queue->free[queue->free_count++] = put;
	}
	pthread_mutex_unlock(&queue->lock);
	return NULL;
}

unsigned int tm_putq_add(struct tm_putq *queue, struct tm_inode *inode, uint64_t epoch,
	uint32_t index, unsigned int count, const char *pages)
{
	struct tm_put *puts[ADD_MAX];
	unsigned int done = 0, n;

	do {
		pthread_mutex_lock(&queue->lock);
		for (n = 0;
			n < TM_MIN(count - done, (unsigned int)ADD_MAX) && queue->free_count > 0;
			n++)
			puts[n] = queue->free[--queue->free_count];
		pthread_mutex_unlock(&queue->lock);

		for (unsigned int i = 0; i < n; i++, done++) {
			char *copy =
				queue->pages + (size_t)(puts[i] - queue->slot) * queue->page_size;

			memcpy(copy, pages + (size_t)done * queue->page_size, queue->page_size);
			puts[i]->inode = tm_inode_ref(inode);
			puts[i]->epoch = epoch;
			puts[i]->index = index + done;
		}

		pthread_mutex_lock(&queue->lock);
		for (unsigned int i = 0; i < n; i++)
			queue->waiting[(queue->head + queue->count++) % queue->slots] = puts[i];
		if (n > 1)
			pthread_cond_broadcast(&queue->filled);
		else if (n == 1)
			pthread_cond_signal(&queue->filled);
		pthread_mutex_unlock(&queue->lock);
	} while (n == ADD_MAX && done < count);
	return done;
}

static void queue_free(struct tm_putq *queue)
{
	if (queue->pages)
		munmap(queue->pages, queue->slots * queue->page_size);
	free(queue->free);
	free(queue->waiting);
	pthread_cond_destroy(&queue->filled);
	pthread_mutex_destroy(&queue->lock);
	free(queue);
}

void tm_putq_stop(struct tm_putq *queue)
{
	if (!queue)
		return;
	pthread_mutex_lock(&queue->lock);
	atomic_store(&queue->stopping, true);
	pthread_cond_broadcast(&queue->filled);
	pthread_mutex_unlock(&queue->lock);
	for (unsigned int i = 0; i < queue->threads; i++)
		pthread_join(queue->thread[i], NULL);
	for (size_t i = 0; i < queue->count; i++)
		tm_inode_unref(queue->waiting[(queue->head + i) % queue->slots]->inode);
	queue_free(queue);
}

/* As many threads as there can be, at least one. */
static int start_threads(struct tm_putq *queue, unsigned int threads)
{
	sigset_t all, old;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (rc == 0 && queue->threads < TM_MIN(threads, (unsigned int)THREADS_MAX)) {
		rc = -pthread_create(&queue->thread[queue->threads], NULL, worker, queue);
		if (rc == 0)
			queue->threads++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return queue->threads > 0 ? 0 : rc;
}

int tm_putq_start(size_t page_size, uint64_t bytes, unsigned int threads,
	const struct tm_putq_ops *ops, void *opaque, struct tm_putq **ret_queue)
{
	size_t slots = TM_MAX(bytes / page_size, (uint64_t)SLOTS_MIN);
	struct tm_putq *queue = calloc(1, sizeof(*queue) + slots * sizeof(queue->slot[0]));
	int rc = -ENOMEM;

	if (!queue)
		return -ENOMEM;
	pthread_mutex_init(&queue->lock, NULL);
	pthread_cond_init(&queue->filled, NULL);
	queue->page_size = page_size;
	queue->slots = slots;
	queue->ops = ops;
	queue->opaque = opaque;
	queue->free = calloc(slots, sizeof(*queue->free));
	queue->waiting = calloc(slots, sizeof(*queue->waiting));
	queue->pages = mmap(NULL, slots * page_size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (queue->pages == MAP_FAILED)
		queue->pages = NULL;
	if (!queue->free || !queue->waiting || !queue->pages)
		goto fail;
	/* The stack hands out low slots first: an idle queue touches little memory. */
	for (size_t i = slots; i-- > 0;) {
		queue->slot[i].page = queue->pages + i * page_size;
		queue->free[queue->free_count++] = &queue->slot[i];
	}
	rc = start_threads(queue, threads);
	if (rc < 0)
		goto fail;
	*ret_queue = queue;
	return 0;

fail:
	queue_free(queue);
	return rc;
}
