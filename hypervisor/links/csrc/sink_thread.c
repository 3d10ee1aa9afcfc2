/* The thread of a sink, and the lane that writes past it. */

#include "sink.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_ERRORS = 64, /* failed writes in a row that end the link */
    STACK_BYTES = 128 << 10,
    SLOW_OF_32 = 16, /* so many slow writes of the last 32, and the lane is too good for it */
    MOST_DEMOTIONS = 6,
};
static const double linger_s = 0.002; /* idle for so long, the thread wakes the loop once */
static const int64_t demoted_ns = 1000 * 1000 * 1000; /* the first time; then twice as long */

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
        atomic_store(&sink->wake_at, SINK_NEVER);
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
        struct timespec until = deadline_after(linger_s);
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
    thread_name(sink->name);
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

int sink_start_thread(struct sink *sink)
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
