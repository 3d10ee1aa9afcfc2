/* Generic receive offload: segments of one TCP connection that came one behind the other become the
   one large frame from which a sender's own offload would have cut them.

   Writing a frame to a TAP costs its receiver's stack the same whether it has 1,500 bytes or 64 KiB.
   Whoever sends large frames anyway is not concerned; this is for stacks and guests without
   segmentation offload. The rules are those of Linux (tcp_gro_receive): nothing may be lost by it,
   so all headers are equal but for what cutting would make anew, and checksums are right, since
   nobody looks at them afterwards. Only what is there already is joined: nothing waits. */

#include "burst.h"

#include <string.h>

enum {
    TCP = 6,
    TCP_BYTES = 20,
    TCP_CSUM = 16,
    ACK = 0x10,
    PSH = 0x08,
    DONT_FRAGMENT = 0x40,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,
    IPV4_BYTES = 20,
    MIN_GSO_SIZE_BYTES = 500,
    LONGEST_BYTES = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + 65535,
};

static unsigned net16(const unsigned char *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static uint32_t net32(const unsigned char *at)
{
    return (uint32_t)net16(at) << 16 | net16(at + 2);
}

static void put_net16(unsigned char *at, unsigned value)
{
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

static void put_host16(unsigned char *at, unsigned value)
{
    uint16_t word = (uint16_t)value;
    memcpy(at, &word, sizeof word);
}

/* One's complement sums in the byte order of the machine (RFC 1071: the order does not matter as
   long as it is the same everywhere). */
static uint64_t sum(const unsigned char *at, size_t size)
{
    uint64_t total = 0;
    uint32_t word;
    for (; size >= sizeof word; size -= sizeof word, at += sizeof word) {
        memcpy(&word, at, sizeof word);
        total += word;
    }
    word = 0;
    memcpy(&word, at, size);
    return total + word;
}

static unsigned fold(uint64_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (unsigned)total;
}

/* The sum of a TCP pseudo header; `size` is that of the segment. */
static uint64_t pseudo(const unsigned char *ip, bool ipv4, size_t size)
{
    unsigned char rest[4] = {0, TCP};
    put_net16(rest + 2, (unsigned)size);
    return (ipv4 ? sum(ip + 12, 8) : sum(ip + 8, 32)) + sum(rest, sizeof rest);
}

/* Whether this is a segment that may be joined to others. Its offload header has been judged. */
static bool take_apart(const struct frame *frame, struct segment *parts)
{
    size_t length = frame->size - VNET_HEADER_BYTES - ETHERNET_HEADER_BYTES;
    if (frame->data[1] != 0 || length < IPV4_BYTES + TCP_BYTES)
        return false;
    parts->ethernet = frame->data + VNET_HEADER_BYTES;
    parts->ip = parts->ethernet + ETHERNET_HEADER_BYTES;
    unsigned ip_bytes = plain_packet(parts->ethernet, length, TCP);
    if (ip_bytes == 0 || length < ip_bytes + TCP_BYTES)
        return false;
    parts->ipv4 = ip_bytes == IPV4_BYTES;
    parts->tcp = parts->ip + ip_bytes;
    parts->start = ETHERNET_HEADER_BYTES + ip_bytes;
    parts->headers = parts->start + (unsigned)(parts->tcp[12] >> 4 << 2);
    if (parts->headers < parts->start + TCP_BYTES
        || parts->headers >= ETHERNET_HEADER_BYTES + length)
        return false;
    parts->payload = (unsigned)(ETHERNET_HEADER_BYTES + length - parts->headers);
    return (parts->tcp[13] & ~PSH) == ACK && (parts->tcp[12] & 0x0f) == 0;
}

static bool sums_are_right(const struct frame *frame, const struct segment *parts)
{
    if (parts->ipv4 && fold(sum(parts->ip, IPV4_BYTES)) != 0xffff)
        return false;
    size_t size = parts->headers - parts->start + parts->payload;
    /* One that the sender's offload was to complete is not wrong yet. */
    return frame->data[0] != 0
           || fold(pseudo(parts->ip, parts->ipv4, size) + sum(parts->tcp, size)) == 0xffff;
}

bool gro_begin(struct gro *gro, struct frame *frame)
{
    struct segment *first = &gro->first;
    if (!take_apart(frame, first) || first->payload < MIN_GSO_SIZE_BYTES || first->tcp[13] & PSH
        || !sums_are_right(frame, first))
        return false;
    gro->frame = frame;
    gro->sequence = net32(first->tcp + 4) + first->payload;
    gro->identification = net16(first->ip + 4);
    gro->frames = 1;
    gro->bytes = frame->size - VNET_HEADER_BYTES;
    gro->flags = 0;
    gro->closed = false;
    return true;
}

/* Whether all is equal but lengths, checksums, sequence number, PSH and identification. */
static bool continues(const struct segment *a, const struct segment *b)
{
    if (a->headers != b->headers || a->start != b->start
        || memcmp(a->ethernet, b->ethernet, ETHERNET_HEADER_BYTES) != 0)
        return false;
    bool same_ip = a->ipv4 ? memcmp(a->ip, b->ip, 2) == 0 && memcmp(a->ip + 6, b->ip + 6, 4) == 0
                                 && memcmp(a->ip + 12, b->ip + 12, 8) == 0
                           : memcmp(a->ip, b->ip, 4) == 0 && memcmp(a->ip + 6, b->ip + 6, 34) == 0;
    return same_ip && memcmp(a->tcp, b->tcp, 4) == 0 && memcmp(a->tcp + 8, b->tcp + 8, 5) == 0
           && memcmp(a->tcp + 14, b->tcp + 14, 2) == 0
           && memcmp(a->tcp + 18, b->tcp + 18, a->headers - a->start - 18) == 0;
}

bool gro_add(struct gro *gro, const struct frame *frame)
{
    struct segment next;
    if (gro->closed || !take_apart(frame, &next) || next.payload > gro->first.payload
        || gro->frame->size + next.payload > LONGEST_BYTES || !continues(&gro->first, &next)
        || net32(next.tcp + 4) != gro->sequence)
        return false;
    /* RFC 6864: where nothing may be fragmented, an identification says nothing. Nor does one that
       is 0 in all, as pasta's: whoever cuts what is joined numbers the segments from there. */
    unsigned identification = next.ipv4 ? net16(next.ip + 4) : 0;
    bool follows = !next.ipv4 || next.ip[6] & DONT_FRAGMENT
                   || identification == ((gro->identification + 1) & 0xffff)
                   || (identification == 0 && gro->identification == 0);
    if (!follows || !sums_are_right(frame, &next))
        return false;
    memcpy(gro->frame->data + gro->frame->size, next.tcp + next.headers - next.start, next.payload);
    gro->frame->size += next.payload;
    gro->sequence += next.payload;
    gro->identification = identification;
    gro->frames++;
    gro->bytes += frame->size - VNET_HEADER_BYTES;
    gro->flags = next.tcp[13] & PSH;
    gro->closed = gro->flags != 0 || next.payload < gro->first.payload;
    return true;
}

void gro_finish(struct gro *gro)
{
    const struct segment *first = &gro->first;
    unsigned char *header = gro->frame->data, *ip = header + VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES;
    unsigned char *tcp = header + VNET_HEADER_BYTES + first->start;
    unsigned size = gro->frame->size - VNET_HEADER_BYTES - first->start;
    if (gro->frames == 1)
        return;
    if (first->ipv4) {
        put_net16(ip + 2, size + IPV4_BYTES);
        ip[10] = ip[11] = 0;
        put_host16(ip + 10, ~fold(sum(ip, IPV4_BYTES)));
    } else {
        put_net16(ip + 4, size);
    }
    tcp[13] |= gro->flags;
    put_host16(tcp + TCP_CSUM, fold(pseudo(ip, first->ipv4, size)));
    header[0] = NEEDS_CSUM;
    header[1] = first->ipv4 ? GSO_TCPV4 : GSO_TCPV6;
    put_host16(header + 2, first->headers);
    put_host16(header + 4, first->payload);
    put_host16(header + 6, first->start);
    put_host16(header + 8, TCP_CSUM);
}
