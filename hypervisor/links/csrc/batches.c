/* What is asked of whole batches of frames that Python holds: hypervisor/batches.py says what, and
   has the same in Python. Called with the GIL, in any thread; nothing is kept. */

#include "burst.h"

#include <string.h>

enum { MAC_BYTES = 6 };

/* One frame of a list or tuple, from its Ethernet header on. */
struct view {
    const unsigned char *data;
    Py_ssize_t size;
};

/* The frame at `index`, or -1 and an exception if it is none. */
static int view_of(PyObject *frames, Py_ssize_t index, Py_ssize_t offset, struct view *view)
{
    PyObject *frame = PySequence_Fast_GET_ITEM(frames, index);
    if (!PyBytes_Check(frame)) {
        PyErr_Format(PyExc_TypeError, "frame %zd is not bytes", index);
        return -1;
    }
    view->size = PyBytes_GET_SIZE(frame) - offset;
    if (view->size < ETHERNET_HEADER_BYTES) {
        PyErr_Format(PyExc_ValueError, "frame %zd is shorter than its headers", index);
        return -1;
    }
    view->data = (const unsigned char *)PyBytes_AS_STRING(frame) + offset;
    return 0;
}

/* Borrow the templates toward one destination: `common`, or what `toward` has for a receiver that
   is among `addressed`. NULL without an exception: unknown as yet. */
static PyObject *templates_toward(const unsigned char *mac, PyObject *common, PyObject *addressed,
                                  PyObject *toward)
{
    PyObject *key = PyBytes_FromStringAndSize((const char *)mac, MAC_BYTES);
    if (key == NULL)
        return NULL;
    PyObject *found = NULL;
    int listed = PyDict_Contains(addressed, key);
    if (listed == 0)
        found = common;
    else if (listed > 0)
        found = PyDict_GetItemWithError(toward, key);
    Py_DECREF(key);
    if (found != NULL && !PyBytes_Check(found)) {
        PyErr_SetString(PyExc_TypeError, "templates are bytes");
        return NULL;
    }
    return found;
}

static bool passes(PyObject *templates, const struct view *view)
{
    unsigned char head[TEMPLATE_BYTES] = {0};
    const unsigned char *frame = view->data;
    if (view->size < TEMPLATE_BYTES)
        frame = memcpy(head, frame, (size_t)view->size);
    return templates_pass(PyBytes_AS_STRING(templates), PyBytes_GET_SIZE(templates), frame,
                          (size_t)view->size);
}

static int append(PyObject *list, Py_ssize_t index)
{
    PyObject *number = PyLong_FromSsize_t(index);
    if (number == NULL)
        return -1;
    int result = PyList_Append(list, number);
    Py_DECREF(number);
    return result;
}

static int collect(PyObject *frames, Py_ssize_t offset, PyObject *common, PyObject *addressed,
                   PyObject *toward, PyObject *suspects)
{
    const unsigned char *last = NULL; /* the destination that `templates` are for */
    PyObject *templates = NULL;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(frames); i++) {
        struct view view;
        if (view_of(frames, i, offset, &view) < 0)
            return -1;
        bool good = false;
        if ((view.data[0] & 1) == 0) {
            if (last == NULL || memcmp(last, view.data, MAC_BYTES) != 0) {
                last = view.data;
                templates = templates_toward(last, common, addressed, toward);
                if (templates == NULL && PyErr_Occurred())
                    return -1;
            }
            good = templates != NULL && passes(templates, &view);
        }
        if (!good && append(suspects, i) < 0)
            return -1;
    }
    return 0;
}

/* suspects(frames, offset, common, addressed, toward): see hypervisor.batches.suspects. */
PyObject *batches_suspects(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *sequence, *common, *addressed, *toward;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(arguments, "OnSO!O!:suspects", &sequence, &offset, &common,
                          &PyDict_Type, &addressed, &PyDict_Type, &toward))
        return NULL;
    PyObject *frames = PySequence_Fast(sequence, "frames are a sequence");
    if (frames == NULL)
        return NULL;
    PyObject *suspects = PyList_New(0);
    if (suspects != NULL && collect(frames, offset, common, addressed, toward, suspects) < 0)
        Py_CLEAR(suspects);
    Py_DECREF(frames);
    return suspects;
}

/* What a frame has between two places, as a slice in Python has it: maybe less, maybe nothing. */
static int slice_of(PyObject *frames, Py_ssize_t index, Py_ssize_t first, Py_ssize_t end,
                    struct view *view)
{
    PyObject *frame = PySequence_Fast_GET_ITEM(frames, index);
    if (!PyBytes_Check(frame)) {
        PyErr_Format(PyExc_TypeError, "frame %zd is not bytes", index);
        return -1;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(frame);
    view->data = (const unsigned char *)PyBytes_AS_STRING(frame) + (first < size ? first : size);
    view->size = (end < size ? end : size) - (first < size ? first : size);
    return 0;
}

/* run_end(frames, start, end, first_byte, end_byte): see hypervisor.batches.run_end. */
PyObject *batches_run_end(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *sequence;
    Py_ssize_t start, end, first_byte, end_byte;
    if (!PyArg_ParseTuple(arguments, "Onnnn:run_end", &sequence, &start, &end, &first_byte,
                          &end_byte))
        return NULL;
    PyObject *frames = PySequence_Fast(sequence, "frames are a sequence");
    if (frames == NULL)
        return NULL;
    Py_ssize_t stop = -1;
    struct view first, view;
    if (start < 0 || start >= end || end > PySequence_Fast_GET_SIZE(frames) || first_byte < 0
        || end_byte < first_byte)
        PyErr_SetString(PyExc_IndexError, "there is no such part of these frames");
    else if (slice_of(frames, start, first_byte, end_byte, &first) == 0) {
        for (stop = start + 1; stop < end; stop++) {
            if (slice_of(frames, stop, first_byte, end_byte, &view) < 0) {
                stop = -1;
                break;
            }
            if (view.size != first.size
                || memcmp(first.data, view.data, (size_t)view.size) != 0)
                break;
        }
    }
    Py_DECREF(frames);
    return stop < 0 ? NULL : PyLong_FromSsize_t(stop);
}

/* lengths(frames): see hypervisor.batches.lengths. */
PyObject *batches_lengths(PyObject *Py_UNUSED(module), PyObject *sequence)
{
    PyObject *frames = PySequence_Fast(sequence, "frames are a sequence");
    if (frames == NULL)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(frames);
    Py_ssize_t shortest = PY_SSIZE_T_MAX, longest = 0, total = 0;
    struct view view;
    PyObject *told = NULL;
    Py_ssize_t index = 0;
    while (index < count && slice_of(frames, index, 0, PY_SSIZE_T_MAX, &view) == 0) {
        shortest = view.size < shortest ? view.size : shortest;
        longest = view.size > longest ? view.size : longest;
        total += view.size;
        index++;
    }
    if (count == 0)
        PyErr_SetString(PyExc_ValueError, "there are no frames");
    else if (index == count)
        told = Py_BuildValue("(nnn)", shortest, longest, total);
    Py_DECREF(frames);
    return told;
}
