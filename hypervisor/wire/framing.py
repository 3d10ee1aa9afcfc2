"""Frames on a byte stream: a 4-byte big-endian length, then the frame, and again.

What QEMU's ``-netdev stream`` and passt speak. A stream has no other place to begin at, so after a
length that cannot be one nothing can be believed any more: the connection ends there.

The only memory is one buffer of fixed size. Whoever reads the stream reads right into it, and
frames are handed out where they lie::

    count = socket.recv_into(frames.room())
    frames.received(count)
    while (frame := frames.next_frame()) is not None: ...
"""

from __future__ import annotations

from typing import Final

from hypervisor.wire.errors import WireError
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES

LENGTH_BYTES: Final = 4
MIN_FRAME_BYTES: Final = ETHERNET_HEADER_BYTES
#: The longest frame of any network here (MTU 65,521), with two VLAN tags; QEMU takes 69,632.
MAX_FRAME_BYTES: Final = ETHERNET_HEADER_BYTES + 65_521 + 2 * 4
#: Room for two of the longest frames, or eighty of 1,514 bytes.
BUFFER_BYTES: Final = 1 << 17


def length_prefix(size_bytes: int) -> bytes:
    """Return what stands in front of a frame of ``size_bytes``."""
    return size_bytes.to_bytes(LENGTH_BYTES, "big")


def frame_message(frame: bytes | memoryview) -> bytes:
    """Return a frame as it goes over a stream."""
    return b"".join((length_prefix(len(frame)), frame))


class StreamFrames:
    """Cuts a stream into frames, however it was split on the way. No I/O, constant memory.

    ``max_frame_bytes`` is the longest frame that is believed, at most :data:`MAX_FRAME_BYTES`.
    """

    __slots__ = ("_buffer", "_longest", "_places")

    def __init__(
        self,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        buffer: memoryview | None = None,
        places: memoryview | list[int] | None = None,
    ) -> None:
        """``buffer``, of :data:`BUFFER_BYTES`, and two ``places`` in it may be somebody's who reads
        the same stream: what was received and not handed out begins at the first, ends at the last.
        """
        if not MIN_FRAME_BYTES <= max_frame_bytes <= MAX_FRAME_BYTES:
            raise ValueError(f"max_frame_bytes is {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES}")
        self._longest = max_frame_bytes
        self._buffer = memoryview(bytearray(BUFFER_BYTES)) if buffer is None else buffer
        self._places: memoryview | list[int] = [0, 0] if places is None else places

    @property
    def waiting(self) -> bool:
        """Whether next_frame() has something to say: a frame, or that there will be none."""
        start, end = self._places
        begin = start + LENGTH_BYTES
        if begin > end:
            return False
        size = int.from_bytes(self._buffer[start:begin], "big")
        return size <= end - begin or not MIN_FRAME_BYTES <= size <= self._longest

    @property
    def pending_bytes(self) -> int:
        """How many bytes were received and not handed out yet."""
        start, end = self._places
        return end - start

    def room(self) -> memoryview:
        """Return the free part of the buffer, to be read into; frames seen before are void.

        Empty only while whole frames wait to be taken.
        """
        start, end = self._places
        if start:
            # Both may overlap; memoryview copies as if there were a third place.
            self._buffer[: end - start] = self._buffer[start:end]
            self._places[0], self._places[1] = 0, end - start
        return self._buffer[end - start :]

    def received(self, count: int) -> None:
        """Say that the first ``count`` bytes of :meth:`room` were filled."""
        if not 0 <= count <= BUFFER_BYTES - self._places[1]:
            raise ValueError(f"{count} bytes do not fit into what room() gave")
        self._places[1] += count

    def next_frame(self) -> memoryview | None:
        """Return the next whole frame in place, None if it is not there yet.

        It is valid until :meth:`room` is called. Raises WireError for a length that is none, and
        then for ever: where the next frame would begin is not known.
        """
        start, received = self._places
        begin = start + LENGTH_BYTES
        if begin > received:
            return None
        size = int.from_bytes(self._buffer[start:begin], "big")
        if not MIN_FRAME_BYTES <= size <= self._longest:
            # Nothing is taken, so the same bytes are found here for ever.
            expected = f"{MIN_FRAME_BYTES} to {self._longest}"
            raise WireError("stream", "frame length", size, expected)
        end = begin + size
        if end > received:
            return None
        self._places[0] = end
        return self._buffer[begin:end]
