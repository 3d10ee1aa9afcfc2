"""A thread for a receiver that is not trusted: its network stack must not stall the switch.

Writing into a lent TAP runs the lender's stack, filters and rules inside our ``write()``: 300 ms
a frame have been seen. The thread takes that; the switch's loop only hands over and collects::

    loop                                thread
    offer([...]) ──── SimpleQueue ────► link.write() one by one, in order, GIL released
    collect()    ◄─── two counters ──── finished, drops by reason
                 ◄─── wake() ────────── only when the loop has a reason to look

The queue is bounded by the caller, who offers no more than the receiver's RX slots hold and learns
from :meth:`ThreadedSink.collect` how many are free again.

Waking a loop costs more than writing a small frame, so it is done when there is a reason only:

- the loop asked by :meth:`ThreadedSink.want` (a sender is held until slots are free);
- the thread has run dry, and nothing came for :data:`LINGER_S`: one wake, so that an idle switch
  holds no finished frame;
- the link is gone.

Under load the loop comes by anyway and collects for free. No lock is taken for a frame that was
written: one thread writes each counter, and the interpreter orders the accesses.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence

from hypervisor.links.base import Link, LinkGone, Outgoing

#: How long the thread waits for more before it wakes the loop for what is finished, in seconds.
LINGER_S = 0.002

_NEVER = sys.maxsize


class ThreadedSink:
    """Writes offered frames to ``link`` in a daemon thread of its own.

    ``wake`` is called from that thread (pass ``loop.call_soon_threadsafe`` bound to whatever
    collects); it must not raise or block. All other methods belong to the loop's thread. From
    :meth:`stop` on, the link belongs to the thread, which closes it.
    """

    def __init__(self, link: Link, wake: Callable[[], None], *, name: str = "sink") -> None:
        self._link = link
        self._wake = wake
        self._queue: queue.SimpleQueue[Sequence[Outgoing] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # only for drops, so that they and their count agree
        self._drops: dict[str, int] = {}
        self._dropped_bytes = 0
        #: Bytes of the dropped frames that the last collect() told of, without offload headers.
        self.dropped_bytes = 0
        self._finished = 0  # written by the thread
        self._offered = 0  # these two by the loop
        self._collected = 0
        self._wake_at = _NEVER  # by the loop to ask, by the thread when it has answered
        self._gone: str | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def gone(self) -> str | None:
        """Why the link is unusable, in words for an operator; None while it works."""
        return self._gone

    @property
    def waiting(self) -> int:
        """How many frames were offered and not collected yet."""
        return self._offered - self._collected

    def offer(self, frames: Sequence[Outgoing]) -> None:
        """Hand frames over, to be written after all earlier ones; never blocks.

        ``frames`` must not change afterwards. After :meth:`stop` it is an error (RuntimeError).
        """
        if self._stopped:
            raise RuntimeError("offer() after stop()")
        self._offered += len(frames)
        self._queue.put(frames)

    def collect(self) -> tuple[int, dict[str, int]]:
        """Return how many frames are finished since the last call, and how many of them dropped.

        Frames finish in the order offered. The drops are by reason: the link's own, and
        "link_gone" for all that remained when it went.
        """
        if self._finished == self._collected:
            self.dropped_bytes = 0
            return 0, {}
        with self._lock:
            finished = self._finished
            drops, self._drops = self._drops, {}
            self.dropped_bytes, self._dropped_bytes = self._dropped_bytes, 0
        count = finished - self._collected
        self._collected = finished
        return count, drops

    def want(self, count: int) -> bool:
        """Ask for one wake() when ``count`` frames are to be collected, or all that were offered.

        Returns False, and will not wake, if that is so already: collect now.
        """
        target = min(self._collected + count, self._offered)
        self._wake_at = target
        if self._finished >= target:
            self._wake_at = _NEVER
            return False
        return True

    def stop(self) -> tuple[int, dict[str, int]]:
        """End the thread without waiting for it; return the last :meth:`collect`.

        Every frame offered is finished by that: those not written yet are drops of "link_gone"
        (one of them may be in the middle of its write). The thread closes the link after its last
        write. Calling it again returns nothing.
        """
        if self._stopped:
            return 0, {}
        self._stopped = True
        self._queue.put(None)
        count, drops = self.collect()
        unwritten = self._offered - self._collected
        if unwritten:
            drops["link_gone"] = drops.get("link_gone", 0) + unwritten
            self._collected = self._offered
        return count + unwritten, drops

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for a stopped thread, at the end of a program; return whether it ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        # A batch thread does not push the loop off its processor when it wakes, so that frames
        # come to it by the handful. Where a sandbox forbids to say so, it works all the same.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        try:
            # No name is kept for a batch: its frames would stay in memory while this one waits.
            while self._write_batch(self._next_batch()):
                pass
        finally:
            self._link.close()

    def _next_batch(self) -> Sequence[Outgoing] | None:
        try:
            if self._finished == self._collected:
                return self._queue.get()
            return self._queue.get(timeout=LINGER_S)
        except queue.Empty:
            if self._finished != self._collected:
                self._notify()
            return self._queue.get()

    def _write_batch(self, batch: Sequence[Outgoing] | None) -> bool:
        if batch is None:
            return False
        write = self._link.write
        for frame, header_bytes in batch:
            if self._gone is not None or self._stopped:
                self._count_drop("link_gone", len(frame) - header_bytes)
                continue
            try:
                reason = write(frame, header_bytes)
            except LinkGone as error:
                self._end(str(error), len(frame) - header_bytes)
            except Exception as error:
                # A fault of ours in a link must not end the thread unseen: the frames it holds
                # would never be finished. It ends the link instead, and says what it was.
                self._end(f"internal fault in the link: {error!r}", len(frame) - header_bytes)
            else:
                if reason is None:
                    self._finished += 1
                else:
                    self._count_drop(reason, len(frame) - header_bytes)
            if self._finished >= self._wake_at:
                self._wake_at = _NEVER
                self._notify()
        return True

    def _end(self, why: str, size_bytes: int) -> None:
        self._count_drop("link_gone", size_bytes)
        self._gone = why
        self._notify()

    def _notify(self) -> None:
        if not self._stopped:
            self._wake()

    def _count_drop(self, reason: str, size_bytes: int) -> None:
        with self._lock:
            self._dropped_bytes += size_bytes
            self._drops[reason] = self._drops.get(reason, 0) + 1
            self._finished += 1
