"""`hypervisor serve --listen` with certificates as programs: made, served, used from afar."""

from __future__ import annotations

import json
import re
import shutil
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypervisor.errors import NoMemory
from pfinet_client.blocking import Client
from pfinet_client.errors import ServerUnavailable
from pfinet_client.target import named, parse_target
from pfinet_client.tls import TlsError, TlsFiles
from tests.helpers.pki import Pki
from tests.helpers.processes import ServerProcess, hypervisor, server
from tests.helpers.run_programs import pfinet_client, running
from tests.helpers.service import frame

_ENDPOINT = re.compile(r"TCP (\S+), open to whoever has a certificate")


@dataclass(frozen=True, slots=True)
class Remote:
    """A server over TCP, and who vouches for its clients."""

    process: ServerProcess
    pki: Pki
    target: str

    def flags(self, name: str) -> list[str]:
        """Return the flags with which the client called ``name`` reaches the server."""
        return ["--device", self.target, "--tls", str(self.pki.client(name).key.parent)]


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("remote")
    pki = Pki.make(folder / "pki")
    config = folder / "server.toml"
    config.write_text(
        'guard = "mac"\n'
        '[[policy]]\nowner = "cert:CN=bob"\ndevices = 1\n'
        '[[device]]\nowner = "cert:CN=left"\nname = "plug"\ntrunk = true\n'
        '[[device]]\nowner = "cert:CN=right"\nname = "plug"\ntrunk = true\n'
    )
    flags = ["--config", str(config), "--listen", "127.0.0.1:0", *pki.flags]
    with server(folder, *flags) as process:
        found = _ENDPOINT.search(process.said())
        assert found is not None
        yield Remote(process, pki, found[1])


# --- the programs -----------------------------------------------------------------------------


def test_status_says_who_one_is(remote: Remote) -> None:
    done = pfinet_client("status", *remote.flags("alice"))
    assert "you are   cert:CN=alice\n" in done.stdout, done.stderr
    done = pfinet_client("status", "--json", *remote.flags("alice"))
    assert json.loads(done.stdout)["owner"] == "cert:CN=alice"


def test_ping_respond_and_listen_work_from_afar(remote: Remote) -> None:
    with running("respond", *remote.flags("alice"), "--address", "10.9.0.9/24") as responder:
        assert responder.line().startswith("respond (")
        with running("listen", *remote.flags("alice"), "-c", "1", "--json", "icmp") as listener:
            with Client(remote.target, tls=remote.pki.client("alice")) as client:
                while not any(one.name == "listen" for one in client.network.devices()):
                    pass
            done = pfinet_client(
                "ping", *remote.flags("carol"), "-c", "2", "-i", "0.05", "--address",
                "10.9.0.8/24", "10.9.0.9",
            )  # fmt: skip
            assert " 0% packet loss" in done.stdout, done.stdout + done.stderr
            listener.send_signal(signal.SIGINT)
            listener.wait(60)
        responder.send_signal(signal.SIGINT)
        assert re.fullmatch(r"[23] answers", responder.line())  # to the ARP request too


def test_a_stack_of_one_s_own_far_away(remote: Remote) -> None:
    """`run` cannot lend its TAP over TCP: it carries the frames itself."""
    with running("respond", *remote.flags("dave"), "--address", "10.9.1.9/24") as responder:
        assert responder.line().startswith("respond (")
        done = pfinet_client(
            "run", *remote.flags("erin"), "--address", "10.9.1.8/24", "--",
            "ping", "-q", "-c", "3", "-i", "0.1", "-W", "5", "10.9.1.9",
        )  # fmt: skip
        assert "3 received, 0% packet loss" in done.stdout, done.stdout + done.stderr
    done = pfinet_client(
        "run", "--transport", "tap", *remote.flags("erin"), "--address", "10.9.1.8/24", "--", "true"
    )
    assert done.returncode == 125
    assert "a TAP can only be lent over a translator node: use --transport grpc" in done.stderr


