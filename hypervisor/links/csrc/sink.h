/* What the two halves of a sink share: sink.c, for the loop, and sink_thread.c. */

#ifndef HYPERVISOR_SINK_H
#define HYPERVISOR_SINK_H

#include "burst.h"

#include <pthread.h>

#define SINK_NEVER UINT64_MAX

/* In `state`, above the number of frames that the thread has been given and has not finished. */
enum { DIRECT = 1 << 30, STOPPING = 1 << 29 };

struct sink {
    atomic_int holders; /* the Python object and the thread */
    int fd;             /* the TAP; the thread closes it after stop() */
    int wake_fd;        /* polls readable when the loop should collect */
    char name[16];
    bool vnet_header;
    int pace_fd; /* for tests: each write says so there and waits for a byte; or -1 */
    atomic_int state;

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

    /* By whoever has DIRECT. */
    uint32_t slow_writes; /* of the last 32, a bit each */
    int demotions;
    _Atomic int64_t demoted_until;

    /* By the loop; the thread looks at the first two, and disarms wake_at. */
    _Atomic uint64_t collected, wake_at;
    uint64_t offered, collected_stored, collected_express;
    uint32_t room_frames;
    uint64_t room_bytes;
    bool unsignalled;
};

int sink_start_thread(struct sink *sink); /* 0, or an errno */

#endif
