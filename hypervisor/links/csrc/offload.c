/* The offload header of common frames, judged: hypervisor.wire.offload.quick_check in C. */

#include "burst.h"

#include <string.h>

enum {
    FLAG_NEEDS_CSUM = 1,
    GSO_NONE = 0,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,
    TCP_CSUM = 16,
    UDP_CSUM = 6,
    TCP = 6,
    UDP = 17,
    UDP_BYTES = 8,
    IPV4_BYTES = 20,
    IPV6_BYTES = 40,
    MIN_GSO_SIZE_BYTES = 500,
    MAX_GSO_SEGMENTS = 128,
};

/* Fields of the offload header have the byte order of the host, all others that of the network. */
static unsigned host16(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static unsigned net16(const unsigned char *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

unsigned plain_packet(const unsigned char *ethernet, size_t length, unsigned protocol)
{
    const unsigned char *ip = ethernet + ETHERNET_HEADER_BYTES;
    switch (net16(ethernet + 12)) {
    case 0x0800:
        if (length >= IPV4_BYTES && ip[0] == 0x45 && net16(ip + 2) == length
            && (net16(ip + 6) & 0x3fff) == 0 && ip[9] == protocol)
            return IPV4_BYTES;
        return 0;
    case 0x86dd:
        if (length >= IPV6_BYTES && ip[0] >> 4 == 6 && net16(ip + 4) == length - IPV6_BYTES
            && ip[6] == protocol)
            return IPV6_BYTES;
        return 0;
    default:
        return 0;
    }
}

/* Whether segmentation asks for two packets or more, none of them too short or too long. */
static bool is_right_size(unsigned gso_size, unsigned headers, size_t payload, unsigned mtu)
{
    return gso_size >= MIN_GSO_SIZE_BYTES && gso_size + headers <= ETHERNET_HEADER_BYTES + mtu
           && payload > gso_size && payload <= (size_t)gso_size * MAX_GSO_SEGMENTS;
}

int quick_check(const unsigned char *head, size_t size, unsigned mtu)
{
    static const unsigned char plain[VNET_HEADER_BYTES];
    const unsigned char *ethernet = head + VNET_HEADER_BYTES;

    if (size >= VNET_HEADER_BYTES && memcmp(head, plain, sizeof plain) == 0)
        return 0;
    if (size < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + IPV4_BYTES + 8)
        return -1;
    unsigned gso_type = head[1], header_bytes = host16(head + 2), gso_size = host16(head + 4);
    unsigned start = host16(head + 6), offset = host16(head + 8);
    if (head[0] != FLAG_NEEDS_CSUM || host16(head + 10) != 0)
        return -1;

    size_t length = size - VNET_HEADER_BYTES - ETHERNET_HEADER_BYTES;
    unsigned protocol = offset == TCP_CSUM ? TCP : UDP;
    unsigned ip_bytes = plain_packet(ethernet, length, protocol);
    if (ip_bytes == 0 || start != ETHERNET_HEADER_BYTES + ip_bytes)
        return -1;
    const unsigned char *transport = ethernet + start;
    size_t rest = length - ip_bytes;

    if (offset == UDP_CSUM) {
        if (rest < UDP_BYTES || net16(transport + 4) != rest)
            return -1;
        if (gso_type == GSO_NONE && header_bytes == 0 && gso_size == 0)
            return NEEDS_CSUM;
        if (gso_type != GSO_UDP_L4 || header_bytes != start + UDP_BYTES
            || !is_right_size(gso_size, header_bytes, rest - UDP_BYTES, mtu))
            return -1;
        return NEEDS_CSUM | NEEDS_USO;
    }
    if (offset != TCP_CSUM || rest < 20)
        return -1;
    unsigned tcp_bytes = (unsigned)transport[12] >> 4 << 2;
    if (tcp_bytes < 20 || tcp_bytes > rest)
        return -1;
    if (gso_type == GSO_NONE && header_bytes == 0 && gso_size == 0)
        return NEEDS_CSUM;
    unsigned headers = start + tcp_bytes;
    bool is_ipv4 = ip_bytes == IPV4_BYTES;
    if (gso_type != (is_ipv4 ? GSO_TCPV4 : GSO_TCPV6) || header_bytes != headers
        || !is_right_size(gso_size, headers, rest - tcp_bytes, mtu))
        return -1;
    return NEEDS_CSUM | (is_ipv4 ? NEEDS_TSO4 : NEEDS_TSO6);
}