def test_events_show_one_s_own(remote: Remote) -> None:
    for name in ("frank", "grace"):
        with Client(remote.target, tls=remote.pki.client(name)) as client, client.open() as port:
            port.write(frame(b"\2forge"))
    done = pfinet_client("events", "--reason", "source_mac", *remote.flags("grace"))
    (line,) = done.stdout.splitlines()
    assert " discard cert:CN=grace eth source_mac: 02:66:6f:72:67:65 > " in line
    done = pfinet_client("events", "-n", "1000", "--json", *remote.flags("grace"))
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["owner"] for event in seen} == {"cert:CN=grace"}
    assert {event["kind"] for event in seen} >= {"device-opened", "discard", "device-closed"}
    with running("events", "-f", "-n", "1", *remote.flags("grace")) as follower:
        assert " cert:CN=grace" in follower.line()
        with Client(remote.target, tls=remote.pki.client("grace")) as client:
            client.open("eth7").close()
        while " eth7 " not in follower.line():
            pass
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 0


def test_a_policy_may_name_a_certificate(remote: Remote) -> None:
    with (
        Client(remote.target, tls=remote.pki.client("bob")) as bob,
        bob.open("eth0"),
        pytest.raises(NoMemory),
    ):
        bob.open("eth1")


def test_the_environment_names_the_folder(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHDEV_TLS", str(remote.pki.client("alice").key.parent))
    for target in (remote.target, f"machdev+tls://{remote.target}"):
        with Client(target) as client:
            assert client.wrapped.owner == "cert:CN=alice"


# --- what does not work is said -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("expired", "which expired at 20"),
        ("foreign", "it may be of another CA than the server's --tls-client-ca"),
        ("distrusting", "its certificate is not trusted by"),
        ("nobody", "it speaks TLS and wants to see a certificate: name yours with --tls"),
        ("elsewhere", "its certificate is for another name than example.org"),
    ],
)
def test_a_client_is_told_what_is_wrong(
    remote: Remote, tmp_path: Path, who: str, words: str
) -> None:
    pki = remote.pki
    flags = ["--device", remote.target]
    if who == "expired":
        flags += ["--tls", str(pki.odd_client("/CN=alice", days=-1).key.parent)]
    elif who == "foreign":
        other = Pki.make(tmp_path / "other")
        flags += ["--tls", str(pki.odd_client("/CN=alice", signer=other).key.parent)]
    elif who == "distrusting":
        other = Pki.make(tmp_path / "other")
        flags += ["--tls", str(other.client("alice").key.parent)]
    elif who == "elsewhere":
        flags = [*remote.flags("alice"), "--tls-server-name", "example.org"]
    done = pfinet_client("status", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pfinet-client status: no connection to {remote.target}: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "refused a TLS connection from 127.0.0.1:" in remote.process.said()


@pytest.mark.parametrize("damage", ["no key", "no folder", "open key", "not its key", "no PEM"])
def test_files_of_no_use_are_told_from_the_server_s_faults(
    remote: Remote, tmp_path: Path, damage: str
) -> None:
    home = tmp_path / "mine"
    shutil.copytree(remote.pki.client("alice").key.parent, home)
    words = {
        "no key": "your key, ",
        "no folder": "is not there: ask who runs the server for a certificate",
        "open key": "is open to others (mode 0644): whoever reads it is you; close it with chmod",
        "not its key": "is not the one of the certificate",
        "no PEM": "holds no certificate in PEM",
    }[damage]
    if damage == "no key":
        (home / "key.pem").unlink()
    elif damage == "no folder":
        shutil.rmtree(home)
    elif damage == "open key":
        (home / "key.pem").chmod(0o644)
    elif damage == "not its key":
        shutil.copy(remote.pki.client("bob").key, home / "key.pem")
    else:
        (home / "cert.pem").write_text("no")
    with pytest.raises(TlsError, match=re.escape(words)):
        Client(remote.target, tls=TlsFiles.in_folder(home)).connect()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--device", "/tmp/x", "--tls", "y"], "the kernel says who you are: TLS is for HOST:PORT"),
        (["--device", "h:1", "--tls-ca", "y"], "or --tls-ca, --tls-cert and --tls-key"),
        (["--device", "nonsense", "--tls", "y"], "is neither the path of a translator node"),
    ],
)
def test_contradictions_are_mistakes_of_the_command_line(flags: list[str], words: str) -> None:
    done = pfinet_client("status", *flags)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_target_that_says_tls_is_never_reached_without() -> None:
    with pytest.raises(ValueError, match="needs your certificate"):
        parse_target("machdev+tls://[::1]:7331", {})
    files = TlsFiles.in_folder("/x")
    target = named("machdev+tls://[::1]:7331", files)
    assert (target.name, target.tls, target.endpoint) == ("[::1]:7331", files, ("::1", 7331))
    assert parse_target("h:1", {"MACHDEV_TLS": "/x"}).tls == files
    assert parse_target("/run/veth0", {"MACHDEV_TLS": "/x"}).tls is None


