/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/gate.h"

void tm_dev_gate_init(struct tm_dev_gate *g)
{
	*g = (struct tm_dev_gate){.inside = 0};
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->moved, NULL);
}

void tm_dev_gate_destroy(struct tm_dev_gate *g)
{
	pthread_cond_destroy(&g->moved);
	pthread_mutex_destroy(&g->lock);
}

bool tm_dev_gate_enter_now(struct tm_dev_gate *g)
{
	/* Either who shuts it sees us inside, or we see it shut. */
	atomic_fetch_add(&g->inside, 1);
	if (!atomic_load(&g->closed))
		return true;
	tm_dev_gate_leave(g);
	return false;
}

void tm_dev_gate_enter(struct tm_dev_gate *g)
{
	while (!tm_dev_gate_enter_now(g)) {
		pthread_mutex_lock(&g->lock);
		while (atomic_load(&g->closed))
			pthread_cond_wait(&g->moved, &g->lock);
		pthread_mutex_unlock(&g->lock);
	}
}

void tm_dev_gate_leave(struct tm_dev_gate *g)
{
	if (atomic_fetch_sub(&g->inside, 1) != 1 || !atomic_load(&g->closed))
		return;
	pthread_mutex_lock(&g->lock);
	pthread_cond_broadcast(&g->moved);
	pthread_mutex_unlock(&g->lock);
}

void tm_dev_gate_shut(struct tm_dev_gate *g)
{
	pthread_mutex_lock(&g->lock);
	atomic_store(&g->closed, !g->broken);
	while (atomic_load(&g->closed) && atomic_load(&g->inside) > 0)
		pthread_cond_wait(&g->moved, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

void tm_dev_gate_open(struct tm_dev_gate *g)
{
	pthread_mutex_lock(&g->lock);
	atomic_store(&g->closed, false);
	pthread_cond_broadcast(&g->moved);
	pthread_mutex_unlock(&g->lock);
}

void tm_dev_gate_break(struct tm_dev_gate *g)
{
	pthread_mutex_lock(&g->lock);
	g->broken = true;
	pthread_mutex_unlock(&g->lock);
	tm_dev_gate_open(g);
}
