"""What the Hurd's own clients do works here, and nothing that they assert fails."""

from __future__ import annotations

from pathlib import Path

from hypervisor.engine.quotas import Limits
from tests.helpers.loops import on_both_loops
from tests.helpers.personalities import (
    D_READ,
    D_WRITE,
    IFF_ALLMULTI,
    IFF_BROADCAST,
    IFF_MULTICAST,
    IFF_UP,
    MACH_PORT_QLIMIT_MAX,
    Boot,
    Hurdethif,
    Mach,
    PcapHurd,
    Pfinet,
)
from tests.helpers.service import BROADCAST, Served, serving

ARP, IPV4, IPV6, OTHER = b"\x08\x06", b"\x08\x00", b"\x86\xdd", b"\x88\xb5"


async def mach(served: Served) -> Mach:
    """Return the stubs of a new task."""
    client = await served.client()
    await client.attach()
    return Mach(client)


async def stack(served: Served, kind: type[Pfinet] = Pfinet, name: str = "eth") -> Pfinet:
    """Start a stack in a task of its own."""
    made = kind(await mach(served), name)
    await made.setup_ethernet_device()
    return made


def frame(sender: Pfinet, to: bytes, kind: bytes, size: int = 60) -> bytes:
    return (to + sender.dev_addr + kind).ljust(size, b"\x2a")


