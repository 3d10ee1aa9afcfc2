"""`hypervisor policy explain`: what the guard would say of frames, from the same configuration."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.utils import PcapNgWriter, PcapWriter

from hypervisor import cli
from hypervisor.kernel import captures, pcapng
from tests.helpers.guarded import ALL, IP4, MAC, VICTIM_IP4, arp, ether, router

OWN = bytes(ether() / IP(src=IP4, dst=VICTIM_IP4) / TCP())
SPOOF = bytes(ether(to=ALL) / arp(psrc=VICTIM_IP4))
ROUTER = bytes(ether(to=ALL) / router())
WHO = ("--mac", MAC, "--address", IP4)


def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["policy", "explain", *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_frame_that_passes_is_said_to_pass(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = explain(capsys, *WHO, "--frame", OWN.hex())
    assert status == 0
    assert out.startswith(
        "1: passes (full guard: one of its common frames)\n   52:54:00:00:00:01 >"
    )


def test_a_frame_that_does_not_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = explain(capsys, *WHO, "--frame", SPOOF.hex())
    assert status == 1
    assert "1: discarded (full guard), arp_sender: arp sender IP is 10.0.0.2" in out
    assert "expected 10.0.0.1\n" in out
    assert "ARP " in out


def test_without_a_guard_it_passes(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = explain(capsys, *WHO, "--guard", "mac", "--frame", SPOOF.hex())
    assert (status, out.splitlines()[0]) == (0, "1: passes (guard mac)")


def test_rules_that_a_file_opens_are_known(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        f'[[device]]\nowner = "0"\nname = "gw"\nmac = "{MAC}"\naddresses = ["{IP4}"]\n'
        'router = true\nethertypes = ["0x8035"]\nprefixes = ["10.9.0.0/24"]\n'
        '[[device]]\nowner = "0"\nname = "t"\nmac = "52:54:00:00:00:09"\ntrunk = true\n'
        '[[device]]\nowner = "0"\nname = "o"\nmac = "52:54:00:00:00:08"\nguard = "off"\n'
    )
    common = ("--config", str(file), "--owner", "0", "--frame", ROUTER.hex())
    assert explain(capsys, *common, "--device", "gw")[0] == 0
    assert "passes (trunk)" in explain(capsys, *common, "--device", "t")[1]
    assert "passes (guard off)" in explain(capsys, *common, "--device", "o")[1]
    status, out, _ = explain(capsys, *common, "--device", "else", *WHO)
    assert (status, "router_advertisement" in out) == (1, False), "its address is another's"


def test_captures_of_all_kinds_are_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = {}
    for name, writer in (("a.pcap", PcapWriter), ("b.pcapng", PcapNgWriter)):
        made[name] = tmp_path / name
        arguments: dict[str, Any] = {"linktype": 1, "sync": True} if writer is PcapWriter else {}
        with writer(str(made[name]), **arguments) as file:
            for frame in (OWN, SPOOF, ROUTER):
                file.write(ether().__class__(frame))
    made["own.pcapng"] = tmp_path / "own.pcapng"
    blocks = [pcapng.section_header("test"), pcapng.interface_description("eth0")]
    blocks += [pcapng.enhanced_packet(frame, 0) for frame in (OWN, SPOOF, ROUTER)]
    made["own.pcapng"].write_bytes(b"".join(blocks))
    for path in made.values():
        assert list(captures.frames(path.read_bytes())) == [OWN, SPOOF, ROUTER]
        status, out, _ = explain(capsys, *WHO, "--pcap", str(path))
        assert status == 1
        verdicts = [line for line in out.splitlines() if line[0] != " "]
        assert [line.split(":")[1].split(" ")[1] for line in verdicts] == [
            "passes",
            "discarded",
            "discarded",
        ]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--frame", "xyz", *WHO), 1, "pairs of hex digits"),
        (("--frame", "00"), 1, "add --mac with the one"),
        (("--frame", "00", "--mac", "1"), 2, "is not a MAC address"),
        (("--frame", "00", "--mac", MAC, "--address", "x"), 1, "'x' is not an IP address"),
        (("--frame", "00", "--network", "lan", *WHO), 1, 'no network "lan"; there are: default'),
        (("--frame", "00", "--owner", "nobody-here", *WHO), 2, "there is no user"),
        (("--frame", "00", "--guard", "fill", *WHO), 2, 'did you mean "full"'),
        (("--pcap", "/nowhere.pcap", *WHO), 1, "/nowhere.pcap cannot be read: No such file"),
        (("--pcap", "/dev/null", *WHO), 1, "/dev/null cannot be read: it is too short"),
        (("--pcap", "/bin/sh", *WHO), 1, "begins neither like pcap nor like pcapng"),
    ],
)
def test_what_cannot_be_answered_is_explained(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, words: str
) -> None:
    code, _, err = explain(capsys, *arguments)
    assert code == status
    assert words in err
    assert "Traceback" not in err


def test_a_capture_cut_anywhere_is_frames_or_an_error() -> None:
    whole = pcapng.section_header() + pcapng.interface_description("x")
    whole += pcapng.enhanced_packet(OWN, 0)
    classic = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    classic += bytes(8) + len(OWN).to_bytes(4, "little") * 2 + OWN
    for data in (whole, classic):
        for end in range(len(data)):
            with suppress(captures.CaptureError):
                assert list(captures.frames(data[:end])) == []


def test_the_table_that_decides_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        '[[policy]]\nowner = "gid:7"\nrouter = true\n'
        '[[policy]]\ndevice = "vm*"\nguard = "mac"\nnode = "/run/lab"\n'
        '[[translator]]\npath = "/run/lab"\n'
    )
    common = ("--config", str(file), "--owner", "1000", *WHO, "--frame", ROUTER.hex())
    status, out, _ = explain(capsys, *common, "--device", "vm1")
    assert (status, out.startswith("1: discarded (full guard), ")) == (1, True)
    status, out, _ = explain(capsys, *common, "--device", "vm1", "--group", "7")
    assert (status, out.splitlines()[:4]) == (
        0,
        [
            "policy of vm1 of uid:1000 on default:",
            f"   router = true   {file}:1 (owner gid:7)",
            "1: passes (full guard)",
            f"   by router = true at {file}:1",
        ],
    )
    status, out, _ = explain(capsys, *common, "--device", "vm1", "--node", "/run/lab")
    assert (status, out.splitlines()[1:4]) == (
        0,
        [
            f"   guard = mac   {file}:4 (device vm*, node /run/lab)",
            "1: passes (guard mac)",
            f"   by guard = mac at {file}:4",
        ],
    )
    # Without it the frame would pass as well: no table decides about it.
    own = ("--config", str(file), "--owner", "1000", *WHO, "--frame", OWN.hex())
    status, out, _ = explain(capsys, *own, "--device", "vm1", "--group", "7")
    assert (status, " by " in out) == (0, False)


def test_vlan_tags_are_judged_before_what_is_behind_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    head = f'[[device]]\nowner = "0"\nname = "eth0"\nmac = "{MAC}"\naddresses = ["{IP4}"]\n'
    tagged, spoofed = (each[:12] + b"\x81\x00\x00\x0a" + each[12:] for each in (OWN, SPOOF))
    common = ("--config", str(file), "--owner", "0", "--device", "eth0", "--frame")
    for policy, frame, expected in (
        ("vlans = [10]", tagged, "1: passes (full guard: one of its common frames)"),
        ("vlans = [10]", spoofed, "1: discarded (full guard), arp_sender"),
        (
            "vlans = [20]",
            tagged,
            "1: discarded (full guard), vlan_foreign: VLAN is 10, expected 20",
        ),
        ("vlans = [20]", OWN, "1: discarded (full guard), vlan_untagged"),
        ("vlan = 10", tagged, "1: discarded (full guard), vlan_tag"),
        ("vlan = 10", OWN, "1: passes (full guard: one of its common frames)"),
    ):
        file.write_text(head + policy)
        _, out, _ = explain(capsys, *common, frame.hex())
        assert expected in out, policy
