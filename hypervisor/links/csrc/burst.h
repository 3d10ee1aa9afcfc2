/* The compiled data path of hypervisor/links: what its parts share.

   hypervisor/links/burst.py and hypervisor/links/sink.py say what each type promises, hold the
   same in Python as reference and fallback, and are tested by the same tests. */

#ifndef HYPERVISOR_BURST_H
#define HYPERVISOR_BURST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum {
    VNET_HEADER_BYTES = 12,
    ETHERNET_HEADER_BYTES = 14,
    ADDRESSES_BYTES = 12,
    /* The longest frame a TAP yields: 64 KiB of TCP, its headers, the offload header. */
    BUFFER_BYTES = 65536 + 256,
};

/* Offloads as in hypervisor.wire.virtio_net.Offload. */
enum { NEEDS_CSUM = 1, NEEDS_TSO4 = 2, NEEDS_TSO6 = 4, NEEDS_USO = 16 };
/* A frame that needs one of these is as long as all the packets that it stands for. */
enum { SEGMENTED = NEEDS_TSO4 | NEEDS_TSO6 | NEEDS_USO };
enum { GSO_UDP_L4 = 5 }; /* gso_type, byte 1 of an offload header: UDP segmentation */

/* --- frames.c: memory ----------------------------------------------------------------------- */

/* A frame on its way to a sink. `header` bytes of `data` are an offload header. An `express` frame
   came by a known flow and is only counted by the engine; the others are also stored there. */
struct frame {
    struct frame *next;
    uint32_t size;
    uint8_t header;
    bool express;
    bool is_buffer;
    unsigned char data[];
};

struct frame *frame_new(size_t size); /* room for `size` bytes, or NULL */
struct frame *frame_new_buffer(void); /* room for BUFFER_BYTES, or NULL; used ones come back */
void frame_free(struct frame *frame); /* in any thread, without the GIL; NULL is allowed */
void frames_free(struct frame *first);

/* Read from a TAP or write to one, one frame, now or not at all; 0 or more bytes, or -1 and errno.
   RWF_NOWAIT, since whoever lent it may have made it blocking. */
ssize_t frame_read(int fd, struct frame *frame);
ssize_t frame_write(int fd, const struct frame *frame);

/* --- ports.c: what is read from and written to ------------------------------------------------ */

enum port_kind { PORT_TAP, PORT_NIC, PORT_DGRAM, PORT_STREAM };

/* What a link shares with whoever reads and writes its descriptor besides it: ints, in this order
   (hypervisor.links.port). */
struct port {
    int fd; /* -1 once closed */
    int write_errors, read_errors; /* in a row */
    int kind;                      /* enum port_kind */
    int header_bytes;              /* of the kernel's offload header: 12, or 10, or 0 */
    int mtu;                       /* of a NIC, in bytes */
    /* Of a socket. */
    int waits;         /* frames wait for its other side: nobody may write but who holds those */
    int whole_bytes;   /* a stream's message of so many goes whole or not at all */
    int longest_bytes; /* of a frame */
    int start, end;    /* of what a stream has in its buffer */
    int more_bytes;
    unsigned char more[]; /* the address of whom a datagram socket hears, a stream's buffer */
};

/* Read one frame behind its offload header, or write one, now or not at all: 0 or more bytes, or -1
   and errno. The frame read has room for BUFFER_BYTES. */
ssize_t port_read(struct port *port, struct frame *frame);
ssize_t port_write(const struct port *port, const struct frame *frame);
/* Whether its other side can be full, so that who writes EAGAIN keeps the frame: a socket. */
bool port_is_patient(const struct port *port);
bool port_waits(const struct port *port); /* nobody may write now but the link itself */
/* Whether frames wait in memory, which no poll tells of. */
bool port_has_more(const struct port *port);
/* After a read that said EAGAIN: whether there will never be anything more. */
bool port_is_gone(const struct port *port);
int port_view(PyObject *shared, Py_buffer *view); /* a struct port; -1 and an exception */

/* --- offload.c ------------------------------------------------------------------------------ */

/* hypervisor.wire.offload.quick_check: what a frame of `size` bytes still needs, or -1. At least
   128 bytes can be read from `head`, whatever `size` is. */
int quick_check(const unsigned char *head, size_t size, unsigned mtu);

/* Tell whether what follows an Ethernet header, `length` bytes, is one whole packet without options
   or extensions that carries `protocol`; return the bytes of its header, or 0. */
unsigned plain_packet(const unsigned char *ethernet, size_t length, unsigned protocol);

/* --- gro.c ---------------------------------------------------------------------------------- */

/* Where things are in a segment of TCP, from the Ethernet header on. */
struct segment {
    const unsigned char *ethernet, *ip, *tcp;
    unsigned start, headers; /* of the TCP header; the end of it */
    unsigned payload;
    bool ipv4;
};

