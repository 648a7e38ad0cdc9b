/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * plugin.c - what nbdkit calls
 *
 *      config -> get_ready (checks all that can fail, opens the fallbacks; in the foreground)
 *             -> fork -> after_fork (opens tmem, which starts a thread an export)
 *             -> open (a connection finds its export: the handle) -> requests -> unload
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/tmem.h"
#include "core/util.h"
#include "nbd-plugin/device.h"
#include "nbd-plugin/exports.h"
#include "nbd-plugin/fallback.h"
#include "nbd-plugin/lastresort.h"
#include "nbd-plugin/mount.h"
#include "nbd-plugin/move.h"
#include "nbd-plugin/resident.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MAX_REQUEST  (32u << 20)

static char *host_socket; /* NULL: the default */
static char *mount_dir;   /* NULL: NBD alone */
static enum {
	LOCK_AUTO, /* as far as this process may, and a warning about the rest */
	LOCK_YES,
	LOCK_NO,
} lock;
static bool said_why; /* the error that ends the start has been reported already */

/* --- configuration ---------------------------------------------------------------------------- */

static int config_socket(const char *value)
{
	free(host_socket);
	host_socket = strcmp(value, "none") == 0 ? strdup(value) : nbdkit_absolute_path(value);
	return host_socket ? 0 : -1;
}

static int config_mount(const char *value)
{
	free(mount_dir);
	mount_dir = nbdkit_realpath(value);
	return mount_dir ? 0 : -1;
}

static int config_lock(const char *value)
{
	if (strcmp(value, "auto") == 0) {
		lock = LOCK_AUTO;
	} else if (strcmp(value, "yes") == 0) {
		lock = LOCK_YES;
	} else if (strcmp(value, "no") == 0) {
		lock = LOCK_NO;
	} else {
		nbdkit_error("lock=%s: neither auto, yes nor no", value);
		return -1;
	}
	return 0;
}

static int tmem_config(const char *key, const char *value)
{
	if (strcmp(key, "lock") == 0)
		return config_lock(value);
	if (strcmp(key, "mount") == 0)
		return config_mount(value);
	if (strcmp(key, "tmem-socket") == 0)
		return config_socket(value);
	if (strcmp(key, "exports") == 0)
		return tm_exports_read(value, tmem_config);
	return tm_exports_set(key, value);
}

static int tmem_config_complete(void)
{
	return tm_exports_complete();
}

#define tmem_config_help                                                                           \
	"size=<SIZE>       (required) Size of the device.\n"                                       \
	"fallback=<PATH>   File or block device for pages that memory refuses.\n"                  \
	"encrypt=yes|no    Encrypt pages on the fallback (default: yes).\n"                        \
	"writeback=<RATE>|off  Bytes a second to the fallback and back (default: 128M).\n"         \
	"limit=<SIZE>      Most memory to use, everything counted (default: 1/4 of RAM).\n"        \
	"lock=auto|yes|no  Lock all memory, so that this machine can swap to it.\n"                \
	"weight=<N>        Its part of memory that is short, 1 to 10000 (default: 100).\n"         \
	"recompress=on|off  Compress cold pages again with zstd (default: on with lock=no).\n"     \
	"pool=<NAME>       Name in tmemctl and tmemstat (default: the export's, or nbd-PID).\n"    \
	"export=<NAME>     What comes after this is of a device of its own.\n"                     \
	"exports=<PATH>    File of parameters, one 'key = value' a line.\n"                        \
	"mount=<DIR>       Show the devices as files, too, for loop devices.\n"                    \
	"tmem-socket=<PATH>|none   The host's control socket."

static void tmem_dump_plugin(void)
{
	printf("tmem_version=%s\n", TM_VERSION);
	printf("tmem_spec_version=%u\n", TM_SPEC_VERSION);
	printf("tmem_page_size=%u\n", TM_DEVICE_PAGE);
	printf("tmem_codecs=lz4 zstd\n");
	printf("tmem_fallback=yes\n");
	printf("tmem_encrypt=aes-256-xts\n");
}

/* --- life --------------------------------------------------------------------------------------
 */

