/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "core/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/util.h"

#define LEDGER_BYTES TM_ALIGN(sizeof(struct tm_ledger), TM_PAGE_SIZE)
#define LEDGER_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int ledger_mmap(int fd, struct tm_ledger **ret_ledger)
{
	void *p = mmap(NULL, LEDGER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	*ret_ledger = p;
	return 0;
}

int tm_ledger_create(struct tm_ledger **ret_ledger, int *ret_fd)
{
	TM_AUTO_CLOSE int fd = memfd_create("tmem-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct tm_ledger *ledger;
	int rc;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, LEDGER_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, LEDGER_SEALS) < 0)
		return -errno;
	rc = ledger_mmap(fd, &ledger);
	if (rc < 0)
		return rc;

	ledger->magic = TM_LEDGER_MAGIC;
	ledger->version = TM_LEDGER_VERSION;
	atomic_store(&ledger->granted_bytes, UINT64_MAX);
	*ret_ledger = ledger;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

int tm_ledger_map(int fd, struct tm_ledger **ret_ledger)
{
	struct tm_ledger *ledger;
	struct stat st;
	int seals, rc;

	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & LEDGER_SEALS) != LEDGER_SEALS)
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size != LEDGER_BYTES)
		return -EINVAL;
	rc = ledger_mmap(fd, &ledger);
	if (rc < 0)
		return rc;
	if (ledger->magic != TM_LEDGER_MAGIC || ledger->version != TM_LEDGER_VERSION) {
		rc = ledger->magic != TM_LEDGER_MAGIC ? -EINVAL : -EPROTO;
		tm_ledger_unmap(ledger);
		return rc;
	}
	*ret_ledger = ledger;
	return 0;
}

void tm_ledger_unmap(struct tm_ledger *ledger)
{
	if (ledger)
		munmap(ledger, LEDGER_BYTES);
}
