"""How many deliveries to hold at once: small after a start, full when all is well, small for large messages. No I/O.

A process that dies leaves its whole window to be delivered again, and each of those deliveries counts towards the
broker's limit. So a start is careful: one delivery first; if the broker says it was handed out before, few; and one
at a time for what was handed out several times, so that a message that kills its reader dies alone. A process that
lives on after it lost the broker knows that this was no message's doing: there, one hand-out before is forgiven and the
start is not careful, for otherwise live events wait while what was in hand for a slow store comes back a few at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from worker.ports import Delivery

_CAREFUL = 32
_CALM_AFTER = 64
"""Deliveries in a row, none of them handed out before, after which the window may be full."""
_WEIGHT = 0.1
"""How fast the average size follows: about ten deliveries."""


def facts_of(batch: Collection[Delivery]) -> tuple[int, int, int]:
    """Return what a window is told of deliveries taken together: count, bytes, and the most often one came before."""
    worst = max((one.prior_deliveries for one in batch if one.redelivered), default=0)
    return len(batch), sum(len(one.body) for one in batch), worst


class Window:
    """Watches deliveries and says how large the prefetch should be."""

    def __init__(self, full: int, max_bytes: int, *, forgiven: int = 0) -> None:
        """Grow to *full* deliveries, or to as many as have *max_bytes* of bodies together.

        So many hand-outs before as are *forgiven* say nothing against a delivery; the first one then opens it fully.
        """
        self._forgiven = forgiven
        self._full = full
        self._max_bytes = max_bytes
        self._average_bytes = 0.0
        self._calm = _CALM_AFTER if forgiven else 0
        self.size = 1
        """The prefetch to use now."""

    def observe(self, count: int, size: int, worst: int, *, may_grow: bool = True) -> bool:
        """Take note of one delivery or several, as `facts_of` has them; return whether `size` changed.

        It does not grow unless it *may_grow*: more would only wait behind what does not go on.
        """
        worst = max(0, worst - self._forgiven)
        self._calm = 0 if worst else self._calm + count
        weight = 1 - (1 - _WEIGHT) ** count if self._average_bytes else 1
        self._average_bytes += (size / count - self._average_bytes) * weight
        wanted = min(self._cautious(worst), self._affordable(), self._full if may_grow else self.size)
        if self.size // 2 < wanted < self.size * 2:
            return False  # a new consumer costs three round trips; small corrections are not worth them
        self.size = wanted
        return True

    def _cautious(self, worst: int) -> int:
        if worst > 1:
            return 1
        return self._full if self._calm >= _CALM_AFTER else _CAREFUL

    def _affordable(self) -> int:
        return max(1, int(self._max_bytes / max(self._average_bytes, 1.0)))
