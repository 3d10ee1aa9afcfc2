"""TCP in flags and files: with the three files of TLS anywhere, without them on loopback only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hypervisor.config import ConfigError, FlagValues, TlsConfig, load_config, people
from hypervisor.config.kinds import BadValue

FILES = FlagValues(tls_cert="/c", tls_key="/k", tls_client_ca="/a")


def problems(flags: FlagValues, file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(file, flags)
    return [str(one) for one in caught.value.problems]


@pytest.mark.parametrize("endpoint", ["0.0.0.0:7331", "[::]:7331", "127.0.0.1:0", "localhost:1"])
def test_with_tls_one_may_listen_anywhere(endpoint: str) -> None:
    config = load_config(None, replace(FILES, listen=endpoint))
    assert config.tls == TlsConfig(Path("/c"), Path("/k"), Path("/a"))
    assert config.listen is not None


def test_a_file_says_it_too_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        'listen = "0.0.0.0:7331"\ntls_cert = "/x"\ntls_key = "/k"\ntls_client_ca = "/a"\n'
    )
    config = load_config(file, FlagValues(tls_cert="/c"))
    assert config.tls == TlsConfig(Path("/c"), Path("/k"), Path("/a"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            FlagValues(listen="127.0.0.1:1", tls_cert="/c"),
            "--tls-cert: TLS needs --tls-key and --tls-client-ca as well",
        ),
        (
            FlagValues(listen="127.0.0.1:1", tls_cert="/c", tls_key="/k"),
            "--tls-cert: TLS needs --tls-client-ca as well",
        ),
        (FILES, "--tls-cert: nothing listens on TCP; add --listen"),
        (
            replace(FILES, listen="127.0.0.1:1", insecure_loopback=True),
            "--insecure-loopback: a listener asks for certificates, or it lets everybody in",
        ),
        (replace(FILES, listen="224.0.0.1:1"), "is a multicast address"),
        (
            FlagValues(listen="127.0.0.1:1"),
            "or --tls-cert, --tls-key and --tls-client-ca (hypervisor certificates makes them)",
        ),
    ],
)
def test_half_of_it_is_explained(flags: FlagValues, expected: str) -> None:
    found = problems(flags)
    assert len(found) == 1
    assert expected in found[0]


def test_a_file_s_half_is_called_as_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('listen = "0.0.0.0:7331"\ntls_cert = "/x"\n')
    (found,) = problems(FlagValues(), file)
    assert f"{file}:2: TLS needs tls_key and tls_client_ca as well" in found


@pytest.mark.parametrize(
    "subject",
    [
        "CN=alice",
        r"CN=alice\,O\=Example",
        r"CN=\ alice\ ,O=Ex\, Inc",
        r"OU=a+CN=b,1.2.3=#0C03616263",
        r"CN=\C3\A9\"\<",
    ],
)
def test_a_subject_is_written_as_the_server_writes_it(subject: str) -> None:
    assert people.OWNER.read(f"cert:{subject}") == f"cert:{subject}"


@pytest.mark.parametrize(
    "subject",
    ["", "alice", "CN = alice", "C=DE, CN=alice", "CN=é", "CN=a\n", "CN= a", "CN=" + "a" * 254],
)
def test_another_way_to_write_it_would_never_match_and_is_refused(subject: str) -> None:
    with pytest.raises(BadValue, match="names no certificate's subject") as caught:
        people.OWNER.read(f"cert:{subject}")
    assert "openssl x509 -noout -subject -nameopt RFC2253" in caught.value.hint
