"""TCP with mutual TLS on a real server: who gets in, as whom, and what everybody else gets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from machdev.v1 import network_pb2

from hypervisor.config.model import TlsConfig
from hypervisor.errors import InvalidDest, NoMemory
from hypervisor.mach.policy import DEVICES_PER_OWNER
from hypervisor.service.certificates import ServerCertificates
from hypervisor.service.front_door import HTTP2_PREFACE, DoorLimits
from hypervisor.service.identity import NOBODY, certified
from hypervisor.service.lending import MAGIC
from hypervisor.service.server import ServiceLimits
from hypervisor.service.status import Stranger
from hypervisor.service.strangers import StrangerLimits
from hypervisor.service.visitor import Newcomer
from hypervisor.wire.x509 import parse_validity
from pfinet_client.tls import TlsFiles
from tests.helpers.loops import on_both_loops, on_uvloop
from tests.helpers.pki import Pki, credentials, openssl
from tests.helpers.service import (
    Client,
    Served,
    begun,
    frame,
    refused,
    refused_with,
    serving,
    until,
    watching,
)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki") / "theirs")


def door(**limits: Any) -> ServiceLimits:
    return ServiceLimits(door=DoorLimits(**limits))


def raw(served: Served) -> socket.socket:
    """Return a TCP connection that says nothing yet."""
    host, _, port = served.tcp.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setblocking(False)
    return sock


async def leave(client: Client) -> None:
    """End a client's connection: gRPC closes it when nothing speaks of it any more."""
    await client.channel.close()
    client.stream = None


async def ended(sock: socket.socket) -> bytes:
    """Return what comes until the other side ends the connection."""
    loop = asyncio.get_running_loop()
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := await asyncio.wait_for(loop.sock_recv(sock, 65536), 30):
            parts.append(part)
    return b"".join(parts)


def tls_of(files: TlsFiles) -> ssl.SSLContext:
    """Return Python's TLS for a client."""
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    return context


# --- who gets in ------------------------------------------------------------------------------


@on_both_loops
async def test_a_certificate_is_an_owner_and_works_like_any(tmp_path: Path, pki: Pki) -> None:
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        alice, near = await it.remote(credentials(pki.client("alice"))), await it.client()
        attached = await alice.attach()
        assert (attached.owner, attached.network) == ("cert:CN=alice", "net0")
        await near.attach()
        here, there = await alice.open("eth0"), await near.open("eth0")
        assert here.mac_address != there.mac_address
        reading = near.read(there.port)
        sent = frame(here.mac_address, there.mac_address)
        await alice.write(here.port, sent)
        assert (await reading).data == sent
        reading = alice.read(here.port)
        await near.write(there.port, frame(there.mac_address, here.mac_address))
        assert (await reading).data == frame(there.mac_address, here.mac_address)


@on_both_loops
async def test_the_end_of_its_connection_is_the_end_of_its_tasks(tmp_path: Path, pki: Pki) -> None:
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        near = await it.client()
        events = await begun(watching(near))
        alice = await it.remote(credentials(pki.client("alice")))
        await alice.attach()
        opened = await alice.open("eth0")
        held = [alice.read(opened.port) for _ in range(10)]

        async def is_there() -> bool:
            census = await near.census()
            return (census.devices, census.held_reads) == (1, 10)

        while not await is_there():
            pass
        await leave(alice)

        async def is_gone() -> bool:
            return (await near.census()).tasks == 0

        await until(is_gone, events)
        await it.clean(near)
        assert all(one.done() for one in held)