/* A frame that others are joined to. */
struct gro {
    struct frame *frame;
    struct segment first;
    uint32_t sequence;             /* that the next one has */
    unsigned identification;       /* that the last one had */
    unsigned frames;               /* joined, the first one included */
    size_t bytes;                  /* on the wire, of all of them */
    unsigned char flags;
    bool closed;                   /* there can be no next one */
};

/* Both: frames whose offload headers passed quick_check(). Whether others may be joined to `frame`,
   which has room for BUFFER_BYTES. */
bool gro_begin(struct gro *gro, struct frame *frame);
bool gro_add(struct gro *gro, const struct frame *frame); /* false: it is not the next one */
void gro_finish(struct gro *gro);                         /* make one frame of it */

/* --- templates.c ---------------------------------------------------------------------------- */

enum { TEMPLATE_BYTES = 88 }; /* hypervisor.guard.template */

/* Whether in every group of the packed templates the first one that matches lets a frame of `size`
   bytes pass. TEMPLATE_BYTES can be read from `frame`, whatever `size` is. */
bool templates_pass(const char *packed, Py_ssize_t packed_bytes, const unsigned char *frame,
                    size_t size);

/* --- batches.c: whole batches of frames that Python holds ------------------------------------- */

PyObject *batches_suspects(PyObject *module, PyObject *arguments);
PyObject *batches_run_end(PyObject *module, PyObject *arguments);
PyObject *batches_lengths(PyObject *module, PyObject *frames);

/* --- threads.c ------------------------------------------------------------------------------ */

/* Both of the calling thread, and neither can fail. */
void thread_name(const char *name); /* for top -H and perf; its first 15 bytes */
/* Ask for a time slice: the shorter it is, the sooner the thread has a processor after it woke, for
   the same share of it. */
void thread_want_slice(uint64_t slice_ns);

/* --- sink.c, sink_thread.c ------------------------------------------------------------------ */

enum { LINK_DOWN, LINK_ERROR, LINK_GONE, REASONS };

/* What a sink has finished, all told; see hypervisor.links.sink.Finished. */
struct finished {
    uint64_t stored, express_frames, express_bytes, dropped_bytes, drops[REASONS];
};

struct sink;

/* `name` is its thread's. NULL and errno. */
struct sink *sink_make(int fd, bool vnet_header, int pace_fd, const char *name);
void sink_release(struct sink *sink);

/* In the thread of the loop only, the GIL not needed. */
bool sink_has_room(const struct sink *sink, size_t size); /* within what was granted */
void sink_grant(struct sink *sink, unsigned frames, uint64_t size_bytes);
void sink_append(struct sink *sink, struct frame *frame); /* takes the frame over */
void sink_put(struct sink *sink, struct frame *frame);    /* the same, within what was granted */
void sink_signal(struct sink *sink);                      /* there is something to write */
void sink_revoke(struct sink *sink);                      /* nothing is granted any more */
bool sink_vnet_header(const struct sink *sink);
int sink_wake_fd(const struct sink *sink);
int sink_gone(const struct sink *sink);
uint64_t sink_waiting(const struct sink *sink);
bool sink_news(const struct sink *sink); /* something is finished and not collected */
/* `unwritten` has all that is not finished count as lost; returns how many frames were collected. */
uint64_t sink_collect(struct sink *sink, bool unwritten, struct finished *finished);
bool sink_want(struct sink *sink, uint64_t wanted);
void sink_stop(struct sink *sink, bool close_fd);
bool sink_join(struct sink *sink, double timeout_s); /* waits: without the GIL */

/* In a thread of the lane: write past the thread of the sink, while that has nothing to do. */
bool sink_begin_direct(struct sink *sink, int64_t now_ns); /* false: not now */
ssize_t sink_write_direct(struct sink *sink, const struct frame *frame);
void sink_end_direct(struct sink *sink, bool slow); /* `slow`: it took far more than it should */
void sink_demote(struct sink *sink, int64_t now_ns); /* for a while, its own thread has to write */
int sink_fd(const struct sink *sink);
bool sink_is_ready(const struct sink *sink, int64_t now_ns); /* a lane could begin */

/* --- sink_object.c -------------------------------------------------------------------------- */

extern PyTypeObject SinkType;
struct sink *sink_of(PyObject *object); /* borrowed from a SinkType */

/* --- flows.c: the table of a burst ---------------------------------------------------------- */

struct flow {
    struct flow *next; /* in the same bucket */
    unsigned char addresses[ADDRESSES_BYTES];
    int refuses;         /* offloads that the receiver does not take */
    PyObject *templates; /* bytes, or NULL: all frames with these addresses are of the flow */
    PyObject *flow;      /* hypervisor.flows.Flow */
    PyObject *sink;      /* a SinkType, or NULL: the port is written at once */
    Py_buffer port;      /* a struct port, if there is no sink */
    /* Passed on without being stored, and not folded; without offload headers. Of these, what was
       not taken by a receiver whose sender had gone on without waiting; and what the receiver got
       less of frames and of bytes, since some came to him as part of the one before (gro.c). */
    _Atomic uint64_t frames, bytes, lost_frames, lost_bytes, joined_frames, joined_bytes;
    uint32_t sunk_frames; /* given to the sink in this run() */
    uint64_t sunk_bytes;  /* with offload headers */
    unsigned pins;        /* writes of a lane under way; under its lock */
};

