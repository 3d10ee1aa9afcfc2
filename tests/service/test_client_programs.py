"""``pfinet-client ping``, ``arp``, ``respond``, ``listen`` and ``status`` as programs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.utils import rdpcap

from pfinet_client.blocking import Client
from tests.helpers.processes import server
from tests.helpers.run_programs import command_line, pfinet_client, running
from tests.helpers.service import frame


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with server(tmp_path_factory.mktemp("server"), "--guard", "mac") as running_server:
        yield running_server.node


@pytest.fixture(scope="module")
def responder(node: Path) -> Iterator[str]:
    """Run a responder on 10.0.0.9 and fd00::9; return its MAC."""
    with running(
        "respond", "--device", str(node), "--address", "10.0.0.9/24", "--address", "fd00::9/64"
    ) as program:
        said = re.fullmatch(
            r"respond \((.*)\) answers for 10.0.0.9, fd00::9, fe80::.*", program.line()
        )
        assert said is not None
        yield said[1]
        program.send_signal(signal.SIGINT)
        assert re.fullmatch(r"\d+ answers", program.line())
        assert program.wait(60) == 0


# --- ping and arp -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "target"), [("10.0.0.8/24", "10.0.0.9"), ("fd00::8/64", "fd00::9")]
)
def test_ping_says_what_ping_says(node: Path, responder: str, own: str, target: str) -> None:
    done = pfinet_client(
        "ping", "--device", str(node), "-c", "3", "-i", "0.05", "--address", own, target
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"PING {target} from {own.partition('/')[0]} probe: 56(")
    for number in (1, 2, 3):
        assert re.fullmatch(
            rf"64 bytes from {target}: icmp_seq={number} ttl=64 time=[0-9.]+ ms", lines[number]
        )
    assert lines[5] == f"--- {target} ping statistics ---"
    assert re.fullmatch(r"3 packets transmitted, 3 received, 0% packet loss, time \d+ms", lines[6])
    assert re.fullmatch(r"rtt min/avg/max/mdev = [0-9.]+/[0-9.]+/[0-9.]+/[0-9.]+ ms", lines[7])


def test_ping_in_json_is_one_object(node: Path, responder: str) -> None:
    done = pfinet_client(
        "ping", "--device", str(node), "--json", "-c", "2", "-i", "0.05", "-s", "1000",
        "--address", "10.0.0.8/24", "10.0.0.9",
    )  # fmt: skip
    score = json.loads(done.stdout)
    assert (score["transmitted"], score["received"], score["loss_percent"]) == (2, 2, 0.0)
    assert [reply["sequence"] for reply in score["replies"]] == [1, 2]
    assert score["rtt_ms"]["min"] <= score["rtt_ms"]["avg"] <= score["rtt_ms"]["max"]


def test_a_ping_nobody_answers_fails(node: Path) -> None:
    done = pfinet_client(
        "ping", "--device", str(node), "-c", "1", "-W", "4", "--address", "10.0.0.8/24", "10.0.0.77"
    )
    assert done.returncode == 1
    assert "From 10.0.0.8 icmp_seq=1 Destination Host Unreachable" in done.stdout
    assert "1 packets transmitted, 0 received, 100% packet loss" in done.stdout


def test_an_interrupted_ping_sums_up(node: Path, responder: str) -> None:
    with running(
        "ping", "--device", str(node), "-i", "0.05", "--address", "10.0.0.8/24", "10.0.0.9"
    ) as program:
        for start in ("PING", "64 bytes", "64 bytes"):
            assert program.line().startswith(start)
        program.send_signal(signal.SIGINT)
        while not program.line().endswith("ping statistics ---"):
            pass
        assert " 0% packet loss" in program.line()
        assert program.wait(60) == 0


def test_a_probe_keeps_no_lease(node: Path) -> None:
    done = pfinet_client("arp", "--device", str(node), "--address", "10.0.0.55/24", "10.0.0.55")
    assert done.returncode == 1
    with Client(node) as client:
        client.open("other").claim("10.0.0.55")


def test_arp_prints_the_mac(node: Path, responder: str) -> None:
    done = pfinet_client("arp", "--device", str(node), "--address", "10.0.0.8/24", "10.0.0.9")
    assert done.returncode == 0
    assert re.fullmatch(rf"10\.0\.0\.9 is at {responder} \([0-9.]+ ms\)\n", done.stdout)
    done = pfinet_client(
        "arp", "--json", "--device", str(node), "--address", "fd00::8/64", "fd00::9"
    )
    assert json.loads(done.stdout)["mac"] == responder


def test_arp_for_nobody_fails_after_three_questions(node: Path) -> None:
    with Client(node) as client, client.open("watch", role="monitor") as port:
        done = pfinet_client("arp", "--device", str(node), "--address", "10.0.0.8/24", "10.0.0.77")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "10.0.0.77: nobody answers\n"
        assert len([each for each in port.read_vector() if each[12:14] == b"\x08\x06"]) == 3


def test_a_target_in_no_subnet_is_one_sentence(node: Path) -> None:
    done = pfinet_client("ping", "--device", str(node), "--address", "10.0.0.8/24", "192.0.2.1")
    assert done.returncode == 1
    assert done.stderr.startswith("pfinet-client ping: 192.0.2.1 is in none of 10.0.0.0/24")


# --- listen -----------------------------------------------------------------------------------


def test_listen_decodes_what_arrives(node: Path) -> None:
    with running("listen", "--device", str(node), "-c", "2") as listener, Client(node) as client:
        port = client.open("sender")
        wait_for_device(client, "listen")
        port.write(frame(port.mac))
        port.write(frame(port.mac))
        for _ in range(2):
            line = listener.line()
            assert re.match(r"\d\d:\d\d:\d\d\.\d{6} ", line)
            assert f"{port.mac.hex(':')} > ff:ff:ff:ff:ff:ff" in line
        assert listener.wait(60) == 0


def test_listen_in_json_has_the_bytes(node: Path) -> None:
    with (
        running("listen", "--device", str(node), "--json", "-c", "1") as listener,
        Client(node) as client,
    ):
        port = client.open("sender")
        wait_for_device(client, "listen")
        port.write(frame(port.mac))
        record = json.loads(listener.line())
        assert bytes.fromhex(record["frame"]) == frame(port.mac)
        assert record["length_bytes"] == 60


@pytest.mark.parametrize("to", ["a file", "standard output"])
def test_listen_writes_pcapng_that_others_read(node: Path, tmp_path: Path, to: str) -> None:
    file = tmp_path / "capture.pcapng"
    with file.open("wb") as output, Client(node) as client:
        listener = subprocess.Popen(
            command_line(
                "listen", "--device", str(node), "-c", "3", "-w",
                "-" if to == "standard output" else str(file),
            ),
            stdout=output,
        )  # fmt: skip
        with listener:
            port = client.open("sender")
            wait_for_device(client, "listen")
            sent = [frame(port.mac, payload=bytes([number])) for number in range(3)]
            port.write_vector(sent)
            assert listener.wait(60) == 0
    assert [bytes(packet) for packet in rdpcap(str(file))] == sent
    said = subprocess.run(
        ["tshark", "-r", str(file), "-T", "fields", "-e", "eth.src"], capture_output=True, text=True
    )
    assert said.stdout.split() == [port.mac.hex(":")] * 3


def test_listen_at_a_device_shows_what_its_stack_gets(node: Path) -> None:
    with Client(node) as client:
        stack = client.open("eth7", role="stack")
        with running(
            "listen", "--device", str(node), "--device-name", "eth7", "--json", "-c", "1"
        ) as listener:
            while {each.name: each.opens for each in client.network.devices()}["eth7"] < 2:
                pass
            sender = client.open("sender")
            sender.write(frame(sender.mac, stack.mac))
            assert bytes.fromhex(json.loads(listener.line())["frame"]) == stack.read()


def test_a_reader_that_has_enough_ends_listen(node: Path) -> None:
    with running("listen", "--device", str(node)) as listener, Client(node) as client:
        port = client.open("sender")
        wait_for_device(client, "listen")
        assert listener.stdout is not None
        listener.stdout.close()
        port.write(frame(port.mac))
        assert listener.wait(60) == 0


def wait_for_device(client: Client, name: str) -> None:
    while name not in {device.name for device in client.network.devices()}:
        pass


# --- status and the rest ----------------------------------------------------------------------


def test_status_shows_server_network_and_devices(node: Path) -> None:
    with Client(node) as client, client.open("shown") as port:
        port.claim("10.0.0.66")
        done = pfinet_client("status", "--device", str(node))
        assert re.search(r"^you are +uid:\d+$", done.stdout, re.MULTILINE)
        assert "network   default: switch, guard mac, MTU 1500" in done.stdout
        assert f"device    shown ({port.mac.hex(':')}) 10.0.0.66" in done.stdout
        values = json.loads(pfinet_client("status", "--json", "--device", str(node)).stdout)
        (device,) = [each for each in values["devices"] if each["name"] == "shown"]
        assert (device["mac_address"], device["addresses"]) == (port.mac.hex(":"), ["10.0.0.66"])
        assert values["networks"][0]["mtu_bytes"] == 1500


def test_the_node_may_come_from_the_environment(node: Path) -> None:
    done = pfinet_client("status", environ={"MACHDEV_DEVICE": str(node)})
    assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["ping", "10.0.0.1"],
        ["ping", "--address", "10.0.0.1", "10.0.0.2"],
        ["ping", "--address", "10.0.0.1/33", "10.0.0.2"],
        ["ping", "--address", "10.0.0.1/24", "example.com"],
        ["ping", "--address", "10.0.0.1/24", "-c", "0", "10.0.0.2"],
        ["run", "--mtu", "10", "true"],
        ["run", "--transport", "pigeon", "true"],
        ["listen", "-c", "many"],
    ],
)
def test_a_usage_error_is_2_and_says_why(arguments: list[str]) -> None:
    done = pfinet_client(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("pfinet-client")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "ping", "arp", "respond", "listen", "status"])
def test_every_command_has_help_with_examples(command: str) -> None:
    done = pfinet_client(command, "--help")
    assert done.returncode == 0
    assert f"pfinet-client {command}" in done.stdout
    assert "examples:" in done.stdout


@pytest.mark.parametrize("command", [["ping", "--address", "10.0.0.1/24", "10.0.0.2"], ["listen"]])
def test_without_a_server_it_is_one_sentence(tmp_path: Path, command: list[str]) -> None:
    done = pfinet_client(*command, "--device", f"{tmp_path}/nobody")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"pfinet-client {command[0]}: no server at {tmp_path}/nobody: start one with .*\n",
        done.stderr,
    )


def test_the_version_is_the_packages() -> None:
    done = pfinet_client("--version")
    assert re.fullmatch(r"pfinet-client \d+\.\d+\.\d+\n", done.stdout)


def test_it_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pfinet_client", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("pfinet-client ")
