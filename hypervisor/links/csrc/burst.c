/* Burst: reads a TAP and passes frames of known flows on, without the GIL.

   One run() brings in one bounded burst. It stops, and says why, at whatever is not of a known
   flow; that frame stays in the hand and Python decides about it. Single thread: only the loop's
   calls this, and nothing else changes while it is in run(). */

#include "burst.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Why run() came back; hypervisor/links/burst.py says what each means. */
enum outcome { EMPTY, FULL, ANSWERED, UNKNOWN, UNFIT, NO_ROOM, UNWRITTEN, UNREAD };

enum {
    BURST_FRAMES = 64,
    BURST_BYTES = 256 << 10,
    FIRST_BUCKETS = 16,
};

#define PLENTY (INT64_C(1) << 40) /* hypervisor.guard.quota: no limit */

/* What LentTap shares with whoever reads and writes its descriptor besides it. */
struct tap {
    int fd; /* -1 once closed */
    int write_errors, read_errors; /* in a row */
};

struct flow {
    struct flow *next; /* in the same bucket */
    unsigned char addresses[ADDRESSES_BYTES];
    int refuses; /* offloads that the receiver does not take */
    PyObject *templates;  /* bytes, or NULL: all frames with these addresses are of the flow */
    PyObject *flow;       /* hypervisor.flows.Flow */
    PyObject *sink;       /* a SinkType, or NULL: written here */
    Py_buffer tap;        /* a struct tap, if there is no sink */
    uint64_t frames, bytes;       /* written here and not folded; without offload headers */
    uint32_t sunk_frames;         /* given to the sink in this run() */
    uint64_t sunk_bytes;          /* with offload headers */
};

typedef struct {
    PyObject_HEAD
    Py_buffer tap;
    unsigned mtu;
    struct flow **buckets;
    size_t buckets_count, flows_count;
    struct frame *pending; /* read, and nobody has taken it yet */
    /* This burst, since begin(). */
    int frames_left;
    ssize_t bytes_left;
    int64_t due_frames, due_bytes;     /* what quotas let pass on */
    int64_t spent_frames, spent_bytes; /* passed on, since Python asked; on the wire */
    int64_t limit_ns, until_ns;
    bool only_one;
    struct flow *last; /* the last one written here */
    struct flow *sunk[BURST_FRAMES + 1]; /* a burst, and a frame left in the hand before it */
    int sunk_count;
} BurstObject;

/* --- the table ------------------------------------------------------------------------------ */

static size_t bucket_of(const BurstObject *self, const unsigned char *addresses)
{
    uint64_t first;
    uint32_t rest;
    memcpy(&first, addresses, sizeof first);
    memcpy(&rest, addresses + sizeof first, sizeof rest);
    uint64_t mixed = (first ^ ((uint64_t)rest << 29)) * UINT64_C(0x9e3779b97f4a7c15);
    return (mixed >> 32) & (self->buckets_count - 1);
}

static struct flow *find(const BurstObject *self, const unsigned char *addresses)
{
    if (self->flows_count == 0)
        return NULL;
    struct flow *flow = self->buckets[bucket_of(self, addresses)];
    while (flow != NULL && memcmp(flow->addresses, addresses, ADDRESSES_BYTES) != 0)
        flow = flow->next;
    return flow;
}

static int grow(BurstObject *self)
{
    struct flow **before = self->buckets;
    size_t count = self->buckets_count;
    size_t wider = count ? 2 * count : FIRST_BUCKETS;
    struct flow **buckets = calloc(wider, sizeof *buckets);
    if (buckets == NULL)
        return -1;
    self->buckets = buckets;
    self->buckets_count = wider;
    for (size_t i = 0; i < count; i++) {
        while (before[i] != NULL) {
            struct flow *flow = before[i];
            before[i] = flow->next;
            struct flow **bucket = &buckets[bucket_of(self, flow->addresses)];
            flow->next = *bucket;
            *bucket = flow;
        }
    }
    free(before);
    return 0;
}

static void flow_free(struct flow *flow)
{
    if (flow->tap.obj != NULL)
        PyBuffer_Release(&flow->tap);
    Py_XDECREF(flow->templates);
    Py_XDECREF(flow->sink);
    Py_XDECREF(flow->flow);
    free(flow);
}

