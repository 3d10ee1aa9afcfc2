/* Sink: a thread that writes frames to a TAP whose owner is not trusted.

   The owner's network stack and firewall run inside our write(): the thread takes that, without the
   GIL. The loop hands frames over and collects what is finished; who writes which field is said
   beside it. A struct sink outlives its Python object until the thread has ended, which may be in
   the middle of a long write. */

#include "burst.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { LINK_DOWN, LINK_ERROR, LINK_GONE, REASONS };
static const char *const reason_names[REASONS] = {"link_down", "link_error", "link_gone"};

enum {
    MAX_ERRORS = 64,      /* failed writes in a row that end the link */
    STACK_BYTES = 128 << 10,
};
static const long linger_ns = 2 * 1000 * 1000; /* idle for so long, the thread wakes the loop once */
static const uint64_t never = UINT64_MAX;

struct sink {
    atomic_int holders; /* the Python object and the thread */
    int fd;             /* the TAP; the thread closes it after stop() */
    int wake_fd;        /* polls readable when the loop should collect */
    bool vnet_header;
    int pace_fd; /* for tests: each write says so there and waits for a byte; or -1 */

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

    /* By the loop; the thread looks at the first two, and disarms wake_at. */
    _Atomic uint64_t collected, wake_at;
    uint64_t offered, collected_stored, collected_express;
    uint32_t room_frames;
    uint64_t room_bytes;
    bool unsignalled;
};

static void release(struct sink *sink)
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

