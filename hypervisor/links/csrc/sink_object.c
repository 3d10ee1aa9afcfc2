/* The Python object of a sink. */

#include "burst.h"

#include <string.h>

static const char *const reason_names[REASONS] = {"link_down", "link_error", "link_gone"};

typedef struct {
    PyObject_HEAD
    struct sink *sink;
    bool stopped;
} SinkObject;

struct sink *sink_of(PyObject *object)
{
    return ((SinkObject *)object)->sink;
}

static PyObject *sink_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"fd", "vnet_header", "name", "pace_fd", NULL};
    const char *name = "sink";
    int fd, vnet_header, pace_fd = -1;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "ip|s$i:Sink", names, &fd, &vnet_header,
                                     &name, &pace_fd))
        return NULL;
    SinkObject *self = (SinkObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->sink = sink_make(fd, vnet_header, pace_fd, name);
    if (self->sink == NULL) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

static void sink_dealloc(SinkObject *self)
{
    if (self->sink != NULL) {
        if (!self->stopped)
            sink_stop(self->sink, false);
        sink_release(self->sink);
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *sink_fileno(SinkObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->stopped ? -1 : sink_wake_fd(self->sink));
}

/* Make a frame of a (bytes, header_bytes) pair; NULL and an exception if it is none. */
static struct frame *frame_from(const struct sink *sink, PyObject *pair)
{
    PyObject *data;
    int header;
    if (!PyArg_Parse(pair, "(Si)", &data, &header))
        return NULL;
    size_t size = (size_t)PyBytes_GET_SIZE(data);
    size_t missing = sink_vnet_header(sink) && header == 0 ? VNET_HEADER_BYTES : 0;
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

static PyObject *sink_offer_python(SinkObject *self, PyObject *frames)
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
        sink_append(self->sink, frame);
    }
    sink_signal(self->sink);
    Py_DECREF(fast);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *sink_grant_python(SinkObject *self, PyObject *arguments)
{
    unsigned int frames;
    unsigned long long size_bytes;
    if (refuse_stopped(self, "grant") < 0
        || !PyArg_ParseTuple(arguments, "IK:grant", &frames, &size_bytes))
        return NULL;
    sink_grant(self->sink, frames, size_bytes);
    Py_RETURN_NONE;
}

static PyObject *sink_put_python(SinkObject *self, PyObject *data)
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

static PyObject *sink_collect_python(SinkObject *self, PyObject *Py_UNUSED(ignored))
{
    struct finished finished;
    if (!sink_news(self->sink))
        Py_RETURN_NONE;
    sink_collect(self->sink, false, &finished);
    PyObject *named = drops_of(finished.drops);
    if (named == NULL)
        return NULL;
    return Py_BuildValue("KKKNK", (unsigned long long)finished.stored,
                         (unsigned long long)finished.express_frames,
                         (unsigned long long)finished.express_bytes, named,
                         (unsigned long long)finished.dropped_bytes);
}

static PyObject *sink_want_python(SinkObject *self, PyObject *count)
{
    unsigned long wanted = PyLong_AsUnsignedLong(count);
    if (wanted == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(sink_want(self->sink, wanted));
}

static PyObject *sink_stop_python(SinkObject *self, PyObject *Py_UNUSED(ignored))
{
    struct finished finished;
    if (self->stopped)
        return Py_BuildValue("iN", 0, PyDict_New());
    self->stopped = true;
    sink_stop(self->sink, true);
    uint64_t all = sink_collect(self->sink, true, &finished);
    PyObject *named = drops_of(finished.drops);
    return named == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)all, named);
}

static PyObject *sink_join_python(SinkObject *self, PyObject *seconds)
{
    double timeout_s = PyFloat_AsDouble(seconds);
    bool ended;
    if (timeout_s == -1.0 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    ended = sink_join(self->sink, timeout_s);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(ended);
}

static PyObject *sink_get_waiting(SinkObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(sink_waiting(self->sink));
}

static PyObject *sink_get_gone(SinkObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(sink_gone(self->sink));
}

static PyObject *sink_get_ready(SinkObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!self->stopped && sink_is_ready(self->sink, now_ns()));
}

static PyMethodDef sink_methods[] = {
    {"fileno", (PyCFunction)sink_fileno, METH_NOARGS, NULL},
    {"offer", (PyCFunction)sink_offer_python, METH_O, NULL},
    {"grant", (PyCFunction)sink_grant_python, METH_VARARGS, NULL},
    {"put", (PyCFunction)sink_put_python, METH_O, NULL},
    {"push", (PyCFunction)sink_push, METH_NOARGS, NULL},
    {"collect", (PyCFunction)sink_collect_python, METH_NOARGS, NULL},
    {"want", (PyCFunction)sink_want_python, METH_O, NULL},
    {"stop", (PyCFunction)sink_stop_python, METH_NOARGS, NULL},
    {"join", (PyCFunction)sink_join_python, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sink_properties[] = {
    {"waiting", (getter)sink_get_waiting, NULL, NULL, NULL},
    {"gone", (getter)sink_get_gone, NULL, NULL, NULL},
    {"ready", (getter)sink_get_ready, NULL, NULL, NULL},
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
