"""What can go wrong with a server that is configured rightly."""

from __future__ import annotations


class StartError(Exception):
    """The server cannot start here; the message says why and what to do."""
