"""Whether the broker gets anything done: an open socket does not show it, a confirmed publish does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.rabbit.errors import BrokerSilent

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.flow.outage import Outage
    from worker.ports import Clock

_SILENT_SECONDS: Final = 5.0
"""Publishes are in hand and nothing has moved for this long: an outage."""
_IDLE_SECONDS: Final = 3.0
"""A session without publishes that has stood for this long ends the outage in which the one before it was lost."""
_IDLE_AFTER_SILENCE_SECONDS: Final = 60.0
"""The same after a silence: what was in hand then comes back, so that having nothing to do proves little."""
_CHECK_SECONDS: Final = 0.5
_LONGEST_STEP_SECONDS: Final = 1.0
"""No check counts for more: a process that was itself held up has not read what the broker said meanwhile."""
SILENCE = "silence"
"""Names the outage for lack of progress beside that of a lost session; both are one outage of the broker."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a broker session has done so far."""

    is_waiting: bool
    """Whether publishes wait for the broker, or we do for it to begin to deliver, which takes a quorum."""
    settled: int
    """Publishes whose confirm has come."""
    received: int
    """Deliveries that have come."""
    is_blocked: bool
    """Whether the broker says that it takes no publishes now; that is an outage of its own."""


class ProgressWatch:
    """Begins an outage when work in hand does not move, and ends any outage once it does. For one broker session."""

    def __init__(self, outage: Outage, look: Callable[[], Progress], clock: Clock) -> None:
        """Report to *outage* what comes of comparing what *look* returns, now and then."""
        self._outage = outage
        self._look = look
        self._clock = clock
        self._before = look()
        self._checked_at = clock.monotonic()
        self._silent = self._idle = 0.0

    async def run(self) -> None:
        """Look twice a second until cancelled, and then once more: what was confirmed until then ended an outage."""
        try:
            while True:
                await asyncio.sleep(_CHECK_SECONDS)
                self.check()
        finally:
            self.check()

    def check(self) -> None:
        """Look once."""
        before, seen = self._before, self._look()
        now = self._clock.monotonic()
        step, self._checked_at = min(now - self._checked_at, _LONGEST_STEP_SECONDS), now
        self._before = seen
        if seen.settled != before.settled or seen.is_blocked:
            self._silent = self._idle = 0.0
            if not seen.is_blocked:
                self._works()
        elif seen.is_waiting:
            self._waits(step, is_moving=seen.received != before.received)
        else:
            self._idles(step)

    def _works(self) -> None:
        self._outage.ended(work=SILENCE)
        self._outage.ended()

    def _waits(self, step: float, *, is_moving: bool) -> None:
        self._idle = 0.0
        self._silent = 0.0 if is_moving else self._silent + step
        if self._silent >= _SILENT_SECONDS:
            silent = BrokerSilent(f"connected, but nothing was confirmed or delivered for {_SILENT_SECONDS:g} s")
            self._outage.began(silent.failure, str(silent), work=SILENCE)

    def _idles(self, step: float) -> None:
        self._silent = 0.0
        self._idle += step
        if self._idle >= _IDLE_SECONDS:
            self._outage.ended()
        if self._idle >= _IDLE_AFTER_SILENCE_SECONDS:
            self._outage.ended(work=SILENCE)
