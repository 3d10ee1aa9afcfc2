"""The policy read again by a running server: by SIGHUP, by command, and not by everybody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import grpc
import pytest
from machdev.v1 import network_pb2

from tests.helpers.processes import ServerProcess, hypervisor, server
from tests.helpers.serve import talk
from tests.helpers.service import Client, begun, frame, refused, serving, watching

EXAMPLES = Path(__file__).parents[2] / "examples"
FOREIGN = bytes.fromhex("020000000001")
ME = os.geteuid()


def policy(**settings: str) -> str:
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    return f'[[network]]\nname = "lan"\n[[policy]]\nowner = {ME}\n{lines}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(policy(guard='"mac"'))
    return path


def reload(running: ServerProcess, *flags: str) -> tuple[int, str, str]:
    done = hypervisor("policy", "reload", "--device", str(running.node), *flags)
    return done.returncode, done.stdout, done.stderr


def write(file: Path, text: str | None) -> None:
    """Replace a file, or take it away."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


async def forging(client: Client, port: bytes) -> bool:
    """Tell whether a frame from somebody else's address gets past the guard."""
    answer = await client.write(port, frame(FOREIGN))
    return "source_mac" not in {drop.reason for drop in answer.drops}


def test_sighup_changes_an_open_device_and_what_it_waits_for_stays(
    tmp_path: Path, file: Path
) -> None:
    with server(tmp_path, "--config", str(file)) as running:

        async def conversation(client: Client) -> None:
            port = (await client.open("eth0")).port
            held = client.read(port)
            assert not await forging(client, port)
            events = await begun(watching(client))
            write(file, policy(guard='"off"'))
            running.process.send_signal(signal.SIGHUP)
            while (event := (await events.read()).event).kind != "policy-changed":
                pass
            assert (event.owner, event.device) == (f"uid:{ME}", "eth0")
            assert event.detail == "guard is off, was mac"
            assert await forging(client, port)
            assert not held.done()
            held.cancel()

        talk(running.node, conversation)
        assert "policy changed: lan: eth0 of" in running.said()
        assert running.stop() == 0


def test_the_command_says_what_changed_and_what_needs_a_restart(tmp_path: Path, file: Path) -> None:
    with server(tmp_path, "--config", str(file)) as running:
        assert reload(running) == (0, "in force; nothing that is open changed\n", "")

        async def conversation(client: Client) -> None:
            await client.open("eth0")
            write(
                file,
                policy(guard='"full"').replace("[[policy]]", "mtu = 9000\n[[policy]]")
                + '[[network]]\nname = "dmz"\n[[translator]]\npath = "/run/dmz"\nnetwork = "dmz"\n',
            )

        talk(running.node, conversation)
        assert reload(running)[0] == 2, "a node is not of one of two networks"
        file.write_text(
            f'log_format = "json"\n{policy(isolated="true")}'.replace(
                "[[policy]]", "mtu = 9000\n[[policy]]"
            )
        )
        status, out, err = reload(running, "--json")
        assert (status, err) == (0, "")
        assert json.loads(out) == {
            "applied": True,
            "changes": [],
            "unapplied": ['mtu of network "lan" changed', "the log's format changed"],
            "problems": [],
        }
        file.write_text(policy(isolated="true").replace('"lan"', '"lab"'))
        assert reload(running)[1].splitlines() == [
            "in force; nothing that is open changed",
            'not before a restart: network "lab" is new',
            'not before a restart: network "lan" is left out',
            "not before a restart: the nodes changed",
        ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[policy]]\nguard = "none"\n', 'policy.toml:2: guard: "none" is not one of full, mac'),
        ("[[policy]\n", "policy.toml:1: "),
        ('[[policy]]\nnode = "/nowhere"\ntrunk = true\n', 'policy.toml:2: there is no node "/now'),
        ('[[policy]]\nowner = "no-such-user"\ntrunk = true\n', "policy.toml:2: owner: there is no"),
        ("x" * (2**20 + 1), "policy.toml: is longer than 1048576 bytes"),
        (None, "policy.toml: cannot be read: No such file or directory"),
    ],
)
def test_a_bad_file_changes_nothing_and_says_why(
    tmp_path: Path, file: Path, text: str | None, words: str
) -> None:
    with server(tmp_path, "--config", str(file)) as running:

        async def conversation(client: Client) -> None:
            port = (await client.open("eth0")).port
            write(file, text)
            answer = await client.network.ReloadPolicy(network_pb2.ReloadPolicyRequest())
            assert (answer.applied, len(answer.problems)) == (False, 1)
            assert not await forging(client, port)

        talk(running.node, conversation)
        status, out, err = reload(running)
        assert (status, out) == (2, "")
        assert words in err.splitlines()[0]
        assert err.endswith("hypervisor: the policy is unchanged\n")
        assert "policy is unchanged: " in running.said()
        assert "Traceback" not in running.said()
        file.write_text(policy(trunk="true"))
        assert reload(running)[0] == 0, "a good file is taken after a bad one"
        assert running.stop() == 0


