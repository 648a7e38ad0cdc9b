/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/state.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "core/util.h"

#define HEAD_BYTES     4096u
#define EXPECTED_BYTES (TM_STATE_EXPECTED * sizeof(uint64_t))
#define MAGIC          "tmem nbd state\n"
#define VERSION        2u

struct head {
	char magic[16];
	uint32_t version;
	uint32_t encrypted;
	uint8_t fallback[TM_FALLBACK_ID_BYTES];
	uint64_t pages;
	uint8_t key[TM_CRYPT_KEY_BYTES]; /* zeros: not encrypted */
	_Atomic uint32_t torn;           /* 1: a restore was under way */
};

struct tm_state {
	int fd;
	size_t bytes;
	struct head *head; /* the mapping */
	_Atomic uint64_t *expected;
	_Atomic uint8_t *map;
	_Atomic uint32_t *sums;
};

static size_t map_bytes(uint64_t pages)
{
	return TM_ALIGN(pages, (uint64_t)HEAD_BYTES); /* so that the sums are aligned */
}

static size_t state_bytes(uint64_t pages)
{
	return HEAD_BYTES + EXPECTED_BYTES + map_bytes(pages) + pages * sizeof(uint32_t);
}

static int state_map(int fd, uint64_t pages, struct tm_state **ret_state)
{
	struct tm_state *s = calloc(1, sizeof(*s));
	size_t bytes = state_bytes(pages);
	char *p;

	if (!s)
		return -ENOMEM;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		free(s);
		return -errno;
	}
	/* The key is for nobody's core file, and for no other swap. */
	(void)!madvise(p, bytes, MADV_DONTDUMP);
	(void)!mlock(p, HEAD_BYTES);
	*s = (struct tm_state){.fd = fd, .bytes = bytes, .head = (struct head *)p};
	s->expected = (_Atomic uint64_t *)(p + HEAD_BYTES);
	s->map = (_Atomic uint8_t *)(p + HEAD_BYTES + EXPECTED_BYTES);
	s->sums = (_Atomic uint32_t *)(p + HEAD_BYTES + EXPECTED_BYTES + map_bytes(pages));
	*ret_state = s;
	return 0;
}

int tm_state_create(const struct tm_state_kind *kind, struct tm_state **ret_state)
{
	TM_AUTO_CLOSE int fd = memfd_create("tmem-nbd-state", MFD_CLOEXEC);
	struct tm_state *s;
	int rc;

	if (fd < 0 || ftruncate(fd, (off_t)state_bytes(kind->pages)) < 0)
		return -errno;
	rc = state_map(fd, kind->pages, &s);
	if (rc < 0)
		return rc;
	fd = -1;
	*s->head = (struct head){
		.magic = MAGIC,
		.version = VERSION,
		.encrypted = kind->encrypted,
		.pages = kind->pages,
	};
	memcpy(s->head->fallback, kind->fallback, sizeof(s->head->fallback));
	if (kind->encrypted &&
		getrandom(s->head->key, TM_CRYPT_KEY_BYTES, 0) != TM_CRYPT_KEY_BYTES) {
		tm_state_destroy(s);
		return -EIO;
	}
	*ret_state = s;
	return 0;
}

/* NULL when it fits, else why not. */
static const char *misfit(const struct head *head, const struct tm_state_kind *kind)
{
	if (head->pages != kind->pages)
		return "it has another size";
	if (memcmp(head->fallback, kind->fallback, sizeof(head->fallback)) != 0)
		return "it has another fallback";
	if (atomic_load(&head->torn))
		return "it was killed in the middle of a restore";
	if (head->encrypted != kind->encrypted)
		return head->encrypted ? "it has encrypt=yes" : "it has encrypt=no";
	return NULL;
}

/* Before anything else is believed. */
static int check_version(int fd, const char **ret_why)
{
	struct head head;
	ssize_t n = pread(fd, &head, sizeof(head), 0);

	if (n < 0)
		return -errno;
	if (n != sizeof(head) || memcmp(head.magic, MAGIC, sizeof(MAGIC)) != 0 ||
		head.version != VERSION)
		*ret_why = "it is of another version of the plugin";
	explicit_bzero(&head, sizeof(head));
	return 0;
}

int tm_state_adopt(int fd, const struct tm_state_kind *kind, struct tm_state **ret_state,
	char ret_reason[static TM_STATE_REASON_MAX])
{
	const char *why = NULL;
	struct tm_state *s;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	rc = check_version(fd, &why);
	if (rc < 0)
		return rc;
	if (!why && (uint64_t)st.st_size != state_bytes(kind->pages))
		why = "it has another size";
	if (!why) {
		rc = state_map(fd, kind->pages, &s);
		if (rc < 0)
			return rc;
		why = misfit(s->head, kind);
		if (!why) {
			*ret_state = s;
			return 0;
		}
		munmap(s->head, s->bytes);
		free(s);
	}
	snprintf(ret_reason, TM_STATE_REASON_MAX, "%s", why);
	return -EINVAL;
}

void tm_state_destroy(struct tm_state *s)
{
	if (!s)
		return;
	explicit_bzero(s->head->key, sizeof(s->head->key));
	munmap(s->head, s->bytes);
	close(s->fd);
	free(s);
}

/* --- sums ------------------------------------------------------------------------------------- */

/* A slot of expected[]: the page's number and one, 0 for none, then the sum. Both in one word, so
 * that a kill leaves them together. */
static uint64_t slot_of(uint64_t n, uint32_t sum)
{
	return (n + 1) << 32 | sum;
}

void tm_state_expect(struct tm_state *s, uint64_t n, uint32_t sum)
{
	atomic_store(&s->expected[n % TM_STATE_EXPECTED], slot_of(n, sum));
}

void tm_state_settle(struct tm_state *s, uint64_t n, uint32_t sum)
{
	atomic_store(&s->sums[n], sum);
}

void tm_state_confirm(struct tm_state *s, uint64_t n)
{
	tm_state_settle(s, n, (uint32_t)atomic_load(&s->expected[n % TM_STATE_EXPECTED]));
}

bool tm_state_unsettled(const struct tm_state *s, uint64_t n, uint64_t *ret_n)
{
	uint64_t slot = atomic_load(&s->expected[n % TM_STATE_EXPECTED]), page = (slot >> 32) - 1;

	if (slot == 0 || atomic_load(&s->sums[page]) == (uint32_t)slot)
		return false;
	*ret_n = page;
	return true;
}

bool tm_state_fits(const struct tm_state *s, uint64_t n, uint32_t sum)
{
	return atomic_load(&s->sums[n]) == sum ||
		atomic_load(&s->expected[n % TM_STATE_EXPECTED]) == slot_of(n, sum);
}

void tm_state_set_torn(struct tm_state *s, bool torn)
{
	atomic_store(&s->head->torn, torn);
}

/* --- the parts -------------------------------------------------------------------------------- */

_Atomic uint8_t *tm_state_map(struct tm_state *s)
{
	return s->map;
}

const uint8_t *tm_state_key(const struct tm_state *s)
{
	return s->head->key;
}

int tm_state_fd(const struct tm_state *s)
{
	return s->fd;
}
