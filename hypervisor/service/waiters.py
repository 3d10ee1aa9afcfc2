"""Where futures live: each request that waits, by its number.

The runtime often completes a request before ``submit`` returns. Then no future is made and the
caller goes on in the same turn of the loop. Otherwise the caller waits on a future that belongs to
exactly one request, and if the caller is cancelled (by the client, its deadline or the loss of its
connection), the request is cancelled in the core: a held read gives up its place.

A completion that is already there when the cancellation comes stands, and is lost with the reply
that nobody takes: between the two lies one turn of the loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any, Protocol

from hypervisor.errors import ServerDied
from hypervisor.requests import Completion, Request
from hypervisor.runtime import Runtime


class Stream(Protocol):
    """Who asks many things at a time, and is told of each as it completes."""

    def completed(self, completion: Completion) -> None:
        """One of its requests has completed."""

    def stop(self, why: ServerDied) -> None:
        """The server stops: nothing will complete any more."""


class Waiters:
    """The requests of this service that are on their way."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pending: dict[int, asyncio.Future[Completion]] = {}
        self._posted: dict[int, Stream] = {}
        self._streams: dict[Stream, None] = {}
        self._submitting = -1
        self._immediate: Completion | None = None
        self._closed = False
        #: The next request number: ``next_id()``.
        self.next_id = itertools.count(1).__next__

    def __len__(self) -> int:
        return len(self._pending) + len(self._posted)

    async def ask(self, network: str, request: Request) -> Any:
        """Submit ``request`` and return its result.

        Raises the DeviceError it completed with, ServerDied once the service is closed.
        """
        completion = self._submit(network, request)
        if completion is None:
            completion = await self._wait(network, request.request_id)
        if completion.error is not None:
            raise completion.error
        return completion.result

    def tell(self, network: str, request: Request) -> None:
        """Submit ``request`` and ignore its result. After close() nothing happens."""
        if not self._closed:
            self._submit(network, request)

    def complete(self, completions: list[Completion]) -> None:
        """Wake who waits for ``completions``; those that nobody waits for are dropped."""
        for completion in completions:
            if completion.request_id == self._submitting:
                self._immediate = completion
                continue
            stream = self._posted.pop(completion.request_id, None)
            if stream is not None:
                stream.completed(completion)
                continue
            future = self._pending.pop(completion.request_id, None)
            if future is not None and not future.done():
                future.set_result(completion)

    def close(self) -> None:
        """Fail all who still wait, and all who ask from now on, with ServerDied."""
        self._closed = True
        self._posted.clear()
        for stream in self._streams:
            stream.stop(_stopping())
        pending, self._pending = self._pending, {}
        for request_id, future in pending.items():
            if not future.done():
                future.set_result(Completion(request_id, error=_stopping()))

    # --- many at a time -----------------------------------------------------------------------

    def longest_frame(self, network: str) -> int:
        """Return the bytes of the longest frame that a read of ``network`` can bring."""
        return self._runtime.longest_frame(network)

    def follow(self, stream: Stream) -> None:
        """Tell ``stream`` when the server stops. Raises ServerDied if it does already."""
        self.check_open()
        self._streams[stream] = None

    def forget(self, stream: Stream) -> None:
        """Tell ``stream`` nothing any more."""
        self._streams.pop(stream, None)

    def post(self, network: str, requests: Iterable[Request], stream: Stream) -> None:
        """Submit requests in their order; ``stream`` is told of each, maybe before this returns.

        After close() nothing happens: the stream was told that the server stops.
        """
        if self._closed:
            return
        posted = list(requests)
        for request in posted:
            self._posted[request.request_id] = stream
        self._runtime.submit_all(network, posted)

    def retract(self, network: str, request_id: int) -> bool:
        """Cancel a posted request. False if it was not held (any more): nothing changed then."""
        if not self._runtime.cancel(network, request_id):
            return False
        self._posted.pop(request_id, None)
        return True

    def withdraw(self, network: str, request_ids: Iterable[int]) -> None:
        """Cancel posted requests that nobody waits for any more."""
        for request_id in request_ids:
            if self._posted.pop(request_id, None) is not None:
                self._runtime.cancel(network, request_id)

    def check_open(self) -> None:
        """Raise ServerDied after close()."""
        if self._closed:
            raise _stopping()

    def _submit(self, network: str, request: Request) -> Completion | None:
        self.check_open()
        self._submitting = request.request_id
        self._immediate = None
        try:
            self._runtime.submit(network, request)
            return self._immediate
        finally:
            self._submitting = -1
            self._immediate = None

    async def _wait(self, network: str, request_id: int) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        try:
            return await future
        finally:
            # Still there means that no completion came: the wait itself was cancelled.
            if self._pending.pop(request_id, None) is not None:
                self._runtime.cancel(network, request_id)


def _stopping() -> ServerDied:
    return ServerDied("the server is stopping: connect again when it is back")
