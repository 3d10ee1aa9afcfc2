"""``pfinet-client listen`` with a filter expression, as a program beside a real server."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import PcapNgReader

from pfinet_client.blocking import Client, DevicePort
from tests.helpers.listening import listening, wait_listening
from tests.helpers.processes import server
from tests.helpers.run_programs import TIMEOUT_S, pfinet_client

BROADCAST = "ff:ff:ff:ff:ff:ff"
V4 = IP(src="10.0.0.1", dst="10.0.0.2")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # Who sends here has claimed no addresses.
    with server(tmp_path_factory.mktemp("server"), "--guard", "mac") as running_server:
        yield running_server.node


def sent(port: DevicePort, *packets: Any) -> list[bytes]:
    """Send packets from a device, to all, as frames of 60 bytes at least; return them."""
    frames = [
        bytes(Ether(src=port.mac.hex(":"), dst=BROADCAST) / packet).ljust(60, b"\0")
        for packet in packets
    ]
    port.write_vector(frames)
    return frames


def test_only_what_matches_leaves_the_server(node: Path) -> None:
    with (
        Client(node) as client,
        client.open("sender") as port,
        listening(node, "-c", "2", "--json", "tcp port 80 and host 10.0.0.2") as listener,
    ):
        frames = sent(
            port,
            V4 / TCP(dport=80, flags="S"),
            V4 / UDP(dport=80),
            V4 / TCP(dport=443),
            IP(src="10.0.0.1", dst="10.0.0.3") / TCP(dport=80),
            ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
            V4 / TCP(sport=80, dport=7),
        )
        shown = [json.loads(listener.line()) for _ in range(2)]
        assert [each["frame"] for each in shown] == [frames[0].hex(), frames[5].hex()]
        assert listener.wait(TIMEOUT_S) == 0
        assert listener.stderr is not None
        assert listener.stderr.read() == b"2 frames\n"
        network = next(iter(client.network.status().networks))
        assert {drop.reason: drop.copies for drop in network.drops}["unwanted"] >= 4


def test_words_of_an_expression_need_no_quotes_and_lines_are_as_of_tcpdump(node: Path) -> None:
    with (
        Client(node) as client,
        client.open("sender") as port,
        listening(node, "-n", "-c", "1", "udp", "port", "53") as listener,
    ):
        sent(port, V4 / UDP(sport=9, dport=53))
        line = listener.line()
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d\.\d{6} IPv4 10\.0\.0\.1:9 > 10\.0\.0\.2:53 UDP len 0, 60 bytes", line
        )


def test_e_and_v_show_more(node: Path) -> None:
    with (
        Client(node) as client,
        client.open("sender") as port,
        listening(node, "-nev", "-c", "1", "udp") as listener,
    ):
        sent(port, IP(src="10.0.0.1", dst="10.0.0.2", ttl=9, id=7) / UDP(sport=9, dport=53))
        line = listener.line()
        assert f"{port.mac.hex(':')} > {BROADCAST} IPv4 10.0.0.1:9" in line
        assert "(tos 0x0, ttl 9, id 7, " in line


def test_a_capture_is_cut_to_s_and_says_how_long_frames_were(node: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.pcapng"
    with Client(node) as client, client.open("sender") as port:
        with listening(node, "-c", "2", "-s", "40", "-w", str(file), "ip") as listener:
            frames = sent(port, V4 / UDP() / bytes(500), V4 / UDP())
            assert listener.wait(TIMEOUT_S) == 0
        with PcapNgReader(str(file)) as reader:
            packets = list(reader)
        assert [bytes(packet) for packet in packets] == [frame[:40] for frame in frames]
        assert [packet.wirelen for packet in packets] == [len(frame) for frame in frames]


@pytest.mark.parametrize(
    ("direction", "expected"), [("in", ["there"]), ("out", ["back"]), ("inout", ["there", "back"])]
)
def test_a_device_is_heard_both_ways_or_one(
    node: Path, direction: str, expected: list[str]
) -> None:
    with (
        Client(node) as client,
        client.open("near") as near,
        client.open("far") as far,
        listening(
            node,
            "--device-name",
            "near",
            "-Q",
            direction,
            "--json",
            "-c",
            str(len(expected)),
            "udp",
        ) as listener,
    ):
        there, back = sent(far, V4 / UDP() / b"there"), sent(near, V4 / UDP() / b"back")
        frames = {"there": there[0].hex(), "back": back[0].hex()}
        shown = [json.loads(listener.line())["frame"] for _ in expected]
        assert shown == [frames[name] for name in expected]
        assert listener.wait(TIMEOUT_S) == 0


def test_it_hears_the_servers_successor(tmp_path: Path) -> None:
    with server(tmp_path, "--guard", "mac") as first:
        node = first.node
        with listening(node, "--json", "udp") as listener:
            first.stop()
            with (
                server(tmp_path, "--guard", "mac"),
                Client(node) as client,
                client.open("sender") as port,
            ):
                wait_listening(listener)
                (frame,) = sent(port, V4 / UDP())
                assert json.loads(listener.line())["frame"] == frame.hex()
                listener.send_signal(signal.SIGINT)
                assert listener.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("tcp port", "is no filter expression: "),
        ("host nosuch.invalid", "unknown host 'nosuch.invalid'"),
        ("inbound", "say -Q in"),
        ("ip broadcast", "netmask not known"),
        (" or ".join(f"host 10.0.0.{last}" for last in range(99)), "has at most 127"),
    ],
)
def test_an_expression_that_cannot_be_is_one_sentence(
    node: Path, expression: str, says: str
) -> None:
    done = pfinet_client("listen", "--device", str(node), expression)
    assert done.returncode == 1
    assert done.stderr.startswith("pfinet-client listen: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bad_snapshot_length_is_a_usage_error(node: Path) -> None:
    done = pfinet_client("listen", "--device", str(node), "-s", "300000", "ip")
    assert done.returncode == 2
    assert "'300000' is not a number of bytes of 0 to 262144" in done.stderr
