"""Forwarding: which devices a frame goes to, by its destination address. Pure decisions.

Theory of operation
    A *port* is where a device (later an uplink) meets the network; its ``choice`` is ready-made,
    so that a known unicast destination costs one dict look-up: ``table[destination].choice``.
    Everything else (groups, unknown destinations, learning, hubs) goes through
    :meth:`Forwarder.forward`.

    hub     every frame to all other ports
    switch  by destination: devices' own addresses are static entries, addresses behind trunks
            and uplinks are learned, groups go to all, unknown unicast to trunks, uplinks and
            promiscuous devices only
    fdb     the bounded table of learned addresses
    router  by IP destination: it is asked before (:meth:`Router.route`), and puts other addresses
            in front of frames; then they go to whom they are addressed

Each VLAN is a forwarder of its own, with a table of its own; a port that carries several has a
:class:`Port` in each. Frames that have to change their form between two ports are said to
(:class:`~hypervisor.engine.opens.Wide`).

Nothing is ever sent back to where it came from, and 01-80-C2-00-00-00..0F goes nowhere
(IEEE 802.1Q 8.6.3).
"""

from __future__ import annotations

from hypervisor.forwarding.base import Forwarder, Learning, Port
from hypervisor.forwarding.fdb import Fdb
from hypervisor.forwarding.hub import Hub
from hypervisor.forwarding.packets import Routed
from hypervisor.forwarding.resolver import Waiting
from hypervisor.forwarding.router import Endpoint, Router
from hypervisor.forwarding.router_host import OwnAddress
from hypervisor.forwarding.routes import RouteTable
from hypervisor.forwarding.switch import Switch

__all__ = [
    "Endpoint",
    "Fdb",
    "Forwarder",
    "Hub",
    "Learning",
    "OwnAddress",
    "Port",
    "RouteTable",
    "Routed",
    "Router",
    "Switch",
    "Waiting",
]
