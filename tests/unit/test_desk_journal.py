"""Reading the journal back: what is left out, what is said about it, and where reading goes on."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from worker.desk.journal import Coverage, StreamEnds, StreamMessage, read_journal
from worker.desk.times import duration, read_time, utc
from worker.desk.wording import OUTCOMES, REASONS
from worker.outcome import Outcome
from worker.pipeline.ports import StoredBecause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from worker.desk.journal import Entry

NOW = 1_760_000_000_000


class FakeStream:
    """Delivers in pieces of two."""

    def __init__(self, *bodies: bytes) -> None:
        self.messages = [StreamMessage(place, body, "gzip", NOW // 1000) for place, body in enumerate(bodies)]

    async def ends(self) -> StreamEnds | None:
        return StreamEnds(self.messages[0], self.messages[-1]) if self.messages else None

    async def read(
        self, *, since_ms: int | None = None, offset: int | None = None, last: int
    ) -> AsyncIterator[Sequence[StreamMessage]]:
        assert since_ms is not None
        assert last < len(self.messages)
        for start in range(offset or 0, len(self.messages), 2):
            yield self.messages[start : start + 2]


def written(*message_ids: str, at: int = NOW) -> bytes:
    outcomes = [{"messageId": one, "outcome": "stored", "at": at} for one in message_ids]
    return gzip.compress(json.dumps({"worker": "w", "at": at, "outcomes": outcomes}).encode())


async def read(stream: FakeStream, since: int = 0, **options: Any) -> tuple[list[Entry], Coverage]:
    entries: list[Entry] = []
    return entries, await read_journal(stream, since=since, take=entries.append, **options)


async def test_an_empty_journal_has_nothing_and_says_so() -> None:
    entries, coverage = await read(FakeStream())
    assert (entries, coverage) == ([], Coverage(0))


async def test_only_outcomes_of_the_time_asked_for_are_taken() -> None:
    entries, coverage = await read(FakeStream(written("old", at=NOW - 5), written("young")), since=NOW)
    assert [one.message_id for one in entries] == ["young"]
    assert (coverage.reaches_back_to, coverage.messages, coverage.is_complete) == (NOW - 5, 2, True)


async def test_with_ids_only_messages_that_hold_one_are_looked_into() -> None:
    stream = FakeStream(written("a", "b"), b"damaged", written('quote"d', "c"), written("d"))
    entries, coverage = await read(stream, ids=['quote"d'])
    assert [one.message_id for one in entries] == ['quote"d', "c"]
    assert (coverage.messages, coverage.unreadable) == (4, 1)


async def test_reading_goes_on_behind_what_was_read_and_never_goes_back() -> None:
    stream = FakeStream(written("a"), written("b"), written("c"))
    _, first = await read(stream)
    assert first.next_offset == 3
    entries, second = await read(stream, from_offset=first.next_offset)
    assert (entries, second.next_offset) == ([], 3)
    stream.messages.append(StreamMessage(3, written("d"), "gzip", NOW // 1000))
    entries, third = await read(stream, from_offset=second.next_offset)
    assert ([one.message_id for one in entries], third.next_offset) == (["d"], 4)


async def test_whoever_watches_the_progress_can_end_it() -> None:
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> bool:
        seen.append((done, total))
        return False

    entries, coverage = await read(FakeStream(*(written(str(n)) for n in range(6))), on_progress=on_progress)
    assert (len(entries), seen, coverage.is_complete) == (2, [(2, 6)], False)


@pytest.mark.parametrize(
    ("text", "at"),
    [("90s", NOW - 90_000), ("7d", NOW - 604_800_000), ("2025-10-09T08:53:20Z", NOW), ("1760000000", NOW)],
)
def test_a_time_is_how_long_ago_or_when(text: str, at: int) -> None:
    assert read_time(text, NOW) == at


@pytest.mark.parametrize("text", ["yesterday", "", "7 days", "-1d", "2025-13-01"])
def test_what_is_no_time_is_refused_with_what_one_is(text: str) -> None:
    with pytest.raises(ValueError, match="7d"):
        read_time(text, NOW)


def test_times_are_written_for_people() -> None:
    assert utc(NOW + 7) == "2025-10-09T08:53:20.007Z"
    assert utc(10**18) == str(10**18)
    assert [duration(ms) for ms in (-1, 17, 8_000, 725_000, 273_600_000)] == [
        *("0 ms", "17 ms", "8 s", "12 min 5 s", "3 d 4 h"),
    ]


def test_every_outcome_and_every_reason_has_its_words() -> None:
    assert set(OUTCOMES) == set(Outcome)
    assert set(REASONS) == set(StoredBecause)
