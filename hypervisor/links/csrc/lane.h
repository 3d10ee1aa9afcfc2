/* What the parts of a lane share: lane.c, which knows the senders, lane_room.c, where some of them wait,
   lane_workers.c and lane_runner.c, the threads. */

#ifndef HYPERVISOR_LANE_H
#define HYPERVISOR_LANE_H

#include "burst.h"

#include <pthread.h>
#include <time.h>

#define WAKE UINT64_MAX       /* epoll's data for wake_in */
#define ROOM (UINT64_MAX - 1) /* and for room_fd */
#define LANE_TICK_NS INT64_C(2000000) /* of the watch */

struct worker {
    struct worker *next;
    struct lane *lane;
    clockid_t clock; /* its processor time */
    /* The write under way, if there is one. */
    struct flow *flow;
    int fd;
    uint64_t writes;
    int64_t began_ns;
};

struct slot {
    struct burst *burst; /* NULL: free */
    PyObject *burst_object, *owner;
    uint32_t generation;
    bool returned;
    bool given; /* has a frame in the hand to be looked at, which nothing else tells of */
    bool waits; /* has one in the hand that the socket waits_fd had no room for; is not polled */
    int waits_fd;
    int64_t until_ns; /* when its patience with waits_fd ends; 0: it has not been tried */
    unsigned taken;   /* frames by waits_fd since it has been */
    struct returned why;
    int next; /* free, returned, or to be looked at without being polled; -1: the last */
};

struct lane {
    atomic_int holders; /* its Python object, bursts, and threads */
    int epoll_fd, timer_fd;
    int room_fd;  /* an epoll set of the sockets that senders wait for */
    int wake_in;  /* the runner has something to look at */
    int wake_out; /* the loop has */

    pthread_mutex_t lock;
    pthread_cond_t written;
    struct worker *workers, *runner, *watch;
    int workers_count, awaiting;
    bool stopping;
    bool armed, active; /* the timer is set; there was a write since its last tick */
    uint64_t handovers;
    struct slot *slots;
    int slots_count, free_slots, given, returned;
    int waiting; /* senders */
    struct flow *pinned; /* of bursts that are no more */
};

static inline int lane_index_of(const struct lane *lane, const struct slot *slot)
{
    return (int)(slot - lane->slots);
}

static inline uint64_t lane_data_of(const struct lane *lane, const struct slot *slot)
{
    return (uint64_t)slot->generation << 32 | (uint32_t)lane_index_of(lane, slot);
}

/* All of these under the lock. */
void lane_look_at_hands(struct lane *lane); /* have the runner see to frames that are in hands */
/* Have the runner see to frames of a sender that no poll tells of, if there are any. */
void lane_look_if_more(struct lane *lane, struct slot *slot);
struct slot *lane_slot_of(struct lane *lane, uint64_t data); /* NULL: it is not there any more */
void lane_give_back(struct lane *lane, struct slot *slot, const struct returned *why);
void lane_look_at(struct lane *lane, struct slot *slot); /* have the runner look at a sender */
int lane_start_polling(struct lane *lane, struct slot *slot); /* -1 and errno */
void lane_stop_polling(struct lane *lane, struct slot *slot);
/* Have a sender wait until there is room at a socket; false if it has waited long enough. */
bool lane_await_room(struct lane *lane, struct slot *slot, const struct port *port);
void lane_note_taken(struct slot *slot, int fd); /* a frame was written there */
void lane_see_room(struct lane *lane);          /* some of the sockets waited for have room */
void lane_end_waits(struct lane *lane, int fd); /* for that socket, and those of no more patience */
void lane_run(struct worker *worker);                            /* as the runner */
int lane_start_worker(struct lane *lane, struct worker **role); /* 0, or an errno */
void lane_set_timer(struct lane *lane, int64_t in_ns);
void lane_ring(int fd);


int64_t lane_clock_ns(clockid_t clock);

#endif
