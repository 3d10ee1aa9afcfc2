"""The Hurd's own clients, line by line: pfinet, lwip's hurdethif, libpcap's pcap-hurd, boot.

Each does the calls of its C original, in their order and with their arguments, and asserts what
that asserts. Between them and gRPC stand :class:`Mach`'s stubs, which return codes as MIG's do.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from grpc import aio

from tests.helpers.filter_programs import NETF_BPF, NETF_IN, NETF_OUT, PFINET, bpf_words
from tests.helpers.mach_msg import NET_RCV_MSG_ID, raw_message
from tests.helpers.service import Client

# device/device_types.h, device/net_status.h, mach/message.h, hurd/errno.h
D_READ, D_WRITE, D_NOWAIT = 0x1, 0x2, 0x8
D_INVALID_OPERATION = 2505
NET_STATUS, NET_ADDRESS, NET_FLAGS = 0x6E0001, 0x6E0002, 0x6E0004
EMACH_SEND_INVALID_DEST, EMIG_SERVER_DIED = 0x10000003, -308
MACH_PORT_QLIMIT_MAX = 16
HDR_ETHERNET, ETH_HLEN, ETH_ALEN = 1, 14, 6
IFF_UP, IFF_BROADCAST, IFF_ALLMULTI, IFF_MULTICAST = 0x1, 0x2, 0x200, 0x1000
TCP_MSS = 1460


class AssertionFailed(Exception):
    """The original's assert() would have ended its process here."""


def c_assert(truth: bool, what: str) -> None:
    """assert(), which these programs die of."""
    if not truth:
        raise AssertionFailed(what)


@dataclass
class Mach:
    """The stubs: each returns a code first, as MIG's do."""

    client: Client
    streams: dict[bytes, Any] = field(default_factory=dict)
    waiting: dict[bytes, list[bytes]] = field(default_factory=dict)

    async def _call(self, call: Any) -> tuple[int, Any]:
        try:
            return 0, await call
        except aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            return int(trailers.get("mach-return-code", EMIG_SERVER_DIED)), None

    async def device_open(self, mode: int, name: str) -> tuple[int, bytes]:
        code, answer = await self._call(self.client.call("DeviceOpen", mode=mode, name=name))
        return code, b"" if code else answer.port

    async def device_close(self, port: bytes) -> int:
        return (await self._call(self.client.call("DeviceClose", port=port)))[0]

    async def device_write(self, port: bytes, mode: int, data: bytes) -> tuple[int, int]:
        code, answer = await self._call(
            self.client.call("DeviceWrite", port=port, mode=mode, recnum=0, data=data)
        )
        return code, 0 if code else answer.bytes_written

    async def device_get_status(
        self, port: bytes, flavor: int, count: int
    ) -> tuple[int, list[int]]:
        code, answer = await self._call(
            self.client.call("DeviceGetStatus", port=port, flavor=flavor, status_count=count)
        )
        return code, [] if code else list(answer.status)

    async def device_set_status(self, port: bytes, flavor: int, words: list[int]) -> int:
        call = self.client.call("DeviceSetStatus", port=port, flavor=flavor, status=words)
        return (await self._call(call))[0]

    async def device_set_filter(
        self, port: bytes, receive_port: bytes, priority: int, words: tuple[int, ...]
    ) -> int:
        call = self.client.call(
            "DeviceSetFilter",
            port=port,
            receive_port=receive_port,
            priority=priority,
            filter=words,
        )
        return (await self._call(call))[0]

    async def mach_port_allocate(self) -> bytes:
        return await self.client.receive_port()

    async def mach_port_set_qlimit(self, port: bytes, qlimit: int) -> int:
        call = self.client.port_call("PortSetQlimit", port=port, qlimit=qlimit)
        return (await self._call(call))[0]

    async def mach_port_destroy(self, port: bytes) -> int:
        self.streams.pop(port, None)
        return (await self._call(self.client.port_call("PortDestroy", port=port)))[0]

    async def mach_msg_receive(self, port: bytes) -> bytes:
        """Return the next message of a port as it would lie in the buffer."""
        queue = self.waiting.setdefault(port, [])
        if not queue:
            if port not in self.streams:
                self.streams[port] = self.client.port_call("PortReceive", port=port)
            response = await self.streams[port].read()
            queue.extend(raw_message(each.net_rcv_msg) for each in response.messages)
        return queue.pop(0)


def frame_of(raw: bytes) -> bytes:
    """Take a frame out of struct net_rcv_msg as ethernet_demuxer() of pfinet does."""
    c_assert(struct.unpack_from("<I", raw, 20)[0] == NET_RCV_MSG_ID, "msgh_id == NET_RCV_MSG_ID")
    number = struct.unpack_from("<I", raw, 92)[0] >> 16 & 0xFFF
    length = ETH_HLEN + number - 4
    return raw[28 : 28 + ETH_HLEN] + raw[100 : 100 + length - ETH_HLEN]


def ntohl(word: int) -> bytes:
    """Return a word of NET_ADDRESS as it lies in memory after ntohl()."""
    return struct.pack(">i", word)


