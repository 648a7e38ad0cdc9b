/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/crypt.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include <openssl/evp.h>

#define PAGE     4096u
#define CONTEXTS 16u /* as many as requests that have a buffer */
#define XTS_IV   16u

struct context {
	EVP_CIPHER_CTX *seal, *unseal;
};

struct tm_crypt {
	EVP_CIPHER *cipher;
	struct context contexts[CONTEXTS];
	pthread_mutex_t lock;
	pthread_cond_t freed;
	unsigned int free_count; /* under lock, as is free[] */
	struct context *free[CONTEXTS];
};

int tm_crypt_create(struct tm_crypt **ret_crypt)
{
	struct tm_crypt *c = calloc(1, sizeof(*c));
	int rc = -ENOMEM;

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->freed, NULL);
	for (unsigned int i = 0; i < CONTEXTS; i++) {
		struct context *x = &c->contexts[i];

		x->seal = EVP_CIPHER_CTX_new();
		x->unseal = EVP_CIPHER_CTX_new();
		if (!x->seal || !x->unseal)
			goto fail;
		c->free[c->free_count++] = x;
	}
	rc = -ENOPKG;
	c->cipher = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
	if (!c->cipher || EVP_CIPHER_get_key_length(c->cipher) != TM_CRYPT_KEY_BYTES)
		goto fail;
	*ret_crypt = c;
	return 0;

fail:
	tm_crypt_destroy(c);
	return rc;
}

void tm_crypt_destroy(struct tm_crypt *c)
{
	if (!c)
		return;
	for (unsigned int i = 0; i < CONTEXTS; i++) { /* which wipes their keys */
		EVP_CIPHER_CTX_free(c->contexts[i].seal);
		EVP_CIPHER_CTX_free(c->contexts[i].unseal);
	}
	EVP_CIPHER_free(c->cipher);
	pthread_cond_destroy(&c->freed);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int tm_crypt_key(struct tm_crypt *c, const uint8_t key[static TM_CRYPT_KEY_BYTES])
{
	for (unsigned int i = 0; i < CONTEXTS; i++) {
		struct context *x = &c->contexts[i];

		if (!EVP_EncryptInit_ex2(x->seal, c->cipher, key, NULL, NULL) ||
			!EVP_DecryptInit_ex2(x->unseal, c->cipher, key, NULL, NULL))
			return -EIO;
	}
	return 0;
}

static struct context *take(struct tm_crypt *c)
{
	struct context *x;

	pthread_mutex_lock(&c->lock);
	while (c->free_count == 0)
		pthread_cond_wait(&c->freed, &c->lock);
	x = c->free[--c->free_count];
	pthread_mutex_unlock(&c->lock);
	return x;
}

static void give_back(struct tm_crypt *c, struct context *x)
{
	pthread_mutex_lock(&c->lock);
	c->free[c->free_count++] = x;
	pthread_mutex_unlock(&c->lock);
	pthread_cond_signal(&c->freed);
}

/* A context keeps its key and its direction; only the tweak changes from page to page. */
static int transform(EVP_CIPHER_CTX *ctx, uint64_t n, unsigned int count, uint8_t *page)
{
	for (unsigned int i = 0; i < count; i++, page += PAGE) {
		uint64_t tweak[XTS_IV / sizeof(uint64_t)] = {htole64(n + i), 0};
		int bytes = 0;

		if (!EVP_CipherInit_ex2(ctx, NULL, NULL, (uint8_t *)tweak, -1, NULL) ||
			!EVP_CipherUpdate(ctx, page, &bytes, page, PAGE) || bytes != PAGE)
			return -EIO;
	}
	return 0;
}

int tm_crypt_seal(struct tm_crypt *c, uint64_t n, unsigned int count, void *pages)
{
	struct context *x = take(c);
	int rc = transform(x->seal, n, count, pages);

	give_back(c, x);
	return rc;
}

int tm_crypt_unseal(struct tm_crypt *c, uint64_t n, unsigned int count, void *pages)
{
	struct context *x = take(c);
	int rc = transform(x->unseal, n, count, pages);

	give_back(c, x);
	return rc;
}
