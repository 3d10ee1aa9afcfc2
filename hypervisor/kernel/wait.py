"""Waiting for descriptors in asyncio."""

from __future__ import annotations

import asyncio


async def readable(descriptor: int) -> None:
    """Return when ``descriptor`` polls readable. One waiter a descriptor at a time."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Return when ``descriptor`` polls writable or in error. One waiter a descriptor at a time."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)
