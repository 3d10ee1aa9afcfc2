"""The state directory: what a server must remember when it is gone.

What lives in it, mode 0700 and owned by the server:

``lock``            held with flock(2) by the one server that uses the directory;
``NAME.secret``     32 random bytes a network, from which its devices' MACs are made: whoever
                    knows them can choose a name to get a MAC, so nobody else may read them;
``leases.sqlite``   who holds which address, until when, and when it was last used;
``grpc``            the socket behind the front door, made anew by each server.

A secret appears whole or not at all (written aside, synced, linked). Leases are SQLite rows in
write-ahead mode: a transaction is there or not after kill -9; a power cut may take the last ones
and never damages the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

#: A lease outlives the last use of its address by a day (semantics of addresses).
LEASE_LIFE_S = 24 * 3_600

#: Bytes of a network's secret: as many as the keyed hash takes.
SECRET_BYTES = 32

# Stored in the SQLite file, so that a later layout is recognised.
_LAYOUT = 2
_CREATE = (
    """
    CREATE TABLE IF NOT EXISTS leases (
        network TEXT NOT NULL,
        address TEXT NOT NULL,
        owner TEXT NOT NULL,
        last_used_s REAL NOT NULL,
        device TEXT NOT NULL DEFAULT '',
        mac BLOB NOT NULL DEFAULT x'',
        term_s REAL,
        expires_s REAL,
        PRIMARY KEY (network, address)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE IF NOT EXISTS clock (boot TEXT NOT NULL, offset_s REAL NOT NULL)",
)
#: From layout 1, which knew of claims only.
_UPGRADE = (
    "ALTER TABLE leases ADD COLUMN device TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN mac BLOB NOT NULL DEFAULT x''",
    "ALTER TABLE leases ADD COLUMN term_s REAL",
    "ALTER TABLE leases ADD COLUMN expires_s REAL",
)
#: A wall clock that differs by more was set; by less, it was slowed or hastened.
_JUMP_S = 1.0


class StoreError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


def private_directory(path: Path) -> None:
    """Make a directory that only this user can use, or see that an existing one is so.

    Missing parents are made too. Raises StoreError if the path is not a directory, is a symbolic
    link, belongs to someone else or is open to others: whoever can write there could put a node
    or a secret of his own in our place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise StoreError(f"cannot make the directory {path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path} is not a directory: move it away or choose another place")
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"the directory {path} belongs to uid {status.st_uid}, not to uid {os.geteuid()}: "
            "choose another place"
        )
    if status.st_mode & 0o077:
        raise StoreError(
            f"others may enter the directory {path} (mode {stat.S_IMODE(status.st_mode):04o}): "
            f"close it with chmod 700 {path}"
        )


class StateDirectory:
    """The state directory of one server, locked while it is open.

    Raises StoreError if the directory cannot be made or trusted, or another server has it. Use it
    as a context manager, or close() it. ``lock_fd`` is the lock of the server that we follow, if we
    have that; it is ours then.
    """

    def __init__(self, path: Path, lock_fd: int = -1) -> None:
        self.lock_fd = lock_fd
        private_directory(path)
        self.path = path
        if lock_fd < 0:
            self.lock_fd = _lock(path)

    def sign(self) -> None:
        """Leave our process id in the lock, for whoever finds it taken."""
        _sign(self.lock_fd)

    def secret(self, network: str) -> bytes:
        """Return the network's 32 secret bytes, made on first use. Raises StoreError."""
        path = self.path / f"{network}.secret"
        if not os.path.lexists(path):
            try:
                _create_whole(path, secrets.token_bytes(SECRET_BYTES))
            except OSError as error:
                raise StoreError(f"cannot write {path}: {error.strerror}") from error
        return _read_secret(path)

    def leases(self) -> LeaseStore:
        """Open the lease file. Raises StoreError."""
        return LeaseStore(self.path / "leases.sqlite")

    def close(self) -> None:
        """Give the lock back; twice is allowed."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def __enter__(self) -> StateDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _lock(directory: Path) -> int:
    """Take the directory's lock and leave our process id in it; return its descriptor."""
    path = directory / "lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sign(fd)
    except BlockingIOError as error:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise StoreError(
            f"another server (process {holder}) uses the state directory {directory}: "
            "give this one its own with --state DIR"
        ) from error
    except OSError as error:
        os.close(fd)
        raise StoreError(f"cannot lock {path}: {error.strerror}") from error
    return fd


