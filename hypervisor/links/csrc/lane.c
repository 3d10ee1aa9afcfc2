/* Lane: what the loop gives to a thread that carries known flows, and gets back from it.

   The loop gives it senders whose frames are of known flows, and gets each one back with the frame
   that it has to decide about. A burst is with either of them; its table is the loop's to change,
   under the lock, at any time. Who does the carrying is in lane_workers.c. */

#include "lane.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* --- its life ------------------------------------------------------------------------------- */

void lane_hold(struct lane *lane)
{
    atomic_fetch_add(&lane->holders, 1);
}

void lane_release(struct lane *lane)
{
    if (atomic_fetch_sub(&lane->holders, 1) != 1)
        return;
    close(lane->epoll_fd);
    close(lane->room_fd);
    close(lane->timer_fd);
    close(lane->wake_in);
    close(lane->wake_out);
    pthread_cond_destroy(&lane->written);
    pthread_mutex_destroy(&lane->lock);
    free(lane->slots);
    free(lane);
}

void lane_lock(struct lane *lane)
{
    pthread_mutex_lock(&lane->lock);
}

void lane_unlock(struct lane *lane)
{
    pthread_mutex_unlock(&lane->lock);
}

void lane_ring(int fd)
{
    uint64_t one = 1;
    /* It can only fail when 2^64 - 2 wakes were not seen, and then one more says nothing new. */
    ssize_t put = write(fd, &one, sizeof one);
    (void)put;
}

struct lane *lane_make(void)
{
    struct lane *lane = calloc(1, sizeof *lane);
    pthread_condattr_t clock;
    if (lane == NULL)
        return NULL;
    atomic_store(&lane->holders, 1);
    pthread_mutex_init(&lane->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&lane->written, &clock);
    pthread_condattr_destroy(&clock);
    lane->free_slots = lane->given = lane->returned = -1;
    lane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    lane->room_fd = epoll_create1(EPOLL_CLOEXEC);
    lane->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    lane->wake_in = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lane->wake_out = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = WAKE};
    struct epoll_event room = {.events = EPOLLIN, .data.u64 = ROOM};
    int failed = lane->epoll_fd < 0 || lane->room_fd < 0 || lane->timer_fd < 0 || lane->wake_in < 0
                         || lane->wake_out < 0
                         || epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, lane->wake_in, &wake) < 0
                         || epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, lane->room_fd, &room) < 0
                     ? errno
                     : 0;
    lane_lock(lane);
    if (!failed)
        failed = lane_start_worker(lane, &lane->runner);
    if (!failed && lane_start_worker(lane, &lane->watch) != 0) {
        /* The runner may be there already; it ends. */
        lane->stopping = true;
        lane_ring(lane->wake_in);
        failed = EAGAIN;
    }
    lane_unlock(lane);
    if (failed) {
        lane_release(lane);
        errno = failed;
        return NULL;
    }
    return lane;
}

void lane_stop(struct lane *lane)
{
    lane_lock(lane);
    lane->stopping = true;
    lane_ring(lane->wake_in);
    lane_set_timer(lane, 1);
    lane_unlock(lane);
}

/* --- senders, between the loop and the lane; under the lock ----------------------------------- */

struct slot *lane_slot_of(struct lane *lane, uint64_t data)
{
    struct slot *slot = &lane->slots[(uint32_t)data];
    bool there = slot->burst != NULL && !slot->returned && slot->generation == data >> 32;
    return there ? slot : NULL;
}

static int new_slot(struct lane *lane)
{
    if (lane->free_slots < 0) {
        int count = lane->slots_count, wider = count ? 2 * count : 16;
        struct slot *slots = realloc(lane->slots, (size_t)wider * sizeof *slots);
        if (slots == NULL)
            return -1;
        lane->slots = slots;
        lane->slots_count = wider;
        for (int i = wider - 1; i >= count; i--) {
            slots[i] = (struct slot){.next = lane->free_slots};
            lane->free_slots = i;
        }
    }
    int index = lane->free_slots;
    lane->free_slots = lane->slots[index].next;
    return index;
}

static void free_slot(struct lane *lane, struct slot *slot)
{
    slot->burst = NULL;
    slot->burst_object = slot->owner = NULL;
    slot->returned = false;
    slot->until_ns = 0;
    slot->generation++;
    slot->next = lane->free_slots;
    lane->free_slots = lane_index_of(lane, slot);
}

static void unlink_from(struct lane *lane, int *place, int index)
{
    while (*place >= 0 && *place != index)
        place = &lane->slots[*place].next;
    if (*place == index)
        *place = lane->slots[index].next;
}

void lane_look_at(struct lane *lane, struct slot *slot)
{
    if (slot->given)
        return;
    slot->given = true;
    slot->next = -1;
    /* The last of all: who has more waiting in memory goes through here again and again. */
    int *place = &lane->given;
    while (*place >= 0)
        place = &lane->slots[*place].next;
    *place = lane_index_of(lane, slot);
    lane_ring(lane->wake_in);
}

