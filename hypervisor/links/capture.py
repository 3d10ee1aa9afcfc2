"""A link that writes every frame to a pcapng file: wraps any other.

The capture is of Ethernet frames, so offload headers are left out: a large TCP segment appears
uncut, with the checksum its sender left to be completed, as tcpdump shows it on a TAP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from hypervisor.kernel import pcapng
from hypervisor.links.base import Link
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES


class Output(Protocol):
    """Where a capture goes: an open binary file. It stays the caller's to flush and close."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""
        ...


class Capture:
    """A link that copies what passes through ``link`` into ``output``, with the direction.

    What the link yields is inbound; what it is given is outbound, with a comment if it was dropped.
    A capture never harms the traffic: when ``output`` fails, capturing ends and ``error`` says why.
    """

    def __init__(
        self,
        link: Link,
        output: Output,
        *,
        name: str = "link",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._link = link
        self.kind = link.kind
        self.peer = link.peer
        self.vnet_header = link.vnet_header
        self.accepts = link.accepts
        #: Why capturing ended early; None while it goes on.
        self.error: str | None = None
        self._output = output
        self._clock_ns = clock_ns
        self._lock = threading.Lock()  # the reader and the writer may be two threads
        self._put(pcapng.section_header("hypervisor"))
        self._put(pcapng.interface_description(name, f"{link.kind} link"))

    def fileno(self) -> int:
        """Return the wrapped link's descriptor."""
        return self._link.fileno()

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return the wrapped link's burst, and note it as inbound."""
        frames = self._link.read_burst(max_frames, max_bytes)
        header_bytes = VNET_HEADER_BYTES if self.vnet_header else 0
        for frame in frames:
            self._note(frame, header_bytes, pcapng.Direction.INBOUND)
        return frames

    def read_view(self) -> memoryview | None:
        """Return the wrapped link's next frame, and note it as inbound."""
        view = self._link.read_view()
        if view is not None:
            header_bytes = VNET_HEADER_BYTES if self.vnet_header else 0
            self._note(bytes(view), header_bytes, pcapng.Direction.INBOUND)
        return view

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Give one frame to the wrapped link, and note it as outbound."""
        reason = self._link.write(frame, header_bytes)
        comment = f"dropped: {reason}" if reason else ""
        self._note(bytes(frame), header_bytes, pcapng.Direction.OUTBOUND, comment)
        return reason

    def close(self) -> None:
        """Close the wrapped link; the output stays open."""
        self._link.close()

    def _note(
        self, frame: bytes, header_bytes: int, direction: pcapng.Direction, comment: str = ""
    ) -> None:
        self._put(
            pcapng.enhanced_packet(
                frame[header_bytes:], self._clock_ns(), direction=direction, comment=comment
            )
        )

    def _put(self, block: bytes) -> None:
        with self._lock:
            if self.error is not None:
                return
            try:
                self._output.write(block)
            except (OSError, ValueError) as error:  # ValueError: the file was closed
                self.error = f"the capture ended: {error}"
