/* Memory for frames, and the two system calls that move them. */

#include "burst.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>

/* Buffers that were used lately and stay warm; more than these go back to malloc. */
enum { MOST_SPARE = 64 };

static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static struct frame *spare;
static unsigned spares;

struct frame *frame_new(size_t size)
{
    struct frame *frame = malloc(sizeof *frame + size);
    if (frame != NULL) {
        frame->next = NULL;
        frame->size = (uint32_t)size;
        frame->header = 0;
        frame->express = frame->is_buffer = false;
    }
    return frame;
}

struct frame *frame_new_buffer(void)
{
    pthread_mutex_lock(&spare_lock);
    struct frame *frame = spare;
    if (frame != NULL) {
        spare = frame->next;
        spares--;
    }
    pthread_mutex_unlock(&spare_lock);
    if (frame == NULL && (frame = frame_new(BUFFER_BYTES)) != NULL)
        frame->is_buffer = true;
    return frame;
}

void frame_free(struct frame *frame)
{
    if (frame != NULL && frame->is_buffer) {
        pthread_mutex_lock(&spare_lock);
        if (spares < MOST_SPARE) {
            frame->next = spare;
            spare = frame;
            spares++;
            frame = NULL;
        }
        pthread_mutex_unlock(&spare_lock);
    }
    free(frame);
}

void frames_free(struct frame *first)
{
    while (first != NULL) {
        struct frame *next = first->next;
        frame_free(first);
        first = next;
    }
}

ssize_t frame_read(int fd, struct frame *frame)
{
    struct iovec part = {frame->data, BUFFER_BYTES};
    ssize_t got;
    /* Kernels before 6.13 leave these two bytes of the header as they were. */
    frame->data[10] = frame->data[11] = 0;
    do
        got = preadv2(fd, &part, 1, -1, RWF_NOWAIT);
    while (got < 0 && errno == EINTR);
    if (got >= 0)
        frame->size = (uint32_t)got;
    return got;
}

ssize_t frame_write(int fd, const struct frame *frame)
{
    struct iovec part = {(void *)frame->data, frame->size};
    ssize_t put;
    do
        put = pwritev2(fd, &part, 1, -1, RWF_NOWAIT);
    while (put < 0 && errno == EINTR);
    return put;
}
