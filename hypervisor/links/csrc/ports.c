/* Ports: the kernel objects that frames are read from and written to, all in one form.

   A frame here has an offload header of 12 bytes in front. A TAP has it so. What a packet socket
   says beside the frame is put where it belongs (hypervisor/links/packet_socket.py says what the
   kernel does and how that was found out). The sockets of guests and plugs have none: what comes
   there leaves nothing undone, and is given zeros. */

#include "burst.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

enum {
    FLAG_NEEDS_CSUM = 1,
    FLAG_DATA_VALID = 2,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,
    TCP_BYTES = 20,
    UDP_BYTES = 8,
    TAG_BYTES = 4,
    LENGTH_BYTES = 4, /* in front of a stream's frames */
    DEFAULT_TPID = 0x8100,
    SERVICE_TPID = 0x88a8,
};

/* As the kernel writes it, in the byte order of this machine. */
struct offload_header {
    uint8_t flags, gso_type;
    uint16_t header_bytes, gso_size, csum_start, csum_offset, buffers;
};
_Static_assert(sizeof(struct offload_header) == VNET_HEADER_BYTES, "struct virtio_net_hdr_v1");

/* Put a tag that the kernel has taken out of a frame back into its place. */
static void restore_tag(struct frame *frame, struct offload_header *header, unsigned tpid,
                        unsigned tag)
{
    unsigned char *at = frame->data + VNET_HEADER_BYTES + ADDRESSES_BYTES;
    memmove(at + TAG_BYTES, at, frame->size - VNET_HEADER_BYTES - ADDRESSES_BYTES);
    at[0] = (unsigned char)(tpid >> 8);
    at[1] = (unsigned char)tpid;
    at[2] = (unsigned char)(tag >> 8);
    at[3] = (unsigned char)tag;
    frame->size += TAG_BYTES;
    if (header->flags != 0)
        header->csum_start += TAG_BYTES;
    if (header->header_bytes != 0)
        header->header_bytes += TAG_BYTES;
}

/* Say of a frame what hypervisor.wire.offload.check() would make of it in the common cases, so that
   it is not judged anew for the kernel's own habits. */
static void make_canonical(const struct frame *frame, struct offload_header *header)
{
    if (header->flags == FLAG_DATA_VALID && header->gso_type == 0) {
        /* Whoever gets it looks at the sum himself. */
        memset(header, 0, sizeof *header);
    } else if (header->flags == FLAG_NEEDS_CSUM && header->gso_type == GSO_UDP_L4) {
        header->header_bytes = (uint16_t)(header->csum_start + UDP_BYTES);
    } else if (header->flags == FLAG_NEEDS_CSUM
               && (header->gso_type == GSO_TCPV4 || header->gso_type == GSO_TCPV6)) {
        /* The kernel says how many bytes lie in one piece, which is a hint and no more. */
        size_t tcp = (size_t)VNET_HEADER_BYTES + header->csum_start;
        if (tcp + TCP_BYTES <= frame->size)
            header->header_bytes =
                (uint16_t)(header->csum_start + (frame->data[tcp + 12] >> 4 << 2));
    }
}