static void write_frame(struct sink *sink, const struct frame *frame)
{
    if (atomic_load(&sink->gone) != 0) {
        count_drop(sink, frame, LINK_GONE);
        return;
    }
    if (sink->pace_fd >= 0) {
        char byte = 0;
        if (write(sink->pace_fd, &byte, 1) != 1 || read(sink->pace_fd, &byte, 1) != 1)
            sink->pace_fd = -1;
    }
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
    release(sink);
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

/* --- in the loop, without Python ------------------------------------------------------------ */

bool sink_has_room(const struct sink *sink, size_t size)
{
    return sink->room_frames > 0 && size <= sink->room_bytes;
}

static void append(struct sink *sink, struct frame *frame)
{
    frame->next = NULL;
    sink->offered++;
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
    append(sink, frame);
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
    sink->room_frames = 0;
    sink->room_bytes = 0;
}

/* --- the Python object ---------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct sink *sink;
    bool stopped;
} SinkObject;

struct sink *sink_of(PyObject *object)
{
    return ((SinkObject *)object)->sink;
}

static struct sink *make_sink(int fd, bool vnet_header, int pace_fd)
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
        release(sink);
        errno = failed;
        return NULL;
    }
    return sink;
}

static PyObject *sink_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"fd", "vnet_header", "pace_fd", NULL};
    int fd, vnet_header, pace_fd = -1;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "ip|$i:Sink", names, &fd, &vnet_header,
                                     &pace_fd))
        return NULL;
    SinkObject *self = (SinkObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->sink = make_sink(fd, vnet_header, pace_fd);
    if (self->sink == NULL) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

/* Tell the thread to end, and free what it has not begun to look at. */
static void stop(SinkObject *self, bool close_fd)
{
    struct sink *sink = self->sink;
    self->stopped = true;
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

static void sink_dealloc(SinkObject *self)
{
    if (self->sink != NULL) {
        if (!self->stopped)
            stop(self, false);
        release(self->sink);
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *sink_fileno(SinkObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->stopped ? -1 : self->sink->wake_fd);
}

/* Make a frame of a (bytes, header_bytes) pair; NULL and an exception if it is none. */
static struct frame *frame_from(const struct sink *sink, PyObject *pair)
{
    PyObject *data;
    int header;
    if (!PyArg_Parse(pair, "(Si)", &data, &header))
        return NULL;
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    size_t missing = sink->vnet_header && header == 0 ? VNET_HEADER_BYTES : 0;
    if (size > UINT32_MAX - VNET_HEADER_BYTES || header < 0 || (size_t)header > size) {
        PyErr_SetString(PyExc_ValueError, "a frame is longer than its header, and under 4 GiB");
        return NULL;
    }
    struct frame *frame = frame_new(missing + size);
    if (frame == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(frame->data, 0, missing);
    memcpy(frame->data + missing, PyBytes_AS_STRING(data), size);
    frame->header = (uint8_t)(missing ? missing : (size_t)header);
    return frame;
}

static int refuse_stopped(const SinkObject *self, const char *what)
{
    if (self->stopped)
        PyErr_Format(PyExc_RuntimeError, "%s() after stop()", what);
    return self->stopped ? -1 : 0;
}

static PyObject *sink_offer(SinkObject *self, PyObject *frames)
{
    if (refuse_stopped(self, "offer") < 0)
        return NULL;
    PyObject *fast = PySequence_Fast(frames, "offer() takes a sequence of frames");
    if (fast == NULL)
        return NULL;
    Py_ssize_t many = PySequence_Fast_GET_SIZE(fast);
    for (Py_ssize_t i = 0; i < many; i++) {
        struct frame *frame = frame_from(self->sink, PySequence_Fast_GET_ITEM(fast, i));
        if (frame == NULL)
            break;
        append(self->sink, frame);
    }
    sink_signal(self->sink);
    Py_DECREF(fast);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *sink_grant(SinkObject *self, PyObject *arguments)
{
    unsigned int frames;
    unsigned long long size_bytes;
    if (refuse_stopped(self, "grant") < 0
        || !PyArg_ParseTuple(arguments, "IK:grant", &frames, &size_bytes))
        return NULL;
    self->sink->room_frames = frames;
    self->sink->room_bytes = size_bytes;
    Py_RETURN_NONE;
}

static PyObject *sink_put_bytes(SinkObject *self, PyObject *data)
{
    if (refuse_stopped(self, "put") < 0)
        return NULL;
    if (!PyBytes_Check(data) || PyBytes_GET_SIZE(data) < VNET_HEADER_BYTES)
        return PyErr_Format(PyExc_ValueError, "put() takes a frame behind its offload header");
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    if (!sink_has_room(self->sink, size))
        Py_RETURN_FALSE;
    struct frame *frame = frame_new(size);
    if (frame == NULL)
        return PyErr_NoMemory();
    memcpy(frame->data, PyBytes_AS_STRING(data), size);
    sink_put(self->sink, frame);
    Py_RETURN_TRUE;
}

static PyObject *sink_push(SinkObject *self, PyObject *Py_UNUSED(ignored))
{
    sink_revoke(self->sink);
    sink_signal(self->sink);
    Py_RETURN_NONE;
}

static PyObject *drops_of(const uint64_t drops[REASONS])
{
    PyObject *all = PyDict_New();
    for (int reason = 0; all != NULL && reason < REASONS; reason++) {
        if (drops[reason] == 0)
            continue;
        PyObject *number = PyLong_FromUnsignedLongLong(drops[reason]);
        if (number == NULL || PyDict_SetItemString(all, reason_names[reason], number) < 0)
            Py_CLEAR(all);
        Py_XDECREF(number);
    }
    return all;
}

/* What is finished since the last time; with `unwritten`, all the rest is, as lost. */
static PyObject *collect(SinkObject *self, bool unwritten)
{
    struct sink *sink = self->sink;
    uint64_t drops[REASONS];
    pthread_mutex_lock(&sink->lock);
    uint64_t stored = atomic_load(&sink->stored), express = atomic_load(&sink->express);
    uint64_t dropped_bytes = sink->dropped_bytes;
    memcpy(drops, sink->drops, sizeof drops);
    memset(sink->drops, 0, sizeof drops);
    sink->dropped_bytes = 0;
    pthread_mutex_unlock(&sink->lock);

    uint64_t fresh = express - sink->collected_express;
    uint64_t fresh_stored = stored - sink->collected_stored;
    uint64_t fresh_express = fresh & 0xffffff, fresh_bytes = fresh >> 24;
    uint64_t all = fresh_stored + fresh_express;
    sink->collected_stored = stored;
    sink->collected_express = express;
    uint64_t rest = sink->offered - atomic_load(&sink->collected) - all;
    if (unwritten) {
        all += rest;
        drops[LINK_GONE] += rest;
    }
    atomic_fetch_add(&sink->collected, all);
    PyObject *named = drops_of(drops);
    if (named == NULL)
        return NULL;
    if (unwritten)
        return Py_BuildValue("KN", (unsigned long long)all, named);
    return Py_BuildValue("KKKNK", (unsigned long long)fresh_stored,
                         (unsigned long long)fresh_express, (unsigned long long)fresh_bytes, named,
                         (unsigned long long)dropped_bytes);
}

static PyObject *sink_collect(SinkObject *self, PyObject *Py_UNUSED(ignored))
{
    struct sink *sink = self->sink;
    if (atomic_load(&sink->done) == atomic_load(&sink->collected))
        Py_RETURN_NONE;
    return collect(self, false);
}

static PyObject *sink_want(SinkObject *self, PyObject *count)
{
    struct sink *sink = self->sink;
    unsigned long wanted = PyLong_AsUnsignedLong(count);
    if (wanted == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    uint64_t target = atomic_load(&sink->collected) + wanted;
    if (target > sink->offered)
        target = sink->offered;
    atomic_store(&sink->wake_at, target);
    if (atomic_load(&sink->done) < target)
        Py_RETURN_TRUE;
    atomic_store(&sink->wake_at, never);
    Py_RETURN_FALSE;
}

static PyObject *sink_stop(SinkObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->stopped)
        return Py_BuildValue("iN", 0, PyDict_New());
    stop(self, true);
    return collect(self, true);
}

static PyObject *sink_join(SinkObject *self, PyObject *seconds)
{
    struct sink *sink = self->sink;
    double timeout_s = PyFloat_AsDouble(seconds);
    struct timespec until;
    bool ended;
    if (timeout_s == -1.0 && PyErr_Occurred())
        return NULL;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = (double)until.tv_nsec / 1e9 + timeout_s;
    until.tv_sec += (time_t)whole;
    until.tv_nsec = (long)((whole - (double)(time_t)whole) * 1e9);
    Py_BEGIN_ALLOW_THREADS
    int waited = 0;
    pthread_mutex_lock(&sink->lock);
    while (!sink->ended && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&sink->changed, &sink->lock, &until);
    ended = sink->ended;
    pthread_mutex_unlock(&sink->lock);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(ended);
}

static PyObject *sink_get_waiting(SinkObject *self, void *Py_UNUSED(closure))
{
    uint64_t waiting = self->sink->offered - atomic_load(&self->sink->collected);
    return PyLong_FromUnsignedLongLong(waiting);
}

static PyObject *sink_get_gone(SinkObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(atomic_load(&self->sink->gone));
}

static PyMethodDef sink_methods[] = {
    {"fileno", (PyCFunction)sink_fileno, METH_NOARGS, NULL},
    {"offer", (PyCFunction)sink_offer, METH_O, NULL},
    {"grant", (PyCFunction)sink_grant, METH_VARARGS, NULL},
    {"put", (PyCFunction)sink_put_bytes, METH_O, NULL},
    {"push", (PyCFunction)sink_push, METH_NOARGS, NULL},
    {"collect", (PyCFunction)sink_collect, METH_NOARGS, NULL},
    {"want", (PyCFunction)sink_want, METH_O, NULL},
    {"stop", (PyCFunction)sink_stop, METH_NOARGS, NULL},
    {"join", (PyCFunction)sink_join, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sink_properties[] = {
    {"waiting", (getter)sink_get_waiting, NULL, NULL, NULL},
    {"gone", (getter)sink_get_gone, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject SinkType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "hypervisor.links._burst.Sink",
    .tp_basicsize = sizeof(SinkObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = sink_new,
    .tp_dealloc = (destructor)sink_dealloc,
    .tp_methods = sink_methods,
    .tp_getset = sink_properties,
};