void lane_look_if_more(struct lane *lane, struct slot *slot)
{
    if (slot->burst->pending != NULL || port_has_more(slot->burst->port))
        lane_look_at(lane, slot);
}

void lane_look_at_hands(struct lane *lane)
{
    for (int i = 0; i < lane->slots_count; i++) {
        struct slot *slot = &lane->slots[i];
        if (slot->burst != NULL && !slot->returned && !slot->waits && slot->burst->pending != NULL)
            lane_look_at(lane, slot);
    }
}

int lane_start_polling(struct lane *lane, struct slot *slot)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = lane_data_of(lane, slot)};
    return epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, slot->burst->port->fd, &event);
}

void lane_stop_polling(struct lane *lane, struct slot *slot)
{
    if (!slot->waits)
        epoll_ctl(lane->epoll_fd, EPOLL_CTL_DEL, slot->burst->port->fd, NULL);
    lane->waiting -= slot->waits;
    slot->waits = false;
    if (slot->given)
        unlink_from(lane, &lane->given, lane_index_of(lane, slot));
    slot->given = false;
}

int lane_give(struct lane *lane, struct burst *burst, PyObject *owner, PyObject *burst_object)
{
    lane_lock(lane);
    int index = lane->stopping ? -1 : new_slot(lane);
    if (index < 0) {
        lane_unlock(lane);
        errno = ENOMEM;
        return -1;
    }
    struct slot *slot = &lane->slots[index];
    slot->burst = burst;
    slot->burst_object = burst_object;
    slot->owner = owner;
    if (lane_start_polling(lane, slot) < 0) {
        int number = errno;
        free_slot(lane, slot);
        lane_unlock(lane);
        errno = number;
        return -1;
    }
    lane_look_if_more(lane, slot);
    lane_unlock(lane);
    return 0;
}

void lane_give_back(struct lane *lane, struct slot *slot, const struct returned *why)
{
    lane_stop_polling(lane, slot);
    slot->returned = true;
    slot->why = *why;
    slot->next = -1;
    /* In the order in which they came back. */
    int *place = &lane->returned;
    while (*place >= 0)
        place = &lane->slots[*place].next;
    *place = lane_index_of(lane, slot);
    lane_ring(lane->wake_out);
}

/* --- senders, back to the loop ------------------------------------------------------------------ */

static void take_over(struct lane *lane, struct slot *slot, struct returned *returned)
{
    if (slot->returned)
        *returned = slot->why;
    else
        *returned = (struct returned){.outcome = EMPTY};
    returned->owner = slot->owner;
    returned->burst = slot->burst_object;
    free_slot(lane, slot);
}

bool lane_next_returned(struct lane *lane, struct returned *returned)
{
    lane_lock(lane);
    int index = lane->returned;
    if (index >= 0) {
        lane->returned = lane->slots[index].next;
        take_over(lane, &lane->slots[index], returned);
    }
    lane_unlock(lane);
    return index >= 0;
}

bool lane_recall(struct lane *lane, const struct burst *burst, struct returned *returned)
{
    bool found = false;
    lane_lock(lane);
    for (int i = 0; !found && i < lane->slots_count; i++) {
        struct slot *slot = &lane->slots[i];
        if (slot->burst != burst)
            continue;
        if (slot->returned)
            unlink_from(lane, &lane->returned, i);
        else
            lane_stop_polling(lane, slot);
        take_over(lane, slot, returned);
        found = true;
    }
    lane_unlock(lane);
    return found;
}

void lane_unpin(struct lane *lane, struct flow *flow)
{
    lane_lock(lane);
    flow->pins--;
    lane_unlock(lane);
}

void lane_adopt_pinned(struct lane *lane, struct flow *first)
{
    lane_lock(lane);
    while (first != NULL) {
        struct flow *next = first->next;
        first->next = lane->pinned;
        lane->pinned = first;
        first = next;
    }
    lane_unlock(lane);
}

struct flow *lane_sweep(struct lane *lane)
{
    lane_lock(lane);
    struct flow *done = flows_take_unpinned(&lane->pinned);
    lane_unlock(lane);
    return done;
}

int lane_wake_fd(const struct lane *lane)
{
    return lane->wake_out;
}

void lane_await_writes(struct lane *lane, int fd)
{
    lane_lock(lane);
    lane->awaiting++;
    for (struct worker *worker = lane->workers; worker != NULL;) {
        if (worker->flow != NULL && worker->fd == fd) {
            pthread_cond_wait(&lane->written, &lane->lock);
            worker = lane->workers;
        } else {
            worker = worker->next;
        }
    }
    lane->awaiting--;
    lane_unlock(lane);
}

uint64_t lane_handovers(struct lane *lane)
{
    lane_lock(lane);
    uint64_t handovers = lane->handovers;
    lane_unlock(lane);
    return handovers;
}

bool lane_join(struct lane *lane, double timeout_s)
{
    struct timespec until = deadline_after(timeout_s);
    int waited = 0;
    lane_lock(lane);
    while (lane->workers_count > 0 && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&lane->written, &lane->lock, &until);
    bool ended = lane->workers_count == 0;
    lane_unlock(lane);
    return ended;
}
