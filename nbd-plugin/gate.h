/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gate.h - requests that change pages wait while a save looks at all of them
 *
 * A request passes before it takes any page lock, so whoever waits here keeps nobody from reading.
 * Between shut and open none is inside. Once the device's pages are lost (an operator destroyed the
 * client) there is nothing to wait for, and the gate stays open.
 *
 * Locking: inside and shut are told to each other by their order; the mutex is for sleeping, held
 * for a few instructions, and no other is taken with it.
 */
#ifndef TM_DEV_GATE_H
#define TM_DEV_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct tm_dev_gate {
	_Atomic uint32_t inside;
	_Atomic bool closed;
	bool broken; /* open for ever; under lock */
	pthread_mutex_t lock;
	pthread_cond_t moved;
};

void tm_dev_gate_init(struct tm_dev_gate *g);
void tm_dev_gate_destroy(struct tm_dev_gate *g); /* nobody is inside or waits */

/* Wait while it is shut; `enter_now` does not, and says false. */
void tm_dev_gate_enter(struct tm_dev_gate *g);
bool tm_dev_gate_enter_now(struct tm_dev_gate *g);
void tm_dev_gate_leave(struct tm_dev_gate *g);

/* Let nobody in, and wait for who is inside. A second call of either does nothing. */
void tm_dev_gate_shut(struct tm_dev_gate *g);
void tm_dev_gate_open(struct tm_dev_gate *g);

void tm_dev_gate_break(struct tm_dev_gate *g);

#endif