static ssize_t nic_read(const struct port *port, struct frame *frame)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    } control;
    struct sockaddr_ll from;
    /* A header of 10 bytes is followed by two that are zero: num_buffers. A tag may be put back. */
    struct iovec parts[] = {
        {frame->data, (size_t)port->header_bytes},
        {frame->data + VNET_HEADER_BYTES, BUFFER_BYTES - VNET_HEADER_BYTES - TAG_BYTES},
    };
    struct msghdr message = {
        .msg_name = &from, .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control,
    };
    struct offload_header header;
    ssize_t got;
    memset(frame->data, 0, VNET_HEADER_BYTES);
    do {
        message.msg_namelen = sizeof from;
        message.msg_controllen = sizeof control;
        got = recvmsg(port->fd, &message, MSG_DONTWAIT);
        /* What this host sent itself comes only before Linux 4.20. */
    } while (got < 0 ? errno == EINTR : from.sll_pkttype == PACKET_OUTGOING);
    if (got < 0)
        return -1;
    if (message.msg_flags & MSG_TRUNC) {
        errno = EMSGSIZE;
        return -1;
    }
    frame->size = (uint32_t)got + VNET_HEADER_BYTES - (uint32_t)port->header_bytes;
    if (frame->size < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES)
        return got;
    memcpy(&header, frame->data, sizeof header);
    const struct cmsghdr *said = CMSG_FIRSTHDR(&message);
    if (said != NULL && said->cmsg_level == SOL_PACKET && said->cmsg_type == PACKET_AUXDATA) {
        struct tpacket_auxdata aux;
        memcpy(&aux, CMSG_DATA(said), sizeof aux);
        if (aux.tp_status & TP_STATUS_VLAN_VALID) {
            bool known = aux.tp_status & TP_STATUS_VLAN_TPID_VALID;
            restore_tag(frame, &header, known ? aux.tp_vlan_tpid : DEFAULT_TPID, aux.tp_vlan_tci);
        }
    }
    make_canonical(frame, &header);
    memcpy(frame->data, &header, sizeof header);
    return got;
}

/* Whether a frame will be cut into segments that the interface does not carry. */
static bool exceeds_mtu(const struct port *port, const struct frame *frame)
{
    struct offload_header header;
    memcpy(&header, frame->data, sizeof header);
    if (header.gso_type == 0)
        return false;
    const unsigned char *type = frame->data + VNET_HEADER_BYTES + ADDRESSES_BYTES;
    unsigned ethertype = (unsigned)type[0] << 8 | type[1];
    int longest = ETHERNET_HEADER_BYTES + port->mtu;
    if (ethertype == DEFAULT_TPID || ethertype == SERVICE_TPID)
        longest += TAG_BYTES;
    return header.header_bytes + header.gso_size > longest;
}

static ssize_t nic_write(const struct port *port, const struct frame *frame)
{
    struct iovec parts[] = {
        {(void *)frame->data, (size_t)port->header_bytes},
        {(void *)(frame->data + VNET_HEADER_BYTES), frame->size - VNET_HEADER_BYTES},
    };
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t put;
    if (exceeds_mtu(port, frame)) {
        errno = EMSGSIZE;
        return -1;
    }
    do
        put = sendmsg(port->fd, &message, MSG_DONTWAIT);
    while (put < 0 && errno == EINTR);
    return put;
}

/* Whether a datagram is from whom its socket hears. Others' can have been queued before. */
static bool is_heard(const struct port *port, const struct sockaddr_un *from, socklen_t length)
{
    size_t head = offsetof(struct sockaddr_un, sun_path);
    size_t room = length > head ? length - head : 0;
    size_t size = strnlen(from->sun_path, room < sizeof from->sun_path ? room : sizeof from->sun_path);
    return size == (size_t)port->more_bytes && memcmp(from->sun_path, port->more, size) == 0;
}

