"""Writes the outcome of replays to the letters they came from: in the background, and never in the way of the work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from worker import contract
from worker.dead_letters.letter import status_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.dead_letters.letter import Status
    from worker.flow.gate import Gate
    from worker.outcome import Outcome
    from worker.ports import Clock, Delivery, Reporter

_KEPT: Final = 10_000
"""Outcomes that wait for the store at most; the desk finds those beyond in journal and store."""
_WRITTEN_AT_ONCE: Final = 500
_PAUSE_SECONDS: Final = 0.1
_REMINDER_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 2.0


class ReplayOutcome(NamedTuple):
    """What became of one replay."""

    letter_id: str
    """The letter that was replayed."""
    job_id: str
    status: Status
    outcome: str
    successor: str
    """The letter it became when it died again, else empty."""
    at: int
    """Epoch milliseconds."""


class Ended(Protocol):
    """A delivery that came to an outcome."""

    @property
    def delivery(self) -> Delivery:
        """Its reserved headers are trustworthy."""

    @property
    def outcome(self) -> Outcome:
        """How it ended, or that it comes again."""

    @property
    def letter_id(self) -> str | None:
        """The letter it became."""


class OutcomeStore(Protocol):
    """Where letters are kept. Raises `AdapterError`."""

    async def write_outcomes(self, outcomes: Sequence[ReplayOutcome]) -> None:
        """Write outcomes to the letters that are under way in that job; others stay as they are."""


class ReplayOutcomes:
    """Takes note of outcomes of replays, and writes them soon."""

    def __init__(self, store: OutcomeStore, gate: Gate, clock: Clock, reporter: Reporter) -> None:
        """Write to *store* while *gate*, that of the letters, is open."""
        self._store = store
        self._gate = gate
        self._clock = clock
        self._reporter = reporter
        self._waiting: deque[ReplayOutcome] = deque()
        self._arrived = asyncio.Event()
        self._missed = 0
        self._said_at: float | None = None

    def settled(self, settled: Ended) -> None:
        """Take note of an outcome if it is the last word about a replay."""
        if contract.REPLAY_OF in settled.delivery.properties.headers:  # most who are followed ask for a receipt
            self.note(settled.delivery, settled.outcome, settled.letter_id)

    def note(self, delivery: Delivery, outcome: Outcome, letter_id: str | None) -> None:
        """Do the same for an outcome that is not settled by the pipeline."""
        headers = delivery.properties.headers
        replay_of = headers.get(contract.REPLAY_OF)
        if replay_of is None:
            return
        status, job = status_after(outcome.value), headers.get(contract.REPLAY_JOB)
        if status is None or not isinstance(replay_of, str) or not isinstance(job, str):
            return
        if len(self._waiting) >= _KEPT:
            self._miss(1)
            return
        self._waiting.append(
            ReplayOutcome(replay_of, job, status, outcome.value, letter_id or "", self._clock.now_ms())
        )
        self._arrived.set()

    async def run(self) -> None:
        """Write until cancelled, and what is left at the end."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                await self._write()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._write()

    async def _write(self) -> None:
        while self._waiting:
            some = [*itertools.islice(self._waiting, _WRITTEN_AT_ONCE)]
            try:
                await self._gate.until_done(lambda some=some: self._store.write_outcomes(some))  # type: ignore[misc]
            except Exception:  # noqa: BLE001 - nothing outside the pipeline may end a process; the desk finds them
                self._miss(len(some))
            for _ in some:
                self._waiting.popleft()

    def _miss(self, count: int) -> None:
        self._missed += count
        now = self._clock.monotonic()
        if self._said_at is None or now - self._said_at >= _REMINDER_SECONDS:
            self._said_at = now
            self._reporter.warn("replay_outcomes_missed", count=self._missed)
