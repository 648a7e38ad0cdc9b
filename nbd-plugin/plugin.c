/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * plugin.c - what nbdkit calls
 *
 *      config -> get_ready (checks everything that can fail, opens the fallback; still in the
 * foreground)
 *             -> fork -> after_fork (opens tmem, which starts a thread) -> requests -> unload
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/tmem.h"
#include "core/util.h"
#include "nbd-plugin/device.h"
#include "nbd-plugin/fallback.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MAX_REQUEST  (32u << 20)

static struct {
	uint64_t size, limit;
	uint64_t writeback; /* bytes a second; 0: off */
	bool has_size, has_writeback;
	char *fallback, *socket;
	const char *pool;
} config = {.writeback = 128ull << 20};

static struct tm_device *device;
static bool said_why; /* the error that ends the start has been reported already */

/* --- configuration ---------------------------------------------------------------------------- */

static int config_size(const char *key, const char *value, uint64_t *ret_bytes)
{
	int rc = tm_size_parse(value, ret_bytes);

	if (rc == 0)
		return 0;
	nbdkit_error("%s=%s: %s; sizes are like 512M, 8G, 1.5T", key, value,
		rc == -ERANGE ? "too large" : "not a size");
	return -1;
}

static int config_path(char **ret_path, const char *value)
{
	free(*ret_path);
	*ret_path = nbdkit_absolute_path(value);
	return *ret_path ? 0 : -1;
}

/* As tm_open() wants it; by then we may be in the background, where nobody reads errors. */
static int config_name(const char *value)
{
	size_t n = strlen(value);

	for (size_t i = 0; i < n; i++)
		if (!isprint((unsigned char)value[i]))
			n = 0;
	if (n > 0 && n <= TM_NAME_MAX)
		return 0;
	nbdkit_error("pool: a name has 1 to %d bytes, all of them printable", TM_NAME_MAX);
	return -1;
}

static int config_writeback(const char *value)
{
	config.has_writeback = strcmp(value, "off") != 0;
	config.writeback = 0;
	if (!config.has_writeback)
		return 0;
	if (config_size("writeback", value, &config.writeback) < 0)
		return -1;
	if (config.writeback >= 1u << 20)
		return 0;
	nbdkit_error("writeback: at least 1M (a second), or off");
	return -1;
}

static int tmem_config(const char *key, const char *value)
{
	if (strcmp(key, "size") == 0) {
		config.has_size = true;
		return config_size(key, value, &config.size);
	}
	if (strcmp(key, "limit") == 0)
		return config_size(key, value, &config.limit);
	if (strcmp(key, "fallback") == 0)
		return config_path(&config.fallback, value);
	if (strcmp(key, "writeback") == 0)
		return config_writeback(value);
	if (strcmp(key, "tmem-socket") == 0 && strcmp(value, "none") != 0)
		return config_path(&config.socket, value);
	if (strcmp(key, "tmem-socket") == 0) {
		free(config.socket);
		config.socket = strdup(value);
		return config.socket ? 0 : -1;
	}
	if (strcmp(key, "pool") == 0) {
		config.pool = value;
		return config_name(value);
	}
	nbdkit_error("unknown parameter %s; there are size, fallback, limit, writeback, pool and "
		     "tmem-socket",
		key);
	return -1;
}

static int tmem_config_complete(void)
{
	/* Pages are numbered in 32 bits. */
	const uint64_t max = (uint64_t)UINT32_MAX * TM_DEVICE_PAGE;

	if (!config.has_size || config.size == 0) {
		nbdkit_error("size=SIZE is required: the size of the device, such as 8G");
		return -1;
	}
	if (config.size > max) {
		nbdkit_error(
			"size: at most %llu bytes (16T less one page)", (unsigned long long)max);
		return -1;
	}
	if (config.limit != 0 && config.limit < TM_LIMIT_MIN) {
		nbdkit_error("limit: at least %lluM", (unsigned long long)(TM_LIMIT_MIN >> 20));
		return -1;
	}
	if (config.has_writeback && !config.fallback) {
		nbdkit_error("writeback: there is no fallback to write to");
		return -1;
	}
	return 0;
}

#define tmem_config_help                                                                           \
	"size=<SIZE>       (required) Size of the device.\n"                                       \
	"fallback=<PATH>   File or block device for pages that memory refuses.\n"                  \
	"limit=<SIZE>      Most memory to use, everything counted (default: 1/4 of RAM).\n"        \
	"writeback=<RATE>|off  Bytes a second to the fallback and back (default: 128M).\n"         \
	"pool=<NAME>       Name in tmemctl and tmemstat (default: nbd-PID).\n"                     \
	"tmem-socket=<PATH>|none   The host's control socket."

static void tmem_dump_plugin(void)
{
	printf("tmem_version=%s\n", TM_VERSION);
	printf("tmem_spec_version=%u\n", TM_SPEC_VERSION);
	printf("tmem_page_size=%u\n", TM_DEVICE_PAGE);
	printf("tmem_codecs=lz4\n");
	printf("tmem_fallback=yes\n");
}

/* --- life --------------------------------------------------------------------------------------
 */

static int tmem_get_ready(void)
{
	uint64_t pages = (config.size + TM_DEVICE_PAGE - 1) / TM_DEVICE_PAGE;
	char reason[TM_FALLBACK_REASON_MAX];
	struct tm_fallback *fallback = NULL;

	if (config.fallback && tm_fallback_open(config.fallback, pages, &fallback, reason) < 0) {
		nbdkit_error("fallback=%s: %s", config.fallback, reason);
		return -1;
	}
	if (fallback && !tm_fallback_is_direct(fallback))
		nbdkit_debug(
			"fallback: no O_DIRECT on this file system, going through the page cache");
	if (tm_device_create(config.size, fallback, &device) < 0) {
		nbdkit_error("no memory for the map of %llu pages", (unsigned long long)pages);
		tm_fallback_close(fallback);
		return -1;
	}
	return 0;
}

