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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    VNET_HEADER_BYTES = 12,
    ETHERNET_HEADER_BYTES = 14,
    ADDRESSES_BYTES = 12,
    /* The longest frame a TAP yields: 64 KiB of TCP, its headers, the offload header. */
    BUFFER_BYTES = 65536 + 256,
};

/* Offloads as in hypervisor.wire.virtio_net.Offload. */
enum { NEEDS_CSUM = 1, NEEDS_TSO4 = 2, NEEDS_TSO6 = 4 };

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

/* Read or write one frame now or not at all; 0 or more bytes, or -1 and errno. RWF_NOWAIT, since
   whoever lent the TAP may have made it blocking. */
ssize_t frame_read(int fd, struct frame *frame);
ssize_t frame_write(int fd, const struct frame *frame);

/* --- offload.c ------------------------------------------------------------------------------ */

/* hypervisor.wire.offload.quick_check: what a frame of `size` bytes still needs, or -1. At least
   128 bytes can be read from `head`, whatever `size` is. */
int quick_check(const unsigned char *head, size_t size, unsigned mtu);

/* --- templates.c ---------------------------------------------------------------------------- */

enum { TEMPLATE_BYTES = 88 }; /* hypervisor.guard.template */

/* Whether in every group of the packed templates the first one that matches lets a frame of `size`
   bytes pass. TEMPLATE_BYTES can be read from `frame`, whatever `size` is. */
bool templates_pass(const char *packed, Py_ssize_t packed_bytes, const unsigned char *frame,
                    size_t size);

/* --- batches.c: whole batches of frames that Python holds ------------------------------------- */

PyObject *batches_suspects(PyObject *module, PyObject *arguments);
PyObject *batches_run_end(PyObject *module, PyObject *arguments);

/* --- sink.c --------------------------------------------------------------------------------- */

struct sink;

/* In the thread of the loop only, the GIL not needed. */
bool sink_has_room(const struct sink *sink, size_t size); /* within what grant() allowed */
void sink_put(struct sink *sink, struct frame *frame);    /* takes the frame over */
void sink_signal(struct sink *sink);                      /* there is something to write */
void sink_revoke(struct sink *sink);                      /* nothing is granted any more */

extern PyTypeObject SinkType;
struct sink *sink_of(PyObject *object); /* borrowed from a SinkType */

/* --- burst.c -------------------------------------------------------------------------------- */

extern PyTypeObject BurstType;

#endif
