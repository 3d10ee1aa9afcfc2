"""What DHCP clients say, what is made of it, and which of them is used."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.kernel import tools
from pfinet_client.dhcp import Granted, find_client, read_grant, resolv_conf
from pfinet_client.run import RunOptions, run


def test_a_grant_is_read_from_either_client() -> None:
    expected = Granted(
        ip_interface("10.0.0.9/24"),  # type: ignore[arg-type]
        (ip_address("10.0.0.1"),),  # type: ignore[arg-type]
        (ip_address("10.0.0.1"), ip_address("10.0.0.2")),  # type: ignore[arg-type]
        ("a.lan.internal", "lan.internal"),
    )
    rest = "10.0.0.1|10.0.0.1 10.0.0.2|a.lan.internal lan.internal\n"
    assert read_grant(f"bound|10.0.0.9|24|{rest}") == expected
    assert read_grant(f"REBIND|10.0.0.9|255.255.255.0|{rest}") == expected
    assert resolv_conf(expected) == (
        "search a.lan.internal lan.internal\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n"
    )


@pytest.mark.parametrize(
    "line",
    ["", "deconfig|||||", "bound", "bound|10.0.0.9|99|||", "bound||24|||", "nak|10.0.0.9|24|||"],
)
def test_what_grants_nothing_is_no_grant(line: str) -> None:
    assert read_grant(line) is None


def test_a_server_writes_no_lines_of_its_own_into_resolv_conf() -> None:
    found = read_grant("bound|10.0.0.9|24|||good.example $(reboot) a;b options\x0bx x\\n y")
    assert found is not None
    assert found.search == ("good.example", "options", "x", "y")


@given(st.text(max_size=200))
def test_whatever_is_said_is_read_without_failing(text: str) -> None:
    for line in (text, f"bound|10.0.0.9|24|{text}"):
        granted = read_grant(line)
        if granted is not None:
            written = resolv_conf(granted)
            assert all(
                each.startswith(("search ", "nameserver ")) for each in written.split("\n")[:-1]
            )


def test_udhcpc_is_used_before_dhclient(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"dhclient", "busybox"}
    monkeypatch.setattr(
        tools, "find_tool", lambda name: f"/bin/{name}" if name in installed else None
    )
    first = find_client()
    assert first is not None
    assert first.arguments[:2] == ("busybox", "udhcpc")
    installed.remove("busybox")
    second = find_client()
    assert second is not None
    assert second.path == "/bin/dhclient"


def test_without_a_client_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name: None)
    assert run(RunOptions(command=("true",), dhcp=True)) == 125
    assert (
        "neither udhcpc, busybox nor dhclient is installed (Debian: apt" in capsys.readouterr().err
    )
