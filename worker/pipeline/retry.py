"""The one decision between another try and giving up: failure, attempt and budget in, tier or nothing out. No I/O."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from worker.codes import Disposition
from worker.flow.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.failure import Failure


class Again(NamedTuple):
    """Another try: where the copy waits, and as which try it comes back."""

    delay: str
    attempt: int


class Verdict(Enum):
    """What follows a failure when it is not another try."""

    DEAD = "dead"
    """Given up."""
    WAIT = "wait"
    """A dependency is at fault: it waits, its attempt unspent."""


class RetryPolicy:
    """Gives every delivery at most *max_attempts* tries, the first included.

    The attempt travels in the message's own header. Each tier takes *per_second* retries a second; what is more waits
    in a later one, so that failures cannot drown live traffic and no retry is held unacknowledged.
    """

    def __init__(
        self,
        delays: Sequence[str],
        max_attempts: int,
        *,
        per_second: int,
        now: float,
        on_deferred: Callable[[], None] = lambda: None,
    ) -> None:
        """Use the tiers *delays*, shortest first; *now* in monotonic seconds.

        *on_deferred* is called for each try that waits in a later tier than its own.
        """
        self._on_deferred = on_deferred
        self._delays = delays
        self._max_attempts = max_attempts
        self._budgets = [Budget(per_second, now) for _ in delays[:-1]]

    def after(self, failure: Failure, attempt: int, now: float) -> Again | Verdict:
        """Return what follows the failed try number *attempt* (from 1)."""
        if failure.failure_class.disposition is Disposition.HELD:
            return Verdict.WAIT
        if self.gives_up(failure, attempt):
            return Verdict.DEAD
        return Again(self._delay(min(attempt, len(self._delays)) - 1, now), attempt + 1)

    def gives_up(self, failure: Failure, attempt: int) -> bool:
        """Tell whether nothing follows the failed try number *attempt* (from 1): the delivery is dead."""
        disposition = failure.failure_class.disposition
        return disposition is Disposition.DEAD or (disposition is Disposition.RETRIED and attempt >= self._max_attempts)

    def once_more(self, attempt: int, now: float) -> Again:
        """Return a try after the first tier's delay that costs no attempt."""
        return Again(self._delay(0, now), attempt)

    def later(self, attempt: int, now: float) -> Again:
        """Return a try after the second tier's delay that costs no attempt: only this message meets the outage."""
        return Again(self._delay(min(1, len(self._delays) - 1), now), attempt)

    def _delay(self, tier: int, now: float) -> str:
        wanted = tier
        while tier < len(self._budgets) and not self._budgets[tier].take(now):
            tier += 1
        if tier != wanted:
            self._on_deferred()
        return self._delays[tier]