static void tmem_load(void)
{
	tm_resident_stacks();
}

static int export_ready(struct tm_export *e)
{
	uint64_t pages = (e->size + TM_DEVICE_PAGE - 1) / TM_DEVICE_PAGE;
	char reason[TM_FALLBACK_REASON_MAX];
	struct tm_fallback *fallback = NULL;

	if (e->fallback && tm_fallback_open(e->fallback, pages, !e->plain, &fallback, reason) < 0) {
		nbdkit_error("%sfallback=%s: %s", TM_EXPORT_LABEL(e), e->fallback, reason);
		return -1;
	}
	if (lock == LOCK_YES && fallback && tm_fallback_takes_memory(fallback)) {
		nbdkit_error("%slock=yes: fallback=%s takes memory when there is none: it is on a "
			     "tmpfs, or its file system has no O_DIRECT",
			TM_EXPORT_LABEL(e), e->fallback);
		tm_fallback_close(fallback);
		return -1;
	}
	if (tm_device_create(e->size, fallback, &e->device) < 0) {
		nbdkit_error("%sno memory for the map of %llu pages", TM_EXPORT_LABEL(e),
			(unsigned long long)pages);
		tm_fallback_close(fallback);
		return -1;
	}
	return 0;
}

/* -1: it was demanded, and cannot be had. */
static int ask_for_locks(void)
{
	char missing[TM_RESIDENT_REASON_MAX] = "";
	bool all = lock == LOCK_NO || tm_resident_ask(lock == LOCK_YES, missing);

	if (!all && lock == LOCK_YES) {
		nbdkit_error("lock=yes: %s", missing);
		return -1;
	}
	if (!all)
		nbdkit_error("warning: if this machine itself swaps to this server, it can stop "
			     "when memory runs out: %s (lock=no ends this warning)",
			missing);
	/* Only who says that this machine swaps to us may lose a process to it. */
	if (lock == LOCK_YES && !tm_lastresort_open())
		nbdkit_error("warning: /proc/sysrq-trigger: %s; the machine can stop when memory "
			     "and swap are full",
			strerror(errno));
	return 0;
}

static int tmem_get_ready(void)
{
	int rc = 0;

	for (struct tm_export *e = NULL; rc == 0 && (e = tm_exports_next(e));)
		rc = export_ready(e);
	return rc < 0 ? rc : ask_for_locks();
}

static void on_destroyed(void *opaque)
{
	struct tm_export *e = opaque;

	tm_device_lost(e->device);
	nbdkit_error("%san operator destroyed this client: pages that were in memory are lost, "
		     "reading them is an I/O error",
		TM_EXPORT_LABEL(e));
}

/* tm_open asks which state goes with the store: a predecessor's, or a new one. */
static int on_state(void *opaque, int predecessor_fd)
{
	char reason[TM_STATE_REASON_MAX];
	struct tm_export *e = opaque;
	int fd = -1, rc;

	if (predecessor_fd < 0) {
		rc = tm_device_begin(e->device, &fd);
		if (rc == 0)
			return fd;
		nbdkit_error("%scannot start from an empty device: %s", TM_EXPORT_LABEL(e),
			strerror(-rc));
		said_why = true;
		return rc;
	}
	snprintf(reason, sizeof(reason), "its state cannot be read");
	rc = tm_device_resume(e->device, predecessor_fd, &fd, reason);
	if (rc == 0)
		return fd;
	close(predecessor_fd);
	nbdkit_error(
		"pool=%s: the last server of this name was killed and left pages, but %s; start "
		"as it was started, or drop them with: tmemctl destroy --force %s",
		e->pool, reason, e->pool);
	said_why = true;
	return rc;
}

/* Seconds without memory are better than a failed write where there is no fallback for it. */
#define PATIENCE_MS 1000

