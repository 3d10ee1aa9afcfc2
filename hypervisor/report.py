"""What `hypervisor status|devices|fdb|events` print: a server's answers as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypervisor import console

# Words for the flags of a device, as ip-link(8) writes them (if.h of the Hurd and Linux agree).
_FLAG_WORDS = ((0x1, "UP"), (0x4, "DEBUG"), (0x100, "PROMISC"), (0x200, "ALLMULTI"))


def status(answer: Mapping[str, Any]) -> str:
    """Return the server in a few lines and its networks in a table."""
    lines = [f"hypervisor {answer['server_version']}, up {console.duration(answer['uptime_s'])}"]
    if answer["data_path"] != "compiled":
        lines.append(f"data path: {answer['data_path']}")
    if answer["writes_left_behind"]:
        count = answer["writes_left_behind"]
        lines.append(f"writes to stacks that were too slow, left behind: {count}")
    for node in answer["nodes"]:
        path = console.printable(node["path"])
        lines.append(f"node {path} on network {node['network']}, {node['connections']} connected")
    heads = (
        *("NETWORK", "MODE", "GUARD", "MTU", "DEVICES", "OPENS", "TASKS", "HELD", "POOL"),
        *("FDB", "FRAMES", "BYTES", "DELIVERED", "DROPPED", "SUBNETS"),
    )
    rows = [
        (
            one["name"],
            one["mode"],
            one["guard"],
            str(one["mtu_bytes"]),
            str(one["devices"]),
            str(one["opens"]),
            str(one["tasks"]),
            f"{one['held_reads']}r {one['held_writes']}w",
            f"{one['pool_frames'] - one['pool_free_frames']}/{one['pool_frames']}",
            f"{one['fdb_entries']}/{one['fdb_capacity']}",
            str(one["frames"]),
            console.size(one["bytes"]),
            str(one["copies_delivered"]),
            str(sum(one["drops"].values())),
            " ".join(one["subnets"]) or "any",
        )
        for one in answer["networks"]
    ]
    lines += ["", console.table(heads, rows, right=heads[3:14])]
    for one in answer["networks"]:
        if one["drops"]:
            lines.append(f"dropped on {one['name']}: {console.counts(one['drops'])}")
    if answer["links"]:
        lines += ["", links(answer["links"])]
    return "\n".join(lines)


def links(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of links; tx is what came in by the link, rx what went out."""
    heads = (
        *("NETWORK", "OWNER", "NAME", "LINK", "STATE", "MTU", "TX FRAMES", "TX BYTES"),
        *("RX FRAMES", "RX BYTES", "DROPPED", "MISSED", "OFFLOADS", "PEER"),
    )
    return console.table(
        heads,
        [
            (
                one["network"],
                one["owner"],
                one["name"],
                one["kind"],
                one["state"],
                str(one["mtu_bytes"]),
                str(one["tx_frames"]),
                console.size(one["tx_bytes"]),
                str(one["rx_frames"]),
                console.size(one["rx_bytes"]),
                _drops(one),
                console.counts(one["missed"]) or "-",
                ",".join(one["offloads"]) or "-",
                console.printable(one["peer"] + (f" ({one['detail']})" if one["detail"] else "")),
            )
            for one in rows
        ],
        right=heads[5:10],
    )


def devices(answer: Mapping[str, Any]) -> str:
    """Return a table of devices."""
    if not answer["devices"]:
        return "no devices of yours"
    heads = (
        *("NETWORK", "OWNER", "NAME", "MAC", "FLAGS", "LINK", "OPENS", "TX FRAMES", "TX BYTES"),
        *("RX FRAMES", "RX BYTES", "WAITING", "DROPPED", "ADDRESSES"),
    )
    rows = [
        (
            one["network"],
            one["owner"],
            one["name"],
            one["mac"],
            " ".join([_flags(one["flags"]), *_particulars(one)]),
            _link_word(one),
            str(one["opens"]),
            str(one["tx_frames"]),
            console.size(one["tx_bytes"]),
            str(one["rx_frames"]),
            console.size(one["rx_bytes"]),
            str(one["rx_slots_used"]),
            _drops(one),
            " ".join(one["addresses"]) or "-",
        )
        for one in answer["devices"]
    ]
    return console.table(heads, rows, right=heads[6:12])


def fdb(answer: Mapping[str, Any]) -> str:
    """Return a table of forwarding entries."""
    if not answer["entries"]:
        return "no forwarding entries of yours"
    heads = ("NETWORK", "MAC", "VLAN", "OWNER", "DEVICE", "AGE")
    rows = [
        (
            one["network"],
            one["mac"],
            str(one["vlan"] or "-"),
            one["owner"],
            one["device"],
            "static" if one["age_s"] is None else console.duration(one["age_s"]),
        )
        for one in answer["entries"]
    ]
    return console.table(heads, rows)


def leases(answer: Mapping[str, Any]) -> str:
    """Return a table of addresses and whose they are."""
    if not answer["leases"]:
        return "no addresses of yours"
    heads = ("NETWORK", "ADDRESS", "OWNER", "DEVICE", "MAC", "KIND", "EXPIRES", "LAST USED")
    rows = [
        (
            one["network"],
            one["address"],
            one["owner"],
            one["device"] or "-",
            one["mac"] or "-",
            one["kind"],
            _expires(one["expires_in_s"]),
            _last_used(one),
        )
        for one in answer["leases"]
    ]
    return console.table(heads, rows)


def _expires(in_s: float | None) -> str:
    return "-" if in_s is None else f"in {console.duration(in_s)}"


def _last_used(one: Mapping[str, Any]) -> str:
    if one["in_use"]:
        return "now"
    unused_s = one["unused_for_s"]
    return "not open" if unused_s is None else f"{console.duration(unused_s)} ago, owner away"


def event(one: Mapping[str, Any]) -> str:
    """Return one event as a line."""
    return console.event_line(one)


def _flags(bits: int) -> str:
    return ",".join(word for bit, word in _FLAG_WORDS if bits & bit) or "DOWN"


def _particulars(one: Mapping[str, Any]) -> list[str]:
    """Return what else is to be said of a device, in words."""
    words = ["stalled"] if one["stalled"] else []
    if one["vlans"]:
        kind = "tagged" if one["is_tagged"] else "vlan"
        words.append(f"{kind}:{','.join(map(str, one['vlans']))}")
    if one["mirror"]:
        words.append("mirror")
    return words


def _link_word(one: Mapping[str, Any]) -> str:
    """Return the kind of a device's link, and its state if that is not "up"."""
    link = one["link_status"]
    if not link:
        return one["link"] or "-"
    return str(link["kind"]) if link["state"] == "up" else f"{link['kind']} {link['state']}"


def _drops(one: Mapping[str, Any]) -> str:
    parts = [
        f"{way} {console.counts(one[key])}"
        for way, key in (("tx:", "tx_drops"), ("rx:", "rx_drops"))
        if one[key]
    ]
    return " ".join(parts) or "-"
