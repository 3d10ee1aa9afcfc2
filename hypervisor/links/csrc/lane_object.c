/* The Python object of a lane. */

#include "burst.h"

#include <string.h>

typedef struct {
    PyObject_HEAD
    struct lane *lane;
} LaneObject;

struct lane *lane_of(PyObject *object)
{
    return ((LaneObject *)object)->lane;
}

static PyObject *lane_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, ":Lane", names))
        return NULL;
    LaneObject *self = (LaneObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lane = lane_make();
    if (self->lane == NULL) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

/* What a sender that came back had in the hand of the lane is lost, if nobody is to be told. */
static void drop(struct lane *lane, struct returned *returned)
{
    if (returned->flow != NULL && returned->outcome == UNWRITTEN) {
        atomic_fetch_add(&returned->flow->lost_frames, returned->frames);
        atomic_fetch_add(&returned->flow->lost_bytes, returned->bytes);
    }
    if (returned->flow != NULL)
        lane_unpin(lane, returned->flow);
    Py_DECREF(returned->owner);
    Py_DECREF(returned->burst);
}

static void lane_dealloc(LaneObject *self)
{
    if (self->lane != NULL) {
        lane_stop(self->lane);
        flows_free(lane_sweep(self->lane));
        lane_release(self->lane);
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *lane_fileno(LaneObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(lane_wake_fd(self->lane));
}

static PyObject *lane_give_python(LaneObject *self, PyObject *arguments)
{
    PyObject *burst, *owner;
    if (!PyArg_ParseTuple(arguments, "O!O:give", &BurstType, &burst, &owner))
        return NULL;
    if (burst_of(burst)->lane != self->lane)
        return PyErr_Format(PyExc_ValueError, "give() takes a burst that was made for this lane");
    Py_INCREF(burst);
    Py_INCREF(owner);
    if (lane_give(self->lane, burst_of(burst), owner, burst) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(burst);
        Py_DECREF(owner);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *lane_take_returned(LaneObject *self, PyObject *Py_UNUSED(ignored))
{
    struct returned one;
    PyObject *all = PyList_New(0);
    flows_free(lane_sweep(self->lane));
    while (all != NULL && lane_next_returned(self->lane, &one)) {
        PyObject *flow = one.flow == NULL ? Py_None : one.flow->flow;
        PyObject *told = Py_BuildValue("OiOiIn", one.owner, one.outcome, flow, one.number,
                                       one.frames, (Py_ssize_t)one.bytes);
        if (told == NULL || PyList_Append(all, told) < 0)
            Py_CLEAR(all);
        else
            one.outcome = EMPTY;
        Py_XDECREF(told);
        drop(self->lane, &one);
    }
    return all;
}

static PyObject *lane_recall_python(LaneObject *self, PyObject *burst)
{
    struct returned one;
    if (!PyObject_TypeCheck(burst, &BurstType))
        return PyErr_Format(PyExc_TypeError, "recall() takes a burst");
    if (!lane_recall(self->lane, burst_of(burst), &one))
        Py_RETURN_FALSE;
    drop(self->lane, &one);
    Py_RETURN_TRUE;
}

static PyObject *lane_await_writes_python(LaneObject *self, PyObject *number)
{
    long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    lane_await_writes(self->lane, (int)fd);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *lane_stop_python(LaneObject *self, PyObject *Py_UNUSED(ignored))
{
    lane_stop(self->lane);
    Py_RETURN_NONE;
}

static PyObject *lane_join_python(LaneObject *self, PyObject *seconds)
{
    double timeout_s = PyFloat_AsDouble(seconds);
    bool ended;
    if (timeout_s == -1.0 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    ended = lane_join(self->lane, timeout_s);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(ended);
}

static PyObject *lane_get_handovers(LaneObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(lane_handovers(self->lane));
}

static PyObject *lane_get_cpu_ns(LaneObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(lane_cpu_ns(self->lane));
}

static PyMethodDef lane_methods[] = {
    {"fileno", (PyCFunction)lane_fileno, METH_NOARGS, NULL},
    {"give", (PyCFunction)lane_give_python, METH_VARARGS, NULL},
    {"take_returned", (PyCFunction)lane_take_returned, METH_NOARGS, NULL},
    {"recall", (PyCFunction)lane_recall_python, METH_O, NULL},
    {"await_writes", (PyCFunction)lane_await_writes_python, METH_O, NULL},
    {"stop", (PyCFunction)lane_stop_python, METH_NOARGS, NULL},
    {"join", (PyCFunction)lane_join_python, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lane_properties[] = {
    {"handovers", (getter)lane_get_handovers, NULL, NULL, NULL},
    {"cpu_ns", (getter)lane_get_cpu_ns, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject LaneType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "hypervisor.links._burst.Lane",
    .tp_basicsize = sizeof(LaneObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = lane_new,
    .tp_dealloc = (destructor)lane_dealloc,
    .tp_methods = lane_methods,
    .tp_getset = lane_properties,
};