/* Give an export its memory. */
static int export_open(struct tm_export *e)
{
	char name[TM_NAME_MAX + 1];
	struct tm_open_params params = {
		.name = name,
		.type = "nbd",
		.socket = host_socket,
		.limit = e->limit,
		.weight = e->weight,
		.recompress = e->recompress,
		.start_host = true,
		.resident = lock != LOCK_NO,
		.patience_ms = e->fallback ? 0 : PATIENCE_MS,
		.survive = e->pool != NULL, /* a name that the next server will have too */
		.state = on_state,
		.on_destroyed = on_destroyed,
		.move = &tm_device_move_ops,
		.opaque = e,
	};
	struct tmem *tmem;
	int rc;

	if (e->pool)
		snprintf(name, sizeof(name), "%s", e->pool);
	else
		snprintf(name, sizeof(name), "nbd-%d", getpid());
	rc = tm_open(&params, &tmem);
	if (rc == 0)
		rc = tm_device_attach(e->device, tmem, name, e->writeback);
	if (rc == -EBUSY)
		nbdkit_error("pool=%s: another server of this name is running", name);
	else if (rc < 0 && !said_why)
		nbdkit_error("%scannot open tmem: %s", TM_EXPORT_LABEL(e), strerror(-rc));
	return rc < 0 ? -1 : 0;
}

/* The plugin's table is at the end of this file. */
static int mount_devices(void);

/* All or none: when one cannot be opened the server ends, and what a predecessor left of the others
 * stays with the host. */
static int tmem_after_fork(void)
{
	int rc = 0;

	if (lock != LOCK_NO)
		tm_resident_lock();
	for (struct tm_export *e = NULL; rc == 0 && (e = tm_exports_next(e));)
		rc = export_open(e);
	if (rc == 0 && mount_dir)
		rc = mount_devices();
	if (rc < 0 || lock == LOCK_NO)
		return rc;
	nbdkit_debug("%" PRIu64 " bytes are locked in memory before the first page",
		tm_resident_settle());
	return 0;
}

static void tmem_unload(void)
{
	tm_mount_stop();
	for (struct tm_export *e = NULL; (e = tm_exports_next(e));)
		tm_device_destroy(e->device);
	tm_exports_free();
	free(host_socket);
	free(mount_dir);
	tm_lastresort_close();
}

/* --- connections: the handle is the export -----------------------------------------------------
 */

static int tmem_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
	(void)readonly, (void)is_tls;
	for (struct tm_export *e = NULL; (e = tm_exports_next(e));)
		if (nbdkit_add_export(exports, e->name, NULL) < 0)
			return -1;
	return 0;
}

static void *tmem_open(int readonly)
{
	const char *name = nbdkit_export_name();
	struct tm_export *e = name ? tm_exports_for_client(name) : NULL;

	(void)readonly;
	/* The name is a stranger's, and stays out of the log. */
	if (name && !e)
		nbdkit_error("a client asked for an export that is not there");
	return e;
}

static const char *tmem_export_description(void *handle)
{
	const struct tm_export *e = handle;

	return e->fallback ? "compressed memory, then disk" : "compressed memory";
}

static struct tm_device *device_of(void *handle)
{
	return ((struct tm_export *)handle)->device;
}

static int64_t tmem_get_size(void *handle)
{
	return (int64_t)((struct tm_export *)handle)->size;
}

static int tmem_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
	(void)handle;
	*minimum = 1;
	*preferred = TM_DEVICE_PAGE;
	*maximum = MAX_REQUEST;
	return 0;
}

static int yes(void *handle)
{
	(void)handle;
	return 1;
}

static int tmem_can_fua(void *handle)
{
	(void)handle;
	return NBDKIT_FUA_NATIVE;
}

static int tmem_can_cache(void *handle)
{
	(void)handle;
	return NBDKIT_CACHE_NATIVE;
}

/* --- requests ----------------------------------------------------------------------------------
 */

/* Failures are the client's to see and the counters' to show; of each kind the log gets the first.
 */
static void say_once(struct tm_export *e, int err)
{
	int kind;

	if (err == EBADMSG)
		err = EIO;
	kind = err == ENOSPC ? 0 : err == EIO ? 1 : 2;
	if (atomic_flag_test_and_set(&e->said[kind]))
		return;
	if (err == ENOSPC)
		nbdkit_error("%sno room: memory is full, %s; writes fail until there is",
			TM_EXPORT_LABEL(e),
			e->fallback ? "and so is the fallback" : "and there is no fallback");
	else if (err == EIO)
		nbdkit_error("%san I/O error: a page is damaged, was destroyed by an operator, or "
			     "the fallback's disk fails",
			TM_EXPORT_LABEL(e));
	else
		nbdkit_error("%sfallback: %s", TM_EXPORT_LABEL(e), strerror(err));
}

