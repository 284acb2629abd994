"""Says which records of the registry nobody can read: once a minute each, however many messages meet them. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.conversations.conversation import UnreadableRecord
    from worker.ports import Clock, Reporter

_REMINDER_SECONDS = 60.0
_MAX_REMEMBERED = 1_000
"""Records reported one by one within a minute; what is more is not, for the cause is the same by then."""


class UnreadableLog:
    """Reports unreadable records. Call it for each one met."""

    def __init__(self, reporter: Reporter, clock: Clock) -> None:
        self._reporter = reporter
        self._clock = clock
        self._said_at: dict[str, float] = {}

    def __call__(self, record: UnreadableRecord) -> None:
        """Report *record* unless it, or very many others, were reported within the last minute."""
        now = self._clock.monotonic()
        if now - self._said_at.get(record.id, -_REMINDER_SECONDS) < _REMINDER_SECONDS:
            return
        if len(self._said_at) >= _MAX_REMEMBERED:
            self._said_at = {one: at for one, at in self._said_at.items() if now - at < _REMINDER_SECONDS}
            if len(self._said_at) >= _MAX_REMEMBERED:
                return
        self._said_at[record.id] = now
        self._reporter.warn("conversation_unreadable", conversation_id=record.id, problem=record.problem)
