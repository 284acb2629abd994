"""Pauses between attempts that grow with every failure, are jittered, and start again after a success."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import tenacity

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """The next pause, in seconds: between half of and the whole of *first*, then of twice that, up to *longest*.

    The strategy is tenacity's; *random* returns uniform numbers in [0, 1).
    """

    def __init__(self, first: float, longest: float, *, random: Callable[[], float]) -> None:
        self._wait = tenacity.wait_exponential(multiplier=first, max=longest)
        self._random = random
        self._attempts = itertools.count(1)

    def next(self) -> float:
        """Return the pause before the next attempt."""
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = next(self._attempts)
        return self._wait(state) * (0.5 + self._random() / 2)

    def reset(self) -> None:
        """Start again with the shortest pause: the last attempt was a success."""
        self._attempts = itertools.count(1)
