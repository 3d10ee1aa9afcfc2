"""Targets, vectors, status words and the back-off: the client's pure parts."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfinet_client
from pfinet_client.reopen import Backoff
from pfinet_client.target import default_device, parse_target
from pfinet_client.values import address_of_words, split_vector, text_of_mac

# --- targets ----------------------------------------------------------------------------------


def test_a_path_is_a_node_and_a_pair_is_tcp() -> None:
    node = parse_target("/run/user/1000/veth0")
    assert (node.path, node.grpc_name) == ("/run/user/1000/veth0", "unix:/run/user/1000/veth0")
    remote = parse_target("server.example:7000")
    assert (remote.path, remote.grpc_name) == (None, "dns:///server.example:7000")
    assert parse_target("unix:/run/veth0").path == "/run/veth0"
    assert parse_target("[::1]:7000").grpc_name == "dns:///[::1]:7000"


def test_a_relative_path_means_this_folder_at_this_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_target("./veth0").path == str(tmp_path / "veth0")


@pytest.mark.parametrize("text", ["veth0", "host:", "host:0", "host:65536", ":7000", "host:http"])
def test_what_is_neither_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="neither the path of a translator node"):
        parse_target(text)


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    assert parse_target("/" + "a" * 106).path
    with pytest.raises(ValueError, match="107 bytes"):
        parse_target("/" + "a" * 107)


def test_the_default_is_the_first_node_there_is(tmp_path: Path) -> None:
    assert default_device({"MACHDEV_DEVICE": "host:1"}, 1) == "host:1"
    node = tmp_path / "veth0"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(node))
        found = default_device({"XDG_RUNTIME_DIR": str(tmp_path)}, os.getuid())
    assert found == str(node)


def test_without_any_node_the_default_is_where_a_server_would_publish(tmp_path: Path) -> None:
    assert default_device({"XDG_RUNTIME_DIR": str(tmp_path)}, os.getuid()) == f"{tmp_path}/veth0"
    assert default_device({}, 54321) == "/tmp/machdev-54321/veth0"


def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    if os.getuid() == 0:
        os.chown(tmp_path, 12345, -1)
    other = os.getuid() + 1
    found = default_device({"XDG_RUNTIME_DIR": str(tmp_path)}, other)
    assert found == f"/tmp/machdev-{other}/veth0"


# --- vectors and words ------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=20), max_size=60),
    st.integers(1, 10),
    st.integers(1, 50),
)
def test_parts_keep_order_and_limits(frames: list[bytes], most: int, most_bytes: int) -> None:
    parts = list(split_vector(frames, most, most_bytes))
    assert list(itertools.chain.from_iterable(parts)) == frames
    for part in parts:
        assert 1 <= len(part) <= most
        assert sum(map(len, part)) <= most_bytes or len(part) == 1


@given(
    st.lists(st.binary(max_size=20), max_size=60),
    st.integers(1, 10),
    st.integers(1, 50),
)
def test_no_two_neighbouring_parts_would_have_fitted_in_one(
    frames: list[bytes], most: int, most_bytes: int
) -> None:
    parts = list(split_vector(frames, most, most_bytes))
    for left, right in itertools.pairwise(parts):
        joined = [*left, right[0]]
        assert len(joined) > most or sum(map(len, joined)) > most_bytes


def test_address_words_are_in_the_order_of_the_wire() -> None:
    # What GNU Mach answered for the card 52:54:00:12:34:56.
    assert text_of_mac(address_of_words((1381236754, 878051328))) == "52:54:00:12:34:56"
    assert text_of_mac(address_of_words((-0x01FFFFFF, 0))) == "fe:00:00:01:00:00"
    with pytest.raises(ValueError, match="2 words, not 1"):
        address_of_words((1,))


# --- back-off ---------------------------------------------------------------------------------


def test_waits_double_up_to_the_cap() -> None:
    backoff = Backoff(first_s=0.1, cap_s=1.0, jitter=0.0, attempts=6)
    assert list(backoff.delays()) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_waits_are_spread_by_the_given_chance() -> None:
    low = Backoff(first_s=1.0, jitter=0.25, attempts=1, chance=lambda: 0.0)
    high = Backoff(first_s=1.0, jitter=0.25, attempts=1, chance=lambda: 1.0)
    assert (*low.delays(), *high.delays()) == pytest.approx((0.75, 1.25))


def test_attempts_may_be_unlimited() -> None:
    assert len(list(itertools.islice(Backoff().delays(), 1000))) == 1000


# --- the package ------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    for name in pfinet_client.__all__:
        assert getattr(pfinet_client, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pfinet_client.nothing  # noqa: B018
