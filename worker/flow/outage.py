"""One outage of one dependency: reported when it begins, once a minute while it lasts, and when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.failure import Failure
    from worker.ports import Clock, Reporter

_REMINDER_SECONDS = 60.0


class Outage:
    """Says each thing once, however many failures the same outage causes."""

    def __init__(self, dependency: str, *, address: str, reporter: Reporter, clock: Clock) -> None:
        """Watch *dependency* at *address* (host and port, no credentials)."""
        self._dependency = dependency
        self._address = address
        self._reporter = reporter
        self._clock = clock
        self._since: float | None = None
        self._said_at = 0.0
        self.failure: Failure | None = None
        """Why it cannot be used; None while it can."""

    @property
    def lasts(self) -> bool:
        """Whether the dependency cannot be used now."""
        return self.failure is not None

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when there is none."""
        return 0.0 if self._since is None else self._clock.monotonic() - self._since

    def began(self, failure: Failure, reason: str = "") -> None:
        """Note that the dependency failed; *reason* (no secrets) says it better than the failure's own sentence.

        Reports the first failure, and those after it once a minute.
        """
        now = self._clock.monotonic()
        begins = self._since is None
        self.failure = failure
        if begins:
            self._since = now
        elif now - self._said_at < _REMINDER_SECONDS:
            return
        self._said_at = now
        self._reporter.dependency_down(
            self._dependency,
            failure,
            address=self._address,
            reason=reason or failure.detail,
            outage_seconds=None if begins else self.seconds,
        )

    def ended(self) -> None:
        """Note that the dependency works, and report it if it did not before."""
        seconds, lasted = self.seconds, self.lasts
        self._since = self.failure = None
        if lasted:
            self._reporter.dependency_up(self._dependency, seconds)
