/* The extension module hypervisor.links._burst. */

#include "burst.h"

#include <string.h>

static PyObject *module_quick_check(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    /* For the tests that compare it with the Python original; the burst calls it directly. */
    unsigned char head[128] = {0};
    const char *frame;
    Py_ssize_t length;
    unsigned int mtu;
    if (!PyArg_ParseTuple(arguments, "y#I:quick_check", &frame, &length, &mtu))
        return NULL;
    memcpy(head, frame, (size_t)length < sizeof head ? (size_t)length : sizeof head);
    return PyLong_FromLong(quick_check(head, (size_t)length, mtu));
}

static PyObject *module_templates_pass(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    unsigned char head[TEMPLATE_BYTES] = {0};
    const char *packed, *frame;
    Py_ssize_t packed_bytes, length;
    if (!PyArg_ParseTuple(arguments, "y#y#:templates_pass", &packed, &packed_bytes, &frame,
                          &length))
        return NULL;
    memcpy(head, frame, (size_t)length < sizeof head ? (size_t)length : sizeof head);
    return PyBool_FromLong(templates_pass(packed, packed_bytes, head, (size_t)length));
}

static struct frame *frame_of(PyObject *data)
{
    if (!PyBytes_Check(data) || PyBytes_GET_SIZE(data) < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES
        || PyBytes_GET_SIZE(data) > BUFFER_BYTES) {
        PyErr_SetString(PyExc_ValueError, "join() takes frames behind their offload headers");
        return NULL;
    }
    struct frame *frame = frame_new_buffer();
    if (frame == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    frame->size = (uint32_t)PyBytes_GET_SIZE(data);
    memcpy(frame->data, PyBytes_AS_STRING(data), frame->size);
    return frame;
}

/* Finish what was joined so far, and append it. */
static int put_joined(PyObject *all, struct gro *gro)
{
    if (gro->frame == NULL)
        return 0;
    gro_finish(gro);
    PyObject *one = Py_BuildValue("y#I", (const char *)gro->frame->data,
                                  (Py_ssize_t)gro->frame->size, gro->frames);
    int failed = one == NULL ? -1 : PyList_Append(all, one);
    Py_XDECREF(one);
    frame_free(gro->frame);
    gro->frame = NULL;
    return failed;
}

static PyObject *module_join(PyObject *Py_UNUSED(module), PyObject *frames)
{
    /* For the tests, as a lane does it: [(frame, how many it was)]. */
    struct gro gro = {0};
    PyObject *fast = PySequence_Fast(frames, "join() takes a sequence of frames");
    PyObject *all = fast == NULL ? NULL : PyList_New(0);
    int failed = all == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; !failed && i < PySequence_Fast_GET_SIZE(fast); i++) {
        struct frame *frame = frame_of(PySequence_Fast_GET_ITEM(fast, i));
        if (frame == NULL) {
            failed = -1;
        } else if (gro.frame != NULL && gro_add(&gro, frame)) {
            frame_free(frame);
        } else {
            failed = put_joined(all, &gro);
            if (!gro_begin(&gro, frame))
                gro = (struct gro){.frame = frame, .frames = 1, .closed = true};
        }
    }
    if (!failed)
        failed = put_joined(all, &gro);
    frame_free(gro.frame);
    Py_XDECREF(fast);
    if (failed)
        Py_CLEAR(all);
    return all;
}

static PyMethodDef functions[] = {
    {"quick_check", module_quick_check, METH_VARARGS, NULL},
    {"templates_pass", module_templates_pass, METH_VARARGS, NULL},
    {"join", module_join, METH_O, NULL},
    {"suspects", batches_suspects, METH_VARARGS, NULL},
    {"run_end", batches_run_end, METH_VARARGS, NULL},
    {"lengths", batches_lengths, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "hypervisor.links._burst",
    .m_doc = "The compiled burst loop, sink and lane, see hypervisor/links/burst.py, sink.py and lane.py; and what "
             "hypervisor/batches.py asks of whole batches.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__burst(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddType(module, &SinkType) < 0 || PyModule_AddType(module, &BurstType) < 0
        || PyModule_AddType(module, &LaneType) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