@pytest.mark.parametrize(
    "kind", ["none", "another CA", "expired", "a server's", "in clear", "self-signed"]
)
def test_nobody_else_gets_in(
    tmp_path: Path, pki: Pki, foreign: Pki, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    if kind == "none":
        shown: grpc.ChannelCredentials | None = credentials(None, pki.server.client_ca)
    elif kind == "another CA":
        shown = credentials(pki.odd_client("/CN=alice", signer=foreign))
    elif kind == "expired":
        shown = credentials(pki.odd_client("/CN=alice", days=-1))
    elif kind == "a server's":
        shown = credentials(TlsFiles(*(getattr(pki.server, one) for one in _SERVERS)))
    elif kind == "self-signed":
        home = tmp_path / "self"
        home.mkdir()
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", home / "key.pem", "-out", home / "cert.pem", "-subj", "/CN=alice",
        )  # fmt: skip
        shutil.copy(pki.server.client_ca, home / "ca.pem")
        shown = credentials(TlsFiles.in_folder(home))
    else:
        shown = None

    async def trying() -> None:
        async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
            client = await it.remote(shown)
            for call in (client.attach(), client.census(), client.open("eth0")):
                assert await refused(call) is grpc.StatusCode.UNAVAILABLE
            near = await it.client()
            await it.clean(near)
            assert len(it.server.peers) == 1  # the near one

    asyncio.run(trying())
    lines = [one for one in caplog.messages if one.startswith("refused a TLS connection from")]
    assert lines, caplog.messages
    why = "what it said is not TLS" if kind == "in clear" else "its certificate was not accepted"
    assert all(f": {why}" in line and " 127.0.0.1:" in line for line in lines), lines


_SERVERS = ("client_ca", "certificate", "key")


@on_uvloop
async def test_every_service_asks_who_is_there(tmp_path: Path, pki: Pki) -> None:
    """Health too: it is how somebody could stay without being anybody."""
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        nameless = await it.remote(credentials(pki.odd_client("/", extensions=SAN)))
        stub = health_pb2_grpc.HealthStub(nameless.channel)
        for call in (
            stub.Check(health_pb2.HealthCheckRequest()),
            nameless.census(),
            nameless.open("eth0"),
            nameless.port_call("PortAllocate"),
            nameless.attach(),
            watching(nameless).read(),
        ):
            assert await refused(call) is grpc.StatusCode.UNAUTHENTICATED


SAN = "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:alice\n"


# --- as whom ----------------------------------------------------------------------------------

#: Subjects that try to be somebody else's name, or to hide what they are.
IMITATIONS = [
    "/CN=alice,O=Example",
    "/CN=alice/O=Example",
    "/O=Example/CN=alice",
    "/CN=alice+O=Example",
    "/CN=uid:0",
    "/CN=cert:CN=alice",
    "/CN= alice ",
    "/CN=#616c696365",
    "/CN=alice\\\\,O=Example",
    "/CN=аlice",  # noqa: RUF001 - the first letter is Cyrillic
    "/CN=alice\u202e",
    "/CN=alice\x1b[2J",
    "/CN=alice\n",
    "/CN=Alice",
    '/CN="alice"',
    "/OU=alice",
    "/DC=alice",
    "/emailAddress=alice@example.org",
    "/CN=alice/CN=alice",
]


@on_uvloop
async def test_nobody_passes_for_somebody_else_by_his_subject(tmp_path: Path, pki: Pki) -> None:
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        owners = {"cert:CN=alice"}
        for subject in IMITATIONS:
            files = pki.odd_client(subject)
            client = await it.remote(credentials(files))
            owner = (await client.attach()).owner
            said = openssl(
                "x509", "-in", files.certificate, "-noout", "-subject", "-nameopt", "RFC2253"
            )
            assert owner == f"cert:{said.removesuffix(chr(10)).removeprefix('subject=')}"
            assert owner not in owners
            assert owner.isascii()
            assert owner.isprintable()
            owners.add(owner)


