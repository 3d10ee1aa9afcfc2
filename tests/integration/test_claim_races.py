"""Races for addresses, from the attacker's side: real users, real sockets, a real neighbour.

Whoever races a victim for its address, the gateway's, a neighbour's on the wire, or an absent
owner's lease gets none.
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hypervisor.kernel.process import become
from tests.helpers.kernel_objects import a_fresh_uid, as_uid
from tests.helpers.nics import FAR, two_places, uplink_server
from tests.helpers.processes import forked, server

pytestmark = pytest.mark.slow

CLAIMANTS = 20
_RECORD_BYTES = 512


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="machdev-races-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture(scope="module")
def client() -> Callable[[str], Any]:
    """Return what connects; imported before users are forked, who may not read where it lies."""
    made: Callable[[str], Any] = importlib.import_module("pfinet_client.blocking").Client
    return made


def outcome(port: Any, address: str) -> str:
    """Claim an address, and return it, or why not."""
    try:
        return str(port.claim(address).address)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def attempts(client: Any, node: Path, uid: int, *addresses: str) -> dict[str, str]:
    """Let a user try to get each of some addresses, and then go away."""

    def act() -> dict[str, str]:
        with client(os.fspath(node)) as mine, mine.open("eth0") as port:
            return {address: outcome(port, address) for address in addresses}

    return as_uid(uid, act)


def test_of_twenty_users_who_claim_one_address_at_once_exactly_one_gets_it(
    folder: Path, client: Any
) -> None:
    node = folder / "veth0"
    go, starter = os.pipe()
    answers, teller = os.pipe()

    def tell(word: str) -> None:
        os.write(teller, pickle.dumps(word).ljust(_RECORD_BYTES))

    def claimant(uid: int) -> Callable[[], None]:
        def act() -> None:
            os.close(starter)
            become(uid, uid)
            with client(os.fspath(node)) as mine, mine.open("eth0") as port:
                tell("ready")
                os.read(go, 1)
                tell(outcome(port, "10.0.0.7"))
                signal.pause()

        return act

    with server(folder, "--translator", f"{node},mode=0666"), ExitStack() as stack:
        for _ in range(CLAIMANTS):
            stack.enter_context(forked(claimant(a_fresh_uid()), wait=False))
        with os.fdopen(answers, "rb") as reader:
            said = [pickle.loads(reader.read(_RECORD_BYTES)) for _ in range(CLAIMANTS)]
            assert said == ["ready"] * CLAIMANTS
            os.close(starter)
            said = [pickle.loads(reader.read(_RECORD_BYTES)) for _ in range(CLAIMANTS)]
    os.close(teller)
    os.close(go)
    assert said.count("10.0.0.7") == 1, said
    assert sum(each.startswith("AlreadyOpen") for each in said) == CLAIMANTS - 1, said


def test_an_attacker_gets_neither_his_victims_address_nor_the_gateways_nor_an_absent_owners(
    folder: Path, client: Any
) -> None:
    (folder / "config.toml").write_text(
        '[[device]]\nowner = "root"\nname = "gw"\naddresses = ["10.0.0.1", "fd00::1"]\n'
    )
    flags = [*("--config", str(folder / "config.toml"))]
    flags += ["--translator", f"{folder / 'veth0'},mode=0666"]
    victim, attacker = a_fresh_uid(), a_fresh_uid()
    own, gateways = ("10.0.0.7", "fd00::7"), ("10.0.0.1", "fd00::1")

    def hold() -> Any:
        become(victim, victim)
        mine = client(os.fspath(folder / "veth0"))
        mine.connect()
        port = mine.open("eth0")
        assert [outcome(port, address) for address in own] == list(own)
        return mine, port

    with server(folder, *flags) as process:
        with forked(hold):
            tried = attempts(client, process.node, attacker, *own, *gateways)
            assert all("another owner's" in tried[address] for address in own), tried
            assert all("assigned to another" in tried[address] for address in gateways), tried
        tried = attempts(client, process.node, attacker, *own)
        assert all("another owner's" in each for each in tried.values()), "its owner is away"
        process.stop(signal.SIGKILL)
    with server(folder, *flags) as process:
        tried = attempts(client, process.node, attacker, *own)
        assert all("another owner's" in each for each in tried.values()), "after a restart"
        assert list(attempts(client, process.node, victim, *own).values()) == list(own)


def test_a_silent_neighbour_on_the_wire_is_asked_and_keeps_his_address(
    folder: Path, client: Any
) -> None:
    attacker = a_fresh_uid()
    with two_places() as (near, far):
        far.script(f"ip addr add 10.9.0.2/24 dev {FAR}\nip addr add fd09::2/64 dev {FAR} nodad")
        mac = far.run("ip", "-br", "link", "show", "dev", FAR).split()[2]
        node = folder / "everybody"
        with uplink_server(near, folder, "--translator", f"{node},mode=0666") as process:
            process.says("plug a network stack in")
            tried = attempts(client, node, attacker, "10.9.0.2", "fd09::2", "10.9.0.7")
    for address in ("10.9.0.2", "fd09::2"):
        assert f"address {address} is in use behind uplink" in tried[address], tried
        assert f"by {mac}" in tried[address], tried
    assert tried["10.9.0.7"] == "10.9.0.7", "what is nobody's can be had"
