"""What may be lent: a plain TAP; anything else is refused in one sentence and closed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress

import pytest

from hypervisor.errors import DeviceError, InvalidArgument, InvalidOperation
from hypervisor.kernel import tap
from hypervisor.links.lent_tap import LentTap
from hypervisor.wire.virtio_net import ALL_OFFLOADS, Offload
from tests.helpers.kernel_objects import lent_tap, namespace, open_descriptors

MAC = bytes.fromhex("525400000001")


def interface(flags: int, mac: bytes | None = MAC) -> Callable[[], int]:
    """Return what makes an interface with ``flags`` inside a namespace."""

    def make() -> int:
        fd = os.open(tap.TUN_NODE, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, tap.TUNSETIFF, struct.pack("16sH22x", b"odd0", flags))
        if mac is not None:
            tap.set_mac(fd, mac)
        return fd

    return make


def refused(fd: int) -> DeviceError:
    with pytest.raises(DeviceError) as refusal:
        LentTap.adopt(fd, MAC)
    return refusal.value


def a_pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def a_file() -> int:
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (a_pipe, "pipe"),
        (a_file, "plain file"),
        (lambda: os.open("/", os.O_RDONLY), "directory"),
        (lambda: os.open("/dev/null", os.O_RDWR), "character device 1:3"),
        (lambda: os.open("/", os.O_PATH), "directory"),
        (lambda: os.eventfd(0), "without a file type"),
        (lambda: socket.socket(socket.AF_UNIX).detach(), "socket (AF_UNIX)"),
        (lambda: os.open(tap.TUN_NODE, os.O_RDWR), "without an interface"),
        (lambda: os.open(tap.TUN_NODE, os.O_PATH), "refuses to be examined"),
    ],
)
def test_what_is_no_tap_is_refused_and_closed(make: Callable[[], int], kind: str) -> None:
    before = open_descriptors()
    refusal = refused(make())
    assert isinstance(refusal, InvalidArgument)
    assert kind in refusal.message
    assert open_descriptors() == before


def test_a_closed_descriptor_is_refused() -> None:
    with suppress(OSError):
        os.close(999)
    assert "closed descriptor" in refused(999).message


@pytest.mark.parametrize(
    ("flags", "mac", "error", "words"),
    [
        (tap.IFF_TUN | tap.IFF_NO_PI, None, InvalidOperation, "is a TUN"),
        (tap.IFF_TAP, MAC, InvalidOperation, "packet information"),
        (
            tap.IFF_TAP | tap.IFF_NO_PI | tap.IFF_MULTI_QUEUE,
            MAC,
            InvalidOperation,
            "many queues",
        ),
        (
            tap.IFF_TAP | tap.IFF_NO_PI,
            bytes.fromhex("525400000002"),
            InvalidArgument,
            "has the MAC address 52:54:00:00:00:02, but the device has 52:54:00:00:00:01",
        ),
    ],
    ids=["tun", "packet-information", "multi-queue", "another-mac"],
)
def test_an_interface_of_the_wrong_kind_is_refused_and_closed(
    flags: int, mac: bytes | None, error: type[DeviceError], words: str
) -> None:
    before = open_descriptors()
    with namespace() as space:
        refusal = refused(space.descriptor(interface(flags, mac)))
        assert isinstance(refusal, error)
        assert words in refusal.message
        # Closed for good: the interface went with its only descriptor.
        assert "odd0" not in space.run("ip", "link").stdout
    assert open_descriptors() == before


def test_a_tap_that_was_deleted_before_it_was_adopted_is_refused() -> None:
    with lent_tap(mac=MAC) as lent:
        lent.namespace.run("ip", "link", "del", lent.name)
        assert "it is gone" in refused(lent.give()).message


def test_a_tap_is_made_ready_whatever_its_maker_set() -> None:
    with lent_tap(mac=MAC) as lent:
        tap.set_vnet_header_size(lent.fd, 60)
        os.set_blocking(lent.fd, True)
        os.set_inheritable(lent.fd, True)
        link = LentTap.adopt(lent.give(), MAC)
        assert (link.kind, link.name, link.vnet_header) == ("tap", "eth0", True)
        assert link.accepts == ALL_OFFLOADS
        assert tap.inspect(link.fileno()).vnet_header_bytes == 12
        assert not os.get_inheritable(link.fileno())
        features = lent.namespace.run("ethtool", "-k", lent.name).stdout
        link.close()
    assert "tcp-segmentation-offload: on" in features
    assert "tx-udp-segmentation: on" in features
    assert "tx-checksumming: on" in features


def test_a_kernel_that_knows_no_udp_segmentation_is_asked_for_the_rest() -> None:
    with lent_tap(mac=MAC) as lent:

        def adopted() -> int:
            without_udp_segmentation()
            return LentTap.adopt(os.dup(lent.fd), MAC).accepts

        assert lent.namespace.call(adopted) == ALL_OFFLOADS & ~Offload.USO
        features = lent.namespace.run("ethtool", "-k", lent.name).stdout
    assert "tcp-segmentation-offload: on" in features
    assert "tx-udp-segmentation: off" in features


def without_udp_segmentation() -> None:
    """Have this process's kernel answer as those before Linux 6.2: a seccomp filter for ioctl()."""
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EINVAL
    # struct seccomp_data: nr at 0, the low words of the arguments at 16, 24, 32 (little endian).
    ioctl_number = {"x86_64": 16, "aarch64": 29}[os.uname().machine]
    program = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (0x20, 0, 0, 0),
            (0x15, 0, 4, ioctl_number),
            (0x20, 0, 0, 24),
            (0x15, 0, 2, tap.TUNSETOFFLOAD),
            (0x20, 0, 0, 32),
            (0x45, 1, 0, tap.USO),
            (0x06, 0, 0, allow),
            (0x06, 0, 0, refuse),
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    filters = ctypes.create_string_buffer(struct.pack("@HP", 8, ctypes.addressof(code)), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, with_filter = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, with_filter, filters, 0, 0) == 0, ctypes.get_errno()


def test_without_an_offload_header_no_offload_is_left_on() -> None:
    with lent_tap(mac=MAC, vnet_header=False) as lent:
        tap.set_offload(lent.fd)
        link = LentTap.adopt(lent.give(), MAC)
        assert (link.vnet_header, link.accepts) == (False, 0)
        features = lent.namespace.run("ethtool", "-k", lent.name).stdout
        link.close()
    assert "tcp-segmentation-offload: off" in features
    assert "tx-checksumming: off" in features


def test_a_lent_tap_outlives_its_lender() -> None:
    with lent_tap(mac=MAC) as lent:
        link = LentTap.adopt(lent.give(), MAC)
    # Every process of the namespace is dead now; the descriptor keeps the interface.
    assert tap.inspect(link.fileno()).mac == MAC
    assert link.alive()
    assert link.read_burst(1, 1) == []
    link.close()
    assert not link.alive()
