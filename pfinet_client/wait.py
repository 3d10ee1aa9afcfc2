"""Waiting for descriptors in asyncio: what both programs use, under the client's roof."""

from __future__ import annotations

from hypervisor.kernel.wait import readable, writable

__all__ = ["readable", "writable"]