@on_uvloop
async def test_one_owner_s_ports_tasks_and_devices_are_nobody_else_s(
    tmp_path: Path, pki: Pki
) -> None:
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        alice = await it.remote(credentials(pki.client("alice")))
        mallory = await it.remote(credentials(pki.odd_client("/CN=uid:0")))
        token = (await alice.attach()).token
        opened = await alice.open("eth0")
        await mallory.attach()
        await refused_with(mallory.write(opened.port, frame(opened.mac_address)), InvalidDest)
        own, mallory.metadata = mallory.metadata, (("machdev-task", token),)
        await refused_with(mallory.write(opened.port, frame(opened.mac_address)), InvalidDest)
        mallory.metadata = own
        seen = await mallory.network.ListDevices(network_pb2.ListDevicesRequest())
        assert not seen.devices  # "uid:0" in a certificate is no operator
        theirs = await mallory.open("eth0")
        answer = await mallory.write(theirs.port, frame(opened.mac_address))
        assert [drop.reason for drop in answer.drops] == ["source_mac"]


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({}, "not protected by TLS"),
        ({"transport_security_type": [b"local"], "x509_subject": [b"CN=a"]}, "not protected"),
        ({"transport_security_type": [b"ssl"]}, "has no subject"),
        ({"transport_security_type": [b"ssl"], "x509_subject": [b""]}, "has no subject"),
        ({"transport_security_type": [b"ssl"], "x509_subject": [b"a", b"b"]}, "has no subject"),
        (
            {"transport_security_type": [b"ssl"], "x509_subject": [b"CN=" + b"a" * 254]},
            "has 257 bytes",
        ),
        ({"transport_security_type": [b"ssl"], "x509_subject": [b"CN=a"]}, "cannot be read"),
        (
            {
                "transport_security_type": [b"ssl"],
                "x509_subject": [b"CN=\xff"],
                "x509_pem_cert": [b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"],
            },
            "cannot be read",
        ),
    ],
)
def test_what_grpc_does_not_vouch_for_is_nobody(properties: dict[str, Any], why: str) -> None:
    with pytest.raises(Stranger, match=why):
        certified(properties, time.time())
    assert not NOBODY.operator


@on_uvloop
async def test_a_certificate_ends_its_connections(tmp_path: Path, pki: Pki) -> None:
    files = pki.client("alice")
    der = ssl.PEM_cert_to_DER_cert(files.certificate.read_text())
    began_s = time.monotonic()

    def wall() -> float:
        """Begin two seconds before the certificate ends."""
        return parse_validity(der).not_after_s - 1 + time.monotonic() - began_s

    async with serving(tmp_path, certificates=ServerCertificates(pki.server), wall=wall) as it:
        near = await it.client()
        alice = await it.remote(credentials(files))
        await alice.attach()
        with pytest.raises(aio.AioRpcError):
            await asyncio.wait_for(alice.stream.read(), 30)
        await it.clean(near)
        again = await it.remote(credentials(files))
        with pytest.raises(aio.AioRpcError) as caught:
            await again.attach()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "your certificate expired at" in (caught.value.details() or "")


# --- how many, and for how long -----------------------------------------------------------------


@on_uvloop
async def test_an_owner_by_certificate_has_an_owner_s_quota(tmp_path: Path, pki: Pki) -> None:
    alice, bob = (credentials(pki.client(name)) for name in ("alice", "bob"))
    async with serving(
        tmp_path, certificates=ServerCertificates(pki.server), limits=door(per_owner=2)
    ) as it:
        clients = [await it.remote(alice) for _ in range(3)]
        for client in clients[:2]:
            await client.attach()
        words = await refused_with(clients[2].attach(), NoMemory)
        assert "cert:CN=alice: the owner has its 2 connections" in words
        await (await it.remote(bob)).attach()
        await (await it.client()).attach()
        await leave(clients[0])
        while True:  # until the door has seen the end of it
            try:
                await clients[2].attach()
                break
            except aio.AioRpcError:
                continue