static void forget_all(BurstObject *self)
{
    struct flow **buckets = self->buckets;
    size_t count = self->buckets_count;
    self->buckets = NULL;
    self->buckets_count = self->flows_count = 0;
    self->last = NULL;
    self->sunk_count = 0;
    for (size_t i = 0; i < count; i++) {
        while (buckets[i] != NULL) {
            struct flow *flow = buckets[i];
            buckets[i] = flow->next;
            flow_free(flow);
        }
    }
    free(buckets);
}

/* --- one frame, without the GIL ------------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Whether a frame of known addresses is one that its flow is for. */
static bool is_fit(const BurstObject *self, const struct flow *flow, const struct frame *frame)
{
    size_t longest = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + self->mtu;
    int needs = quick_check(frame->data, frame->size, self->mtu);
    return needs >= 0 && (needs & flow->refuses) == 0
           && (frame->size <= longest || (needs & (NEEDS_TSO4 | NEEDS_TSO6)) != 0)
           && (flow->templates == NULL
               || templates_pass(PyBytes_AS_STRING(flow->templates),
                                 PyBytes_GET_SIZE(flow->templates),
                                 frame->data + VNET_HEADER_BYTES,
                                 frame->size - VNET_HEADER_BYTES));
}

/* Give the pending frame to a sink: as it is if that wastes little, else copied to its size. */
static void sink_pending(BurstObject *self, struct flow *flow)
{
    struct frame *frame = self->pending;
    uint32_t size = frame->size;
    if (size < BUFFER_BYTES / 2) {
        struct frame *copy = frame_new(size);
        if (copy != NULL) {
            memcpy(copy->data, frame->data, size);
            frame_free(frame);
            frame = copy;
        }
    }
    self->pending = NULL;
    sink_put(sink_of(flow->sink), frame);
    if (flow->sunk_frames == 0)
        self->sunk[self->sunk_count++] = flow;
    flow->sunk_frames++;
    flow->sunk_bytes += size;
}

/* One frame is passed on; `size` includes its offload header. */
static void spend(BurstObject *self, ssize_t size)
{
    size -= VNET_HEADER_BYTES;
    self->due_frames--;
    self->due_bytes -= size;
    self->spent_frames++;
    self->spent_bytes += size;
}

/* Pass the pending frame on, or say why not: EMPTY stands for "done, go on". */
static enum outcome pass_on(BurstObject *self, int *number)
{
    struct frame *frame = self->pending;
    if (frame->size < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES)
        return UNFIT;
    struct flow *flow = find(self, frame->data + VNET_HEADER_BYTES);
    if (flow == NULL)
        return UNKNOWN;
    if (self->due_frames <= 0 || self->due_bytes <= 0 || !is_fit(self, flow, frame))
        return UNFIT;
    if (flow->sink != NULL) {
        if (!sink_has_room(sink_of(flow->sink), frame->size)) {
            self->last = flow;
            return NO_ROOM;
        }
        spend(self, frame->size);
        sink_pending(self, flow);
        return EMPTY;
    }
    struct tap *receiver = flow->tap.buf;
    self->last = flow;
    spend(self, frame->size);
    if (frame_write(receiver->fd, frame) < 0) {
        *number = errno;
        return UNWRITTEN;
    }
    receiver->write_errors = 0;
    flow->frames++;
    flow->bytes += frame->size - VNET_HEADER_BYTES;
    if (self->only_one && frame->size <= VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + self->mtu)
        return ANSWERED;
    return now_ns() < self->until_ns ? EMPTY : FULL;
}

/* Read the next frame into the hand. */
static enum outcome read_next(BurstObject *self, int *number)
{
    struct tap *tap = self->tap.buf;
    if (self->frames_left <= 0 || self->bytes_left <= 0)
        return FULL;
    if (frame_read(tap->fd, self->pending) < 0) {
        *number = errno;
        if (errno != EAGAIN)
            return UNREAD;
        /* A deleted TAP polls as in error before its reads say so. */
        struct pollfd error = {.fd = tap->fd};
        *number = EBADFD;
        return poll(&error, 1, 0) > 0 ? UNREAD : EMPTY;
    }
    tap->read_errors = 0;
    self->frames_left--;
    self->bytes_left -= self->pending->size;
    return ANSWERED; /* there is one */
}

static enum outcome run(BurstObject *self, bool in_hand, int *number)
{
    for (;;) {
        if (!in_hand) {
            enum outcome outcome = read_next(self, number);
            if (outcome != ANSWERED)
                return outcome;
        }
        enum outcome outcome = pass_on(self, number);
        if (outcome != EMPTY)
            return outcome;
        in_hand = false;
        if (self->pending == NULL && (self->pending = frame_new_buffer()) == NULL)
            return FULL;
    }
}

