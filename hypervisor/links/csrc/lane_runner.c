/* The runner of a lane: carries the frames of known flows, a burst of each sender at a time.

   The lock is held but for waiting and for writes; after a write the runner may be another one
   (lane_workers.c), and the sender gone. */

#include "lane.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    EVENTS = 64,       /* senders of one look; the rest at the next */
    WAITS_TICK_MS = 5, /* patience is looked at so often */
};
static const int64_t burst_ns = 1000 * 1000; /* then it is the next sender's turn */
static const int64_t slow_ns = 100 * 1000;   /* a write that took more of the processor */

/* What is known of the processor time of one burst. */
struct meter {
    int64_t cpu_ns, at_ns;
};

/* Whether the write since `began` has used too much of the processor. Asking for processor time is
   a system call, so it is done when a burst first comes by a sink, and after writes that took long
   by the wall's clock, which costs nothing. */
static bool was_slow(struct meter *meter, int64_t began, int64_t ended)
{
    if (ended - began <= slow_ns)
        return false;
    int64_t cpu = lane_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    bool slow = cpu - meter->cpu_ns - (began - meter->at_ns) > slow_ns;
    *meter = (struct meter){cpu, ended};
    return slow;
}

/* What one sender's burst is at. */
struct ride {
    uint64_t data; /* his slot */
    struct meter meter;
    struct flow *flow; /* that a write has begun to, if one has: its receiver is ours */
    struct gro gro;    /* the frames for it; none if there is no flow */
    int number;        /* the errno of the last write */
    bool full;         /* it found no room at a socket, which may come */
    bool in_error;     /* he polls as in error */
    bool dry;          /* he has nothing more, or was read enough of */
};

/* Whether the next write may be better: there was no room. That is a loss like any other, and no
   reason to trouble the loop. */
static bool is_passing(int number)
{
    return number == EAGAIN || number == ENOBUFS || number == ENOMEM;
}

/* Count what was written, or is lost. `joined_bytes` are those on the wire that the one frame that
   was written does not have. */
static void count(struct ride *ride, struct flow *flow, uint64_t joined_bytes, bool mine)
{
    if (ride->number == 0) {
        atomic_fetch_add_explicit(&flow->frames, ride->gro.frames, memory_order_relaxed);
        atomic_fetch_add_explicit(&flow->bytes, ride->gro.bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&flow->joined_frames, ride->gro.frames - 1, memory_order_release);
        atomic_fetch_add_explicit(&flow->joined_bytes, joined_bytes, memory_order_release);
    } else if (!mine || is_passing(ride->number)) {
        atomic_fetch_add_explicit(&flow->lost_frames, ride->gro.frames, memory_order_relaxed);
        atomic_fetch_add_explicit(&flow->lost_bytes, ride->gro.bytes, memory_order_relaxed);
        ride->number = 0;
    }
}

/* Write what was joined. The lock is given away meanwhile: returns whether the sender is still this
   worker's then. With `ride->full` the frame is in his hand again. */
static bool write_on(struct worker *worker, struct ride *ride)
{
    struct lane *lane = worker->lane;
    struct flow *flow = ride->flow;
    struct sink *sink = flow->sink == NULL ? NULL : sink_of(flow->sink);
    gro_finish(&ride->gro);
    ride->flow = NULL;
    worker->flow = flow;
    const struct port *port = flow->port.buf;
    worker->fd = sink == NULL ? port->fd : sink_fd(sink);
    worker->writes++;
    worker->began_ns = now_ns();
    flow->pins++;
    lane->active = true;
    if (sink != NULL && !lane->armed) {
        lane->armed = true;
        lane_set_timer(lane, LANE_TICK_NS);
    }
    lane_unlock(lane);
    struct frame *frame = ride->gro.frame;
    ssize_t put = sink == NULL ? port_write(port, frame) : sink_write_direct(sink, frame);
    ride->number = put < 0 ? errno : 0;
    ride->full = ride->number == EAGAIN && sink == NULL && port_is_patient(port);
    bool slow = sink != NULL && was_slow(&ride->meter, worker->began_ns, now_ns());
    uint64_t joined_bytes = ride->gro.bytes - (frame->size - VNET_HEADER_BYTES);
    if (!ride->full)
        frame_free(frame);
    lane_lock(lane);
    if (sink != NULL)
        sink_end_direct(sink, slow);
    worker->flow = NULL;
    flow->pins--;
    if (lane->awaiting > 0)
        pthread_cond_broadcast(&lane->written);
    struct slot *slot = lane_slot_of(lane, ride->data);
    bool mine = lane->runner == worker && slot != NULL;
    if (ride->full && mine) {
        slot->burst->pending = frame;
        return true;
    }
    if (mine && ride->number == 0)
        lane_note_taken(slot, worker->fd);
    if (ride->full)
        frame_free(frame);
    count(ride, flow, joined_bytes, mine);
    return mine;
}

/* Get leave to write to the receiver of a flow: EMPTY, or NO_ROOM. */
static enum outcome begin_write(struct lane *lane, const struct flow *flow, struct meter *meter)
{
    const struct port *port = flow->port.buf;
    if (flow->sink == NULL)
        return port_is_patient(port) && port_waits(port) ? NO_ROOM : EMPTY;
    int64_t at_ns = now_ns();
    if (lane->watch == NULL || !sink_begin_direct(sink_of(flow->sink), at_ns))
        return NO_ROOM;
    if (meter->at_ns == 0)
        *meter = (struct meter){lane_clock_ns(CLOCK_THREAD_CPUTIME_ID), at_ns};
    return EMPTY;
}

