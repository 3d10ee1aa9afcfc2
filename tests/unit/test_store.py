"""The state directory: secrets that appear whole, leases that survive kill -9, one server each."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hypervisor.store import (
    LEASE_LIFE_S,
    Lease,
    LeaseStore,
    StateDirectory,
    StoreError,
    private_directory,
)
from tests.helpers.kernel_objects import a_fresh_uid, as_uid

NOW_S = 1_800_000_000.0


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[LeaseStore]:
    store = LeaseStore(tmp_path / "leases.sqlite")
    yield store
    store.close()


# --- the directory ----------------------------------------------------------------------------


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "deep" / "er" / "state") as state:
        assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_an_open_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state").chmod(0o750)
    with pytest.raises(StoreError, match=r"mode 0750\): close it with chmod 700"):
        StateDirectory(tmp_path / "state")


def test_a_file_or_a_link_is_no_state_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(StoreError, match="is not a directory"):
            private_directory(tmp_path / name)
    with pytest.raises(StoreError, match="cannot make the directory"):
        private_directory(tmp_path / "file" / "below")


def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    path = Path("/usr")  # root's, for an ordinary user
    if os.geteuid() == 0:
        path = tmp_path / "state"
        os.chown(path, a_fresh_uid(), -1)
    with pytest.raises(StoreError, match=rf"belongs to uid \d+, not to uid {os.geteuid()}"):
        StateDirectory(path)


def test_a_directory_serves_one_server_at_a_time(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "state"):
        words = rf"another server \(process {os.getpid()}\) uses the state directory .*--state DIR"
        with pytest.raises(StoreError, match=words):
            StateDirectory(tmp_path / "state")
    with StateDirectory(tmp_path / "state") as state:
        state.close()  # twice is allowed


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    started, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        StateDirectory(tmp_path / "state")
        os.write(writer, b".")
        signal.pause()
    assert os.read(started, 1) == b"."
    try:
        with pytest.raises(StoreError, match=rf"process {pid}\)"):
            StateDirectory(tmp_path / "state")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(started)
        os.close(writer)
    StateDirectory(tmp_path / "state").close()


# --- secrets ----------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "state") as state:
        lan, dmz = state.secret("lan"), state.secret("dmz")
    with StateDirectory(tmp_path / "state") as state:
        assert state.secret("lan") == lan
    assert len(lan) == 32
    assert lan != dmz
    assert stat.S_IMODE((tmp_path / "state" / "lan.secret").stat().st_mode) == 0o600
    assert sorted(one.name for one in (tmp_path / "state").iterdir()) == [
        "dmz.secret",
        "lan.secret",
        "lock",
    ]


def test_a_secret_that_is_damaged_or_known_is_refused(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "state") as state:
        state.secret("lan")
        path = state.path / "lan.secret"
        path.chmod(0o640)
        with pytest.raises(StoreError, match="may be known to others: move it away"):
            state.secret("lan")
        path.chmod(0o600)
        path.write_bytes(b"x" * 31)
        with pytest.raises(StoreError, match="is not 32 bytes long"):
            state.secret("lan")
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(StoreError, match="cannot read the secret"):
            state.secret("lan")
        path.unlink()
        path.mkdir()
        with pytest.raises(StoreError, match="may be known to others"):
            state.secret("lan")


# --- leases -----------------------------------------------------------------------------------


def test_leases_are_there_again_after_a_restart(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "state") as state:
        store = state.leases()
        store.save(Lease("lan", "10.0.0.2", "uid:1000", NOW_S))
        store.save(Lease("dmz", "10.0.0.2", "uid:1001", NOW_S))
        store.close()
        store.close()  # twice is allowed
        store = state.leases()
        assert store.load(NOW_S) == [
            Lease("dmz", "10.0.0.2", "uid:1001", NOW_S),
            Lease("lan", "10.0.0.2", "uid:1000", NOW_S),
        ]
        store.close()
    assert stat.S_IMODE((tmp_path / "state" / "leases.sqlite").stat().st_mode) == 0o600


def test_leases_lapse_a_day_after_their_last_use(leases: LeaseStore) -> None:
    leases.save(Lease("lan", "10.0.0.2", "uid:1", NOW_S))
    leases.save(Lease("lan", "10.0.0.3", "uid:1", NOW_S + 1))
    assert len(leases.load(NOW_S + LEASE_LIFE_S)) == 2
    kept = [Lease("lan", "10.0.0.3", "uid:1", NOW_S + 1)]
    assert leases.load(NOW_S + LEASE_LIFE_S + 1) == kept
    assert leases.load(NOW_S) == kept  # the lapsed one is gone for good


def test_use_renews_leases_and_makes_none(leases: LeaseStore) -> None:
    leases.save(Lease("lan", "10.0.0.2", "uid:1", NOW_S))
    leases.save(Lease("lan", "10.0.0.3", "uid:1", NOW_S))
    leases.touch("lan", ["10.0.0.2", "10.9.9.9"], NOW_S + 10)
    leases.touch("dmz", ["10.0.0.3"], NOW_S + 10)
    assert {one.address: one.last_used_s - NOW_S for one in leases.load(NOW_S)} == {
        "10.0.0.2": 10,
        "10.0.0.3": 0,
    }


def test_a_lease_changes_hands_and_is_given_back(leases: LeaseStore) -> None:
    leases.save(Lease("lan", "fd00::2", "uid:1", NOW_S))
    leases.save(Lease("lan", "fd00::2", "uid:2", NOW_S))
    assert [one.owner for one in leases.load(NOW_S)] == ["uid:2"]
    leases.delete("lan", "fd00::2")
    leases.delete("lan", "fd00::2")
    assert leases.load(NOW_S) == []


def test_leases_survive_kill_9_in_the_middle_of_writing(tmp_path: Path) -> None:
    started, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        store = LeaseStore(tmp_path / "leases.sqlite")
        for number in range(1_000_000):
            store.save(Lease("lan", f"10.0.{number // 256}.{number % 256}", "uid:1", NOW_S))
            if number == 50:
                os.write(writer, b".")
        os._exit(0)
    assert os.read(started, 1) == b"."
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(started)
    os.close(writer)
    store = LeaseStore(tmp_path / "leases.sqlite")
    found = {one.address for one in store.load(NOW_S)}
    store.close()
    assert {f"10.0.0.{number}" for number in range(51)} <= found


def test_a_damaged_lease_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "leases.sqlite").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match="move the file away if it is damaged"):
        LeaseStore(tmp_path / "leases.sqlite")


def test_a_lease_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    LeaseStore(tmp_path / "leases.sqlite").close()
    with sqlite3.connect(tmp_path / "leases.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(StoreError, match=r"later version \(layout 9\)"):
        LeaseStore(tmp_path / "leases.sqlite")


def test_a_lease_file_that_is_no_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "leases.sqlite").mkdir()
    with pytest.raises(StoreError, match="cannot be used"):
        LeaseStore(tmp_path / "leases.sqlite")


def test_an_ordinary_user_has_a_state_of_his_own() -> None:
    uid = a_fresh_uid()
    with TemporaryDirectory() as home:
        os.chown(home, uid, -1)

        def secret() -> bytes:
            with StateDirectory(Path(home) / "state") as state:
                return state.secret("lan")

        assert as_uid(uid, secret) == as_uid(uid, secret)
