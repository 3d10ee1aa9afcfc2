"""What routers that are joined hand over to each other: frames, from one network into another.

Each network has a pool, slots and quotas of its own, so a frame that goes from one into another is
stored anew there, as one of the router's own device: within its TX slots, by its share of the pool,
dropped and counted where there is no room. No sender waits for a receiver in another network.

A frame was looked up and made ready by the first network's router, and goes straight to its
receiver in the second. So it crosses once, whatever the routes.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypervisor.network import Network


class Interconnect:
    """Carries frames between the networks of one server. Single writer, no I/O."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = {network.name: network for network in networks}
        #: Frames carried since the start, and their bytes without offload headers.
        self.frames = 0
        self.bytes = 0

    def carry(self, source: Network, now: float) -> list[Network]:
        """Hand over what is to leave a network; returns those that got something.

        They may have something to hand over in turn: what they tell its sender.
        """
        touched: dict[str, Network] = {}
        for name, frame, header_bytes, need in source.take_crossings():
            target = touched[name] = self._networks[name]
            self.frames += 1
            self.bytes += len(frame) - header_bytes
            target.enter(frame, header_bytes, need, now)
        return list(touched.values())
