"""Leases on a real server: a real DHCP server behind one device, real DHCP clients behind others.

dnsmasq serves, udhcpc and dhclient ask, all in namespaces under the full guard.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import hypervisor, server
from tests.helpers.run_programs import Program, run, running

pytestmark = pytest.mark.slow

POOL = re.compile(r"10\.7\.0\.1\d|fd07::1[0-9a-f]")
_CONFIG = """
[[network]]
name = "default"
subnets = ["10.7.0.0/24", "fd07::/64"]
[[device]]
owner = "root"
name = "server"
addresses = ["10.7.0.1", "fd07::1"]
dhcp_server = true
"""
#: What udhcpc calls: an address is used as soon as it is bound.
_SCRIPT = """#!/bin/sh
case "$1" in
    bound|renew) ip addr replace "$ip/24" dev "$interface" && echo "$1 $ip" ;;
    deconfig) ip -4 addr flush dev "$interface"; ip link set "$interface" up ;;
esac
"""
#: What dhclient calls; the kernel's own DAD would only cost time here, and is tried elsewhere.
_SCRIPT6 = """#!/bin/sh
case "$reason" in
    PREINIT6) ip link set "$interface" up
        until ip -6 addr show dev "$interface" scope link -tentative | grep -q fe80; do :; done ;;
    BOUND6) ip -6 addr add "$new_ip6_address/64" dev "$interface" nodad && \
        echo "bound $new_ip6_address" >&3 ;;
esac
"""
#: Tell dnsmasq's readiness on standard output: its log says that a range is there.
_DNSMASQ = """
exec dnsmasq --no-daemon --no-ping --conf-file=/dev/null --user=root --group=root --port=0 \
    --dhcp-authoritative --dhcp-leasefile={folder}/dnsmasq.leases \
    --dhcp-range=10.7.0.10,10.7.0.19,600 --dhcp-range=fd07::10,fd07::1f,64,600 2>&1
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every uid may use, with the scripts in it."""
    made = Path(tempfile.mkdtemp(prefix="machdev-leases-"))
    made.chmod(0o755)
    (made / "config.toml").write_text(_CONFIG)
    for name, text in (("udhcpc", _SCRIPT), ("dhclient", _SCRIPT6)):
        (made / name).write_text(text)
        (made / name).chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def serving(folder: Path) -> Iterator[Any]:
    with server(
        folder,
        *("--config", str(folder / "config.toml")),
        *("--translator", f"{folder / 'veth0'},mode=0666"),
    ) as made:
        yield made


@contextmanager
def dhcp_server(folder: Path) -> Iterator[None]:
    with running(
        *("run", "--device", str(folder / "veth0"), "--device-name", "server"),
        *("--address", "10.7.0.1/24", "--address", "fd07::1/64", "--"),
        *("sh", "-c", _DNSMASQ.format(folder=folder)),
    ) as program:
        while "DHCPv6, IP range" not in program.line():
            pass
        yield


@contextmanager
def client(folder: Path, script: str, uid: int | None = None) -> Iterator[Program]:
    """Run a shell script in a stack on device eth5."""
    flags = ["--device", str(folder / "veth0"), "--device-name", "eth5"]
    with running("run", *flags, "--", "sh", "-c", script, uid=uid) as program:
        yield program


def leases(folder: Path, uid: int | None = None) -> list[dict[str, Any]]:
    """Return what `hypervisor leases` says of clients' devices."""
    done = hypervisor("leases", "--device", str(folder / "veth0"), "--json", uid=uid)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["leases"]
    return [one for one in found if one["device"] != "server"]


def _udhcpc(folder: Path) -> str:
    return f"udhcpc -i eth5 -f -n -q -t 20 -T 1 -s {folder}/udhcpc 2>/dev/null"


def _ping(address: str) -> str:
    return f"ping -q -c 1 -W 5 {address} >/dev/null && echo answered"


