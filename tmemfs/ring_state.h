/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ring_state.h - what ring.c (the kernel's queues) and ring_server.c (the threads that carry
 * requests out) share; ring.c explains it
 */
#ifndef TMEMFS_RING_STATE_H
#define TMEMFS_RING_STATE_H

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "tmemfs/abi.h"
#include "tmemfs/uring.h"

#define TM_RING_COPY_MAX                                                                           \
	8192              /* longer ones are writes and extended attributes, which only we answer */
#define TM_RING_ROOM 4096 /* before the payload: for headers, so that a request is in one piece */

/* What an event is about: the address of an entry, or: */
#define TM_EVENT_CALL 0

struct tm_ring_entry {
	struct tm_ring_queue *queue;   /* constant */
	struct tm_ring_header *header; /* the same; shared with the kernel, one mapping with: */
	char *payload;                 /* TM_RING_ROOM before it */
	struct iovec iov[2];           /* these two, for the kernel */
	uint32_t command;              /* whose it is: what to submit */
	bool in_place;                 /* server: carried out where it is */
	bool submitted;                /* server: before its handler returned */
	bool answered;                 /* server, or queue lock if another thread does it */
	uint64_t unique;               /* queue lock: the request; 0: none that is to be answered */
	struct tm_ring_server *server; /* queue lock: who carries it out; NULL: nobody any more */
	struct tm_ring_entry *next; /* queue lock: of those that wait for a server, or the usher */
};

struct tm_ring_server {
	struct tm_ring_queue *queue; /* constant */
	pthread_t thread;            /* constant */
	struct tm_uring uring;
	bool has_uring;
	struct tm_ring_entry *entry;  /* queue lock: NULL: parked, or robbed of it */
	struct tm_ring_server *under; /* queue lock: of the parked */
	struct tm_ring_server *next;  /* queue lock: of all */
	pthread_cond_t called;        /* it has an entry again */
	char copy[TM_RING_COPY_MAX + sizeof(struct tm_ring_header)];
};

struct tm_ring_queue {
	struct tm_ring *ring;          /* constant */
	unsigned int number;           /* constant: the processor's */
	pthread_t usher;               /* constant */
	struct tm_uring uring;         /* usher */
	int call_fd;                   /* eventfd: the usher has something to do */
	struct tm_ring_entry *entries; /* constant: ring->max of them */
	char *memory;                  /* constant: theirs */
	pthread_mutex_t lock;

	/* lock */
	struct tm_ring_server *servers;
	struct tm_ring_server *parked;
	unsigned int server_count;
	unsigned int busy;                              /* servers that carry a request out */
	struct tm_ring_entry *requests, **last_request; /* that no server was there for */
	struct tm_ring_entry *answers;                  /* for the usher to submit */
};

struct tm_ring {
	/* Constant. */
	struct fuse_session *session;
	unsigned int max;      /* entries a queue */
	unsigned int busy_max; /* requests a queue that are carried out at once */
	void (*on_idle)(void *opaque);
	void *opaque;
	int stop_fd; /* eventfd: readable once `stopping` */

	pthread_mutex_t lock;
	pthread_cond_t changed;

	/* lock */
	unsigned int ready;
	int error;
	bool begun, agreed;
	size_t payload; /* constant once begun */

	_Atomic bool stopping;
	unsigned int queue_count, usher_count;
	struct tm_ring_queue queues[];
};

/* Submit `entry` with the next wait. */
void tm_ring_prepare(struct tm_ring_entry *entry, struct tm_uring *uring);

/* Hear when `fd` can be read: TM_EVENT_CALL. */
void tm_ring_watch(struct tm_uring *uring, int fd);

/* The request is answered, but not by who could submit that. */
void tm_ring_by_usher_locked(struct tm_ring_queue *queue, struct tm_ring_entry *entry);

/* A thread that blocks every signal. 0 or -errno. */
int tm_ring_thread(pthread_t *ret_thread, void *(*run)(void *), void *arg);

/* Have a server carry out the request in `entry`, or keep it until there is one. */
void tm_ring_give_locked(struct tm_ring_queue *queue, struct tm_ring_entry *entry);

/* What this thread is carrying out: NULL, or its request, which is `unique`. */
struct tm_ring_entry *tm_ring_serving(uint64_t unique);

/* The server's answer is there: submit it, if that is urgent. */
void tm_ring_answered(struct tm_ring_entry *entry);

/* Answer the request in `entry` with an error. */
void tm_ring_answer_error(struct tm_ring_entry *entry, int error);

#endif
