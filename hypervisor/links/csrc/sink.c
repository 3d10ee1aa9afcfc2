/* Sink: a thread that writes frames to a TAP whose owner is not trusted.

   The owner's network stack and firewall run inside our write(): the thread takes that, without the
   GIL. The loop hands frames over and collects what is finished; who writes which field is said
   beside it. A struct sink outlives its Python object until the thread has ended, which may be in
   the middle of a long write.

   A lane (lane.c) may write past the thread while there is nothing in its hands, and does so for as
   long as the owner's stack is as quick as others are: `state` says whose turn it is. */

#include "burst.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_ERRORS = 64, /* failed writes in a row that end the link */
    STACK_BYTES = 128 << 10,
    SLOW_OF_32 = 16, /* so many slow writes of the last 32, and the lane is too good for it */
    MOST_DEMOTIONS = 6,
};
static const long linger_ns = 2 * 1000 * 1000; /* idle for so long, the thread wakes the loop once */
static const uint64_t never = UINT64_MAX;
static const int64_t demoted_ns = 1000 * 1000 * 1000; /* the first time; then twice as long */

/* In `state`, above the number of frames that the thread has been given and has not finished. */
enum { DIRECT = 1 << 30, STOPPING = 1 << 29 };

struct sink {
    atomic_int holders; /* the Python object and the thread */
    int fd;             /* the TAP; the thread closes it after stop() */
    int wake_fd;        /* polls readable when the loop should collect */
    bool vnet_header;
    int pace_fd; /* for tests: each write says so there and waits for a byte; or -1 */
    atomic_int state;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct frame *first, **last; /* under the lock, as all up to the blank line */
    uint64_t drops[REASONS], dropped_bytes;
    bool owns_fd, ended;
    atomic_bool stopping; /* set under the lock */

    /* By the thread: all finished frames; the stored ones of them; and the express ones, their
       bytes in the upper 40 bits and their number below, so that both are always of one moment. */
    _Atomic uint64_t done, stored, express;
    atomic_int gone; /* why the link ended: errno; -EINVAL after too many of these in a row */
    int errors;      /* in a row */

    /* By whoever has DIRECT. */
    uint32_t slow_writes; /* of the last 32, a bit each */
    int demotions;
    _Atomic int64_t demoted_until;

    /* By the loop; the thread looks at the first two, and disarms wake_at. */
    _Atomic uint64_t collected, wake_at;
    uint64_t offered, collected_stored, collected_express;
    uint32_t room_frames;
    uint64_t room_bytes;
    bool unsignalled;
};

void sink_release(struct sink *sink)
{
    if (atomic_fetch_sub(&sink->holders, 1) != 1)
        return;
    frames_free(sink->first);
    pthread_cond_destroy(&sink->changed);
    pthread_mutex_destroy(&sink->lock);
    free(sink);
}

/* --- in the thread -------------------------------------------------------------------------- */

static void notify(struct sink *sink)
{
    uint64_t one = 1;
    /* It can only fail when 2^64 - 2 wakes were not seen, and then one more says nothing new. */
    ssize_t put = write(sink->wake_fd, &one, sizeof one);
    (void)put;
}

static void count(struct sink *sink, const struct frame *frame)
{
    if (frame->express)
        atomic_fetch_add(&sink->express, ((uint64_t)frame->size << 24) + 1);
    else
        atomic_fetch_add(&sink->stored, 1);
    uint64_t done = atomic_fetch_add(&sink->done, 1) + 1;
    if (done >= atomic_load(&sink->wake_at)) {
        atomic_store(&sink->wake_at, never);
        notify(sink);
    }
}

static void count_drop(struct sink *sink, const struct frame *frame, int reason)
{
    /* Drops and their place among the finished are collected under the lock, and so agree. */
    pthread_mutex_lock(&sink->lock);
    sink->drops[reason]++;
    sink->dropped_bytes += frame->size - frame->header;
    count(sink, frame);
    pthread_mutex_unlock(&sink->lock);
}

static void end_link(struct sink *sink, const struct frame *frame, int why)
{
    count_drop(sink, frame, LINK_GONE);
    atomic_store(&sink->gone, why);
    notify(sink);
}

static void keep_pace(struct sink *sink)
{
    char byte = 0;
    if (sink->pace_fd >= 0
        && (write(sink->pace_fd, &byte, 1) != 1 || read(sink->pace_fd, &byte, 1) != 1))
        sink->pace_fd = -1;
}

static void write_frame(struct sink *sink, const struct frame *frame)
{
    if (atomic_load(&sink->gone) != 0) {
        count_drop(sink, frame, LINK_GONE);
        return;
    }
    keep_pace(sink);
    if (frame_write(sink->fd, frame) >= 0) {
        sink->errors = 0;
        count(sink, frame);
        return;
    }
    switch (errno) {
    case EIO:
        count_drop(sink, frame, LINK_DOWN);
        return;
    case EAGAIN:
    case ENOMEM:
    case ENOBUFS:
        count_drop(sink, frame, LINK_ERROR);
        return;
    case EINVAL:
        if (++sink->errors < MAX_ERRORS)
            count_drop(sink, frame, LINK_ERROR);
        else
            end_link(sink, frame, -EINVAL);
        return;
    default:
        end_link(sink, frame, errno);
    }
}

static bool uncollected(struct sink *sink)
{
    return atomic_load(&sink->done) != atomic_load(&sink->collected);
}