@on_both_loops
async def test_pfinet_opens_talks_and_asserts_nothing_in_vain(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first, second = await stack(served, name="eth0"), await stack(served, name="eth1")
        assert (first.mtu, len(first.dev_addr)) == (1500, 6)
        assert first.dev_addr != second.dev_addr
        for kind, to in ((ARP, BROADCAST), (IPV4, second.dev_addr), (IPV6, second.dev_addr)):
            sent = frame(first, to, kind, 1514 if kind == IPV4 else 60)
            await first.ethernet_xmit(frame(first, to, OTHER))
            await first.ethernet_xmit(sent)
            # What its filter does not want never comes.
            assert await second.ethernet_demuxer() == sent
        await second.ethernet_xmit(frame(second, first.dev_addr, IPV4))
        assert await first.ethernet_demuxer() == frame(second, first.dev_addr, IPV4)


@on_both_loops
async def test_pfinets_writes_never_fail_whatever_the_network_is_like(tmp_path: Path) -> None:
    async with serving(tmp_path, engine=Limits(rx_slots=4, tx_slots=4)) as served:
        first, second = await stack(served, name="eth0"), await stack(served, name="eth1")
        reader = await served.client()
        await reader.attach()
        deaf = await reader.open("eth2")
        read = reader.read(deaf.port)
        for to in (second.dev_addr, deaf.mac_address, BROADCAST, b"\x02\0\0\0\0\x07"):
            for _ in range(50):
                await first.ethernet_xmit(frame(first, to, IPV4))
        # Forged: discarded by the guard, and a success all the same.
        await first.ethernet_xmit(second.dev_addr + b"\x02\0\0\0\0\x09" + IPV4 + bytes(46))
        assert (await read).data
        assert first.reopened == 0
        # Nobody received: the port holds what a Mach port would, the rest was dropped.
        status = await second.mach.client.port_call("PortGetStatus", port=second.read_port)
        assert status.queued == MACH_PORT_QLIMIT_MAX
        assert [drop.reason for drop in status.drops] == ["port_full"]


@on_both_loops
async def test_pfinet_reopens_what_died(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first, second = await stack(served, name="eth0"), await stack(served, name="eth1")
        await first.mach.device_close(first.ether_port)
        await first.ethernet_xmit(frame(first, second.dev_addr, IPV4))
        assert first.reopened == 1
        assert await second.ethernet_demuxer() == frame(first, second.dev_addr, IPV4)
        await second.ethernet_xmit(frame(second, first.dev_addr, ARP))
        assert await first.ethernet_demuxer() == frame(second, first.dev_addr, ARP)


@on_both_loops
async def test_pfinet_sets_the_flags_that_it_may(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first = await stack(served)
        # RUNNING is a fact: what pfinet asks for lacks it, is refused, and that is ignored.
        _, flags = await first.mach.device_get_status(first.ether_port, 0x6E0004, 1)
        assert flags == [0x1043]
        await first.ethernet_change_flags(0x1043 | IFF_ALLMULTI)
        _, flags = await first.mach.device_get_status(first.ether_port, 0x6E0004, 1)
        assert flags == [0x1043 | IFF_ALLMULTI]
        assert first.flags & (IFF_UP | IFF_BROADCAST | IFF_MULTICAST)


@on_both_loops
async def test_pfinets_other_filter_takes_everything(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        kernel_like = Pfinet(await mach(served), "eth0", node=False)
        await kernel_like.setup_ethernet_device()
        other = await stack(served, name="eth1")
        await other.ethernet_xmit(frame(other, kernel_like.dev_addr, OTHER))
        assert await kernel_like.ethernet_demuxer() == frame(other, kernel_like.dev_addr, OTHER)


@on_both_loops
async def test_lwip_talks_to_pfinet(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        lwip, pfinet = await stack(served, Hurdethif, "eth0"), await stack(served, name="eth1")
        assert lwip.flags == 0x1043
        whole = frame(pfinet, lwip.dev_addr, IPV4, 1514)
        await pfinet.ethernet_xmit(whole)
        assert await lwip.ethernet_demuxer() == whole
        await lwip.ethernet_xmit(frame(lwip, pfinet.dev_addr, IPV6))
        assert await pfinet.ethernet_demuxer() == frame(lwip, pfinet.dev_addr, IPV6)
        # An error is retried once and the frame forgotten.
        await lwip.mach.device_close(lwip.ether_port)
        await lwip.ethernet_xmit(frame(lwip, pfinet.dev_addr, IPV6))


@on_both_loops
async def test_libpcap_sees_both_directions_cut_to_its_length(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        pfinet, other = await stack(served), await stack(served, name="eth1")
        pcap = PcapHurd(await mach(served), snaplen=100)
        await pcap.activate()
        out = frame(pfinet, other.dev_addr, IPV4, 1000)
        back = frame(other, pfinet.dev_addr, OTHER, 60)
        await pfinet.ethernet_xmit(out)
        await other.ethernet_xmit(back)
        assert await pcap.read() == out[:114]
        assert await pcap.read() == back
        # What it sends itself, it sees too.
        sent = frame(pfinet, other.dev_addr, ARP)
        assert await pcap.inject(sent) == len(sent)
        assert await pcap.read() == sent
        assert await other.ethernet_demuxer() == out
        assert await other.ethernet_demuxer() == sent


@on_both_loops
async def test_boot_hands_its_guest_the_port_of_eth(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        host = await mach(served)
        err, port = await Boot(host).ds_device_open(D_READ | D_WRITE)
        assert not err

        class Guest(Pfinet):
            """The sub-Hurd's pfinet: its device_open is boot's, in boot's task."""

            async def ethernet_open(self) -> None:
                self.read_port = await self.mach.mach_port_allocate()
                self.ether_port = port
                words = Pfinet.cspf
                assert not await self.mach.device_set_filter(port, self.read_port, 0, words)

        guest = Guest(host, "eth0", node=False)
        await guest.setup_ethernet_device()
        same, other = await stack(served, name="eth"), await stack(served, name="eth1")
        # "" is "eth": a device shared by its owner's opens, each with a port of its own.
        assert guest.dev_addr == same.dev_addr
        assert guest.ether_port != same.ether_port
        await other.ethernet_xmit(frame(other, guest.dev_addr, IPV4))
        assert await guest.ethernet_demuxer() == frame(other, guest.dev_addr, IPV4)
        await guest.ethernet_xmit(frame(guest, other.dev_addr, IPV4))
        assert await other.ethernet_demuxer() == frame(guest, other.dev_addr, IPV4)
