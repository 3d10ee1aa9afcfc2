"""What the demo looked at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table: what should happen, what was seen, whether that is as it should."""

    name: str
    expected: str
    seen: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Stack:
    """A network stack of the demo; ``mac`` is empty until its device is open."""

    name: str
    uid: int
    addresses: tuple[str, ...]
    mac: str = ""


@dataclass(slots=True)
class Outcome:
    """Everything a run found out. It grows while the demo works."""

    guard: str
    variant: str = "namespaces"
    server_uid: int = 0
    #: Where the translator node was, in the temporary folder.
    node: str = ""
    stacks: list[Stack] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    #: The gateway's address and where it leads to, if there is a way out of the network.
    gateway: tuple[str, str] | None = None
    #: What was not shown here, and why, one sentence each.
    left_out: list[str] = field(default_factory=list)
    #: Why no namespaces were used, one sentence each.
    obstacles: list[str] = field(default_factory=list)
    #: The last lines of the server's and the stacks' logs, where something failed.
    log: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all of it held; a run without a check shows nothing."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {
            "ok": self.ok,
            "variant": self.variant,
            "guard": self.guard,
            "duration_s": round(self.duration_s, 3),
            "server": {"uid": self.server_uid, "node": self.node},
            "stacks": [
                {
                    "name": stack.name,
                    "uid": stack.uid,
                    "mac": stack.mac,
                    "addresses": list(stack.addresses),
                }
                for stack in self.stacks
            ],
            "checks": [
                {
                    "name": check.name,
                    "expected": check.expected,
                    "seen": check.seen,
                    "ok": check.ok,
                }
                for check in self.checks
            ],
            "gateway": self.gateway[0] if self.gateway is not None else None,
            "left_out": self.left_out,
            "obstacles": self.obstacles,
            "log": self.log,
        }