static void on_destroyed(void *opaque)
{
	(void)opaque;
	nbdkit_error("an operator destroyed this client: pages that were in memory are lost, "
		     "reading them is an I/O error");
}

/* tm_open asks which state goes with the store: a predecessor's, or a new one. */
static int on_state(void *opaque, int predecessor_fd)
{
	char reason[TM_STATE_REASON_MAX];
	int fd = -1, rc;

	(void)opaque;
	if (predecessor_fd < 0) {
		rc = tm_device_begin(device, &fd);
		if (rc == 0)
			return fd;
		nbdkit_error("cannot start from an empty device: %s", strerror(-rc));
		said_why = true;
		return rc;
	}
	snprintf(reason, sizeof(reason), "its state cannot be read");
	rc = tm_device_resume(device, predecessor_fd, &fd, reason);
	if (rc == 0)
		return fd;
	close(predecessor_fd);
	nbdkit_error(
		"pool=%s: the last server of this name was killed and left pages, but %s; start "
		"as it was started, or drop them with: tmemctl destroy --force %s",
		config.pool, reason, config.pool);
	said_why = true;
	return rc;
}

static int tmem_after_fork(void)
{
	char name[TM_NAME_MAX + 1];
	struct tm_open_params params = {
		.name = name,
		.type = "nbd",
		.socket = config.socket,
		.limit = config.limit,
		.start_host = true,
		.survive = config.pool != NULL, /* a name that the next server will have too */
		.state = on_state,
		.on_destroyed = on_destroyed,
	};
	struct tmem *tmem;
	int rc;

	if (config.pool)
		snprintf(name, sizeof(name), "%s", config.pool);
	else
		snprintf(name, sizeof(name), "nbd-%d", getpid());
	rc = tm_open(&params, &tmem);
	if (rc == 0)
		rc = tm_device_attach(device, tmem, name, config.writeback);
	if (rc == 0)
		return 0;
	if (!said_why)
		nbdkit_error("cannot open tmem: %s", strerror(-rc));
	return -1;
}

static void tmem_unload(void)
{
	tm_device_destroy(device);
	free(config.fallback);
	free(config.socket);
}

/* --- requests ----------------------------------------------------------------------------------
 */

static void *tmem_open(int readonly)
{
	(void)readonly;
	return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t tmem_get_size(void *handle)
{
	(void)handle;
	return (int64_t)config.size;
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

/* Failures are the client's to see and the counters' to show; of each kind the log gets the first.
 */
static void say_once(int err)
{
	static atomic_flag full = ATOMIC_FLAG_INIT, lost = ATOMIC_FLAG_INIT,
			   other = ATOMIC_FLAG_INIT;

	if (err == ENOSPC && !atomic_flag_test_and_set(&full))
		nbdkit_error("no room: memory is full, %s; writes fail until there is",
			config.fallback ? "and so is the fallback" : "and there is no fallback");
	else if (err == EIO && !atomic_flag_test_and_set(&lost))
		nbdkit_error("a page is lost: damaged, destroyed by an operator, or unreadable on "
			     "the fallback");
	else if (err != ENOSPC && err != EIO && !atomic_flag_test_and_set(&other))
		nbdkit_error("fallback: %s", strerror(err));
}

/* nbdkit wants -1 and errno. */
static int answer(int rc)
{
	if (rc == 0)
		return 0;
	say_once(-rc);
	errno = -rc;
	return -1;
}

/* After a write, and its durability if the flags ask for it. */
static int answer_write(int rc, uint32_t flags)
{
	if (rc == 0 && flags & NBDKIT_FLAG_FUA)
		rc = tm_device_sync(device);
	return answer(rc);
}

static int tmem_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle, (void)flags;
	return answer(tm_device_read(device, buf, count, offset));
}

static int tmem_pwrite(
	void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return answer_write(tm_device_write(device, buf, count, offset), flags);
}

static int tmem_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return answer_write(tm_device_zero(device, count, offset), flags);
}

static int tmem_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return answer_write(tm_device_trim(device, count, offset), flags);
}

static int tmem_flush(void *handle, uint32_t flags)
{
	(void)handle, (void)flags;
	return answer(tm_device_sync(device));
}

static int tmem_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle, (void)flags;
	return answer(tm_device_cache(device, count, offset));
}

static int tmem_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
	struct nbdkit_extents *extents)
{
	uint64_t end = offset + count;

	(void)handle;
	while (offset < end) {
		bool hole;
		uint64_t run = tm_device_extent(device, end - offset, offset, &hole);

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
	.config = tmem_config,
	.config_complete = tmem_config_complete,
	.config_help = tmem_config_help,
	.dump_plugin = tmem_dump_plugin,
	.get_ready = tmem_get_ready,
	.after_fork = tmem_after_fork,
	.unload = tmem_unload,
	.open = tmem_open,
	.get_size = tmem_get_size,
	.block_size = tmem_block_size,
	.can_multi_conn = yes, /* all connections see one device */
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

/* nbdkit's header defines it without declaring it. */
NBDKIT_DLL_PUBLIC struct nbdkit_plugin *plugin_init(void);

NBDKIT_REGISTER_PLUGIN(plugin)
