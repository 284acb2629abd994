"""One outage of one dependency: reported when it begins, once a minute while it lasts, and when it is over.

A dependency that comes and goes is one outage: when it fails again at once, its end is said only when it has held.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from worker.codes import FailureClass

if TYPE_CHECKING:
    from worker.failure import Failure
    from worker.ports import Clock, Reporter

_REMINDER_SECONDS = 60.0
_STEADY_SECONDS = 5.0
"""What fails again sooner than this had not come back."""


class Cause(NamedTuple):
    """Why one kind of work fails."""

    failure: Failure
    reason: str
    since: float


class Outage:
    """Says each thing once, however many kinds of work fail in the same outage and however often."""

    def __init__(self, dependency: str, *, address: str, reporter: Reporter, clock: Clock) -> None:
        """Watch *dependency* at *address* (host and port, no credentials)."""
        self._dependency = dependency
        self._address = address
        self._reporter = reporter
        self._clock = clock
        self._failing: dict[str, Cause] = {}
        self._since = self._said_at = 0.0
        self._said_operator = False
        self._up_at = float("-inf")
        self._comes_and_goes = False
        self._times = 0
        """How often it began since that was said."""
        self._holding: asyncio.TimerHandle | None = None
        """While nothing fails and its end is not said yet."""
        self.reason = ""
        """Why, in words, as last heard."""

    @property
    def failure(self) -> Failure | None:
        """Why the dependency cannot be used; None while it can."""
        return next((cause.failure for cause in self._failing.values()), None)

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when there is none."""
        return self._clock.monotonic() - self._since if self._failing else 0.0

    def part(self, work: str) -> Part:
        """Return what there is to say and to know of one kind of work alone."""
        return Part(self, work)

    def began(self, failure: Failure, reason: str = "", *, work: str = "") -> None:
        """Note that *work* of some kind failed; *reason* (no secrets) says it better than the failure's own sentence.

        Reports the first failure, the first that only an operator can end, and those after it once a minute.
        """
        now = self._clock.monotonic()
        begins = not self._failing and not self._goes_on()
        needs_operator = failure.failure_class is FailureClass.OPERATOR
        self.reason = reason or failure.detail
        since = self._failing[work].since if work in self._failing else now
        self._failing[work] = Cause(failure, self.reason, since)
        if begins:
            self._comes_and_goes = now - self._up_at < _STEADY_SECONDS
            self._since, self._said_operator, self._times = now, False, 1
        elif now - self._said_at < _REMINDER_SECONDS and self._said_operator >= needs_operator:
            return
        self._said_operator |= needs_operator
        self._said_at = now
        self._reporter.dependency_down(
            self._dependency,
            failure,
            address=self._address,
            reason=self.reason,
            outage_seconds=None if begins else self.seconds,
        )

    def ended(self, *, work: str = "") -> None:
        """Note that *work* of this kind can be done; reports it when no other kind still fails."""
        seconds = self.seconds
        if self._failing.pop(work, None) is None or self._failing:
            return
        if self._comes_and_goes:
            self._holding = asyncio.get_running_loop().call_later(_STEADY_SECONDS, self._is_up, seconds)
        else:
            self._is_up(seconds)

    def _goes_on(self) -> bool:
        """Tell whether what begins is the outage that ended a moment ago, whose end is not said then."""
        if self._holding is None:
            return False
        self._holding.cancel()
        self._holding = None
        self._times += 1
        return True

    def _is_up(self, seconds: float) -> None:
        self._holding = None
        self._up_at = self._clock.monotonic()
        self._reporter.dependency_up(self._dependency, seconds, self._times)

    def cause(self, work: str) -> Cause | None:
        """Return why *work* of this kind fails; None while it does not."""
        return self._failing.get(work)

    def age(self, cause: Cause) -> float:
        """Return for how many seconds *cause* has lasted."""
        return self._clock.monotonic() - cause.since


class Part:
    """One kind of work in an outage that others have a part in: the dependency is up again when all of them work."""

    def __init__(self, outage: Outage, work: str) -> None:
        self._outage = outage
        self._work = work

    @property
    def failure(self) -> Failure | None:
        """Why this work cannot be done; None while it can."""
        cause = self._outage.cause(self._work)
        return cause and cause.failure

    @property
    def reason(self) -> str:
        """Why, in words, as last heard."""
        cause = self._outage.cause(self._work)
        return cause.reason if cause else ""

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when there is none."""
        cause = self._outage.cause(self._work)
        return self._outage.age(cause) if cause else 0.0

    def began(self, failure: Failure, reason: str = "") -> None:
        """As `Outage.began`."""
        self._outage.began(failure, reason, work=self._work)

    def ended(self) -> None:
        """As `Outage.ended`."""
        self._outage.ended(work=self._work)
