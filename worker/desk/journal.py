"""Reading the journal back: the outcomes of a time, how far back it reaches, and where it has gaps.

A stream is read forward only: from its first message, or from a time on, never from its end. So a reader names how far
back it wants to look, and pays for all that lies between.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import orjson

from worker.cim.encoding import unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

_MAX_BYTES: Final = 16 * 1024 * 1024
"""Largest message of a journal, unpacked; what is larger was not written by a worker."""
_LEAD_MS: Final = 60_000
"""Entries stand in the journal this much after their time at most: it is read from so much earlier on."""
_GAP: Final = b'"gap"'


class StreamMessage(NamedTuple):
    """One message of a stream, as it is."""

    offset: int
    body: bytes
    encoding: str
    timestamp: int | None
    """Epoch seconds, as its publisher says."""


class StreamEnds(NamedTuple):
    """The first and the last message of a stream."""

    first: StreamMessage
    last: StreamMessage


class JournalStream(Protocol):
    """The stream that the journal is kept in. Every method raises `AdapterError`."""

    async def ends(self) -> StreamEnds | None:
        """Return the first and the last message known, or None for an empty stream; a few may follow the last."""

    def read(
        self, *, since_ms: int | None = None, offset: int | None = None, last: int
    ) -> AsyncIterator[Sequence[StreamMessage]]:
        """Yield messages from *offset*, or from *since_ms* on, up to the end, which is at *last* or a little later."""


class Entry:
    """One outcome of a delivery, as the journal has it. Times are epoch milliseconds; what it does not say is None."""

    __slots__ = ("_raw", "at", "outcome", "worker")

    def __init__(self, worker: str, raw: dict[str, Any], outcome: str, at: int) -> None:
        """Take *raw* as it is: what is read of it is checked when it is read, for most of it never is."""
        self._raw = raw
        self.worker = worker
        self.outcome = outcome
        self.at = at

    @property
    def event_id(self) -> str | None:
        """What the event and its document are known by."""
        return self._text("eventId")

    @property
    def message_id(self) -> str | None:
        """The publisher's id of the message."""
        return self._text("messageId")

    @property
    def sender_id(self) -> str | None:
        """Who sent it."""
        return self._text("senderId")

    @property
    def conversation_id(self) -> str | None:
        """The conversation it names."""
        return self._text("conversationId")

    @property
    def reason(self) -> str | None:
        """Why it was stored."""
        return self._text("reason")

    @property
    def code(self) -> str | None:
        """Why it failed."""
        return self._text("code")

    @property
    def letter_id(self) -> str | None:
        """The dead letter it became."""
        return self._text("letterId")

    @property
    def replay_of(self) -> str | None:
        """The dead letter it is a replay of."""
        return self._text("replayOf")

    @property
    def replay_job(self) -> str | None:
        """The job that replayed it; None also where an older worker wrote it."""
        return self._text("replayJob")

    @property
    def amqp_message_id(self) -> str | None:
        """The AMQP message id of its delivery, if it is another than the message's; older workers did not write it."""
        return self._text("amqpMessageId")

    @property
    def received_at(self) -> int:
        """When it was received; when it ended, where that is not known."""
        at = self._raw.get("receivedAt")
        return at if isinstance(at, int) else self.at

    @property
    def ids(self) -> frozenset[str]:
        """Every id by which somebody may look for it."""
        ids = (self.event_id, self.message_id, self.letter_id, self.replay_of, self.amqp_message_id)
        return frozenset(one for one in ids if one is not None)

    def _text(self, name: str) -> str | None:
        value = self._raw.get(name)
        return value if isinstance(value, str) else None