@pytest.mark.parametrize("host", ["server.example", "192.0.2.1", "[2001:db8::1]", "10.0.2.2"])
def test_another_machine_is_not_spoken_to_in_clear(host: str) -> None:
    with pytest.raises(TlsError, match="is not on this machine, and is not reached without TLS"):
        Client(f"{host}:7331").connect()


def test_nobody_at_the_port_is_no_matter_of_certificates(remote: Remote) -> None:
    with pytest.raises(ServerUnavailable, match=r"no server at 127\.0\.0\.1:1:"):
        Client("127.0.0.1:1", tls=remote.pki.client("alice")).connect()


# --- serving ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no key", "server-key.pem, is not there"),
        ("open key", "is open to others (mode 0644): close it with chmod 600"),
        ("not its key", "is not the one of the certificate"),
    ],
)
def test_a_server_with_bad_files_does_not_start(tmp_path: Path, damage: str, words: str) -> None:
    pki = Pki.make(tmp_path / "pki")
    if damage == "no key":
        pki.server.key.unlink()
    elif damage == "open key":
        pki.server.key.chmod(0o644)
    else:
        shutil.copy(pki.folder / "ca-key.pem", pki.server.key)
    done = hypervisor(
        "serve", "--listen", "127.0.0.1:0", *pki.flags, "--translator", str(tmp_path / "veth0"),
        "--state", str(tmp_path / "state"),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("hypervisor: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "veth0").exists()
    assert not (tmp_path / "state").exists()


def test_certificates_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    done = hypervisor("certificates", "server", str(folder), "--host", "localhost")
    assert done.returncode == 0, done.stderr
    assert f"--tls-client-ca {folder / 'ca.pem'}" in done.stdout
    done = hypervisor("certificates", "client", str(folder), "alice")
    assert "owner cert:CN=alice" in done.stdout
    for path in (folder, folder / "ca-key.pem", folder / "server-key.pem", folder / "alice"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    before = (folder / "alice" / "key.pem").read_bytes()
    for again in (["server", str(folder)], ["client", str(folder), "alice"]):
        done = hypervisor("certificates", *again)
        assert done.returncode == 1
        assert "is there already: move it away to have a new one" in done.stderr
    assert (folder / "alice" / "key.pem").read_bytes() == before
    assert not list(folder.glob(".new-*"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["client", ".", "a/b"], "is no name for a client"),
        (["client", ".", "-x"], "the following arguments are required: NAME"),
        (["client", "empty", "alice"], "there is no CA in empty"),
        (["server", "ca", "--host", "a b"], "is no host name and no address"),
        (["server", "ca", "--host", "x,DNS:y"], "is no host name and no address"),
        (["server", "ca", "--days", "0"], "is not a number of days"),
        (["server", "/dev/null/x"], "cannot make the folder"),
        (["server", "open"], "others may write in open"),
    ],
)
def test_what_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("open").mkdir()
    Path("open").chmod(0o777)
    done = hypervisor("certificates", *words)
    assert done.returncode in (1, 2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
