"""A Linux for guests: Debian's cloud kernel, unpacked, not installed, and a disk in memory for it.

``python -m benchmarks.guest_kernel`` fetches the package that apt knows of (26 MB) into
``$XDG_CACHE_HOME/machdev`` once; whoever finds nothing there does the same. The machine's own
boot files are not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import BenchmarkError

#: Names the kernel of the day.
META_PACKAGE = "linux-image-cloud-amd64"
#: What a virtio network card needs, each after what it needs itself. Modules of this kernel.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
)
BUSYBOX = Path("/bin/busybox")
FETCH_S = 300.0

#: Process 1 of a guest: runs each line of its console and says how it ended.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty raw -echo
for module in {modules}; do insmod "/modules/$module.ko"; done
ip link set lo up
mkdir /www
echo up
while read -r line; do
    eval "$line" </dev/null 2>&1
    printf '\\nended %s\\n' "$?"
done
poweroff -f
"""


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """An unpacked kernel, and the folder its modules are in."""

    image: Path
    modules: Path

    def ram_disk(self, modules: Sequence[str] = (), programs: Sequence[Path] = ()) -> bytes:
        """Return an initramfs: busybox, the modules, and a process 1 that takes orders.

        ``modules`` are loaded after those of the network card; ``programs`` of this machine come
        along with their libraries. Raises BenchmarkError without a busybox that needs none.
        """
        busybox = BUSYBOX.read_bytes() if BUSYBOX.exists() else b"/lib64/ld-linux"
        if b"/lib64/ld-linux" in busybox[:4096]:
            raise BenchmarkError("a guest needs Debian's busybox-static, not busybox")
        return b"".join(self._entries(busybox, (*MODULES, *modules), programs))

    def _entries(
        self, busybox: bytes, modules: Sequence[str], programs: Sequence[Path]
    ) -> Iterator[bytes]:
        for folder in ("bin", "dev", "proc", "sys", "modules"):
            yield _entry(folder, 0o40755)
        yield _entry("dev/console", 0o20600, device=(5, 1))
        yield _entry("bin/busybox", 0o100755, busybox)
        files = {Path("/bin") / path.name: path for path in programs}
        for path in programs:
            files |= {library: library for library in _libraries(path)}
        folders = {folder for path in files for folder in path.parents} - {Path("/"), Path("/bin")}
        for folder_path in sorted(folders):
            yield _entry(str(folder_path)[1:], 0o40755)
        for path, source in files.items():
            yield _entry(str(path)[1:], 0o100755, source.read_bytes())
        for name in modules:
            (path,) = self.modules.rglob(f"{name}.ko")
            yield _entry(f"modules/{name}.ko", 0o100644, path.read_bytes())
        yield _entry("init", 0o100755, _INIT.format(modules=" ".join(modules)).encode())
        yield _entry("TRAILER!!!", 0)


def _libraries(program: Path) -> list[Path]:
    """Return the files that a program is linked with, its loader included."""
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", _run("ldd", str(program)))]


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one file of a cpio archive in the form that Linux unpacks (newc)."""
    #        inode, mode, uid, gid, links, mtime, size, device, device of a node, name's size, check
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def guest_kernel() -> GuestKernel:
    """Return the kernel, fetched if it is not there yet. Raises BenchmarkError."""
    folder = _cache() / "guest-kernel"
    if not folder.is_dir():
        _fetch(folder)
    (image,) = (folder / "boot").glob("vmlinuz-*")
    return GuestKernel(image, folder / "lib" / "modules")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "machdev"


def _fetch(folder: Path) -> None:
    """Unpack the kernel's package into ``folder``, which is there as a whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        _run("apt-get", "download", "-q", _package(), cwd=work)
        (package,) = work.glob("*.deb")
        unpacked = work / "unpacked"
        _run("dpkg-deb", "-x", str(package), str(unpacked), cwd=work)
        for unused in ("usr", "boot/System.map-*"):
            for path in unpacked.glob(unused):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            unpacked.rename(folder)
        except OSError:
            # Another run was faster: its kernel is as good.
            if not folder.is_dir():
                raise


def _package() -> str:
    said = _run("apt-cache", "depends", META_PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", said)
    if found is None:
        raise BenchmarkError(f"apt knows no {META_PACKAGE}: run `apt-get update` on a Debian")
    return found[1]


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, timeout=FETCH_S, check=True
        )
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"{' '.join(command)}: {error.stderr}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"no kernel for guests: {error}") from error
    return done.stdout


if __name__ == "__main__":
    print(guest_kernel().image)
    sys.exit(0)