/* Take the frame in the hand, for a write that has begun: alone, or as the first of several. */
static void take_first(struct burst *burst, struct ride *ride, struct flow *flow)
{
    struct frame *frame = burst->pending;
    burst->pending = NULL;
    ride->flow = flow;
    if ((flow->refuses & (NEEDS_CSUM | NEEDS_TSO4 | NEEDS_TSO6)) != 0
        || !gro_begin(&ride->gro, frame))
        ride->gro = (struct gro){
            .frame = frame, .frames = 1, .bytes = frame->size - VNET_HEADER_BYTES, .closed = true,
        };
}

/* Whether the frame in the hand could be joined to those that are to be written; then it is. */
static bool take_next(struct burst *burst, struct ride *ride)
{
    if (!gro_add(&ride->gro, burst->pending))
        return false;
    frame_free(burst->pending);
    burst->pending = NULL;
    return true;
}

/* What comes after one frame: the next one; nothing, for now; or he goes back to the loop. */
enum step { GO_ON, OVER, BACK };

static enum step write_taken(struct worker *worker, struct ride *ride, struct returned *why)
{
    struct flow *flow = ride->flow;
    if (!write_on(worker, ride))
        return OVER;
    if (ride->full) {
        struct slot *slot = lane_slot_of(worker->lane, ride->data);
        if (lane_await_room(worker->lane, slot, flow->port.buf))
            return OVER;
        *why = (struct returned){.outcome = NO_ROOM, .flow = flow};
        return BACK;
    }
    if (ride->number == 0)
        return ride->dry ? OVER : GO_ON;
    *why = (struct returned){
        .outcome = UNWRITTEN,
        .flow = flow,
        .number = ride->number,
        .frames = ride->gro.frames,
        .bytes = ride->gro.bytes,
    };
    return BACK;
}

static enum step carry_one(struct worker *worker, struct burst *burst, struct ride *ride,
                           struct returned *why)
{
    struct flow *flow = NULL;
    enum outcome outcome = ANSWERED;
    if (burst->pending == NULL)
        outcome = burst_read(burst, &why->number);
    if (outcome == ANSWERED)
        outcome = burst_judge(burst, &flow);
    else
        ride->dry = true;
    bool known = !ride->dry && outcome == EMPTY;
    if (ride->flow != NULL) {
        if (known && flow == ride->flow && take_next(burst, ride) && !ride->gro.closed)
            return GO_ON;
        /* What is in the hand is judged again, since the lock is given away meanwhile. */
        return write_taken(worker, ride, why);
    }
    if (ride->dry && outcome != UNREAD && !(ride->in_error && port_is_gone(burst->port)))
        return OVER;
    if (ride->dry && outcome == EMPTY) {
        outcome = UNREAD;
        why->number = EBADFD;
    }
    if (known)
        outcome = begin_write(worker->lane, flow, &ride->meter);
    if (outcome != EMPTY) {
        why->outcome = outcome;
        why->flow = outcome == NO_ROOM ? flow : NULL;
        return BACK;
    }
    take_first(burst, ride, flow);
    return ride->gro.closed ? write_taken(worker, ride, why) : GO_ON;
}

/* Carry a burst of one sender's frames, and give him back if the loop has to decide. */
static void carry(struct worker *worker, uint64_t data, bool in_error)
{
    struct lane *lane = worker->lane;
    struct slot *slot = lane_slot_of(lane, data);
    struct ride ride = {.data = data, .in_error = in_error};
    struct returned why = {0};
    enum step step;
    if (slot == NULL || slot->waits)
        return;
    struct burst *burst = slot->burst;
    burst_begin(burst, burst_ns);
    do
        step = carry_one(worker, burst, &ride, &why);
    while (step == GO_ON
           && (burst->pending != NULL || ride.flow != NULL || now_ns() < burst->until_ns));
    slot = lane_slot_of(lane, data);
    if (step == BACK) {
        if (why.flow != NULL)
            why.flow->pins++;
        lane_give_back(lane, slot, &why);
    } else if (lane->runner == worker && slot != NULL && !slot->waits) {
        lane_look_if_more(lane, slot);
    }
}

static void carry_given(struct worker *worker)
{
    struct lane *lane = worker->lane;
    uint64_t count;
    ssize_t got = read(lane->wake_in, &count, sizeof count);
    (void)got;
    /* Who has more in memory afterwards is behind them, and comes after those whom polls tell of. */
    int turns = 0;
    for (int index = lane->given; index >= 0; index = lane->slots[index].next)
        turns++;
    while (turns-- > 0 && lane->given >= 0 && lane->runner == worker && !lane->stopping) {
        struct slot *slot = &lane->slots[lane->given];
        uint64_t data = lane_data_of(lane, slot);
        lane->given = slot->next;
        slot->given = false;
        carry(worker, data, false);
    }
}

void lane_run(struct worker *worker)
{
    struct lane *lane = worker->lane;
    struct epoll_event events[EVENTS];
    while (lane->runner == worker && !lane->stopping) {
        int timeout_ms = lane->waiting > 0 ? WAITS_TICK_MS : -1;
        lane_unlock(lane);
        int count = epoll_wait(lane->epoll_fd, events, EVENTS, timeout_ms);
        lane_lock(lane);
        if (lane->waiting > 0)
            lane_end_waits(lane, -1);
        for (int i = 0; i < count && lane->runner == worker && !lane->stopping; i++) {
            if (events[i].data.u64 == WAKE)
                carry_given(worker);
            else if (events[i].data.u64 == ROOM)
                lane_see_room(lane);
            else
                carry(worker, events[i].data.u64, events[i].events & EPOLLERR);
        }
    }
}
