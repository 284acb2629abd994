"""How long to wait before a dependency that was lost is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.codes import FailureClass
from worker.flow.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.failure import Failure

_SECONDS: Final = (0.2, 3.0)
"""First and longest pause between two attempts, before jitter."""
_STEADY_SECONDS: Final = 5.0
"""What lived this long was a success: the next pause is the shortest again."""
_OPERATOR_SECONDS: Final = 10.0
"""Pause after a refusal: only an operator can help, and hammering does not."""


class Reconnecting:
    """The pauses of one client of the broker."""

    def __init__(self, *, random: Callable[[], float]) -> None:
        """*random* returns uniform numbers in [0, 1)."""
        self._backoff = Backoff(*_SECONDS, random=random)

    def pause_after(self, failure: Failure, lasted_seconds: float) -> float:
        """Return the seconds until the next attempt, after what *lasted_seconds* (0: it never began) ended so."""
        if lasted_seconds > _STEADY_SECONDS:
            self._backoff.reset()
        return _OPERATOR_SECONDS if failure.failure_class is FailureClass.OPERATOR else self._backoff.next()
