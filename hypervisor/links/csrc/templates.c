/* A guard's templates: hypervisor.guard.template in C. They decide about common frames without the
   interpreter, and say the same as Python for any bytes. */

#include "burst.h"

#include <string.h>

/* As Templates.packed() writes them: bytes only, so that any address will do. */
struct template {
    unsigned char length, passes, group, unused, mask[TEMPLATE_BYTES], value[TEMPLATE_BYTES];
};

/* Whether a packet of IPv4 or IPv6 ends where its frame does; true of everything else. */
static bool fills(const unsigned char *frame, size_t size)
{
    if (frame[12] == 0x08 && frame[13] == 0x00)
        return (size_t)(frame[16] << 8 | frame[17]) + 14 == size;
    if (frame[12] == 0x86 && frame[13] == 0xdd)
        return (size_t)(frame[18] << 8 | frame[19]) + 54 == size;
    return true;
}

/* Whether a frame has a template's form. All of TEMPLATE_BYTES can be read: what lies behind a short
   frame is masked out. */
static bool matches(const struct template *template, const unsigned char *frame, size_t size)
{
    if (size < template->length)
        return false;
    for (int at = 8; at < TEMPLATE_BYTES; at += 8) { /* the addresses last: the flow has them */
        uint64_t bits, mask, value;
        memcpy(&bits, frame + at, 8);
        memcpy(&mask, template->mask + at, 8);
        memcpy(&value, template->value + at, 8);
        if (((bits & mask) ^ value) != 0)
            return false;
    }
    for (int at = 0; at < 8; at++) {
        if ((frame[at] & template->mask[at]) != template->value[at])
            return false;
    }
    return true;
}

bool templates_pass(const char *packed, Py_ssize_t packed_bytes, const unsigned char *frame,
                    size_t size)
{
    const struct template *templates = (const void *)packed;
    Py_ssize_t count = packed_bytes / (Py_ssize_t)sizeof(struct template);
    unsigned every = 0, decided = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned group = 1u << (templates[i].group & 7);
        every |= group;
        if ((decided & group) != 0 || !matches(&templates[i], frame, size))
            continue;
        if (!templates[i].passes)
            return false;
        decided |= group;
    }
    return every != 0 && decided == every && fills(frame, size);
}