/* Wait for more and return all there is; NULL when the sink was stopped. */
static struct frame *next_batch(struct sink *sink)
{
    pthread_mutex_lock(&sink->lock);
    if (uncollected(sink)) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += linger_ns;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        int waited = 0;
        while (sink->first == NULL && !atomic_load(&sink->stopping) && waited != ETIMEDOUT)
            waited = pthread_cond_timedwait(&sink->changed, &sink->lock, &until);
        if (sink->first == NULL && !atomic_load(&sink->stopping) && uncollected(sink))
            notify(sink);
    }
    while (sink->first == NULL && !atomic_load(&sink->stopping))
        pthread_cond_wait(&sink->changed, &sink->lock);
    struct frame *batch = atomic_load(&sink->stopping) ? NULL : sink->first;
    if (batch != NULL) {
        sink->first = NULL;
        sink->last = &sink->first;
    }
    /* Who writes past this thread began when there was nothing here; nobody can begin now. */
    while (atomic_load(&sink->state) & DIRECT)
        pthread_cond_wait(&sink->changed, &sink->lock);
    pthread_mutex_unlock(&sink->lock);
    return batch;
}

static void *sink_main(void *argument)
{
    struct sink *sink = argument;
    struct frame *batch;
    while ((batch = next_batch(sink)) != NULL) {
        while (batch != NULL && !atomic_load(&sink->stopping)) {
            struct frame *frame = batch;
            batch = frame->next;
            write_frame(sink, frame);
            frame_free(frame);
            atomic_fetch_sub(&sink->state, 1);
        }
        frames_free(batch);
    }
    if (sink->owns_fd)
        close(sink->fd);
    close(sink->wake_fd);
    pthread_mutex_lock(&sink->lock);
    sink->ended = true;
    pthread_cond_broadcast(&sink->changed);
    pthread_mutex_unlock(&sink->lock);
    sink_release(sink);
    return NULL;
}

static int start_thread(struct sink *sink)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int failed = pthread_attr_init(&attributes);
    if (failed)
        return failed;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Signals are for the threads that Python knows. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, &attributes, sink_main, sink);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

struct sink *sink_make(int fd, bool vnet_header, int pace_fd)
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
    sink->vnet_header = vnet_header;
    sink->last = &sink->first;
    atomic_store(&sink->wake_at, never);
    pthread_mutex_init(&sink->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&sink->changed, &clock);
    pthread_condattr_destroy(&clock);
    atomic_store(&sink->holders, 2);
    int failed = start_thread(sink);
    if (failed) {
        close(sink->wake_fd);
        atomic_store(&sink->holders, 1);
        sink_release(sink);
        errno = failed;
        return NULL;
    }
    return sink;
}

/* --- in a thread of the lane ---------------------------------------------------------------- */

static bool is_prompt(const struct sink *sink, int64_t at_ns)
{
    return at_ns >= atomic_load(&sink->demoted_until) && atomic_load(&sink->gone) == 0;
}

bool sink_is_ready(const struct sink *sink, int64_t at_ns)
{
    /* Somebody else's direct write is over soon. */
    return is_prompt(sink, at_ns) && (atomic_load(&sink->state) & ~DIRECT) == 0;
}

bool sink_begin_direct(struct sink *sink, int64_t at_ns)
{
    int nothing = 0;
    return is_prompt(sink, at_ns)
           && atomic_compare_exchange_strong(&sink->state, &nothing, DIRECT);
}

ssize_t sink_write_direct(struct sink *sink, const struct frame *frame)
{
    keep_pace(sink);
    return frame_write(sink->fd, frame);
}

void sink_demote(struct sink *sink, int64_t at_ns)
{
    int64_t until = atomic_load(&sink->demoted_until);
    /* Who was good for as long as he was demoted begins anew. */
    if (until != 0 && at_ns - until > 2 * (demoted_ns << sink->demotions))
        sink->demotions = 0;
    atomic_store(&sink->demoted_until, at_ns + (demoted_ns << sink->demotions));
    if (sink->demotions < MOST_DEMOTIONS)
        sink->demotions++;
    sink->slow_writes = 0;
}

void sink_end_direct(struct sink *sink, bool slow)
{
    sink->slow_writes = sink->slow_writes << 1 | slow;
    if (slow && __builtin_popcount(sink->slow_writes) >= SLOW_OF_32)
        sink_demote(sink, now_ns());
    if (atomic_fetch_and(&sink->state, ~DIRECT) != DIRECT) {
        /* The thread was given something meanwhile, or is to end. */
        pthread_mutex_lock(&sink->lock);
        pthread_cond_broadcast(&sink->changed);
        pthread_mutex_unlock(&sink->lock);
    }
}

int sink_fd(const struct sink *sink)
{
    return sink->fd;
}

/* --- in the loop ---------------------------------------------------------------------------- */

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
    atomic_store(&sink->wake_at, never);
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
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = (double)until.tv_nsec / 1e9 + timeout_s;
    until.tv_sec += (time_t)whole;
    until.tv_nsec = (long)((whole - (double)(time_t)whole) * 1e9);
    int waited = 0;
    pthread_mutex_lock(&sink->lock);
    while (!sink->ended && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&sink->changed, &sink->lock, &until);
    bool ended = sink->ended;
    pthread_mutex_unlock(&sink->lock);
    return ended;
}
