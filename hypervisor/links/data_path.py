"""What moves the frames of links: compiled code if there is such, else Python."""

from __future__ import annotations

import importlib
from typing import Any

from hypervisor.batches import BatchWork
from hypervisor.flows import FlowTable
from hypervisor.links import port
from hypervisor.links.base import Link
from hypervisor.links.burst import Burst, CompiledBurst, PortLink, PythonBurst
from hypervisor.links.lane import Lane
from hypervisor.links.lent_tap import LentTap
from hypervisor.links.sink import CompiledSink, Sink, ThreadedSink


class DataPath:
    """Makes the burst loops and sinks of one runtime: compiled ones, if there is such code.

    ``batches`` is what the networks are to ask of whole batches.
    """

    def __init__(self, *, compiled: bool = True) -> None:
        """Load the compiled module unless it is not wanted; :attr:`slower` says if it is not there.

        Raises nothing: without it everything works, small frames and strangers' TAPs more slowly.
        """
        #: Why Python does what compiled code would do faster, in words; "" if it does not.
        self.slower = ""
        self._compiled: Any = None
        self._lane: Lane | None = None
        self._stopped = False
        self.batches = BatchWork()
        if not compiled:
            self.slower = "the compiled data path was switched off"
            return
        try:
            module = importlib.import_module("hypervisor.links._burst")
            self.batches = BatchWork(module.run_end, module.suspects, module.lengths)
        except ImportError as error:
            self.slower = f"the compiled data path was not built: {error}"
        except AttributeError as error:
            self.slower = f"the compiled data path is older than the program: {error}"
        else:
            self._compiled = module

    def __str__(self) -> str:
        return f"Python, which is slower: {self.slower}" if self.slower else "compiled"

    def sink(self, link: Link, name: str) -> Sink:
        """Return a sink for a link whose owner is not trusted."""
        if self._compiled is not None and isinstance(link, LentTap):
            return CompiledSink(link, self._compiled.Sink(link.fileno(), link.vnet_header, name))
        return ThreadedSink(link, name=name)

    def burst(self, link: Link, flows: FlowTable, mtu: int) -> Burst:
        """Return the burst loop of a link."""
        if (
            self._compiled is not None
            and isinstance(link, PortLink)
            and port.is_served(link.shared)
        ):
            return CompiledBurst(link, flows, mtu, self._compiled, lane=self.lane)
        return PythonBurst(link, flows, mtu)

    @property
    def lane(self) -> Lane | None:
        """The lane of this runtime, which starts with its first burst loop; None without one.

        For the loop's thread.
        """
        if self._lane is None and self._compiled is not None and not self._stopped:
            try:
                self._lane = Lane(self._compiled)
            except OSError as error:
                self.slower = f"no thread could be started for it: {error.strerror}"
                self._stopped = True
        return self._lane

    @property
    def left_behind(self) -> int:
        """How many writes did not come to an end, and were left behind by the lane."""
        return 0 if self._lane is None else self._lane.handovers

    @property
    def lane_cpu_ns(self) -> int:
        """Processor time of the thread that carries now, in ns: a lower one later is another's."""
        return 0 if self._lane is None else self._lane.cpu_ns

    def close(self, link: Link) -> None:
        """Close a link that nothing leads to any more. Blocks, and is for any thread."""
        if self._lane is not None and isinstance(link, PortLink):
            # Whoever has not begun by now sees that it is closed, even with a flow that leads here:
            # the number may be another file's before that is forgotten.
            self._lane.await_writes(link.retire())
        link.close()

    def stop(self) -> None:
        """End the lane; every carrier has been stopped. Twice is allowed."""
        self._stopped = True
        if self._lane is not None:
            self._lane.stop()