class Gap(NamedTuple):
    """Outcomes that the journal may not have. Times are epoch milliseconds."""

    worker: str
    first: int
    last: int
    missing: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was read. Times are epoch milliseconds."""

    since: int
    """From when on outcomes were asked for."""
    reaches_back_to: int | None = None
    """The oldest outcome that the journal still has; None when it is empty or does not say."""
    read_to: int | None = None
    """The time of the newest message that was read."""
    next_offset: int | None = None
    """Where to go on reading."""
    messages: int = 0
    unreadable: int = 0
    """Messages that no worker wrote, or that are damaged."""
    gaps: tuple[Gap, ...] = ()
    is_complete: bool = True
    """False when reading ended before the end of the journal."""

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        gaps = [{"worker": gap.worker, "from": gap.first, "to": gap.last, "count": gap.missing} for gap in self.gaps]
        return {
            "since": self.since,
            "reachesBackTo": self.reaches_back_to,
            "readTo": self.read_to,
            "messages": self.messages,
            "unreadable": self.unreadable,
            "complete": self.is_complete,
            "gaps": gaps,
        }


@dataclass(slots=True)
class _Reading:
    """What a reading in progress has met so far."""

    since: int
    take: Callable[[Entry], object]
    needles: tuple[bytes, ...]
    coverage: Coverage
    gaps: list[Gap] = field(default_factory=list)
    messages: int = 0
    unreadable: int = 0
    read_to: int | None = None


def needles(ids: Collection[str]) -> tuple[bytes, ...]:
    """Return what the JSON of a message holds when one of *ids* is in it."""
    return tuple(orjson.dumps(one) for one in ids)


async def read_journal(
    stream: JournalStream,
    *,
    since: int,
    take: Callable[[Entry], object],
    ids: Collection[str] = (),
    from_offset: int | None = None,
    on_progress: Callable[[int, int], bool | None] = lambda _done, _total: None,
) -> Coverage:
    """Call *take* for each outcome since *since* (epoch ms), oldest first, and return what was read.

    Args:
        stream: where the journal is kept.
        since: outcomes before it are left out.
        take: called with each outcome.
        ids: if any, only messages in which one of them stands are looked into, which is ten times faster; *take* still
            gets outcomes of others beside them.
        from_offset: go on where an earlier reading ended (`Coverage.next_offset`).
        on_progress: called with how many messages of how many were read; if it returns False, reading ends there.

    A message that is damaged, or that somebody else wrote, is counted and left out. Raises `AdapterError`.
    """
    ends = await stream.ends()
    coverage = Coverage(since)
    if ends is None:
        return coverage
    start = since - _LEAD_MS
    coverage = replace(coverage, reaches_back_to=_time_of(ends.first), next_offset=from_offset)
    reading = _Reading(since, take, needles(ids), coverage)
    is_over = _is_before(ends.last, start) if from_offset is None else from_offset > ends.last.offset
    if is_over:
        return replace(coverage, read_to=_time_of(ends.last), next_offset=max(from_offset or 0, ends.last.offset + 1))
    return await _read(stream, reading, start, from_offset, ends, on_progress)


async def _read(
    stream: JournalStream,
    reading: _Reading,
    start: int,
    from_offset: int | None,
    ends: StreamEnds,
    on_progress: Callable[[int, int], bool | None],
) -> Coverage:
    first, reached, is_stopped = from_offset, -1, False
    async for messages in stream.read(since_ms=start, offset=from_offset, last=ends.last.offset):
        first = messages[0].offset if first is None else first
        reached = messages[-1].offset
        for message in messages:
            _look_into(message, reading)
            await asyncio.sleep(0)  # unpacking takes time that others on this loop need too
        total = max(ends.last.offset, reached) - first + 1
        if on_progress(reached - first + 1, total) is False:
            is_stopped = True
            break
    return replace(
        reading.coverage,
        read_to=reading.read_to,
        next_offset=reached + 1 if reached >= 0 else from_offset,
        messages=reading.messages,
        unreadable=reading.unreadable,
        gaps=tuple(reading.gaps),
        is_complete=not is_stopped and reached >= ends.last.offset,
    )


def _look_into(message: StreamMessage, reading: _Reading) -> None:
    reading.messages += 1
    if message.timestamp is not None:
        reading.read_to = max(reading.read_to or 0, message.timestamp * 1000)
    text = unpack(message.body, message.encoding, max_bytes=_MAX_BYTES)
    if not isinstance(text, bytes):
        reading.unreadable += 1
        return
    if reading.needles and _GAP not in text and not any(needle in text for needle in reading.needles):
        return
    document = _document(text)
    if document is None:
        reading.unreadable += 1
        return
    reading.read_to = max(reading.read_to or 0, document["at"])
    worker = str(document.get("worker"))
    gap = _gap(worker, document.get("gap"))
    if gap is not None and gap.last >= reading.since:
        reading.gaps.append(gap)
    for outcome in document["outcomes"]:
        entry = _entry(worker, outcome)
        if entry is not None and entry.at >= reading.since:
            reading.take(entry)


def _document(text: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(document, dict) or type(document.get("at")) is not int:
        return None
    return document if isinstance(document.get("outcomes"), list) else None


def _entry(worker: str, raw: object) -> Entry | None:
    if not isinstance(raw, dict):
        return None
    outcome, at = raw.get("outcome"), raw.get("at")
    return Entry(worker, raw, outcome, at) if isinstance(outcome, str) and isinstance(at, int) else None


def _gap(worker: str, value: object) -> Gap | None:
    if not isinstance(value, dict):
        return None
    numbers = [value.get(name) for name in ("from", "to", "count")]
    first, last, missing = (number if isinstance(number, int) else 0 for number in numbers)
    return Gap(worker, first, last, missing)


def _time_of(message: StreamMessage) -> int | None:
    """Return the time of the oldest outcome in *message*, as far as it can be read."""
    text = unpack(message.body, message.encoding, max_bytes=_MAX_BYTES)
    document = _document(text) if isinstance(text, bytes) else None
    if document is not None:
        entries = (_entry("", outcome) for outcome in document["outcomes"])
        return min((entry.at for entry in entries if entry is not None), default=document["at"])
    return None if message.timestamp is None else message.timestamp * 1000


def _is_before(message: StreamMessage, start: int) -> bool:
    return message.timestamp is not None and message.timestamp * 1000 < start - _LEAD_MS
