/* The Python object of a burst. */

#include "burst.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    struct burst burst;
    PyObject *lane;
    Py_buffer port;
    int64_t limit_ns;
} BurstObject;

struct burst *burst_of(PyObject *object)
{
    return &((BurstObject *)object)->burst;
}

static void lock(const struct burst *burst)
{
    if (burst->lane != NULL)
        lane_lock(burst->lane);
}

static void unlock(const struct burst *burst)
{
    if (burst->lane != NULL)
        lane_unlock(burst->lane);
}

/* Empty the table; returns what nothing is written to any more. */
static struct flow *forget_all(struct burst *burst)
{
    lock(burst);
    struct flow *unused = table_forget(&burst->table);
    unlock(burst);
    burst->last = NULL;
    burst->sunk_count = 0;
    return unused;
}

static PyObject *burst_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"shared", "mtu", "limit_s", "lane", NULL};
    PyObject *shared, *lane = Py_None;
    unsigned int mtu;
    double limit_s = 0.002;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OI|dO:Burst", names, &shared, &mtu,
                                     &limit_s, &lane))
        return NULL;
    if (lane != Py_None && !PyObject_TypeCheck(lane, &LaneType))
        return PyErr_Format(PyExc_TypeError, "the lane of a burst is a Lane, or None");
    BurstObject *self = (BurstObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (port_view(shared, &self->port) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->burst.port = self->port.buf;
    self->burst.mtu = mtu;
    self->limit_ns = (int64_t)(limit_s * 1e9);
    if (lane != Py_None) {
        self->lane = Py_NewRef(lane);
        self->burst.lane = lane_of(lane);
    }
    return (PyObject *)self;
}

static int burst_traverse(BurstObject *self, visitproc visit, void *arg)
{
    const struct table *table = &self->burst.table;
    for (size_t i = 0; i < table->buckets_count; i++) {
        for (struct flow *flow = table->buckets[i]; flow != NULL; flow = flow->next) {
            Py_VISIT(flow->flow);
            Py_VISIT(flow->sink);
            Py_VISIT(flow->port.obj);
        }
    }
    Py_VISIT(self->port.obj);
    return 0;
}

static int burst_clear(BurstObject *self)
{
    flows_free(forget_all(&self->burst));
    return 0;
}

static void burst_dealloc(BurstObject *self)
{
    /* A lane that has it holds a reference: so none has. */
    PyObject_GC_UnTrack(self);
    flows_free(forget_all(&self->burst));
    if (self->burst.lane != NULL)
        lane_adopt_pinned(self->burst.lane, self->burst.table.pinned);
    frame_free(self->burst.pending);
    if (self->port.obj != NULL)
        PyBuffer_Release(&self->port);
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static struct flow *make_flow(const char *addresses, PyObject *object, int refuses,
                              PyObject *templates, PyObject *sink, PyObject *shared)
{
    struct flow *flow = calloc(1, sizeof *flow);
    if (flow == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (sink == Py_None && port_view(shared, &flow->port) < 0) {
        free(flow);
        return NULL;
    }
    memcpy(flow->addresses, addresses, ADDRESSES_BYTES);
    flow->refuses = refuses;
    flow->flow = Py_NewRef(object);
    flow->sink = sink == Py_None ? NULL : Py_NewRef(sink);
    flow->templates = templates == Py_None ? NULL : Py_NewRef(templates);
    return flow;
}

static PyObject *burst_learn(BurstObject *self, PyObject *arguments)
{
    struct burst *burst = &self->burst;
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
    if (table_find(&burst->table, (const unsigned char *)addresses) != NULL)
        return PyErr_Format(PyExc_ValueError, "these addresses have a flow already");
    struct flow *flow = make_flow(addresses, object, refuses, templates, sink, shared);
    if (flow == NULL)
        return NULL;
    lock(burst);
    int added = table_add(&burst->table, flow);
    unlock(burst);
    if (added < 0) {
        flow_free(flow);
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyObject *burst_begin_python(BurstObject *self, PyObject *arguments)
{
    int truth;
    long long frames = PLENTY, bytes = PLENTY;
    if (!PyArg_ParseTuple(arguments, "p|LL:begin", &truth, &frames, &bytes))
        return NULL;
    burst_begin(&self->burst, self->limit_ns);
    self->burst.only_one = truth;
    self->burst.due_frames = frames;
    self->burst.due_bytes = bytes;
    Py_RETURN_NONE;
}

static PyObject *burst_take_spent(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    struct burst *burst = &self->burst;
    PyObject *spent = Py_BuildValue("LL", (long long)burst->spent_frames,
                                    (long long)burst->spent_bytes);
    burst->spent_frames = burst->spent_bytes = 0;
    return spent;
}

/* The flows that gave frames to sinks in this run: ((flow, frames, bytes), ...), or None. */
static PyObject *take_sunk(struct burst *burst)
{
    if (burst->sunk_count == 0)
        Py_RETURN_NONE;
    PyObject *all = PyTuple_New(burst->sunk_count);
    for (int i = 0; i < burst->sunk_count; i++) {
        struct flow *flow = burst->sunk[i];
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
    burst->sunk_count = 0;
    return all;
}

static PyObject *burst_run_python(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    struct burst *burst = &self->burst;
    bool in_hand = burst->pending != NULL;
    enum outcome outcome;
    int number = 0;
    burst->last = NULL;
    Py_BEGIN_ALLOW_THREADS
    outcome = burst_run(burst, in_hand, &number);
    Py_END_ALLOW_THREADS
    size_t size = outcome == UNWRITTEN || outcome == NO_ROOM ? burst->pending->size : 0;
    if (outcome != UNKNOWN && outcome != UNFIT && outcome != NO_ROOM) {
        frame_free(burst->pending);
        burst->pending = NULL;
    }
    PyObject *sunk = take_sunk(burst);
    if (sunk == NULL)
        return NULL;
    PyObject *last = burst->last == NULL ? Py_None : burst->last->flow;
    return Py_BuildValue("iONin", outcome, last, sunk, number, (Py_ssize_t)size);
}

static PyObject *burst_take(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    struct frame *frame = self->burst.pending;
    if (frame == NULL)
        return PyErr_Format(PyExc_RuntimeError, "take() with nothing in the hand");
    self->burst.pending = NULL;
    PyObject *data = PyBytes_FromStringAndSize((const char *)frame->data, frame->size);
    frame_free(frame);
    return data;
}

static PyObject *burst_peek(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct frame *frame = self->burst.pending;
    if (frame == NULL || frame->size < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES)
        return PyErr_Format(PyExc_RuntimeError, "peek() with no frame in the hand");
    const char *ethernet = (const char *)frame->data + VNET_HEADER_BYTES;
    return PyBytes_FromStringAndSize(ethernet, ADDRESSES_BYTES);
}

/* Take what a flow has counted; returns -1 and an exception if it cannot be told. */
static int fold_one(PyObject *all, struct flow *flow)
{
    /* A lane counts these last: so they are never more than the frames they are of. */
    unsigned long long joined = atomic_exchange(&flow->joined_frames, 0);
    unsigned long long joined_bytes = atomic_exchange(&flow->joined_bytes, 0);
    unsigned long long frames = atomic_exchange(&flow->frames, 0);
    unsigned long long bytes = atomic_exchange(&flow->bytes, 0);
    unsigned long long lost = atomic_exchange(&flow->lost_frames, 0);
    unsigned long long lost_bytes = atomic_exchange(&flow->lost_bytes, 0);
    if (frames == 0 && lost == 0 && joined == 0)
        return 0;
    PyObject *one = Py_BuildValue("OKKKKKK", flow->flow, frames, bytes, lost, lost_bytes, joined,
                                  joined_bytes);
    int failed = one == NULL ? -1 : PyList_Append(all, one);
    Py_XDECREF(one);
    return failed;
}

/* Fold what was forgotten in the middle of a write, and free it if that is over. */
static int fold_pinned(PyObject *all, struct burst *burst)
{
    int failed = 0;
    lock(burst);
    struct flow *done = flows_take_unpinned(&burst->table.pinned);
    unlock(burst);
    for (struct flow *flow = done; flow != NULL && !failed; flow = flow->next)
        failed = fold_one(all, flow);
    flows_free(done);
    return failed;
}

static PyObject *burst_fold(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    /* Only this thread changes the table, so it may be read without the lock. */
    const struct table *table = &self->burst.table;
    PyObject *all = PyList_New(0);
    int failed = all == NULL ? -1 : fold_pinned(all, &self->burst);
    for (size_t i = 0; !failed && i < table->buckets_count; i++) {
        for (struct flow *flow = table->buckets[i]; flow != NULL && !failed; flow = flow->next)
            failed = fold_one(all, flow);
    }
    if (failed)
        Py_CLEAR(all);
    return all;
}

/* Forget all flows, and tell what they have carried until that moment: a lane goes on all the while,
   and what it carries between a fold() and this would never be told. */
static PyObject *burst_forget(BurstObject *self, PyObject *Py_UNUSED(ignored))
{
    struct flow *unused = forget_all(&self->burst);
    PyObject *all = PyList_New(0);
    int failed = all == NULL ? -1 : fold_pinned(all, &self->burst);
    for (struct flow *flow = unused; flow != NULL && !failed; flow = flow->next)
        failed = fold_one(all, flow);
    flows_free(unused);
    if (failed)
        Py_CLEAR(all);
    return all;
}

static PyMethodDef burst_methods[] = {
    {"begin", (PyCFunction)burst_begin_python, METH_VARARGS, NULL},
    {"take_spent", (PyCFunction)burst_take_spent, METH_NOARGS, NULL},
    {"run", (PyCFunction)burst_run_python, METH_NOARGS, NULL},
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
