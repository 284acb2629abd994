"""One outage of one dependency: reported when it begins, once a minute while it lasts, and when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.codes import FailureClass

if TYPE_CHECKING:
    from worker.failure import Failure
    from worker.ports import Clock, Reporter

_REMINDER_SECONDS = 60.0


class Outage:
    """Says each thing once, however many kinds of work fail in the same outage and however often."""

    def __init__(self, dependency: str, *, address: str, reporter: Reporter, clock: Clock) -> None:
        """Watch *dependency* at *address* (host and port, no credentials)."""
        self._dependency = dependency
        self._address = address
        self._reporter = reporter
        self._clock = clock
        self._failing: dict[str, Failure] = {}
        self._since = self._said_at = 0.0
        self._said_operator = False
        self.reason = ""
        """Why, in words, as last heard."""

    @property
    def failure(self) -> Failure | None:
        """Why the dependency cannot be used; None while it can."""
        return next(iter(self._failing.values()), None)

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when there is none."""
        return self._clock.monotonic() - self._since if self._failing else 0.0

    def began(self, failure: Failure, reason: str = "", *, work: str = "") -> None:
        """Note that *work* of some kind failed; *reason* (no secrets) says it better than the failure's own sentence.

        Reports the first failure, the first that only an operator can end, and those after it once a minute.
        """
        now = self._clock.monotonic()
        begins = not self._failing
        needs_operator = failure.failure_class is FailureClass.OPERATOR
        self._failing[work] = failure
        self.reason = reason or failure.detail
        if begins:
            self._since, self._said_operator = now, False
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
        if self._failing.pop(work, None) is not None and not self._failing:
            self._reporter.dependency_up(self._dependency, seconds)
