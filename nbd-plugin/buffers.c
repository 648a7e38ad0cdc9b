/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/buffers.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

struct tm_buffers {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	void *memory;
	size_t bytes;            /* of all */
	unsigned int free_count; /* under lock, as is free[] */
	void *free[];
};

int tm_buffers_create(unsigned int count, size_t bytes, struct tm_buffers **ret_buffers)
{
	struct tm_buffers *b = calloc(1, sizeof(*b) + count * sizeof(b->free[0]));

	if (!b)
		return -ENOMEM;
	b->bytes = count * bytes;
	b->memory =
		mmap(NULL, b->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->memory == MAP_FAILED) {
		free(b);
		return -ENOMEM;
	}
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->freed, NULL);
	while (b->free_count < count) {
		b->free[b->free_count] = (char *)b->memory + b->free_count * bytes;
		b->free_count++;
	}
	*ret_buffers = b;
	return 0;
}

void tm_buffers_destroy(struct tm_buffers *b)
{
	if (!b)
		return;
	pthread_cond_destroy(&b->freed);
	pthread_mutex_destroy(&b->lock);
	munmap(b->memory, b->bytes);
	free(b);
}

void *tm_buffers_get(struct tm_buffers *b)
{
	void *buffer;

	pthread_mutex_lock(&b->lock);
	while (b->free_count == 0)
		pthread_cond_wait(&b->freed, &b->lock);
	buffer = b->free[--b->free_count];
	pthread_mutex_unlock(&b->lock);
	return buffer;
}

void tm_buffers_put(struct tm_buffers *b, void *buffer)
{
	pthread_mutex_lock(&b->lock);
	b->free[b->free_count++] = buffer;
	pthread_mutex_unlock(&b->lock);
	pthread_cond_signal(&b->freed);
}
