"""What a real GNU Mach kernel answered, and where we answer something else on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "conformance" / "data" / "gnumach-oracle.json"
ORACLE: dict[str, Any] = json.loads(DATA.read_text("ascii"))
ROWS: dict[str, dict[str, Any]] = {row["call"]: row for row in ORACLE["calls"]}
#: The MAC address of the card that the kernel was asked about.
CARD = bytes.fromhex("525400123456")

#: There is no Mach code: gRPC refuses the call before it is one.
UNAUTHENTICATED = "UNAUTHENTICATED"

#: Rows that are answered otherwise here: the answer, and why.
DEVIATIONS: dict[str, tuple[int | str, str]] = {
    "device_open on a port that is not the master device port": (
        UNAUTHENTICATED,
        "there is no master port: who may open is who may connect to the translator node, and a "
        "call that did not come through it is nobody's",
    ),
    "device_open(name='nosuch0')": (
        0,
        "a virtual NIC comes into being when it is opened; any good name is one",
    ),
    "device_read(100)": (
        2501,
        "served, as MHVED does; with D_NOWAIT nothing is there, without it the read is held",
    ),
    "device_read_inband(100)": (2501, "served, as MHVED does, up to 128 bytes"),
    "device_write_inband, any length": (
        0,
        "served up to 128 bytes: a virtual NIC has no reason to refuse",
    ),
    "device_get_status(NET_STATUS) after device_close": (
        0x10000003,
        "closing destroys the port: nothing else would let a task give its device back",
    ),
    "device_set_filter, NETF program that pops more than it pushed": (
        2505,
        "refused: in GNU Mach the next frame kills the kernel",
    ),
}


def expected(call: str) -> int | str:
    """Return the code that a row has here."""
    code: int = ROWS[call]["mach_code"]
    return DEVIATIONS[call][0] if call in DEVIATIONS else code