def test_what_dnsmasq_gives_a_stranger_may_use_at_once_and_the_operator_may_end(
    folder: Path,
) -> None:
    uid = a_fresh_uid()
    ask = f"{_udhcpc(folder)}; {_ping('10.7.0.1')}; read line; {_ping('10.7.0.1')} || echo silence"
    with serving(folder), dhcp_server(folder), client(folder, ask, uid) as program:
        word, address = program.line().split()
        assert word == "bound"
        assert POOL.fullmatch(address)
        assert program.line() == "answered"
        (lease,) = leases(folder)
        assert (lease["address"], lease["owner"]) == (address, f"uid:{uid}")
        assert (lease["kind"], lease["in_use"]) == ("dhcp", True)
        assert 500 < lease["expires_in_s"] <= 600
        (own,) = leases(folder, uid)
        assert own | {"expires_in_s": 0} == lease | {"expires_in_s": 0}
        stranger = a_fresh_uid()
        where = ("--device", str(folder / "veth0"))
        assert hypervisor("leases", *where, uid=stranger).stdout == "no addresses of yours\n"
        refused = hypervisor("leases", "release", address, *where, uid=uid)
        assert refused.returncode == 1
        assert "by the server's owner and root only" in refused.stderr
        said = hypervisor("leases", "release", address, *where)
        assert said.stdout == f"{address} is nobody's any more; it was uid:{uid}'s\n"
        program.tell("go on")
        assert program.line() == "silence", "the guard knows at once"
        again = hypervisor("leases", "release", address, *where)
        assert f"nobody has '{address}' on network default" in again.stderr
        fixed = hypervisor("leases", "release", "10.7.0.1", *where)
        assert "by policy: change the configuration" in fixed.stderr


def test_dhcpv6_gives_an_address_as_well(folder: Path) -> None:
    ask = (
        f"dhclient -6 -1 -nw -cf /dev/null -lf {folder}/l6 -pf {folder}/p6 -sf {folder}/dhclient "
        f"eth5 3>&1 >/dev/null 2>&1; read line; {_ping('fd07::1')}"
    )
    uid = None
    with serving(folder), dhcp_server(folder), client(folder, ask, uid) as program:
        word, address = program.line().split()
        assert (word, POOL.fullmatch(address) is not None) == ("bound", True)
        assert [one["address"] for one in leases(folder)] == [address]
        program.tell("go on")
        assert program.line() == "answered"


def test_nobody_gets_the_address_of_an_absent_owner_also_after_a_restart(folder: Path) -> None:
    owner, thief = a_fresh_uid(), a_fresh_uid()
    with serving(folder) as process:
        with dhcp_server(folder), client(folder, f"{_udhcpc(folder)}; read line", owner) as program:
            address = program.line().split()[1]
        assert [(one["address"], one["in_use"]) for one in leases(folder)] == [(address, False)]
        assert process.stop(signal.SIGTERM) == 0
    with serving(folder):
        (lease,) = leases(folder)
        assert (lease["address"], lease["owner"]) == (address, f"uid:{owner}")
        assert (lease["kind"], lease["device"]) == ("dhcp", "eth5")
        taken = run(folder / "veth0", f"{address}/24", "--", "true", uid=thief)
        assert taken.returncode == 125
        assert f"address {address} is another owner's" in taken.stderr
        # The same device is there again: so is its address, though nobody has asked anew.
        back = f"ip addr add {address}/24 dev eth5; {_ping('10.7.0.1')}"
        with dhcp_server(folder), client(folder, back, owner) as program:
            assert program.line() == "answered"


def test_who_may_not_serve_gives_no_addresses(folder: Path) -> None:
    (folder / "config.toml").write_text(_CONFIG.replace("dhcp_server = true", ""))
    ask = f"udhcpc -i eth5 -f -n -q -t 2 -T 1 -s {folder}/udhcpc 2>/dev/null || echo nothing"
    with serving(folder), dhcp_server(folder), client(folder, ask) as program:
        assert program.line() == "nothing"
        assert leases(folder) == []
