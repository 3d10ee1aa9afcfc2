/* The threads of a lane: one carries the frames of known flows (lane_runner.c), one watches it.

   The lock is held but for waiting and for writes.

   A write runs the stack of whoever gets the frame. For owners who are trusted that is his right.
   All others' have a sink (sink.c), which is written past while it has nothing to do; should that
   write not come to an end, the watch goes on in the runner's place and leaves it behind with that
   one frame. Whoever has done so is left to the thread of his own sink for a while, as is one whose
   writes are often slow. So nobody's stack can hold others up for long, and none can do so often.

   Both go by the processor time that a write has used: a thread that was merely put aside by the
   kernel's scheduler is nobody's fault. And a write of anybody's may do the soft interrupts of the
   whole processor before it returns, for which Linux allows two milliseconds. */

#include "lane.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    MOST_WORKERS = 10, /* eight of them left behind; then strangers are written by their sinks */
    STACK_BYTES = 128 << 10,
};
static const int64_t slice_ns = 200 * 1000;       /* of the processor, at a time */
static const int64_t burnt_ns = 3 * 1000 * 1000;  /* of the processor, since a tick: too slow */
static const int64_t stuck_ns = 20 * 1000 * 1000; /* in a write, whatever it does there */

static void *worker_main(void *argument);

/* Start a worker, which becomes what `role` points to; under the lock. */
int lane_start_worker(struct lane *lane, struct worker **role)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    struct worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return ENOMEM;
    worker->lane = lane;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Signals are for the threads that Python knows. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (failed) {
        free(worker);
        return failed;
    }
    lane_hold(lane);
    worker->next = lane->workers;
    lane->workers = worker;
    lane->workers_count++;
    *role = worker;
    return 0;
}

void lane_set_timer(struct lane *lane, int64_t in_ns)
{
    struct itimerspec when = {.it_value = {.tv_nsec = in_ns}};
    timerfd_settime(lane->timer_fd, 0, &when, NULL);
}

int64_t lane_clock_ns(clockid_t clock)
{
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t lane_cpu_ns(struct lane *lane)
{
    int64_t cpu_ns = 0;
    lane_lock(lane);
    /* A thread says what its clock is when it has begun. */
    if (lane->runner != NULL && lane->runner->clock != 0)
        cpu_ns = lane_clock_ns(lane->runner->clock);
    lane_unlock(lane);
    return cpu_ns;
}

/* --- the watch ------------------------------------------------------------------------------ */

/* Go on in the runner's place, which is in a write that does not end. */
static void replace(struct worker *worker, struct worker *runner)
{
    struct lane *lane = worker->lane;
    sink_demote(sink_of(runner->flow->sink), now_ns());
    lane->handovers++;
    lane->runner = worker;
    lane->watch = NULL;
    if (lane->workers_count < MOST_WORKERS)
        lane_start_worker(lane, &lane->watch);
    lane_look_at_hands(lane);
}

static void keep_watch(struct worker *worker)
{
    struct lane *lane = worker->lane;
    uint64_t seen = 0, ticks;
    int64_t used_ns = 0; /* when this write was seen first */
    while (lane->watch == worker && !lane->stopping) {
        lane_unlock(lane);
        ssize_t got = read(lane->timer_fd, &ticks, sizeof ticks);
        (void)got;
        lane_lock(lane);
        struct worker *runner = lane->runner;
        bool writing = runner != NULL && runner->flow != NULL;
        if (writing && runner->flow->sink != NULL) {
            int64_t so_far_ns = lane_clock_ns(runner->clock);
            if (runner->writes != seen) {
                seen = runner->writes;
                used_ns = so_far_ns;
            }
            if (so_far_ns - used_ns > burnt_ns || now_ns() - runner->began_ns > stuck_ns)
                replace(worker, runner);
        }
        if (writing || lane->active)
            lane_set_timer(lane, LANE_TICK_NS);
        else
            lane->armed = false;
        lane->active = false;
    }
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct lane *lane = worker->lane;
    thread_want_slice(slice_ns);
    lane_lock(lane);
    pthread_getcpuclockid(pthread_self(), &worker->clock);
    while (!lane->stopping) {
        if (lane->runner == worker) {
            thread_name("lane");
            lane_run(worker);
        } else if (lane->watch == worker || lane->watch == NULL) {
            /* Who was left behind may be needed when he is back. */
            lane->watch = worker;
            thread_name("lane watch");
            keep_watch(worker);
        } else {
            break;
        }
    }
    if (lane->runner == worker)
        lane->runner = NULL;
    if (lane->watch == worker)
        lane->watch = NULL;
    struct worker **place = &lane->workers;
    while (*place != worker)
        place = &(*place)->next;
    *place = worker->next;
    lane->workers_count--;
    pthread_cond_broadcast(&lane->written);
    lane_unlock(lane);
    lane_release(lane);
    free(worker);
    return NULL;
}
