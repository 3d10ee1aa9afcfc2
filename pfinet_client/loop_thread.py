"""One event loop in one thread, for all blocking clients of a process.

gRPC hands what happens on any channel of a process to whichever event loop comes first, and that
one passes it on to the loop that it belongs to: so a loop that was closed with its client leaves
errors behind in the loops of others. This loop is made with the first client, and closed when the
interpreter exits. Its thread is a daemon: a program that forgot to close a client can still end.

A child that the process forks has no thread but its own. It may make clients, which get a loop of
the child's; those of its parent are closed for it.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from pfinet_client.errors import ServerUnavailable

T = TypeVar("T")

#: How long the interpreter's exit waits for the ends of clients that nobody closed, in s.
EXIT_S = 5.0


class LoopThread:
    """An event loop in a thread of its own, for callers in other threads."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name="pfinet-client", daemon=True)
        self._waited_for: set[Future[Any]] = set()
        self._ended = False

    @property
    def ours(self) -> bool:
        """Whether this is the process in which the thread runs."""
        return self._process == os.getpid()

    @property
    def ended(self) -> bool:
        """Whether the interpreter exits, and no work can be run any more."""
        return self._ended

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Have the loop run ``work``; cancelling the future cancels the work."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread.start()
                atexit.register(self._end)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._waited_for.add(future)
        future.add_done_callback(self._waited_for.discard)
        return future

    def _serve(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end(self) -> None:
        """Close the loop, unless a daemon thread waits in it, which shall not wake to an error."""
        self._ended = True
        if not self.ours or self._loop is None or self._waited_for:
            return
        with suppress(TimeoutError):
            self.submit(_end_tasks()).result(EXIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@functools.cache
def _loop_thread(process: int) -> LoopThread:
    # Two threads that come at once may each be given one, which does no harm. A lock would: a
    # fork could find it held.
    return LoopThread()


class Calls:
    """What one client has under way in the loop."""

    def __init__(self) -> None:
        self._thread = _loop_thread(os.getpid())
        self._closing = threading.Lock()
        self._closed = False
        self._under_way: set[Future[Any]] = set()

    @property
    def alive(self) -> bool:
        """Whether work can still be run."""
        return self._thread.ours and not (self._closed or self._thread.ended)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the loop and wait for it; an exception here cancels it there.

        Raises RuntimeError after :meth:`close`, ServerUnavailable if that comes while it waits.
        """
        with self._closing:
            if not self.alive:
                work.close()
                raise RuntimeError("this client was closed: make another")
            future = self._thread.submit(work)
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)
        try:
            return future.result()
        except CancelledError:
            raise ServerUnavailable("this client was closed while the call was waiting") from None
        finally:
            future.cancel()

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield what ``items`` yields; nothing is under way between two of them."""
        try:
            while (item := self.run(_next(items))) is not None:
                yield item
        finally:
            if self.alive:
                self.run(items.aclose())

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what other threads wait for, then run ``last``; twice is allowed."""
        # In a forked child nothing is ours, and a thread that is not there may hold the lock.
        if self._thread.ours:
            with self._closing:
                first, self._closed = self.alive, True
            if first:
                for future in tuple(self._under_way):
                    future.cancel()
                self._thread.submit(last).result()
        last.close()


async def _next(items: AsyncGenerator[T, None]) -> T | None:
    return await anext(items, None)


async def _end_tasks() -> None:
    """Cancel every other task of the loop and wait until it has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