def _sign(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _create_whole(path: Path, content: bytes) -> None:
    """Create a file of mode 0600 that is never seen half written; an existing one stays."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(aside, flags, 0o600)
    try:
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        os.unlink(aside)


def _read_secret(path: Path) -> bytes:
    remedy = "move it away, and the network's devices get new MACs"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"cannot read the secret {path}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if not stat.S_ISREG(status.st_mode) or not private:
            raise StoreError(f"the secret {path} may be known to others: {remedy}")
        content = os.read(fd, SECRET_BYTES + 1)
    finally:
        os.close(fd)
    if len(content) != SECRET_BYTES:
        raise StoreError(f"the secret {path} is not {SECRET_BYTES} bytes long: {remedy}")
    return content


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that an owner holds. Times are Unix times in seconds.

    ``device`` and ``mac`` are those of the device that used it last. A lease of DHCP is for
    ``term_s`` seconds, until ``expires_s`` (both infinite: for ever); claimed ones have neither.
    """

    network: str
    address: str
    owner: str
    last_used_s: float
    device: str = ""
    mac: bytes = b""
    term_s: float | None = None
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class BootTime:
    """Seconds since the machine's boot, sleep included, and which boot that was ("": unknown)."""

    boot: str
    seconds: float


def boot_time() -> BootTime:
    """Read a clock that nobody can set."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    return BootTime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


class LeaseStore:
    """Leases of addresses, kept in one SQLite file.

    Times are Unix times in seconds given by the caller, who says with :meth:`follow_clock` what
    time it is before anything else. Every change is on disk when the call returns (see the module
    for what a power cut may take). Not for use by two threads. Raises StoreError when the file
    cannot be read or written. ``boot`` reads the clock that nobody sets.
    """

    def __init__(self, path: Path, boot: Callable[[], BootTime] = boot_time) -> None:
        self._path = path
        self._boot = boot
        with self._explained():
            # Created before SQLite would, since SQLite would use the umask's mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
        try:
            with self._explained():
                self._prepare()
        except StoreError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        layout = self._db.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= layout <= _LAYOUT:
            raise StoreError(
                f"{self._path} was written by a later version (layout {layout}): "
                "use that version, or another --state DIR"
            )
        if layout == _LAYOUT:
            return
        with self._transaction():
            for statement in (*(_UPGRADE if layout else ()), *_CREATE):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {_LAYOUT}")

    def follow_clock(self, now_s: float) -> None:
        """Say that it is ``now_s``: if the clock was set since the last time, leases follow it.

        Their times are moved by as much, so that setting a clock ends no lease and prolongs none.
        That is known within one boot of the machine. After another one the clock is believed,
        except that nothing was used in the future, and nothing lasts longer than it was given for.
        """
        boot = self._boot()
        offset_s = now_s - boot.seconds
        with self._explained():
            known = self._db.execute("SELECT boot, offset_s FROM clock").fetchone()
            same = known is not None and known[0] == boot.boot != ""
            jump_s = offset_s - known[1] if same else 0.0
            if same and abs(jump_s) <= _JUMP_S:
                return
            with self._transaction():
                self._db.execute("DELETE FROM clock")
                self._db.execute("INSERT INTO clock VALUES (?, ?)", (boot.boot, offset_s))
                self._db.execute(
                    "UPDATE leases SET last_used_s = min(last_used_s + ?, ?), "
                    "expires_s = min(expires_s + ?, ? + term_s)",
                    (jump_s, now_s, jump_s, now_s),
                )

    def load(self, now_s: float) -> list[Lease]:
        """Forget the leases that were over before ``now_s`` and return the others."""
        with self._explained():
            self._db.execute(
                "DELETE FROM leases WHERE coalesce(expires_s <= ?, last_used_s < ?)",
                (now_s, now_s - LEASE_LIFE_S),
            )
            rows = self._db.execute(
                "SELECT network, address, owner, last_used_s, device, mac, term_s, expires_s "
                "FROM leases ORDER BY network, address"
            ).fetchall()
        return [Lease(*row) for row in rows]

    def save(self, lease: Lease) -> None:
        """Remember a lease, in place of any other of the same address."""
        with self._explained():
            self._db.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                dataclasses.astuple(lease),
            )

    def delete(self, network: str, address: str) -> None:
        """Forget a lease; one that is not there is success."""
        with self._explained():
            self._db.execute(
                "DELETE FROM leases WHERE network = ? AND address = ?", (network, address)
            )

    def touch(self, network: str, addresses: Iterable[str], now_s: float) -> None:
        """Note that addresses are in use, all in one transaction; unknown ones are left alone."""
        rows = [(now_s, network, address) for address in addresses]
        with self._explained(), self._transaction():
            self._db.executemany(
                "UPDATE leases SET last_used_s = ? WHERE network = ? AND address = ?", rows
            )

    def close(self) -> None:
        """Close the file; twice is allowed."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite and the kernel say into words for an operator."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the leases in {self._path} cannot be used ({error}): move the file away if it "
                "is damaged, and addresses are free for anyone to claim again"
            ) from error
