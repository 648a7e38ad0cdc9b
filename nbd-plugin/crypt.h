/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * crypt.h - pages made unreadable for whoever finds the fallback's disk
 *
 * AES-256-XTS, as disk encryption uses it: the page's number is the tweak, so equal pages differ on
 * the disk, and no byte is added. It hides; it does not vouch for what comes back: the sums in
 * state.h do.
 *
 * Contexts are made and keyed at the start; a page in transit allocates nothing.
 *
 * Locking: one mutex for the free contexts, held for a few instructions. Who has a context takes
 * nothing else and waits for no disk, so a wait for a context is short.
 */
#ifndef TM_CRYPT_H
#define TM_CRYPT_H

#include <stdint.h>

#define TM_CRYPT_KEY_BYTES 64 /* two of 256 bits */

struct tm_crypt;

/* Not keyed yet. 0; -ENOMEM; -ENOPKG libcrypto has no AES-256-XTS here. */
int tm_crypt_create(struct tm_crypt **ret_crypt);
void tm_crypt_destroy(struct tm_crypt *c); /* no call under way; NULL: nothing */

/* Use this key, which stays the caller's, before the first page. 0; -EIO libcrypto refuses it. */
int tm_crypt_key(struct tm_crypt *c, const uint8_t key[static TM_CRYPT_KEY_BYTES]);

/* Encrypt, decrypt `count` pages in place, page `n` of the device the first. 0; -EIO when libcrypto
 * fails: the pages mean nothing then. */
int tm_crypt_seal(struct tm_crypt *c, uint64_t n, unsigned int count, void *pages);
int tm_crypt_unseal(struct tm_crypt *c, uint64_t n, unsigned int count, void *pages);

#endif