@on_uvloop
async def test_opens_and_devices_count_for_the_owner_on_all_his_connections(
    tmp_path: Path, pki: Pki
) -> None:
    shown = credentials(pki.client("alice"))
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        here, there = await it.remote(shown), await it.remote(shown)
        await here.attach()
        await there.attach()
        for number in range(DEVICES_PER_OWNER):
            await (here, there)[number % 2].open(f"eth{number}")
        await refused_with(here.open("eth64"), NoMemory)
        await refused_with(there.open("eth64"), NoMemory)
        bob = await it.remote(credentials(pki.client("bob")))
        await bob.attach()
        await bob.open("eth0")


@on_uvloop
async def test_who_comes_and_goes_all_the_time_does_not_fill_the_log(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shown = credentials(pki.client("alice"))
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        for _ in range(40):
            alice = await it.remote(shown)
            await alice.census()
            await leave(alice)
    lines = [one for one in caplog.messages if one.startswith("cert:CN=alice came from 127.0.0.1:")]
    assert 20 <= len(lines) < 40


@pytest.mark.parametrize("how", ["silent", "half a record", "dribbling", "shaken hands"])
def test_who_dawdles_is_put_out(
    tmp_path: Path, pki: Pki, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def dawdling() -> None:
        async with serving(
            tmp_path, certificates=ServerCertificates(pki.server), limits=door(silence_s=0.3)
        ) as it:
            sock = raw(it)
            loop = asyncio.get_running_loop()
            if how == "shaken hands":
                reader, writer = await asyncio.open_connection(
                    sock=sock, ssl=tls_of(pki.client("alice")), server_hostname="localhost"
                )
                writer.write(HTTP2_PREFACE)
                with contextlib.suppress(ConnectionResetError):
                    assert len(await asyncio.wait_for(reader.read(), 30)) < 1_000
                writer.close()
            elif how == "dribbling":
                # A ClientHello that never ends: each byte of it is new, the patience is not.
                await loop.sock_sendall(sock, b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")
                with contextlib.suppress(ConnectionError):
                    while not await nothing_more(sock):
                        await loop.sock_sendall(sock, b"\0")
            else:
                if how == "half a record":
                    await loop.sock_sendall(sock, b"\x16\x03\x01\x02\x00")
                assert await ended(sock) == b""
            sock.close()
            near = await it.client()
            await near.attach()
            await alice_gets_in(it, pki)

    asyncio.run(dawdling())
    assert "made no call in time" in caplog.text


async def nothing_more(sock: socket.socket) -> bool:
    """Tell whether the other side has ended the connection, waiting a moment for it."""
    try:
        return not await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 0.02)
    except TimeoutError:
        return False


async def alice_gets_in(it: Served, pki: Pki) -> None:
    alice = await it.remote(credentials(pki.client("alice")))
    assert (await alice.attach()).owner == "cert:CN=alice"
    await leave(alice)


@on_uvloop
async def test_a_crowd_at_the_door_keeps_nobody_out(tmp_path: Path, pki: Pki) -> None:
    limits = door(strangers=StrangerLimits(total=64, per_address=16, burst=10_000))
    async with serving(tmp_path, certificates=ServerCertificates(pki.server), limits=limits) as it:
        near = await it.client()
        await near.attach()
        crowd = []
        for number in range(200):
            crowd.append(raw(it))
            if number % 2:
                await asyncio.get_running_loop().sock_sendall(crowd[-1], b"\x16\x03\x01\x02\x00")
        await alice_gets_in(it, pki)
        assert (await near.open("eth0")).port
        # All but the last few have been put out, oldest first; they need only look.
        assert [await ended(one) for one in crowd[:150]] == [b""] * 150
        for one in crowd:
            one.close()


@on_uvloop
async def test_an_address_that_knocks_too_often_is_not_heard(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    limits = door(strangers=StrangerLimits(per_address_per_s=1, burst=5))
    async with serving(tmp_path, certificates=ServerCertificates(pki.server), limits=limits) as it:
        crowd = [raw(it) for _ in range(100)]
        near = await it.client()
        await near.attach()
        for one in crowd[5:90]:
            assert await ended(one) == b""
        for one in crowd:
            one.close()
    lines = [one for one in caplog.messages if "refused a TLS connection" in one]
    assert 0 < len(lines) < 50  # and not a hundred
    assert any("its address comes too often" in line for line in lines)


@on_uvloop
async def test_a_lending_message_is_not_even_read_over_tcp(tmp_path: Path, pki: Pki) -> None:
    """A lending message is for nodes: over TCP it is not even read."""
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        sock = raw(it)
        await asyncio.get_running_loop().sock_sendall(sock, MAGIC + b"\0" * 16)
        assert await ended(sock) == b""
        sock.close()


@on_uvloop
async def test_the_kernel_asks_after_a_peer_that_says_nothing(tmp_path: Path, pki: Pki) -> None:
    """So that a host that vanished without a word is missed within a minute."""
    async with serving(tmp_path, certificates=ServerCertificates(pki.server)) as it:
        alice = await it.remote(credentials(pki.client("alice")))
        await alice.attach()
        timers = []
        while KEEPALIVE_TIMER not in timers:  # another one runs while something is unacknowledged
            timers = timers_of(int(it.tcp.rpartition(":")[2]))
        assert it.server._door is not None
        (sock,) = [one._socket for one in it.server._door._visitors if isinstance(one, Newcomer)]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        asked_s = sum(
            sock.getsockopt(socket.IPPROTO_TCP, option) * times
            for option, times in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 3))
        )
        assert asked_s <= 60


#: How /proc/net/tcp writes a keepalive timer (proc(5)).
KEEPALIVE_TIMER = "02"


def timers_of(port: int) -> list[str]:
    """Return the running timers of the accepted connections at a local port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        row[5].partition(":")[0]
        for row in rows
        if row[1].endswith(f":{port:04X}") and row[3] == "01"
    ]


# --- files that change ------------------------------------------------------------------------


@on_uvloop
async def test_new_files_count_from_the_next_connection_on(
    tmp_path: Path, pki: Pki, foreign: Pki
) -> None:
    home = tmp_path / "tls"
    home.mkdir()
    files = TlsConfig(*(home / one for one in ("cert", "key", "ca")))
    install(pki, files, client_ca=pki)
    used = ServerCertificates(files)
    (tmp_path / "nodes").mkdir()
    async with serving(tmp_path / "nodes", certificates=used) as it:
        alice = await it.remote(credentials(pki.client("alice")))
        await alice.attach()
        # Another certificate for the server: who is inside stays, who trusts the old one does not
        # come in anew.
        install(foreign, files, client_ca=pki)
        assert used.look() is False
        assert (await alice.open("eth0")).port
        again = await it.remote(credentials(pki.client("alice")))
        assert await refused(again.attach()) is grpc.StatusCode.UNAVAILABLE
        # Other CAs: everybody comes again, and it is seen who still may.
        install(foreign, files, client_ca=foreign)
        async with used.followed(it.server.end_remote, pause_s=0.01):
            with pytest.raises(aio.AioRpcError):
                await asyncio.wait_for(alice.stream.read(), 30)
        await it.clean(await it.client())
        both = replace(pki.client("alice"), ca=foreign.server.client_ca)
        assert await refused((await it.remote(credentials(both))).attach()) is UNAVAILABLE
        theirs = await it.remote(credentials(foreign.client("alice")))
        assert (await theirs.attach()).owner == "cert:CN=alice"


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def install(server: Pki, files: TlsConfig, client_ca: Pki) -> None:
    """Put files in their place, whole, as a renewing program does."""
    for source, path in (
        (server.server.certificate, files.certificate),
        (server.server.key, files.key),
        (client_ca.server.client_ca, files.client_ca),
    ):
        aside = path.with_suffix(".new")
        shutil.copy(source, aside)
        os.replace(aside, path)
