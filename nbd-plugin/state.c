/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-plugin/state.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/util.h"

#define HEAD_BYTES 4096u
#define MAGIC      "tmem nbd state\n"
#define VERSION    1u

struct head {
	char magic[16];
	uint32_t version;
	uint8_t fallback[TM_FALLBACK_ID_BYTES];
	uint64_t pages;
};

struct tm_state {
	int fd;
	size_t bytes;
	struct head *head; /* the mapping */
};

static int state_map(int fd, size_t bytes, struct tm_state **ret_state)
{
	struct tm_state *s = calloc(1, sizeof(*s));
	void *p;

	if (!s)
		return -ENOMEM;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		free(s);
		return -errno;
	}
	*s = (struct tm_state){fd, bytes, p};
	*ret_state = s;
	return 0;
}

int tm_state_create(
	uint64_t pages, const uint8_t id[static TM_FALLBACK_ID_BYTES], struct tm_state **ret_state)
{
	struct head head = {.magic = MAGIC, .version = VERSION, .pages = pages};
	TM_AUTO_CLOSE int fd = memfd_create("tmem-nbd-state", MFD_CLOEXEC);
	int rc;

	if (fd < 0 || ftruncate(fd, (off_t)(HEAD_BYTES + pages)) < 0)
		return -errno;
	rc = state_map(fd, HEAD_BYTES + pages, ret_state);
	if (rc < 0)
		return rc;
	fd = -1;
	memcpy(head.fallback, id, sizeof(head.fallback));
	*(*ret_state)->head = head;
	return 0;
}

/* NULL when it fits, else why not. */
static const char *misfit(const struct head *head, uint64_t pages, const uint8_t *id)
{
	if (memcmp(head->magic, MAGIC, sizeof(MAGIC)) != 0 || head->version != VERSION)
		return "it is of another version of the plugin";
	if (head->pages != pages)
		return "it has another size";
	if (memcmp(head->fallback, id, sizeof(head->fallback)) != 0)
		return "it has another fallback";
	return NULL;
}

int tm_state_adopt(int fd, uint64_t pages, const uint8_t id[static TM_FALLBACK_ID_BYTES],
	struct tm_state **ret_state, char ret_reason[static TM_STATE_REASON_MAX])
{
	const char *why = "it has another size";
	struct tm_state *s;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size == HEAD_BYTES + pages) {
		rc = state_map(fd, HEAD_BYTES + pages, &s);
		if (rc < 0)
			return rc;
		why = misfit(s->head, pages, id);
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
	munmap(s->head, s->bytes);
	close(s->fd);
	free(s);
}

_Atomic uint8_t *tm_state_map(struct tm_state *s)
{
	return (_Atomic uint8_t *)((char *)s->head + HEAD_BYTES);
}

int tm_state_fd(const struct tm_state *s)
{
	return s->fd;
}
