"""Every way to join two namespaces that ``benchmarks stacks`` knows, in one circumstance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.peers import Started, missing, start_server, start_vde
from benchmarks.processes import Crew
from benchmarks.rootless import STRANGER_UIDS, TOOLS, no_tun, no_users
from benchmarks.topologies import (
    MTU_BYTES,
    Joined,
    Machine,
    join_bridge,
    join_openvswitch,
    join_ours,
    join_vde,
    join_veth,
    pasta,
    slirp4netns,
)
from hypervisor.serve.compose import DATA_PATH

JUMBO_BYTES = 65_520
VETH, BRIDGE, OPENVSWITCH, VDE = "veth", "Linux bridge", "Open vSwitch", "vde"
SLIRP, PASTA = "slirp4netns", "pasta"
OWNER, STRANGERS = "ours, one owner", "ours, two strangers"
PYTHON = "ours, Python only"
#: User-space peers besides vde, which is what goals are about.
PEERS = (OPENVSWITCH, SLIRP, PASTA)
OURS = (OWNER, STRANGERS)


@dataclass(frozen=True, slots=True)
class Circumstance:
    """How long frames may be, whether stacks may leave work to others, and whom goals are about."""

    name: str
    mtu_bytes: int
    offloads: bool
    goals_need: tuple[str, ...]


CIRCUMSTANCES = {
    one.name: one
    for one in (
        Circumstance("plain", MTU_BYTES, False, (VDE, *OURS, PYTHON)),
        Circumstance("offload", MTU_BYTES, True, (VETH, VDE, *PEERS, *OURS, PYTHON)),
        Circumstance("jumbo", JUMBO_BYTES, True, (VETH, *OURS)),
    )
}


class Ground:
    """Where the contestants of one circumstance are made, each in a subnet of its own."""

    def __init__(self, crew: Crew, circumstance: Circumstance, first_subnet: int) -> None:
        self._crew = crew
        self._mtu_bytes = circumstance.mtu_bytes
        self._first_subnet = first_subnet
        folder = crew.folder / circumstance.name
        folder.mkdir(mode=0o755)
        self._folder = folder

    def ways(self) -> dict[str, tuple[Callable[[int], Joined], str]]:
        """Return each way: what joins two namespaces in a subnet, and why it cannot be started."""
        tools = missing(*TOOLS, "ethtool")
        tun = tools or no_tun()
        too_long = "" if self._mtu_bytes <= MTU_BYTES else "carries no such frames"
        one_user = tun or missing("setpriv") or no_users(1)
        ovs = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl")
        return {
            VETH: (self._veth, tools),
            BRIDGE: (self._bridge, tools),
            OPENVSWITCH: (self._openvswitch, tools or missing(*ovs)),
            VDE: (self._vde, tun or missing("vde_switch", "vde_plug2tap") or too_long),
            SLIRP: (self._slirp4netns, one_user or missing("slirp4netns")),
            PASTA: (self._pasta, one_user or missing("pasta")),
            OWNER: (self._owner, tun),
            STRANGERS: (self._strangers, tun or no_users(2)),
            PYTHON: (self._python, tun),
        }

    def subnet(self, name: str) -> int:
        """Return the subnet of a way, which no other has."""
        return self._first_subnet + list(self.ways()).index(name)

    def _veth(self, subnet: int) -> Joined:
        return join_veth(self._crew, subnet, self._mtu_bytes)

    def _bridge(self, subnet: int) -> Joined:
        return join_bridge(self._crew, subnet, self._mtu_bytes)

    def _openvswitch(self, subnet: int) -> Joined:
        return join_openvswitch(self._crew, subnet, self._folder / "ovs", self._mtu_bytes)

    def _vde(self, subnet: int) -> Joined:
        return join_vde(self._crew, subnet, start_vde(self._crew, self._folder))

    def _slirp4netns(self, _subnet: int) -> Joined:
        command = partial(slirp4netns, self._mtu_bytes)
        return Machine(self._crew).join(SLIRP, STRANGER_UIDS[0], command)

    def _pasta(self, _subnet: int) -> Joined:
        command = partial(pasta, self._mtu_bytes)
        return Machine(self._crew).join(PASTA, STRANGER_UIDS[0], command)

    def _owner(self, subnet: int) -> Joined:
        return join_ours(self._crew, subnet, self._server("owner"), None)

    def _strangers(self, subnet: int) -> Joined:
        return join_ours(self._crew, subnet, self._server("strangers"), STRANGER_UIDS)

    def _python(self, subnet: int) -> Joined:
        server = self._server("python", {DATA_PATH: "python"})
        return join_ours(self._crew, subnet, server, None)

    def _server(self, name: str, environment: dict[str, str] | None = None) -> Started:
        return start_server(
            self._crew,
            self._folder / name,
            *("--network", f"default,mtu={self._mtu_bytes}"),
            environment=environment,
        )
