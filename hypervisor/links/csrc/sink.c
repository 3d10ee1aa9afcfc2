/* Sink: a thread that writes frames to a TAP whose owner is not trusted.

   The owner's network stack and firewall run inside our write(): the thread takes that, without the
   GIL. The loop hands frames over and collects what is finished; who writes which field is said
   beside it. A struct sink outlives its Python object until the thread has ended, which may be in
   the middle of a long write.

   A lane (lane.c) may write past the thread while there is nothing in its hands, and does so for as
   long as the owner's stack is as quick as others are: `state` says whose turn it is. */

#include "sink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

void sink_release(struct sink *sink)
{
    if (atomic_fetch_sub(&sink->holders, 1) != 1)
        return;
    frames_free(sink->first);
    pthread_cond_destroy(&sink->changed);
    pthread_mutex_destroy(&sink->lock);
    free(sink);
}

struct sink *sink_make(int fd, bool vnet_header, int pace_fd, const char *name)
{
    struct sink *sink = calloc(1, sizeof *sink);
    pthread_condattr_t clock;
    if (sink == NULL)
        return NULL;
    sink->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (sink->wake_fd < 0) {
        free(sink);
        return NULL;
    }
    sink->fd = fd;
    sink->pace_fd = pace_fd;
    strncpy(sink->name, name, sizeof sink->name - 1);
    sink->vnet_header = vnet_header;
    sink->last = &sink->first;
    atomic_store(&sink->wake_at, SINK_NEVER);
    pthread_mutex_init(&sink->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&sink->changed, &clock);
    pthread_condattr_destroy(&clock);
    atomic_store(&sink->holders, 2);
    int failed = sink_start_thread(sink);
    if (failed) {
        close(sink->wake_fd);
        atomic_store(&sink->holders, 1);
        sink_release(sink);
        errno = failed;
        return NULL;
    }
    return sink;
}

bool sink_has_room(const struct sink *sink, size_t size)
{
    return sink->room_frames > 0 && size <= sink->room_bytes;
}

void sink_grant(struct sink *sink, unsigned frames, uint64_t size_bytes)
{
    sink->room_frames = frames;
    sink->room_bytes = size_bytes;
}

void sink_append(struct sink *sink, struct frame *frame)
{
    frame->next = NULL;
    sink->offered++;
    atomic_fetch_add(&sink->state, 1);
    pthread_mutex_lock(&sink->lock);
    *sink->last = frame;
    sink->last = &frame->next;
    pthread_mutex_unlock(&sink->lock);
    sink->unsignalled = true;
}

void sink_put(struct sink *sink, struct frame *frame)
{
    frame->express = true;
    frame->header = VNET_HEADER_BYTES;
    sink->room_frames--;
    sink->room_bytes -= frame->size;
    sink_append(sink, frame);
}

void sink_signal(struct sink *sink)
{
    if (sink->unsignalled) {
        sink->unsignalled = false;
        pthread_cond_signal(&sink->changed);
    }
}

void sink_revoke(struct sink *sink)
{
    sink_grant(sink, 0, 0);
}

bool sink_vnet_header(const struct sink *sink)
{
    return sink->vnet_header;
}

int sink_wake_fd(const struct sink *sink)
{
    return sink->wake_fd;
}

int sink_gone(const struct sink *sink)
{
    return atomic_load(&sink->gone);
}

uint64_t sink_waiting(const struct sink *sink)
{
    return sink->offered - atomic_load(&sink->collected);
}

bool sink_news(const struct sink *sink)
{
    return atomic_load(&sink->done) != atomic_load(&sink->collected);
}

uint64_t sink_collect(struct sink *sink, bool unwritten, struct finished *finished)
{
    pthread_mutex_lock(&sink->lock);
    uint64_t stored = atomic_load(&sink->stored), express = atomic_load(&sink->express);
    finished->dropped_bytes = sink->dropped_bytes;
    memcpy(finished->drops, sink->drops, sizeof sink->drops);
    memset(sink->drops, 0, sizeof sink->drops);
    sink->dropped_bytes = 0;
    pthread_mutex_unlock(&sink->lock);

    uint64_t fresh = express - sink->collected_express;
    finished->stored = stored - sink->collected_stored;
    finished->express_frames = fresh & 0xffffff;
    finished->express_bytes = fresh >> 24;
    uint64_t all = finished->stored + finished->express_frames;
    sink->collected_stored = stored;
    sink->collected_express = express;
    if (unwritten) {
        uint64_t rest = sink_waiting(sink) - all;
        all += rest;
        finished->drops[LINK_GONE] += rest;
    }
    atomic_fetch_add(&sink->collected, all);
    return all;
}

bool sink_want(struct sink *sink, uint64_t wanted)
{
    uint64_t target = atomic_load(&sink->collected) + wanted;
    if (target > sink->offered)
        target = sink->offered;
    atomic_store(&sink->wake_at, target);
    if (atomic_load(&sink->done) < target)
        return true;
    atomic_store(&sink->wake_at, SINK_NEVER);
    return false;
}

void sink_stop(struct sink *sink, bool close_fd)
{
    atomic_fetch_or(&sink->state, STOPPING);
    pthread_mutex_lock(&sink->lock);
    struct frame *left = sink->first;
    sink->first = NULL;
    sink->last = &sink->first;
    sink->owns_fd = close_fd;
    atomic_store(&sink->stopping, true);
    pthread_cond_broadcast(&sink->changed);
    pthread_mutex_unlock(&sink->lock);
    frames_free(left);
}

bool sink_join(struct sink *sink, double timeout_s)
{
    struct timespec until = deadline_after(timeout_s);
    int waited = 0;
    pthread_mutex_lock(&sink->lock);
    while (!sink->ended && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&sink->changed, &sink->lock, &until);
    bool ended = sink->ended;
    pthread_mutex_unlock(&sink->lock);
    return ended;
}
