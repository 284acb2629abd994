"""The journal, asked while letters are replayed: what became of them, and how long live messages take meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.dead_letters.letter import status_after
from worker.desk.journal import read_journal
from worker.desk.ports import Published
from worker.failure import AdapterError
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from worker.desk.journal import Entry, JournalStream
    from worker.ports import Clock

_LONGEST_READING_SECONDS: Final = 30.0
_MOST_NEEDLES: Final = 50
"""Looking for more ids in each message takes longer than reading all of it."""
_WINDOW_MS: Final = 5_000
"""Live traffic is judged by the outcomes of so long."""
_BEFORE_MS: Final = 60_000
_LIMIT_SECONDS: Final = 2.0
_FLOOR_SECONDS: Final = 0.1
"""Twice as long as before is no lag while it is shorter than this."""
_FEWEST: Final = 20
"""Fewer live outcomes than that say nothing."""
_PERCENT: Final = 0.95
_POLL_SECONDS: Final = 1.0


class JournalOutcomes:
    """What the journal knows of replays."""

    def __init__(self, stream: JournalStream) -> None:
        self._stream = stream

    async def outcomes_of(self, jobs: Mapping[str, str], since: int) -> Mapping[str, tuple[str, str]]:
        """Return the final outcome of each replay since *since* (epoch ms), and the letter it became or "".

        *jobs*: by letter, the job that replayed it; what an earlier job made of it does not count. A journal that is
        missing or silent knows nothing.
        """
        found: dict[str, tuple[str, str]] = {}

        def take(entry: Entry) -> None:
            job = jobs.get(entry.replay_of or "")
            if job is not None and entry.replay_job in {job, None} and status_after(entry.outcome):
                found[entry.replay_of or ""] = entry.outcome, entry.letter_id or ""

        try:
            await read_journal(self._stream, since=since, take=take, ids=jobs.keys())
        except AdapterError:
            return {}
        return found

    async def published(self, conversation_ids: Collection[str], since: int) -> Published | None:
        """Return what was published to conversations since *since* (epoch ms); None if the journal cannot be read.

        Reading ends after some seconds, and then says so.
        """
        newest: dict[str, int] = {}
        wanted = frozenset(conversation_ids)
        until = time.monotonic() + _LONGEST_READING_SECONDS

        def take(entry: Entry) -> None:
            name = entry.conversation_id
            if name in wanted and entry.outcome == Outcome.PUBLISHED and entry.replay_of is None:
                newest[name] = max(entry.received_at, newest.get(name, 0))

        try:
            coverage = await read_journal(
                self._stream,
                since=since,
                take=take,
                ids=wanted if len(wanted) <= _MOST_NEEDLES else (),
                on_progress=lambda _done, _total: time.monotonic() < until,
            )
        except AdapterError:
            return None
        back = coverage.reaches_back_to
        if back is None:  # an empty journal knows nothing of what was before it
            return None
        return Published(newest, max(since, back), coverage.is_complete and not coverage.gaps)


class _Seen(NamedTuple):
    at: int
    seconds: float


class LiveTraffic:
    """Watches how long live messages take from receipt to outcome, by the journal; replays do not count."""

    def __init__(self, stream: JournalStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._seen: deque[_Seen] = deque()
        self._offset: int | None = None
        self._usual: float | None = None

    async def run(self) -> None:
        """Read the journal as it grows, until cancelled; while it cannot be read nothing is known of live traffic."""
        await self._read(self._clock.now_ms() - _BEFORE_MS)
        self._usual = _p95([one.seconds for one in self._seen])
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self._read(self._clock.now_ms() - _WINDOW_MS)

    def lagging(self) -> str | None:
        """Return one sentence if live messages take too long: 2 s, or twice what they took before, by the 95th percent.

        Measured over 5 s, against the minute before the replay began.
        """
        oldest = self._clock.now_ms() - _WINDOW_MS
        seconds = _p95([one.seconds for one in self._seen if one.at >= oldest])
        if seconds is None:
            return None
        limit = _LIMIT_SECONDS if self._usual is None else min(_LIMIT_SECONDS, max(2 * self._usual, _FLOOR_SECONDS))
        if seconds <= limit:
            return None
        before = "" if self._usual is None else f", {self._usual:.2f} s in the minute before"
        return f"live traffic lags: 95 % of its messages take up to {seconds:.2f} s{before}; {limit:.2f} s are allowed"

    async def _read(self, since: int) -> None:
        try:
            coverage = await read_journal(self._stream, since=since, take=self._take, from_offset=self._offset)
        except AdapterError:
            return
        self._offset = coverage.next_offset
        oldest = self._clock.now_ms() - _BEFORE_MS
        while self._seen and self._seen[0].at < oldest:
            self._seen.popleft()

    def _take(self, entry: Entry) -> None:
        if entry.replay_of is None and status_after(entry.outcome):
            self._seen.append(_Seen(entry.at, (entry.at - entry.received_at) / 1000))


def _p95(values: list[float]) -> float | None:
    """Return what 95 of a hundred values do not exceed, None of too few."""
    return sorted(values)[int(len(values) * _PERCENT)] if len(values) >= _FEWEST else None
