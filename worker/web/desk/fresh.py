"""Answers that several browsers ask for again and again: made once, shared for some seconds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
_MOST: Final = 50
_SHARE: Final = 5
"""An answer is kept at least this many times as long as it took to make: asking costs the store a sixth of the time."""


class Fresh:
    """Keeps the last answers by what they answer."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, asyncio.Task[Any]]] = {}

    async def get(self, key: str, seconds: float, make: Callable[[], Awaitable[T]]) -> T:
        """Return what *make* returned a short while ago, for whoever asked; raises what it raised.

        *seconds*: how old an answer may be that was quickly made.
        """
        until, task = self._answers.get(key, (0.0, None))
        if task is None or (task.done() and until < time.monotonic()):
            self._forget()
            task = asyncio.create_task(_made(make))
            self._answers[key] = (float("inf"), task)
            began = time.monotonic()
            task.add_done_callback(lambda _: self._answered(key, task, began, seconds))
        return cast("T", await asyncio.shield(task))

    def clear(self) -> None:
        """Forget all answers: something was changed."""
        self._answers.clear()

    def _answered(self, key: str, task: asyncio.Task[Any], began: float, seconds: float) -> None:
        seconds = max(seconds, _SHARE * (time.monotonic() - began))
        failed = task.cancelled() or task.exception() is not None
        if self._answers.get(key, (0.0, None))[1] is task:  # not forgotten meanwhile
            self._answers[key] = (0.0 if failed else time.monotonic() + seconds, task)

    def _forget(self) -> None:
        now = time.monotonic()
        self._answers = {key: one for key, one in self._answers.items() if one[0] > now or not one[1].done()}
        while len(self._answers) >= _MOST:
            del self._answers[next(iter(self._answers))]


async def _made(make: Callable[[], Awaitable[T]]) -> T:
    return await make()
