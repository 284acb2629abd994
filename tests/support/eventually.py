"""Waiting for a condition with a deadline, instead of sleeping for a guess."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_POLL_SECONDS = 0.02


def eventually(condition: Callable[[], T], what: str = "", seconds: float = 30.0) -> T:
    """Return the first truthy result of *condition*; fail with *what* was waited for after *seconds*."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(_POLL_SECONDS)
    return result


async def eventually_async(condition: Callable[[], Any], what: str = "", seconds: float = 30.0) -> Any:
    """Do the same on an event loop; *condition* may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        value = await result if inspect.isawaitable(result) else result
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        await asyncio.sleep(_POLL_SECONDS)
