"""``pfinet-client status``: the server, its networks and this owner's devices, as a client sees."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from machdev.v1 import network_pb2

from pfinet_client.client import Client
from pfinet_client.target import Target
from pfinet_client.values import text_of_mac


async def show_status(device: str | Target | None, as_json: bool) -> int:
    """Print the status; return 0."""
    async with Client(device) as client:
        status = await client.network.status()
        devices = await client.network.devices()
        if as_json:
            print(json.dumps(_values(client, status, devices), indent=2))
        else:
            print("\n".join(_lines(client, status, devices)))
    return 0


def _values(
    client: Client, status: network_pb2.GetStatusResponse, devices: list[network_pb2.Device]
) -> dict[str, Any]:
    values: dict[str, Any] = MessageToDict(
        status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    values["owner"] = client.owner
    values["devices"] = [
        MessageToDict(
            device, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        | {"mac_address": text_of_mac(device.mac_address)}
        for device in devices
    ]
    return values


def _lines(
    client: Client, status: network_pb2.GetStatusResponse, devices: list[network_pb2.Device]
) -> list[str]:
    lines = [
        f"server    {client.target.name}, version {status.server_version}, "
        f"up {status.uptime_s:.0f} s",
        f"you are   {client.owner}",
    ]
    for network in status.networks:
        subnets = ", ".join(network.subnets) or "any subnet"
        lines += [
            f"network   {network.name}: {network.mode}, guard {network.guard}, "
            f"MTU {network.mtu_bytes}, {subnets}",
            f"          {network.devices} devices, {network.opens} opens, {network.frames} frames "
            f"switched, {network.copies_delivered} copies delivered{_drops(network.drops)}",
        ]
    for device in devices:
        addresses = ", ".join(device.addresses) or "no address"
        lines += [
            f"device    {device.name} ({text_of_mac(device.mac_address)}) {addresses}"
            + (f", {device.link}" if device.link else ""),
            f"          tx {device.tx_frames} frames {device.tx_bytes} bytes"
            f"{_drops(device.tx_drops)}; rx {device.rx_frames} frames {device.rx_bytes} bytes"
            f"{_drops(device.rx_drops)}",
        ]
    return lines


def _drops(drops: Any) -> str:
    texts = [f"{drop.copies} {drop.reason}" for drop in drops if drop.copies]
    return f", dropped: {', '.join(texts)}" if texts else ""