static ssize_t dgram_read(const struct port *port, struct frame *frame)
{
    struct sockaddr_un from;
    /* One byte more than any frame may have, so that what is too long stays too long. */
    struct iovec part = {frame->data + VNET_HEADER_BYTES, (size_t)port->longest_bytes + 1};
    struct msghdr message = {.msg_name = &from, .msg_iov = &part, .msg_iovlen = 1};
    ssize_t got;
    memset(frame->data, 0, VNET_HEADER_BYTES);
    do {
        message.msg_namelen = sizeof from;
        got = recvmsg(port->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (got < 0 ? errno == EINTR : !is_heard(port, &from, message.msg_namelen));
    if (got >= 0)
        frame->size = (uint32_t)got + VNET_HEADER_BYTES;
    return got;
}

static ssize_t dgram_write(const struct port *port, const struct frame *frame)
{
    ssize_t put;
    do
        put = send(port->fd, frame->data + VNET_HEADER_BYTES, frame->size - VNET_HEADER_BYTES,
                   MSG_DONTWAIT | MSG_NOSIGNAL);
    while (put < 0 && errno == EINTR);
    return put;
}

/* How long the next frame of a stream is; 0 if it is not there whole, -1 if its length is none
   (hypervisor/wire/framing.py). */
static ssize_t next_length(const struct port *port)
{
    const unsigned char *at = port->more + port->start;
    int there = port->end - port->start;
    if (there < LENGTH_BYTES)
        return 0;
    uint32_t size = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    if (size < ETHERNET_HEADER_BYTES || size > (uint32_t)port->longest_bytes)
        return -1;
    return size <= (uint32_t)(there - LENGTH_BYTES) ? (ssize_t)size : 0;
}

static ssize_t stream_read(struct port *port, struct frame *frame)
{
    ssize_t size;
    while ((size = next_length(port)) == 0) {
        int there = port->end - port->start;
        memmove(port->more, port->more + port->start, (size_t)there);
        port->start = 0;
        port->end = there;
        ssize_t got = recv(port->fd, port->more + there, (size_t)(port->more_bytes - there),
                           MSG_DONTWAIT);
        if (got == 0)
            errno = ENODATA; /* the end */
        else if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        port->end = there + (int)got;
    }
    if (size < 0) {
        errno = EPROTO;
        return -1;
    }
    memset(frame->data, 0, VNET_HEADER_BYTES);
    memcpy(frame->data + VNET_HEADER_BYTES, port->more + port->start + LENGTH_BYTES, (size_t)size);
    port->start += LENGTH_BYTES + (int)size;
    frame->size = (uint32_t)size + VNET_HEADER_BYTES;
    return size;
}

static ssize_t stream_write(const struct port *port, const struct frame *frame)
{
    uint32_t size = frame->size - VNET_HEADER_BYTES, length = htonl(size);
    struct iovec parts[] = {
        {&length, LENGTH_BYTES},
        {(void *)(frame->data + VNET_HEADER_BYTES), size},
    };
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t put;
    if (size + LENGTH_BYTES > (uint32_t)port->whole_bytes) {
        errno = EAGAIN; /* the kernel might take a part: that is for who keeps the rest */
        return -1;
    }
    do
        put = sendmsg(port->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (put < 0 && errno == EINTR);
    if (put < 0 || (size_t)put == size + LENGTH_BYTES)
        return put;
    errno = EPROTO; /* nothing after it would be understood */
    return -1;
}

ssize_t port_read(struct port *port, struct frame *frame)
{
    switch (port->kind) {
    case PORT_NIC:
        return nic_read(port, frame);
    case PORT_DGRAM:
        return dgram_read(port, frame);
    case PORT_STREAM:
        return stream_read(port, frame);
    default:
        return frame_read(port->fd, frame);
    }
}

ssize_t port_write(const struct port *port, const struct frame *frame)
{
    switch (port->kind) {
    case PORT_NIC:
        return nic_write(port, frame);
    case PORT_DGRAM:
        return dgram_write(port, frame);
    case PORT_STREAM:
        return stream_write(port, frame);
    default:
        return frame_write(port->fd, frame);
    }
}

bool port_is_patient(const struct port *port)
{
    return port->kind == PORT_DGRAM || port->kind == PORT_STREAM;
}

bool port_waits(const struct port *port)
{
    return __atomic_load_n(&port->waits, __ATOMIC_ACQUIRE) != 0;
}

bool port_has_more(const struct port *port)
{
    return port->kind == PORT_STREAM && next_length(port) != 0;
}

bool port_is_gone(const struct port *port)
{
    /* A deleted TAP polls as in error before its reads say so; a packet socket's reads tell all. */
    struct pollfd error = {.fd = port->fd};
    return port->kind == PORT_TAP && poll(&error, 1, 0) > 0;
}

int port_view(PyObject *shared, Py_buffer *view)
{
    if (PyObject_GetBuffer(shared, view, PyBUF_WRITABLE) < 0)
        return -1;
    const struct port *port = view->buf;
    Py_ssize_t ints = (Py_ssize_t)sizeof(struct port);
    if (view->len >= ints && port->more_bytes >= 0 && port->more_bytes <= view->len - ints)
        return 0;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_ValueError, "what a link shares is %zd ints, and what follows them",
                 ints / (Py_ssize_t)sizeof(int));
    return -1;
}
