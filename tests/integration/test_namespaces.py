"""User and network namespaces, and what preflight says where they are forbidden for real."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import platform
import struct
import threading
import warnings
from collections.abc import Callable
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from hypervisor.kernel import namespaces, netlink, preflight, process, tap
from tests.helpers.kernel_objects import (
    BROADCAST,
    a_fresh_uid,
    as_uid,
    ethernet,
    in_child,
    lent_tap,
)

MAC = bytes.fromhex("525400c0ffee")


def ids_inside(keep_uid: bool) -> tuple[int, int, bool]:
    namespaces.unshare_user_net(keep_uid)
    return os.getuid(), os.getgid(), process.Capability.NET_ADMIN in process.capabilities()


def test_an_ordinary_user_becomes_root_of_his_own_namespace() -> None:
    assert as_uid(a_fresh_uid(), lambda: ids_inside(False)) == (0, 0, True)


def test_keep_uid_maps_the_user_to_himself_with_capabilities() -> None:
    uid = a_fresh_uid()
    inside_uid, _, capable = as_uid(uid, lambda: ids_inside(True))
    assert (inside_uid, capable) == (uid, True)


def test_a_process_with_threads_is_told_so() -> None:
    def try_with_a_thread() -> str:
        release = threading.Event()
        thread = threading.Thread(target=release.wait)
        thread.start()
        try:
            namespaces.unshare_user_net()
        except RuntimeError as error:
            return str(error)
        finally:
            release.set()
            thread.join()
        return "entered"

    assert "cannot be entered with 2 threads" in in_child(try_with_a_thread)


def test_any_user_may_open_the_tun_node() -> None:
    assert namespaces.tun_node_is_open_to_all()
    assert namespaces.private_tun_node()  # and asking again changes nothing
    assert as_uid(a_fresh_uid(), lambda: os.access(tap.TUN_NODE, os.R_OK | os.W_OK))


# --- the network inside -----------------------------------------------------------------------


def test_an_interface_gets_all_it_is_given() -> None:
    with lent_tap(mac=MAC, up=False) as lent:

        def configure() -> tuple[netlink.LinkFacts, list[str]]:
            with open("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "w") as setting:
                setting.write("0")
            with netlink.Netlink() as net:
                net.set_mtu("eth0", 1400)
                net.set_eui64("eth0")
                net.set_up("eth0")
                net.add_address("eth0", ip_interface("10.1.2.3/24"))
                net.add_address("eth0", ip_interface("fd00::3/64"))
                net.add_default_route("eth0", ip_address("10.1.2.1"))
                net.add_default_route("eth0", ip_address("fd00::1"))
                return net.link("eth0"), [str(address) for address in net.addresses("eth0")]

        facts, addresses = lent.namespace.call(configure)
        routes = lent.namespace.run("ip", "route", "show", "default").stdout
        routes += lent.namespace.run("ip", "-6", "route", "show", "default").stdout
    assert (facts.name, facts.mac, facts.mtu_bytes, facts.up, facts.carrier) == (
        "eth0",
        MAC,
        1400,
        True,
        True,
    )
    # RFC 4291 appendix A: fffe in the middle, the universal bit turned.
    assert set(addresses) == {"10.1.2.3/24", "fd00::3/64", "fe80::5054:ff:fec0:ffee/64"}
    assert "default via 10.1.2.1 dev eth0" in routes
    assert "default via fd00::1 dev eth0" in routes


def test_an_ipv6_address_without_dad_is_usable_at_once() -> None:
    with lent_tap(addresses=["fd00::3/64"]) as lent:
        shown = lent.namespace.run("ip", "-6", "addr", "show", "dev", "eth0", "scope", "global")
    assert "tentative" not in shown.stdout
    assert "fd00::3/64" in shown.stdout


def test_counters_equal_those_of_ip() -> None:
    with lent_tap() as lent:
        far = lent.packet_socket()
        with far:
            for _ in range(5):
                far.send(ethernet(BROADCAST, lent.mac, b"counted"))
                os.read(lent.fd, 2048)  # a TAP counts what was fetched, not what was queued
            frame = bytes(12) + ethernet(lent.mac, MAC, b"counted as well")
            os.write(lent.fd, frame)

        def stats() -> netlink.LinkStats:
            with netlink.Netlink() as net:
                return net.stats("eth0")

        counters = lent.namespace.call(stats)
        shown = lent.namespace.run("ip", "-s", "-j", "link", "show", "eth0").stdout
    assert (counters.tx_packets, counters.tx_bytes) == (5, 5 * 21)
    assert (counters.rx_packets, counters.rx_bytes) == (1, 29)
    assert f'"bytes":{counters.tx_bytes},"packets":{counters.tx_packets}' in shown


def test_a_refusal_says_what_was_asked() -> None:
    with lent_tap() as lent:

        def refusals() -> list[tuple[int | None, str]]:
            found = []
            with netlink.Netlink() as net:
                asks: list[Callable[[], None]] = [
                    lambda: net.set_up("nope0"),
                    lambda: net.set_mtu("eth0", 1_000_000),
                    lambda: net.add_default_route("eth0", ip_address("192.0.2.1")),
                    lambda: net.set_mac("eth0", BROADCAST),
                ]
                for ask in asks:
                    try:
                        ask()
                    except netlink.NetlinkFailure as error:
                        found.append((error.errno, str(error)))
            return found

        missing, too_large, unreachable, group = lent.namespace.call(refusals)
    assert missing[0] == errno.ENODEV
    assert "cannot find interface nope0: No such device" in missing[1]
    assert "cannot set an MTU of 1000000 bytes on interface eth0" in too_large[1]
    assert "cannot route everything through 192.0.2.1 on eth0" in unreachable[1]
    assert group[0] == errno.EADDRNOTAVAIL


def test_netlink_leaves_no_thread_no_descriptor_and_no_warning() -> None:
    with lent_tap() as lent:

        def use() -> tuple[int, int, list[str]]:
            before = len(os.listdir("/proc/self/fd"))
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                with netlink.Netlink() as net:
                    net.links()
                net.close()
                del net
                gc.collect()
            threads = len(os.listdir("/proc/self/task"))
            leaked = len(os.listdir("/proc/self/fd")) - before
            return threads, leaked, [str(warning.message) for warning in seen]

        assert lent.namespace.call(use) == (1, 0, [])


@pytest.mark.parametrize("name", ["", "a/b", "sixteen-letters-", "nul\0"])
def test_a_name_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no interface name"):
        tap.create_tap(name)


# --- preflight --------------------------------------------------------------------------------


def test_where_everything_is_allowed_there_is_no_obstacle() -> None:
    assert as_uid(a_fresh_uid(), preflight.preflight) == []


def test_a_missing_node_is_an_obstacle_with_a_remedy(tmp_path: Path) -> None:
    (obstacle,) = in_child(lambda: preflight.preflight(node=str(tmp_path / "tun")))
    assert "there is no such node" in obstacle.why
    assert "modprobe tun" in obstacle.remedy
    assert "ping" in obstacle.still_works


def test_a_node_that_shuts_this_user_out_is_an_obstacle_with_a_remedy() -> None:
    # Any file of root's will do: it is not opened.
    node = "/etc/shadow"
    (obstacle,) = as_uid(a_fresh_uid(), lambda: preflight.preflight(node=node))
    assert "owner or mode" in obstacle.why
    assert f"chmod 0666 {node}" in obstacle.remedy


def test_a_node_of_another_driver_is_an_obstacle() -> None:
    (obstacle,) = in_child(lambda: preflight.preflight(node="/dev/null"))
    assert obstacle.what == "a TAP interface cannot be made"
    assert "TUNSETIFF" in obstacle.why


def test_a_limit_of_no_user_namespaces_is_named() -> None:
    def forbid_and_ask() -> list[preflight.Obstacle]:
        # The limit belongs to each user namespace, so this one is nobody else's.
        namespaces.unshare_user_net()
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        return preflight.preflight()

    (obstacle,) = as_uid(a_fresh_uid(), forbid_and_ask)
    assert obstacle.why == "user.max_user_namespaces is 0"
    assert "sysctl -w user.max_user_namespaces" in obstacle.remedy


def test_exhausted_network_namespaces_are_told_from_forbidden_ones() -> None:
    def exhaust_and_ask() -> list[preflight.Obstacle]:
        namespaces.unshare_user_net()
        Path("/proc/sys/user/max_net_namespaces").write_text("0")
        return preflight.preflight()

    (obstacle,) = as_uid(a_fresh_uid(), exhaust_and_ask)
    assert "ENOSPC" in obstacle.why


def test_a_seccomp_filter_is_suspected_when_no_setting_forbids() -> None:
    def forbid_and_ask() -> list[preflight.Obstacle]:
        process.no_new_privileges()
        refuse_unshare_by_seccomp()
        return preflight.preflight()

    (obstacle,) = as_uid(a_fresh_uid(), forbid_and_ask)
    assert "seccomp" in obstacle.why
    assert "--device /dev/net/tun" in obstacle.remedy


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "docs/apparmor/pfinet-client"),
    ],
)
def test_a_distribution_setting_is_named_with_its_remedy(
    tmp_path: Path, setting: str, value: str, named: str
) -> None:
    # The settings of other distributions: their files are made up, the refusal is real.
    file = tmp_path / setting
    file.parent.mkdir(parents=True)
    file.write_text(f"{value}\n")

    def forbid_and_ask() -> list[preflight.Obstacle]:
        process.no_new_privileges()
        refuse_unshare_by_seccomp()
        return preflight.preflight(sysctl_root=str(tmp_path))

    (obstacle,) = in_child(forbid_and_ask)
    assert named in obstacle.remedy
    assert str(obstacle).endswith(".")


def test_the_profile_that_the_remedy_names_is_shipped_and_permits_user_namespaces() -> None:
    profile = Path(__file__).parents[2] / "docs" / "apparmor" / "pfinet-client"
    rules = [line for line in profile.read_text().splitlines() if not line.startswith("#")]
    assert "  userns," in rules


def refuse_unshare_by_seccomp() -> None:
    """Have unshare(2) fail with EPERM in this process, as Docker's default filter does."""
    number = {"x86_64": 272, "aarch64": 97, "riscv64": 97}[platform.machine()]
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    # BPF: load seccomp_data.nr; if it is unshare, refuse; allow.
    program = struct.pack(
        "HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, number, 0x06, 0, 0, refuse, 0x06, 0, 0, allow
    )
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0) != 0:  # PR_SET_SECCOMP, FILTER
        raise OSError(ctypes.get_errno(), "seccomp")
