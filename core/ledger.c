/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/util.h"

#define LEDGER_BYTES TM_ALIGN(sizeof(struct tm_ledger), TM_PAGE_SIZE)
#define LEDGER_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* NULL on failure, with errno set. */
static struct tm_ledger *ledger_mmap(int fd)
{
	void *p = mmap(NULL, LEDGER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

int tm_ledger_create(struct tm_ledger **ret_ledger, int *ret_fd)
{
	TM_AUTO_CLOSE int fd = memfd_create("tmem-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct tm_ledger *ledger;

	if (fd < 0 || ftruncate(fd, LEDGER_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, LEDGER_SEALS) < 0)
		return -errno;
	ledger = ledger_mmap(fd);
	if (!ledger)
		return -errno;

	ledger->magic = TM_LEDGER_MAGIC;
	ledger->version = TM_LEDGER_VERSION;
	atomic_store(&ledger->granted_bytes, UINT64_MAX);
	atomic_store(&ledger->cap_bytes, UINT64_MAX);
	*ret_ledger = ledger;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

int tm_ledger_map(int fd, struct tm_ledger **ret_ledger)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct tm_ledger *ledger;
	struct stat st;
	int rc = 0;

	if (seals < 0 || (seals & LEDGER_SEALS) != LEDGER_SEALS)
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size != LEDGER_BYTES)
		return -EINVAL;
	ledger = ledger_mmap(fd);
	if (!ledger)
		return -errno;
	if (ledger->magic != TM_LEDGER_MAGIC)
		rc = -EINVAL;
	else if (ledger->version != TM_LEDGER_VERSION)
		rc = -EPROTO;
	if (rc < 0)
		tm_ledger_unmap(ledger);
	else
		*ret_ledger = ledger;
	return rc;
}

void tm_ledger_unmap(struct tm_ledger *ledger)
{
	if (ledger)
		munmap(ledger, LEDGER_BYTES);
}