/* --- the Python object ---------------------------------------------------------------------- */

static int get_tap(PyObject *shared, Py_buffer *view)
{
    if (PyObject_GetBuffer(shared, view, PyBUF_WRITABLE) < 0)
        return -1;
    if (view->len < (Py_ssize_t)sizeof(struct tap)) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_ValueError, "what a TAP shares is three ints");
        return -1;
    }
    return 0;
}

static PyObject *burst_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"shared", "mtu", "limit_s", NULL};
    PyObject *shared;
    unsigned int mtu;
    double limit_s = 0.002;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OI|d:Burst", names, &shared, &mtu,
                                     &limit_s))
        return NULL;
    BurstObject *self = (BurstObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (get_tap(shared, &self->tap) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->mtu = mtu;
    self->limit_ns = (int64_t)(limit_s * 1e9);
    return (PyObject *)self;
}

static int burst_traverse(BurstObject *self, visitproc visit, void *arg)
{
    for (size_t i = 0; i < self->buckets_count; i++) {
        for (struct flow *flow = self->buckets[i]; flow != NULL; flow = flow->next) {
            Py_VISIT(flow->flow);
            Py_VISIT(flow->sink);
            Py_VISIT(flow->tap.obj);
        }
    }
    Py_VISIT(self->tap.obj);
    return 0;
}

static int burst_clear(BurstObject *self)
{
    forget_all(self);
    return 0;
}

static void burst_dealloc(BurstObject *self)
{
    PyObject_GC_UnTrack(self);
    forget_all(self);
    frame_free(self->pending);
    if (self->tap.obj != NULL)
        PyBuffer_Release(&self->tap);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *burst_learn(BurstObject *self, PyObject *arguments)
{
    const char *addresses;
    Py_ssize_t length;
    PyObject *object, *templates, *sink, *shared;
    int refuses;
    if (!PyArg_ParseTuple(arguments, "y#OiOOO:learn", &addresses, &length, &object, &refuses,
                          &templates, &sink, &shared))
        return NULL;
    if (length != ADDRESSES_BYTES || (templates != Py_None && !PyBytes_Check(templates))
        || (sink != Py_None && !PyObject_TypeCheck(sink, &SinkType)))
        return PyErr_Format(PyExc_ValueError, "learn() takes 12 addresses, templates, a sink");
    if (find(self, (const unsigned char *)addresses) != NULL)
        return PyErr_Format(PyExc_ValueError, "these addresses have a flow already");
    if (self->flows_count >= self->buckets_count && grow(self) < 0)
        return PyErr_NoMemory();
    struct flow *flow = calloc(1, sizeof *flow);
    if (flow == NULL)
        return PyErr_NoMemory();
    if (sink == Py_None && get_tap(shared, &flow->tap) < 0) {
        free(flow);
        return NULL;
    }
    memcpy(flow->addresses, addresses, ADDRESSES_BYTES);
    flow->refuses = refuses;
    flow->flow = Py_NewRef(object);
    flow->sink = sink == Py_None ? NULL : Py_NewRef(sink);
    flow->templates = templates == Py_None ? NULL : Py_NewRef(templates);
    struct flow **bucket = &self->buckets[bucket_of(self, flow->addresses)];
    flow->next = *bucket;
    *bucket = flow;
    self->flows_count++;
    Py_RETURN_NONE;
}

static PyObject *burst_begin(BurstObject *self, PyObject *arguments)
{
    int truth;
    long long frames = PLENTY, bytes = PLENTY;
    if (!PyArg_ParseTuple(arguments, "p|LL:begin", &truth, &frames, &bytes))
        return NULL;
    self->only_one = truth;
    self->due_frames = frames;
    self->due_bytes = bytes;
    self->spent_frames = self->spent_bytes = 0;
    self->frames_left = BURST_FRAMES;
    self->bytes_left = BURST_BYTES;
    self->until_ns = now_ns() + self->limit_ns;
    Py_RETURN_NONE;
}

static PyObject *burst_take_spent(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *spent = Py_BuildValue("LL", (long long)self->spent_frames,
                                    (long long)self->spent_bytes);
    self->spent_frames = self->spent_bytes = 0;
    return spent;
}

/* The flows that gave frames to sinks in this run: ((flow, frames, bytes), ...), or None. */
static PyObject *take_sunk(BurstObject *self)
{
    if (self->sunk_count == 0)
        Py_RETURN_NONE;
    PyObject *all = PyTuple_New(self->sunk_count);
    for (int i = 0; i < self->sunk_count; i++) {
        struct flow *flow = self->sunk[i];
        sink_revoke(sink_of(flow->sink));
        sink_signal(sink_of(flow->sink));
        PyObject *one = all == NULL ? NULL
                                    : Py_BuildValue("OIK", flow->flow, flow->sunk_frames,
                                                    (unsigned long long)flow->sunk_bytes);
        if (one != NULL)
            PyTuple_SET_ITEM(all, i, one);
        else
            Py_CLEAR(all);
        flow->sunk_frames = 0;
        flow->sunk_bytes = 0;
    }
    self->sunk_count = 0;
    return all;
}

static PyObject *burst_run(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    bool in_hand = self->pending != NULL;
    enum outcome outcome;
    int number = 0;
    if (!in_hand && (self->pending = frame_new_buffer()) == NULL)
        return PyErr_NoMemory();
    self->last = NULL;
    Py_BEGIN_ALLOW_THREADS
    outcome = run(self, in_hand, &number);
    Py_END_ALLOW_THREADS
    size_t size = outcome == UNWRITTEN || outcome == NO_ROOM ? self->pending->size : 0;
    if (outcome != UNKNOWN && outcome != UNFIT && outcome != NO_ROOM) {
        frame_free(self->pending);
        self->pending = NULL;
    }
    PyObject *sunk = take_sunk(self);
    if (sunk == NULL)
        return NULL;
    PyObject *last = self->last == NULL ? Py_None : self->last->flow;
    return Py_BuildValue("iONin", outcome, last, sunk, number, (Py_ssize_t)size);
}

static PyObject *burst_take(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    struct frame *frame = self->pending;
    if (frame == NULL)
        return PyErr_Format(PyExc_RuntimeError, "take() with nothing in the hand");
    self->pending = NULL;
    PyObject *data = PyBytes_FromStringAndSize((const char *)frame->data, frame->size);
    frame_free(frame);
    return data;
}

static PyObject *burst_peek(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    struct frame *frame = self->pending;
    if (frame == NULL || frame->size < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES)
        return PyErr_Format(PyExc_RuntimeError, "peek() with no frame in the hand");
    const char *ethernet = (const char *)frame->data + VNET_HEADER_BYTES;
    return PyBytes_FromStringAndSize(ethernet, ADDRESSES_BYTES);
}

static PyObject *burst_fold(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *all = PyList_New(0);
    for (size_t i = 0; all != NULL && i < self->buckets_count; i++) {
        for (struct flow *flow = self->buckets[i]; flow != NULL; flow = flow->next) {
            if (flow->frames == 0)
                continue;
            PyObject *one = Py_BuildValue("OKK", flow->flow, (unsigned long long)flow->frames,
                                          (unsigned long long)flow->bytes);
            if (one == NULL || PyList_Append(all, one) < 0) {
                Py_XDECREF(one);
                Py_DECREF(all);
                return NULL;
            }
            Py_DECREF(one);
            flow->frames = flow->bytes = 0;
        }
    }
    return all;
}

static PyObject *burst_forget(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    forget_all(self);
    Py_RETURN_NONE;
}

static PyMethodDef burst_methods[] = {
    {"begin", (PyCFunction)burst_begin, METH_VARARGS, NULL},
    {"take_spent", (PyCFunction)burst_take_spent, METH_NOARGS, NULL},
    {"run", (PyCFunction)burst_run, METH_NOARGS, NULL},
    {"peek", (PyCFunction)burst_peek, METH_NOARGS, NULL},
    {"take", (PyCFunction)burst_take, METH_NOARGS, NULL},
    {"learn", (PyCFunction)burst_learn, METH_VARARGS, NULL},
    {"fold", (PyCFunction)burst_fold, METH_NOARGS, NULL},
    {"forget", (PyCFunction)burst_forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject BurstType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "hypervisor.links._burst.Burst",
    .tp_basicsize = sizeof(BurstObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = burst_new,
    .tp_dealloc = (destructor)burst_dealloc,
    .tp_traverse = (traverseproc)burst_traverse,
    .tp_clear = (inquiry)burst_clear,
    .tp_methods = burst_methods,
};
