"""What everything that works reports, and by which clock; the real ones are in `ops` and `app`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from worker.codes import Code
    from worker.dead_letters.envelope import Identity, Reason
    from worker.outcome import Outcome


class Clock(Protocol):
    """Where the time comes from."""

    def now_ms(self) -> int:
        """Return epoch milliseconds."""

    def monotonic(self) -> float:
        """Return monotonic seconds."""


class Accounts(Protocol):
    """Is told of everything that must be counted and logged. Must not raise."""

    def settled(self, outcome: Outcome, seconds: float, code: Code | None = None) -> None:
        """One delivery ended in *outcome*, *seconds* after it was received."""

    def batch(self, lane: str, size: int, seconds: float, **counts: int) -> None:
        """One bundle of work was done."""

    def letter(self, reason: Reason, identity: Identity, attempt: int, *, retry: bool) -> None:
        """One delivery was given up, or retried."""

    def note(self, what: str, **facts: object) -> None:
        """Something worth a line in the log."""

    def trouble(self, what: str, **facts: object) -> None:
        """Something an operator should see."""
