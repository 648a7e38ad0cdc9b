/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * watch.c - one thread that reads events and forgets what they contradict
 *
 *   event = what, pid, [object's handle], [directory's handle, name]
 *
 *   name made, moved or removed   the name in its directory, the directory's listing and times
 *   content or attributes         the object's pages and attributes
 *   events lost                   everything (the queue has no limit, but memory has)
 *
 * An event can be of any file of that file system; a handle that opens as no inode of ours is one
 * that nobody asked for.
 *
 * Locking: none of its own. The kernel is told by the notifier's thread.
 */
#include "tmemfs/watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>

#define BUFFER_BYTES 65536

#define NAME_EVENTS    (FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO)
#define CONTENT_EVENTS (FAN_MODIFY)
#define EVENTS         (NAME_EVENTS | CONTENT_EVENTS | FAN_ATTRIB | FAN_ONDIR)

struct tm_watch {
	/* Constant. */
	struct tm_mount *mount;
	int root_fd; /* the inode table's */
	int events;  /* fanotify */
	int stop;    /* eventfd */
	pid_t self;
	pthread_t thread;
};

/* What one event says. The handles point into the buffer, NULL: not told. */
struct news {
	uint64_t mask;
	struct file_handle *object, *dir;
	const char *name;
};

/* The inode behind a handle, referenced, or NULL if it is none of ours. */
static struct tm_inode *inode_of(struct tm_watch *watch, struct file_handle *handle)
{
	TM_AUTO_CLOSE int fd = -1;
	struct stat st;

	if (!handle)
		return NULL;
	fd = open_by_handle_at(watch->root_fd, handle, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	return tm_inode_by_number(watch->mount->inodes, st.st_dev, st.st_ino);
}

/* Others changed the inode: its content too, or only what stat shows. */
static void forget(struct tm_mount *mount, struct tm_inode *inode, bool content)
{
	tm_meta_forget(mount->meta, inode);
	if (content)
		tm_cache_invalidate(mount->cache, inode);
	if (content)
		tm_notify_pages(mount->invalidator, tm_node_id(inode));
	else
		tm_notify_attributes(mount->invalidator, tm_node_id(inode));
}

static void forget_name(struct tm_mount *mount, struct tm_inode *dir, const char *name)
{
	struct tm_inode *inode = tm_names_doubt(dir, name);

	forget(mount, dir, false);
	if (inode)
		forget(mount, inode, false); /* its number of links */
	tm_notify_name(mount->invalidator, tm_node_id(dir), name);
	tm_inode_unref(inode);
}

/* Events were lost. What cannot be told one by one is that a name does not exist: that holds until
 * negative_timeout. */
static void forget_everything(struct tm_mount *mount)
{
	struct tm_inode **all, *parent;
	size_t count;
	char *name;

	tm_inodes_all(mount->inodes, &all, &count);
	for (size_t i = 0; i < count; i++) {
		tm_names_doubt_all(all[i]);
		forget(mount, all[i], true);
		if (tm_inode_place(all[i], &parent, &name)) {
			tm_notify_name(mount->invalidator, tm_node_id(parent), name);
			tm_inode_unref(parent);
			free(name);
		}
		tm_inode_unref(all[i]);
	}
	free(all);
}

static void heard(struct tm_watch *watch, const struct news *news)
{
	struct tm_inode *object = inode_of(watch, news->object);
	struct tm_inode *dir = news->mask & NAME_EVENTS ? inode_of(watch, news->dir) : NULL;

	if (dir && news->name)
		forget_name(watch->mount, dir, news->name);
	if (object)
		forget(watch->mount, object, news->mask & CONTENT_EVENTS);
	tm_inode_unref(dir);
	tm_inode_unref(object);
}

/* Take an event apart: `p` is what follows its head. */
static struct news news_of(uint64_t mask, char *p, char *end)
{
	struct news news = {.mask = mask};

	while (p < end) {
		struct fanotify_event_info_fid *info = (struct fanotify_event_info_fid *)p;
		struct file_handle *handle = (struct file_handle *)info->handle;

		if (info->hdr.len == 0)
			break;
		if (info->hdr.info_type == FAN_EVENT_INFO_TYPE_FID) {
			news.object = handle;
		} else if (info->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME) {
			news.dir = handle;
			news.name = (const char *)handle->f_handle + handle->handle_bytes;
			/* "." is the directory itself. */
			if (strcmp(news.name, ".") == 0) {
				news.object = handle;
				news.name = NULL;
			}
		}
		p += info->hdr.len;
	}
	return news;
}

static void read_events(struct tm_watch *watch, char *buf)
{
	ssize_t len = read(watch->events, buf, BUFFER_BYTES);
	char *p = buf, *end = buf + TM_MAX(len, (ssize_t)0);

	while (end - p >= (ssize_t)sizeof(struct fanotify_event_metadata)) {
		struct fanotify_event_metadata event; /* aligned, as it need not be there */
		struct news news;

		memcpy(&event, p, sizeof(event));
		if (event.event_len < sizeof(event) || event.event_len > (size_t)(end - p))
			break;
		if (event.mask & FAN_Q_OVERFLOW) {
			forget_everything(watch->mount);
		} else if (event.pid != watch->self) {
			news = news_of(event.mask, p + event.metadata_len, p + event.event_len);
			heard(watch, &news);
		}
		p += event.event_len;
	}
}

static void *watch_main(void *arg)
{
	struct tm_watch *watch = arg;
	struct pollfd fds[] = {{watch->events, POLLIN, 0}, {watch->stop, POLLIN, 0}};
	_Alignas(struct fanotify_event_metadata) char buf[BUFFER_BYTES];

	while (poll(fds, TM_ARRAY_SIZE(fds), -1) >= 0 || errno == EINTR) {
		if (fds[1].revents)
			break;
		if (fds[0].revents)
			read_events(watch, buf);
	}
	return NULL;
}

static void watch_free(struct tm_watch *watch)
{
	if (watch->events >= 0)
		close(watch->events);
	if (watch->stop >= 0)
		close(watch->stop);
	free(watch);
}

/* Kernels before 5.17 do not tell which file a name belonged to. */
static int events_open(void)
{
	const unsigned int flags = FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK |
		FAN_UNLIMITED_QUEUE | FAN_REPORT_FID | FAN_REPORT_DFID_NAME;
	int fd = fanotify_init(flags | FAN_REPORT_TARGET_FID, 0);

	return fd < 0 && errno == EINVAL ? fanotify_init(flags, 0) : fd;
}

int tm_watch_start(struct tm_mount *mount, int root_fd, struct tm_watch **ret_watch)
{
	struct tm_watch *watch = calloc(1, sizeof(*watch));
	sigset_t all, old;
	int rc = 0;

	if (!watch)
		return -ENOMEM;
	watch->mount = mount;
	watch->root_fd = root_fd;
	watch->self = getpid();
	watch->stop = eventfd(0, EFD_CLOEXEC);
	watch->events = events_open();
	if (watch->stop < 0 || watch->events < 0 ||
		fanotify_mark(watch->events, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, EVENTS, root_fd,
			NULL) < 0)
		rc = -errno;
	if (rc == 0) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		rc = -pthread_create(&watch->thread, NULL, watch_main, watch);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (rc < 0)
		watch_free(watch);
	else
		*ret_watch = watch;
	return rc;
}

void tm_watch_stop(struct tm_watch *watch)
{
	if (!watch)
		return;
	eventfd_write(watch->stop, 1);
	pthread_join(watch->thread, NULL);
	watch_free(watch);
}