struct table {
    struct flow **buckets;
    size_t buckets_count, flows_count;
    struct flow *pinned; /* forgotten, and still in use */
};

struct flow *table_find(const struct table *table, const unsigned char *addresses);
int table_add(struct table *table, struct flow *flow); /* -1 without memory */
/* Empty the table; returns what is to be freed, without a lock. What is pinned is not among it. */
struct flow *table_forget(struct table *table);
void flow_free(struct flow *flow); /* with the GIL and without a lock: it may run anything */
void flows_free(struct flow *first);
/* Take out of a list what no write is under way to any more; under the lock. */
struct flow *flows_take_unpinned(struct flow **place);

/* --- burst.c -------------------------------------------------------------------------------- */

/* Why a run came back; hypervisor/links/burst.py says what each means. */
enum outcome { EMPTY, FULL, ANSWERED, UNKNOWN, UNFIT, NO_ROOM, UNWRITTEN, UNREAD };

enum {
    BURST_FRAMES = 64,
    BURST_BYTES = 256 << 10,
};

#define PLENTY (INT64_C(1) << 40) /* hypervisor.guard.quota: no limit */

struct lane;

/* One sender's frames on their way in. Whoever has it, the loop or a lane, is alone with it, but
   for the table, which is the loop's to change, under the lock of the lane. */
struct burst {
    struct lane *lane; /* or NULL: nobody but the loop ever has it */
    struct port *port;
    unsigned mtu;
    struct table table;
    struct frame *pending; /* in the hand: read, and nobody has taken it yet */
    /* This burst, since burst_begin(). */
    int frames_left;
    ssize_t bytes_left;
    int64_t due_frames, due_bytes;     /* what quotas let pass on */
    int64_t spent_frames, spent_bytes; /* passed on, since Python asked; on the wire */
    int64_t until_ns;
    bool only_one;
    struct flow *last;                   /* the last one written here */
    struct flow *sunk[BURST_FRAMES + 1]; /* a burst, and a frame left in the hand before it */
    int sunk_count;
};

int64_t now_ns(void);
struct timespec deadline_after(double timeout_s); /* of CLOCK_MONOTONIC */
void burst_begin(struct burst *burst, int64_t limit_ns);
/* Read the next frame into the hand: ANSWERED, or FULL, EMPTY, UNREAD and an errno. */
enum outcome burst_read(struct burst *burst, int *number);
/* Go on until there is a reason to come back; with `in_hand` from the frame that is there. */
enum outcome burst_run(struct burst *burst, bool in_hand, int *number);
/* Find the flow of the frame in the hand: EMPTY, or UNKNOWN, UNFIT. */
enum outcome burst_judge(const struct burst *burst, struct flow **flow);

/* --- burst_object.c -------------------------------------------------------------------------- */

extern PyTypeObject BurstType;
struct burst *burst_of(PyObject *object); /* borrowed from a BurstType */

/* --- lane.c, lane_workers.c ----------------------------------------------------------------- */

/* Why a sender came back to the loop. `flow` is pinned if there is one; give it back by
   lane_unpin(). */
struct returned {
    PyObject *owner, *burst; /* references that are the caller's now */
    enum outcome outcome;
    struct flow *flow;
    int number;
    unsigned frames; /* that were not taken */
    size_t bytes;    /* without offload headers */
};

struct lane *lane_make(void); /* NULL and errno */
void lane_stop(struct lane *lane);
void lane_hold(struct lane *lane);
void lane_release(struct lane *lane);
void lane_lock(struct lane *lane);
void lane_unlock(struct lane *lane);
void lane_unpin(struct lane *lane, struct flow *flow); /* takes the lock */
void lane_adopt_pinned(struct lane *lane, struct flow *first); /* under the lock */
struct flow *lane_sweep(struct lane *lane); /* takes the lock; to be freed with the GIL */

int lane_wake_fd(const struct lane *lane);
/* Let the lane carry a sender from now on; -1 and errno. */
int lane_give(struct lane *lane, struct burst *burst, PyObject *owner, PyObject *burst_object);
bool lane_next_returned(struct lane *lane, struct returned *returned);
/* Take a sender back, wherever it is; false if the lane does not have it. */
bool lane_recall(struct lane *lane, const struct burst *burst, struct returned *returned);
void lane_await_writes(struct lane *lane, int fd); /* waits: without the GIL */
bool lane_join(struct lane *lane, double timeout_s); /* the same, for all threads after lane_stop() */
uint64_t lane_handovers(struct lane *lane); /* how often a write did not come to an end */
int64_t lane_cpu_ns(struct lane *lane);     /* processor time of the runner */

/* --- lane_object.c -------------------------------------------------------------------------- */

extern PyTypeObject LaneType;
struct lane *lane_of(PyObject *object); /* borrowed from a LaneType */

#endif
