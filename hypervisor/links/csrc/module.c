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

static PyMethodDef functions[] = {
    {"quick_check", module_quick_check, METH_VARARGS, NULL},
    {"templates_pass", module_templates_pass, METH_VARARGS, NULL},
    {"suspects", batches_suspects, METH_VARARGS, NULL},
    {"run_end", batches_run_end, METH_VARARGS, NULL},
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
