"""Answers that several browsers ask for again and again: made once, shared for some seconds."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
_MOST: Final = 50
_SHARE: Final = 5
"""An answer is kept at least this many times as long as it took to make: asking costs the store a sixth of the time."""
_PATIENCE_SECONDS: Final = 0.3
"""How long anybody waits for a new answer while there is an old one."""
_OLDEST_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Answer:
    task: asyncio.Task[Any]
    """What makes it, or has made it."""
    until: float = float("inf")
    """Until when it is fresh."""
    made_at: float = 0.0
    before: _Answer | None = None
    """The one before, while this one is being made."""

    @property
    def is_good(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None

    def may_be_shown(self, now: float) -> bool:
        """Tell whether it is fresh at *now*, being made, or good to be shown while the next one is made."""
        return self.until > now or not self.task.done() or (self.is_good and now - self.made_at < _OLDEST_SECONDS)


class Fresh:
    """Keeps the last answers by what they answer."""

    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}

    async def get(self, key: str, seconds: float, make: Callable[[], Awaitable[T]]) -> T:
        """Return what *make* returned a short while ago, for whoever asked; raises what it raised.

        Where making it takes long, what it returned before is returned once more, up to a minute old: a store that has
        much to do holds no page up. *seconds*: how old an answer may be that was quickly made.
        """
        now = time.monotonic()
        answer = self._answers.get(key)
        if answer is None or (answer.task.done() and answer.until < now):
            before = answer if answer is not None and answer.is_good and answer.may_be_shown(now) else None
            self._forget()
            answer = self._begun(key, seconds, make, before)
        if answer.before is not None:
            await asyncio.wait([answer.task], timeout=_PATIENCE_SECONDS)
            if not answer.task.done():
                return cast("T", answer.before.task.result())
        return cast("T", await asyncio.shield(answer.task))

    def clear(self) -> None:
        """Forget all answers: something was changed."""
        self._answers.clear()

    def forget(self, key: str) -> None:
        """Forget one answer; nothing happens where there is none."""
        self._answers.pop(key, None)

    def _begun(self, key: str, seconds: float, make: Callable[[], Awaitable[T]], before: _Answer | None) -> _Answer:
        answer = _Answer(asyncio.create_task(_made(make)), before=before)
        self._answers[key] = answer
        began = time.monotonic()
        answer.task.add_done_callback(lambda _: _answered(answer, began, seconds))
        return answer

    def _forget(self) -> None:
        now = time.monotonic()
        self._answers = {key: one for key, one in self._answers.items() if one.may_be_shown(now)}
        while len(self._answers) >= _MOST:
            del self._answers[next(iter(self._answers))]


async def _made(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


def _answered(answer: _Answer, began: float, seconds: float) -> None:
    answer.made_at = time.monotonic()
    answer.until = answer.made_at + max(seconds, _SHARE * (answer.made_at - began)) if answer.is_good else 0.0
    answer.before = None
