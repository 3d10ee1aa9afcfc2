"""Run an asyncio test on both event loops the server runs on: asyncio's own and uvloop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

T = TypeVar("T", bound=Callable[..., object])

FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a plain test of a coroutine function: pytest runs it once on each loop.

    The coroutine function may ask for fixtures like any test.
    """
    return _on(test, sorted(FACTORIES))


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The same on uvloop alone, for what takes long and does not depend on the loop."""
    return _on(test, ["uvloop"])


def of_thousands(test: T) -> T:
    """Let a test of thousands of calls run without asyncio's own debugging; put it below the above.

    With that asyncio keeps the stack of each call and task, which takes most of the time. What it
    would find in a thousand calls it finds in one, and tests of one are never without it.
    """
    test.asyncio_debug = False  # type: ignore[attr-defined]
    return test


def _on(test: Callable[..., Coroutine[Any, Any, None]], loops: list[str]) -> Callable[..., None]:
    debug = getattr(test, "asyncio_debug", None)  # None: as this Python was told

    def run(loop: str, **fixtures: Any) -> None:
        with asyncio.Runner(debug=debug, loop_factory=FACTORIES[loop]) as runner:
            runner.run(test(**fixtures))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    run.__module__ = test.__module__
    wanted = inspect.signature(test).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("loop", keyword), *(p.replace(kind=keyword) for p in wanted)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    for mark in getattr(test, "pytestmark", ()):
        run = getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs)(run)
    wrapped: Callable[..., None] = pytest.mark.parametrize("loop", loops)(run)
    return wrapped
