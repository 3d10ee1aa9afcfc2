"""TAP interfaces through their descriptors: make one, ask what a foreign one is, set its MAC.

Everything here works on the descriptor alone. The interface may live in a network namespace that
this process can neither enter nor see: ``tun_chr_ioctl`` (drivers/net/tun.c) resolves the
interface from the file, so a server can examine a TAP that an unprivileged client lent it.
What it can *not* learn that way is the MTU and whether the link is up.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TUN_NODE = "/dev/net/tun"

# Requests of linux/if_tun.h (the generic _IOW/_IOR layout: x86, arm, riscv, s390) and of
# linux/sockios.h.
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNGETVNETHDRSZ = 0x800454D7
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC
TUNATTACHFILTER = 0x400054D5 | struct.calcsize("@HP") << 16
TUNDETACHFILTER = 0x400054D6 | struct.calcsize("@HP") << 16
SIOCSIFHWADDR = 0x8924
SIOCGIFHWADDR = 0x8927

IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_PERSIST = 0x0800
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40
#: What the switch can take from a TAP: partial checksums and TCP of either family unsegmented.
OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
#: And UDP, of both families or none (Linux 6.2). Before, these bits are refused as EINVAL.
USO = TUN_F_USO4 | TUN_F_USO6

#: sizeof(struct virtio_net_hdr_v1): the offload header in front of each frame.
VNET_HEADER_BYTES = 12

_IFNAMSIZ = 16
_TUN_DEVICE = os.makedev(10, 200)
_ARPHRD_ETHER = 1


class NotATap(Exception):
    """The descriptor is not that of a TAP interface; the message says what it is instead."""


@dataclass(frozen=True, slots=True)
class TapFacts:
    """What the kernel says about a TAP's descriptor.

    ``vnet_header_bytes`` is the header's size at this moment: any holder may change it later.
    """

    name: str
    is_tap: bool
    packet_information: bool
    vnet_header: bool
    vnet_header_bytes: int
    multi_queue: bool
    persistent: bool
    mac: bytes


def create_tap(name: str, *, vnet_header: bool = True, node: str = TUN_NODE) -> int:
    """Make a TAP interface in the current network namespace and return its descriptor.

    The descriptor is close-on-exec and non-blocking; the interface lives as long as it (or a copy
    of it) is open. With ``vnet_header`` each frame carries :data:`VNET_HEADER_BYTES` in front.
    ``name`` may hold ``%d``, which the kernel numbers. Needs CAP_NET_ADMIN over the network
    namespace, as its maker has.

    Raises ValueError for a name no interface can have, OSError for what the kernel refuses: EBUSY
    if there is an interface of that name already, a persistent TAP included.
    """
    encoded = name.encode()
    if not 1 <= len(encoded) < _IFNAMSIZ or b"/" in encoded or b"\0" in encoded:
        raise ValueError(f"{name!r} is no interface name: 1 to {_IFNAMSIZ - 1} bytes without '/'")
    flags = IFF_TAP | IFF_NO_PI | _IFF_TUN_EXCL | (IFF_VNET_HDR if vnet_header else 0)
    fd = os.open(node, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", encoded, flags))
        if vnet_header:
            set_vnet_header_size(fd, VNET_HEADER_BYTES)
    except OSError:
        os.close(fd)
        raise
    return fd


def set_vnet_header_size(fd: int, size_bytes: int) -> None:
    """Set how many bytes of offload header stand before each frame (TUNSETVNETHDRSZ)."""
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", size_bytes))


def set_vnet_little_endian(fd: int, little: bool) -> None:
    """Set the byte order of the offload header: little, or that of the host (TUNSETVNETLE)."""
    fcntl.ioctl(fd, TUNSETVNETLE, struct.pack("i", little))


def set_offload(fd: int, features: int = OFFLOADS) -> None:
    """Say which unfinished frames the reader of ``fd`` completes itself (TUNSETOFFLOAD)."""
    fcntl.ioctl(fd, TUNSETOFFLOAD, features)


def set_best_offload(fd: int) -> bool:
    """Say that the reader of ``fd`` completes all that the switch can; whether UDP is among it."""
    try:
        set_offload(fd, OFFLOADS | USO)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        set_offload(fd)
        return False
    return True


def get_mac(fd: int) -> bytes:
    """Return the interface's 6-byte MAC address (SIOCGIFHWADDR on the TAP's own descriptor)."""
    request = fcntl.ioctl(fd, SIOCGIFHWADDR, bytes(40))
    return request[18:24]


def set_mac(fd: int, mac: bytes) -> None:
    """Give the interface its 6-byte MAC address (SIOCSIFHWADDR on the TAP's own descriptor).

    Needs CAP_NET_ADMIN in the user namespace that owns the interface's network namespace. Do it
    before the link goes up: the link-local address is made from the MAC of that moment.
    """
    if len(mac) != 6:
        raise ValueError(f"a MAC address has 6 bytes, not {len(mac)}")
    fcntl.ioctl(fd, SIOCSIFHWADDR, struct.pack("16sH6s16x", b"", _ARPHRD_ETHER, mac))


def inspect(fd: int) -> TapFacts:
    """Ask the kernel what interface ``fd`` belongs to.

    A socket filter that was attached to a TAP is removed on the way: one must be there for the
    kernel to tell about packet information. Raises :class:`NotATap` for anything but a descriptor
    of /dev/net/tun that has an interface (a TUN has one too: look at ``is_tap``).
    """
    _refuse_other_files(fd)
    try:
        mac = get_mac(fd)
        name, flags = _name_and_flags(fd)
        header = fcntl.ioctl(fd, TUNGETVNETHDRSZ, bytes(4)) if flags & IFF_VNET_HDR else bytes(4)
    except OSError as error:
        if error.errno == errno.EBADFD:
            raise NotATap(f"descriptor of {TUN_NODE} without an interface, or it is gone") from None
        raise NotATap(f"descriptor that refuses to be examined ({error.strerror})") from None
    return TapFacts(
        name=name,
        is_tap=bool(flags & IFF_TAP),
        packet_information=not flags & IFF_NO_PI,
        vnet_header=bool(flags & IFF_VNET_HDR),
        vnet_header_bytes=struct.unpack("i", header)[0],
        multi_queue=bool(flags & IFF_MULTI_QUEUE),
        persistent=bool(flags & IFF_PERSIST),
        mac=mac,
    )


def _name_and_flags(fd: int) -> tuple[str, int]:
    name, flags = _get_interface(fd)
    if flags & IFF_TAP:
        # TUNGETIFF sets IFF_NOFILTER if no socket filter is attached, and that is the very bit of
        # IFF_NO_PI: without a filter every interface seems to be free of packet information.
        with _accepting_filter(fd):
            name, flags = _get_interface(fd)
    return name, flags


def _get_interface(fd: int) -> tuple[str, int]:
    request = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    name, flags = struct.unpack("=16sH22x", request)
    return name.split(b"\0", 1)[0].decode("ascii", "backslashreplace"), flags


@contextmanager
def _accepting_filter(fd: int) -> Iterator[None]:
    """Have a socket filter attached that lets every frame pass (classic BPF: return 2^32 - 1)."""
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF), 8)
    program = struct.pack("@HP", 1, ctypes.addressof(code))
    fcntl.ioctl(fd, TUNATTACHFILTER, program)
    try:
        yield
    finally:
        fcntl.ioctl(fd, TUNDETACHFILTER, program)


_KINDS = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISREG, "plain file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISBLK, "block device"),
)


def _refuse_other_files(fd: int) -> None:
    try:
        facts = os.fstat(fd)
    except OSError as error:
        raise NotATap(f"closed descriptor ({error.strerror})") from None
    mode = facts.st_mode
    if stat.S_ISSOCK(mode):
        with socket.socket(fileno=os.dup(fd)) as other:
            raise NotATap(f"socket ({other.family.name})")
    for test, kind in _KINDS:
        if test(mode):
            raise NotATap(kind)
    if not stat.S_ISCHR(mode):
        raise NotATap("descriptor without a file type (eventfd, epoll, ...)")
    # The number is the driver's: a node of any path, in any mount namespace, has it. Other drivers
    # give other meanings to the same ioctl numbers, so they are never sent there.
    if facts.st_rdev != _TUN_DEVICE:
        raise NotATap(
            f"character device {os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}, not {TUN_NODE}"
        )
