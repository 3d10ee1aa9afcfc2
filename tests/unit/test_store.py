"""The state directory: secrets that appear whole, leases that survive kill -9, one server each."""

from __future__ import annotations

import math
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
    BootTime,
    Lease,
    LeaseStore,
    StateDirectory,
    StoreError,
    boot_time,
    private_directory,
)
from tests.helpers.kernel_objects import a_fresh_uid, as_uid

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


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


def test_what_dhcp_gave_is_kept_until_its_time_is_over(leases: LeaseStore) -> None:
    mac = bytes(range(6))
    bound = Lease("lan", "10.0.0.5", "uid:1", NOW_S, "eth0", mac, 600.0, NOW_S + 600)
    for_ever = Lease("lan", "10.0.0.6", "uid:1", NOW_S, "eth0", mac, math.inf, math.inf)
    leases.save(bound)
    leases.save(for_ever)
    assert leases.load(NOW_S + 599) == [bound, for_ever]
    assert leases.load(NOW_S + 600) == [for_ever]
    assert leases.load(NOW_S + 10 * LEASE_LIFE_S) == [for_ever]


# --- clocks -----------------------------------------------------------------------------------


class Machine:
    """A machine whose clocks do as they are told."""

    def __init__(self) -> None:
        self.boot, self.up_s, self.wall_s = "one", 100.0, NOW_S

    def read(self) -> BootTime:
        return BootTime(self.boot, self.up_s)

    def sleep(self, seconds: float) -> None:
        self.up_s += seconds
        self.wall_s += seconds

    def store(self, path: Path) -> LeaseStore:
        made = LeaseStore(path / "leases.sqlite", self.read)
        made.follow_clock(self.wall_s)
        return made


@pytest.mark.parametrize("jump_s", [-20 * 365 * DAY_S, -3_600.0, 3_600.0, 30 * DAY_S])
@pytest.mark.parametrize("running", [False, True], ids=["while away", "while running"])
def test_setting_the_clock_ends_no_lease_and_prolongs_none(
    tmp_path: Path, jump_s: float, running: bool
) -> None:
    machine = Machine()
    store = machine.store(tmp_path)
    store.save(Lease("lan", "10.0.0.2", "uid:1", machine.wall_s))
    store.save(
        Lease("lan", "10.0.0.5", "uid:1", NOW_S, "eth0", bytes(6), 600.0, machine.wall_s + 600)
    )
    machine.sleep(300.0)
    machine.wall_s += jump_s
    if running:
        store.follow_clock(machine.wall_s)
    machine.sleep(200.0)
    store.close()
    store = machine.store(tmp_path)
    claimed, bound = store.load(machine.wall_s)
    assert machine.wall_s - claimed.last_used_s == pytest.approx(500.0)
    assert bound.expires_s is not None
    assert bound.expires_s - machine.wall_s == pytest.approx(100.0)
    machine.sleep(100.0)
    store.follow_clock(machine.wall_s)
    assert [each.address for each in store.load(machine.wall_s)] == ["10.0.0.2"]
    store.close()


def test_after_a_boot_with_a_clock_that_is_slow_nothing_lasts_longer_than_given(
    tmp_path: Path,
) -> None:
    machine = Machine()
    store = machine.store(tmp_path)
    store.save(Lease("lan", "10.0.0.2", "uid:1", machine.wall_s))
    store.save(Lease("lan", "10.0.0.5", "uid:1", NOW_S, "eth0", bytes(6), 600.0, NOW_S + 600))
    store.close()
    machine.boot, machine.up_s, machine.wall_s = "two", 5.0, 1_000.0  # 1970
    store = machine.store(tmp_path)
    claimed, bound = store.load(machine.wall_s)
    assert (claimed.last_used_s, bound.expires_s) == (1_000.0, 1_600.0)
    store.close()


def test_a_clock_that_is_slewed_moves_nothing(tmp_path: Path) -> None:
    machine = Machine()
    store = machine.store(tmp_path)
    store.save(Lease("lan", "10.0.0.2", "uid:1", NOW_S))
    machine.wall_s += 0.5
    store.follow_clock(machine.wall_s)
    assert store.load(machine.wall_s)[0].last_used_s == NOW_S
    store.close()


def test_this_machines_clocks_can_be_read(leases: LeaseStore) -> None:
    first, second = boot_time(), boot_time()
    assert first.boot == second.boot
    assert 0 < first.seconds <= second.seconds
    leases.follow_clock(NOW_S)
    leases.follow_clock(NOW_S)


def test_a_file_of_the_first_layout_is_read_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "leases.sqlite") as db:
        db.execute(
            "CREATE TABLE leases (network TEXT NOT NULL, address TEXT NOT NULL, owner TEXT NOT "
            "NULL, last_used_s REAL NOT NULL, PRIMARY KEY (network, address)) WITHOUT ROWID"
        )
        db.execute("INSERT INTO leases VALUES ('lan', '10.0.0.2', 'uid:1', ?)", (NOW_S,))
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        store = LeaseStore(tmp_path / "leases.sqlite")
        assert store.load(NOW_S) == [Lease("lan", "10.0.0.2", "uid:1", NOW_S)]
        store.close()


# --- what can go wrong ------------------------------------------------------------------------


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
