"""Talking to a server in another process, and looking at what it leaves in its folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.helpers.service import Client


def talk(node: Path | str, conversation: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    """Have a conversation with the server at a node (or a gRPC target), in a task of its own."""

    async def conversing() -> Any:
        client = Client(node if isinstance(node, str) else f"unix:{node}")
        try:
            await client.attach()
            return await conversation(client)
        finally:
            await client.channel.close()

    return asyncio.run(conversing())


async def mac_of_eth0(client: Client) -> bytes:
    """Open eth0 and return its MAC address: the shortest proof that a server serves."""
    return (await client.open("eth0")).mac_address


def names(folder: Path) -> list[str]:
    """Return the names in a folder, but for the logs that the tests write there."""
    return sorted(one.name for one in folder.iterdir() if not one.name.startswith("log-"))
