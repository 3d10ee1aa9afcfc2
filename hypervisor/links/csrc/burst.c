/* Burst: reads a port and passes frames of known flows on, without the GIL.

   One run() brings in one bounded burst. It stops, and says why, at whatever is not of a known
   flow; that frame stays in the hand and Python decides about it. This is the loop's own way of
   doing it; a lane (lane.c) does it in a thread, and nothing here runs while it does. */

#include "burst.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

struct timespec deadline_after(double timeout_s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = (double)until.tv_nsec / 1e9 + timeout_s;
    until.tv_sec += (time_t)whole;
    until.tv_nsec = (long)((whole - (double)(time_t)whole) * 1e9);
    return until;
}

void burst_begin(struct burst *burst, int64_t limit_ns)
{
    burst->only_one = false;
    burst->due_frames = burst->due_bytes = PLENTY;
    burst->spent_frames = burst->spent_bytes = 0;
    burst->frames_left = BURST_FRAMES;
    burst->bytes_left = BURST_BYTES;
    burst->until_ns = now_ns() + limit_ns;
}

/* Whether a frame of known addresses is one that its flow is for. */
static bool is_fit(const struct burst *burst, const struct flow *flow, const struct frame *frame)
{
    size_t longest = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + burst->mtu;
    int needs = quick_check(frame->data, frame->size, burst->mtu);
    return needs >= 0 && (needs & flow->refuses) == 0
           && (frame->size <= longest || (needs & SEGMENTED) != 0)
           && (flow->templates == NULL
               || templates_pass(PyBytes_AS_STRING(flow->templates),
                                 PyBytes_GET_SIZE(flow->templates),
                                 frame->data + VNET_HEADER_BYTES,
                                 frame->size - VNET_HEADER_BYTES));
}

enum outcome burst_judge(const struct burst *burst, struct flow **flow)
{
    const struct frame *frame = burst->pending;
    if (frame->size < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES)
        return UNFIT;
    *flow = table_find(&burst->table, frame->data + VNET_HEADER_BYTES);
    if (*flow == NULL)
        return UNKNOWN;
    if (burst->due_frames <= 0 || burst->due_bytes <= 0 || !is_fit(burst, *flow, frame))
        return UNFIT;
    return EMPTY;
}

enum outcome burst_read(struct burst *burst, int *number)
{
    struct port *port = burst->port;
    if (burst->frames_left <= 0 || burst->bytes_left <= 0)
        return FULL;
    if (burst->pending == NULL && (burst->pending = frame_new_buffer()) == NULL)
        return FULL;
    if (port_read(port, burst->pending) < 0) {
        *number = errno;
        frame_free(burst->pending);
        burst->pending = NULL;
        return *number == EAGAIN ? EMPTY : UNREAD;
    }
    port->read_errors = 0;
    burst->frames_left--;
    /* Cut, a short frame of UDP segmentation may be as many as the longest. */
    bool udp = burst->pending->size > 1 && burst->pending->data[1] == GSO_UDP_L4;
    burst->bytes_left -= udp ? BUFFER_BYTES : burst->pending->size;
    return ANSWERED;
}

/* Give the pending frame to a sink: as it is if that wastes little, else copied to its size. */
static void sink_pending(struct burst *burst, struct flow *flow)
{
    struct frame *frame = burst->pending;
    uint32_t size = frame->size;
    if (size < BUFFER_BYTES / 2) {
        struct frame *copy = frame_new(size);
        if (copy != NULL) {
            memcpy(copy->data, frame->data, size);
            frame_free(frame);
            frame = copy;
        }
    }
    burst->pending = NULL;
    sink_put(sink_of(flow->sink), frame);
    if (flow->sunk_frames == 0)
        burst->sunk[burst->sunk_count++] = flow;
    flow->sunk_frames++;
    flow->sunk_bytes += size;
}

/* One frame is passed on; `size` includes its offload header. */
static void spend(struct burst *burst, ssize_t size)
{
    size -= VNET_HEADER_BYTES;
    burst->due_frames--;
    burst->due_bytes -= size;
    burst->spent_frames++;
    burst->spent_bytes += size;
}

/* Write a frame at once; 0 or an errno. */
static int write_to(const struct port *port, const struct frame *frame)
{
    return port_write(port, frame) < 0 ? errno : 0;
}

/* Pass the pending frame on, or say why not: EMPTY stands for "done, go on". */
static enum outcome pass_on(struct burst *burst, int *number)
{
    struct frame *frame = burst->pending;
    struct flow *flow;
    enum outcome outcome = burst_judge(burst, &flow);
    if (outcome != EMPTY)
        return outcome;
    if (flow->sink != NULL) {
        if (!sink_has_room(sink_of(flow->sink), frame->size)) {
            burst->last = flow;
            return NO_ROOM;
        }
        spend(burst, frame->size);
        sink_pending(burst, flow);
        return EMPTY;
    }
    struct port *receiver = flow->port.buf;
    bool patient = port_is_patient(receiver);
    *number = patient && port_waits(receiver) ? EAGAIN : write_to(receiver, frame);
    if (*number == EAGAIN && patient) {
        burst->last = flow;
        return NO_ROOM;
    }
    spend(burst, frame->size);
    if (*number != 0) {
        burst->last = flow;
        return UNWRITTEN;
    }
    receiver->write_errors = 0;
    flow->frames++;
    flow->bytes += frame->size - VNET_HEADER_BYTES;
    if (!patient) {
        /* His stack may have answered already. */
        size_t longest = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + burst->mtu;
        burst->last = flow;
        if (burst->only_one && frame->size <= longest)
            return ANSWERED;
    }
    return now_ns() < burst->until_ns ? EMPTY : FULL;
}

enum outcome burst_run(struct burst *burst, bool in_hand, int *number)
{
    for (;;) {
        if (!in_hand) {
            enum outcome outcome = burst_read(burst, number);
            if (outcome == EMPTY && port_is_gone(burst->port)) {
                *number = EBADFD;
                return UNREAD;
            }
            if (outcome != ANSWERED)
                return outcome;
        }
        enum outcome outcome = pass_on(burst, number);
        if (outcome != EMPTY)
            return outcome;
        in_hand = false;
    }
}