/* NBD has few errors, and nbdkit calls EINVAL what it has none for. */
static int errno_for_client(int err)
{
	switch (err) {
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return ENOSPC;
	case ENOMEM:
		return ENOMEM;
	default:
		return EIO;
	}
}

/* nbdkit wants -1 and errno. */
static int answer(void *handle, int rc)
{
	if (rc == 0)
		return 0;
	say_once(handle, -rc);
	if (errno_for_client(-rc) == ENOSPC && tm_lastresort_refused())
		nbdkit_error("no memory, and nowhere left to swap to: asked for the OOM killer");
	errno = errno_for_client(-rc);
	return -1;
}

/* After a write, and its durability if the flags ask for it. */
static int answer_write(void *handle, int rc, uint32_t flags)
{
	if (rc == 0 && flags & NBDKIT_FLAG_FUA)
		rc = tm_device_sync(device_of(handle));
	if (rc == 0)
		tm_lastresort_stored();
	return answer(handle, rc);
}

static int tmem_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)flags;
	return answer(handle, tm_device_read(device_of(handle), buf, count, offset));
}

static int tmem_pwrite(
	void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	return answer_write(handle, tm_device_write(device_of(handle), buf, count, offset), flags);
}

static int tmem_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return answer_write(handle, tm_device_zero(device_of(handle), count, offset), flags);
}

static int tmem_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return answer_write(handle, tm_device_trim(device_of(handle), count, offset), flags);
}

static int tmem_flush(void *handle, uint32_t flags)
{
	(void)flags;
	return answer(handle, tm_device_sync(device_of(handle)));
}

static int tmem_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)flags;
	return answer(handle, tm_device_cache(device_of(handle), count, offset));
}

static int tmem_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
	struct nbdkit_extents *extents)
{
	uint64_t end = offset + count;

	while (offset < end) {
		bool hole;
		uint64_t run = tm_device_extent(device_of(handle), end - offset, offset, &hole);

		if (nbdkit_add_extent(extents, offset, run,
			    hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) < 0)
			return -1;
		if (flags & NBDKIT_FLAG_REQ_ONE)
			break;
		offset += run;
	}
	return 0;
}

static struct nbdkit_plugin plugin = {
	.name = "tmem",
	.longname = "nbdkit tmem plugin",
	.version = TM_VERSION,
	.description = "a device in compressed memory that overflows to a file",
	.magic_config_key = "size",
	.load = tmem_load,
	.config = tmem_config,
	.config_complete = tmem_config_complete,
	.config_help = tmem_config_help,
	.dump_plugin = tmem_dump_plugin,
	.get_ready = tmem_get_ready,
	.after_fork = tmem_after_fork,
	.unload = tmem_unload,
	.list_exports = tmem_list_exports,
	.open = tmem_open,
	.export_description = tmem_export_description,
	.get_size = tmem_get_size,
	.block_size = tmem_block_size,
	.can_multi_conn = yes, /* all connections to an export see one device */
	.can_fast_zero = yes,
	.can_fua = tmem_can_fua,
	.can_cache = tmem_can_cache,
	.pread = tmem_pread,
	.pwrite = tmem_pwrite,
	.zero = tmem_zero,
	.trim = tmem_trim,
	.flush = tmem_flush,
	.cache = tmem_cache,
	.extents = tmem_extents,
	.errno_is_preserved = 1,
};

static int mount_devices(void)
{
	int rc = tm_mount_start(mount_dir, &plugin);

	if (rc < 0)
		nbdkit_error("mount=%s: %s", mount_dir, strerror(-rc));
	return rc < 0 ? -1 : 0;
}

/* nbdkit's header defines it without declaring it. */
NBDKIT_DLL_PUBLIC struct nbdkit_plugin *plugin_init(void);

NBDKIT_REGISTER_PLUGIN(plugin)
