"""What an operator wishes of a running server, by signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator

from hypervisor.serve.doors import Doors
from hypervisor.serve.heritage import Keeper
from hypervisor.serve.succession import SuccessionError, Successor, raised

log = logging.getLogger(__name__)


class Wishes:
    """Listens to SIGTERM and SIGINT (stop), SIGUSR2 (make way for a new server), SIGHUP (reload).

    Made in the loop; from then on no signal is lost. ``to_stop`` is the first wish; ``to_reload``
    is set by each SIGHUP.
    """

    def __init__(self) -> None:
        self.to_stop = False
        self.to_reload = asyncio.Event()
        self._make_way = False
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._wish_to_stop)
        loop.add_signal_handler(signal.SIGUSR2, self._wish_for_a_successor)
        loop.add_signal_handler(signal.SIGHUP, self.to_reload.set)

    async def fulfilled(self, doors: Doors, keeper: Keeper | None) -> Successor | None:
        """Wait for a wish: None when the server is to stop, else who waits to follow it.

        A successor that fails to start is logged, and all goes on. The end of ``keeper`` is a wish
        to stop: whoever started the first server has killed what he knew of it.
        """
        with _watched(keeper, self._wish_to_stop):
            while not self.to_stop:
                if not self._make_way:
                    await self._changed.wait()
                    self._changed.clear()
                if self._make_way and not self.to_stop:
                    self._make_way = False
                    successor = await self._raised(doors, keeper)
                    if successor is not None:
                        return successor
        return None

    async def _raised(self, doors: Doors, keeper: Keeper | None) -> Successor | None:
        """Return a successor, or None if it failed to start or we are to stop meanwhile."""
        log.info("starting the server that is to follow")
        rising = asyncio.create_task(raised(doors.bequests(), keeper))
        while not rising.done() and not self.to_stop:
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait((rising, changed), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._changed.clear()
        if self.to_stop:
            rising.cancel()
        try:
            successor = await rising
        except SuccessionError as error:
            log.error("this server goes on, nothing has changed: %s", error)
            return None
        except asyncio.CancelledError:
            return None
        if self.to_stop:
            successor.dismiss()
            return None
        return successor

    def _wish_to_stop(self) -> None:
        self.to_stop = True
        self._changed.set()

    def _wish_for_a_successor(self) -> None:
        self._make_way = True
        self._changed.set()


@contextlib.contextmanager
def _watched(keeper: Keeper | None, gone: Callable[[], None]) -> Iterator[None]:
    """Call ``gone`` during the block when the keeper ends, if there is one."""
    if keeper is None:
        yield
        return
    try:
        fd = os.pidfd_open(keeper.pid)
    except OSError:
        gone()
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, gone)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        os.close(fd)