def test_many_sighups_are_survived_and_the_last_file_holds(tmp_path: Path, file: Path) -> None:
    with server(tmp_path, "--config", str(file)) as running:

        async def conversation(client: Client) -> None:
            port = (await client.open("eth0")).port
            for number in range(50):
                write(file, policy(guard=('"off"', '"mac"')[number % 2]))
                running.process.send_signal(signal.SIGHUP)
            write(file, policy(guard='"off"'))
            request = network_pb2.ReloadPolicyRequest()
            assert (await client.network.ReloadPolicy(request)).applied
            assert await forging(client, port)

        talk(running.node, conversation)
        assert running.stop() == 0


def test_without_a_file_there_is_nothing_to_read_again(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        running.process.send_signal(signal.SIGHUP)
        status, out, err = reload(running)
        assert (status, out) == (2, "")
        assert "started without --config: there is no file to read again" in err
        assert running.stop() == 0


def test_flags_win_over_the_file_that_is_read_again(tmp_path: Path, file: Path) -> None:
    file.write_text('guard = "off"\n')
    with server(tmp_path, "--config", str(file), "--guard", "mac") as running:

        async def conversation(client: Client) -> None:
            port = (await client.open("eth0")).port
            request = network_pb2.ReloadPolicyRequest()
            assert (await client.network.ReloadPolicy(request)).applied
            assert not await forging(client, port)

        talk(running.node, conversation)


def test_only_the_operator_may(open_path: Path, file: Path) -> None:
    node = f"{open_path}/open"
    with server(open_path, "--config", str(file), "--translator", f"{node},mode=0666") as it:
        done = hypervisor("policy", "reload", "--device", node, uid=1234)
        assert (done.returncode, done.stdout) == (1, "")
        assert "only the server's own user, and root, may" in done.stderr
        assert hypervisor("policy", "reload", "--device", node).returncode == 0
        assert it.stop() == 0
    done = hypervisor("policy", "reload", "--device", node)
    assert done.returncode == 1
    assert "there is no server at" in done.stderr


async def _refused_to_strangers(folder: Path) -> None:
    async with serving(folder) as it:
        client = await it.client()
        answer = await client.network.ReloadPolicy(network_pb2.ReloadPolicyRequest())
        assert list(answer.problems) == ["this server has no configuration file"]
        stranger = Client(f"unix:{it.private}/grpc")
        call = stranger.network.ReloadPolicy(network_pb2.ReloadPolicyRequest())
        assert await refused(call) is grpc.StatusCode.UNAUTHENTICATED
        await stranger.channel.close()


def test_who_comes_past_the_door_is_refused(open_path: Path) -> None:
    asyncio.run(_refused_to_strangers(open_path))


def test_the_example_is_served_and_isolates_all_but_a_group(open_path: Path) -> None:
    file, node = open_path / "policy.toml", open_path / "open"
    text = (EXAMPLES / "policy.toml").read_text()
    file.write_text(text.replace("/tmp/machdev-lab/open", str(node)))
    with server(open_path, "--config", str(file), "--translator", str(node)) as running:

        async def conversation(client: Client) -> None:
            a, b = await client.open("a"), await client.open("b")
            to_b = frame(a.mac_address, b.mac_address)
            answer = await client.write(a.port, to_b)
            reasons = {drop.reason for drop in answer.drops}
            write(file, file_text.replace("isolated = true", 'isolated = false\nguard = "mac"'))
            done = await client.network.ReloadPolicy(network_pb2.ReloadPolicyRequest())
            assert done.applied, done.problems
            after = await client.write(a.port, to_b)
            # Under the full guard that frame's EtherType is not allowed.
            assert reasons == {"ethertype"}
            assert not [drop for drop in after.drops if drop.reason != "no_receiver"]

        file_text = file.read_text()
        talk(node, conversation)
        assert running.stop() == 0