class Pfinet:
    """pfinet/ethernet.c."""

    bpf = bpf_words(PFINET, NETF_IN)
    #: For a device of the kernel's own: NETF, which accepts everything.
    cspf = (NETF_IN, 0 << 10 | 1, 1)

    def __init__(self, mach: Mach, name: str = "eth", *, node: bool = True) -> None:
        self.mach, self.name, self.node = mach, name, node
        self.ether_port = self.read_port = self.dev_addr = b""
        self.mtu = self.flags = 0
        self.reopened = 0

    async def ethernet_open(self) -> None:
        mach = self.mach
        self.read_port = await mach.mach_port_allocate()
        c_assert(
            not await mach.mach_port_set_qlimit(self.read_port, MACH_PORT_QLIMIT_MAX), "qlimit"
        )
        err, self.ether_port = await mach.device_open(D_WRITE | D_READ, self.name)
        c_assert(not err, "device_open")
        words = self.bpf if self.node else self.cspf
        c_assert(
            not await mach.device_set_filter(self.ether_port, self.read_port, 0, words),
            "device_set_filter",
        )

    async def setup_ethernet_device(self) -> None:
        await self.ethernet_open()
        err, status = await self.mach.device_get_status(self.ether_port, NET_STATUS, 7)
        c_assert(not err, "device_get_status NET_STATUS")
        c_assert(len(status) >= 7, "count >= NET_STATUS_COUNT")
        c_assert(status[2] == HDR_ETHERNET, "header_format == HDR_ETHERNET")
        c_assert(status[3] == ETH_HLEN, "header_size == ETH_HLEN")
        c_assert(status[4] == ETH_ALEN, "address_size == ETH_ALEN")
        self.mtu = status[1] - status[3]
        err, words = await self.mach.device_get_status(self.ether_port, NET_ADDRESS, 2)
        c_assert(not err, "device_get_status NET_ADDRESS")
        c_assert(len(words) * 4 >= ETH_ALEN, "count * sizeof (int) >= ETH_ALEN")
        self.dev_addr = b"".join(map(ntohl, words))[:ETH_ALEN]
        await self.ethernet_change_flags(IFF_BROADCAST | IFF_MULTICAST | IFF_ALLMULTI | IFF_UP)

    async def ethernet_change_flags(self, flags: int) -> None:
        err = await self.mach.device_set_status(self.ether_port, NET_FLAGS, [flags])
        c_assert(err in (0, D_INVALID_OPERATION), "device_set_status NET_FLAGS")
        self.flags = flags

    async def ethernet_xmit(self, data: bytes) -> None:
        for attempt in range(2):
            err, count = await self.mach.device_write(self.ether_port, D_NOWAIT, data)
            if err in (EMACH_SEND_INVALID_DEST, EMIG_SERVER_DIED) and not attempt:
                await self.ethernet_close()
                await self.ethernet_open()
                self.reopened += 1
                continue
            c_assert(not err, f"device_write: {err}")
            c_assert(count == len(data), "count == skb->len")
            return

    async def ethernet_close(self) -> None:
        await self.mach.mach_port_destroy(self.read_port)
        await self.mach.device_close(self.ether_port)

    async def ethernet_demuxer(self) -> bytes:
        return frame_of(await self.mach.mach_msg_receive(self.read_port))


class Hurdethif(Pfinet):
    """lwip/port/netif/hurdethif.c: the same steps, other limits, and no assert on writes."""

    @staticmethod
    def filter_for(payload_bytes: int) -> tuple[int, ...]:
        """Return its filter, which asks for so much of the payload."""
        words = list(Pfinet.bpf)
        words[-8:-4] = [0x06, 0, payload_bytes, 0]
        return tuple(words)

    bpf = filter_for(TCP_MSS + 0x28 + 14)

    async def setup_ethernet_device(self) -> None:
        await super().setup_ethernet_device()
        # Flags are those of NET_STATUS: "eth-multiplexer doesn't support setting flags".
        _, status = await self.mach.device_get_status(self.ether_port, NET_STATUS, 7)
        self.flags = status[5]
        words = self.filter_for(self.mtu + 14)
        await self.mach.device_set_filter(self.ether_port, self.read_port, 0, words)

    async def ethernet_xmit(self, data: bytes) -> None:
        for _ in range(2):
            err, _count = await self.mach.device_write(self.ether_port, D_NOWAIT, data)
            if not err:
                return


class PcapHurd:
    """libpcap's pcap-hurd.c: sees both directions, cut to the snapshot length."""

    def __init__(self, mach: Mach, snaplen: int) -> None:
        self.mach = mach
        self.filter = (NETF_IN | NETF_OUT | NETF_BPF, 0, 0, 0, 0x06, 0, snaplen, snaplen >> 16)
        self.mach_dev = self.rcv_port = b""

    async def activate(self) -> None:
        err, self.mach_dev = await self.mach.device_open(D_READ | D_WRITE, "eth")
        c_assert(not err, "device_open")
        self.rcv_port = await self.mach.mach_port_allocate()
        err = await self.mach.device_set_filter(self.mach_dev, self.rcv_port, 0, self.filter)
        c_assert(not err, "device_set_filter")

    async def read(self) -> bytes:
        return frame_of(await self.mach.mach_msg_receive(self.rcv_port))

    async def inject(self, data: bytes) -> int:
        err, count = await self.mach.device_write(self.mach_dev, D_NOWAIT, data)
        c_assert(not err, "device_write")
        return count


class Boot:
    """boot/boot.c with ``--device eth0=NODE``: opens "" and hands the very port to its guest."""

    def __init__(self, mach: Mach) -> None:
        self.mach = mach

    async def ds_device_open(self, mode: int) -> tuple[int, bytes]:
        """What the guest's device_open ("eth0") is answered with."""
        return await self.mach.device_open(mode, "")
