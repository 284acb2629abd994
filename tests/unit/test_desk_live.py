"""What the journal tells a replay: outcomes of its letters, and whether live traffic suffers."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

from tests.support.deliveries import NOW, FakeClock
from tests.support.eventually import eventually_async
from worker.desk import live as live_
from worker.desk.journal import StreamEnds, StreamMessage
from worker.desk.live import JournalOutcomes, LiveTraffic
from worker.failure import StoreUnavailable, store_silent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest


class FakeStream:
    """A stream of journal messages that grows by `add`; none can be read while it is away."""

    def __init__(self) -> None:
        self.messages: list[StreamMessage] = []
        self.away = False
        self.consumed = 0
        """How many messages its reader has done with."""

    def add(self, at: int, *outcomes: dict[str, Any]) -> None:
        entries = [{"outcome": "published", "at": at, "receivedAt": at, **one} for one in outcomes]
        body = gzip.compress(json.dumps({"worker": "w", "at": at, "outcomes": entries}).encode())
        self.messages.append(StreamMessage(len(self.messages), body, "gzip", at // 1000))

    async def ends(self) -> StreamEnds | None:
        if self.away:
            raise StoreUnavailable(store_silent())
        return StreamEnds(self.messages[0], self.messages[-1]) if self.messages else None

    async def read(
        self,
        *,
        since_ms: int | None = None,
        offset: int | None = None,
        last: int,
    ) -> AsyncIterator[Sequence[StreamMessage]]:
        assert since_ms or offset
        assert last >= 0
        found = self.messages[offset or 0 :]
        yield found
        self.consumed = (offset or 0) + len(found)

    async def until_all_is_read(self) -> None:
        await eventually_async(lambda: self.consumed == len(self.messages), "the whole stream is read")


async def test_the_outcome_of_a_replay_is_the_last_one_of_its_letter() -> None:
    stream = FakeStream()
    stream.add(
        NOW,
        {"outcome": "retry", "replayOf": "letter-1"},
        {"outcome": "dead", "replayOf": "letter-1", "letterId": "successor"},
        {"outcome": "stored", "replayOf": "letter-2"},
        {"outcome": "waiting", "replayOf": "letter-3"},
    )
    journal = JournalOutcomes(stream)
    jobs = dict.fromkeys(("letter-1", "letter-2", "letter-3", "letter-4"), "job-1")

    found = await journal.outcomes_of(jobs, NOW - 1)
    assert found == {"letter-1": ("dead", "successor"), "letter-2": ("stored", "")}

    stream.away = True
    assert await journal.outcomes_of(jobs, NOW - 1) == {}


async def test_what_an_earlier_job_made_of_a_letter_is_not_the_outcome_of_this_one() -> None:
    stream = FakeStream()
    stream.add(
        NOW,
        {"outcome": "stored", "replayOf": "letter-1", "replayJob": "job-2"},
        {"outcome": "dead", "replayOf": "letter-1", "replayJob": "job-1"},
        {"outcome": "dead", "replayOf": "letter-2", "replayJob": "job-1"},
    )
    found = await JournalOutcomes(stream).outcomes_of({"letter-1": "job-2", "letter-2": "job-2"}, NOW - 1)
    assert found == {"letter-1": ("stored", "")}


def slow(seconds: float, at: int, count: int = 30, **more: Any) -> list[dict[str, Any]]:
    return [{"at": at, "receivedAt": at - int(seconds * 1000), **more} for _ in range(count)]


async def watched(before: float | None, now: float, **more: Any) -> str | None:
    """Return what is said of live traffic that took *before* seconds in the minute before, and takes *now*."""
    clock, stream = FakeClock(), FakeStream()
    stream.add(NOW - 90_000, {})
    if before is not None:
        stream.add(NOW - 30_000, *slow(before, NOW - 30_000))
    live = LiveTraffic(stream, clock)
    task = asyncio.create_task(live.run())
    try:
        await stream.until_all_is_read()
        stream.add(NOW, *slow(now, NOW, **more))
        await stream.until_all_is_read()
        return live.lagging()
    finally:
        task.cancel()


async def test_live_traffic_lags_beyond_two_seconds_or_twice_what_it_took_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_, "_POLL_SECONDS", 0.01)
    usual, twice, long, unknown, replays = await asyncio.gather(
        watched(0.2, 0.39), watched(0.2, 0.6), watched(1.5, 2.1), watched(None, 1.9), watched(0.2, 9, replayOf="letter")
    )

    assert (usual, unknown, replays) == (None, None, None)
    assert twice == (
        "live traffic lags: 95 % of its messages take up to 0.60 s, 0.20 s in the minute before; 0.40 s are allowed"
    )
    assert long is not None
