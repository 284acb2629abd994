"""The journal: every outcome, in the stream `cim.outcomes`, one compressed message per batch.

A delivery is acknowledged when its entry is confirmed, so an outcome in doubt stands there twice and none is missing.
Entries are written when their outcomes are proven, and of the deliveries nothing is kept then but what acknowledges
them: what waits for the journal would otherwise fill the memory that live messages use again and again.
The journal is never more important than the work: after a second without a confirm it counts as down, acknowledgements
go on without it, and the next message that gets through says from when to when how many outcomes are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final

import msgspec

try:
    from isal.isal_zlib import compress
except ModuleNotFoundError:  # there is none for this machine
    from zlib import compress

from worker import contract
from worker.codes import Code
from worker.dead_letters.envelope import shortened
from worker.dead_letters.provenance import replay_job, replay_of
from worker.failure import Dependency, Failure
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.cim import Identity
    from worker.flow.backoff import Backoff
    from worker.flow.outage import Outage
    from worker.outcome import Outcome
    from worker.ports import Clock, Delivery, EventPublisher, Reporter

_JOIN_SECONDS: Final = 0.02
"""So long, at most, outcomes wait for the message before theirs to arrive, to share the next one."""
_CONFIRM_SECONDS: Final = 1.0 - _JOIN_SECONDS
"""So long a message may take then: an acknowledgement waits for a second at most."""
_ENTRIES_PER_MESSAGE: Final = 1000
"""Some 300 kB before compression, 50 kB after it. A broker that takes less gets them in several messages."""
_LONG_ENTRY: Final = 1500
"""Bytes of an entry, on average: with ids that are ids it has 300 to 1,200. Where it is more, long ones are cut."""
_WORTH_A_MESSAGE: Final = 200
"""So many are not kept waiting for others: by then a message's own cost is nothing to theirs."""
_FEW: Final = 10
_GATHER_SECONDS: Final = 0.02
"""So long after a message of more than a few the next outcomes gather: it costs what a hundred of them do."""
_COMPRESSION: Final = 1
"""Fast: entries repeat each other, so even that makes them five times smaller."""
_GZIP: Final = 31
"""What `zlib` calls the format."""
_WHY: Final = {
    Confirmation.RETURNED: "the stream is missing: run `cim-worker topology apply`",
    Confirmation.NACKED: "the stream refuses messages",
    Confirmation.TOO_LARGE: "the broker's message limit is too small",
    Confirmation.UNKNOWN: "its AMQP channel ended",
}

Noted = tuple["Delivery", "Identity", "Outcome", "str | None", "str | None", "str | None"]
"""Delivery, identity, outcome, reason, code and letter id."""
LetGo = Callable[[Sequence["Delivery"]], Iterable[Callable[[], None]]]
"""Keeps no more of deliveries than it takes to acknowledge them, and returns what does that when each is called."""


class Entry(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """What became of one delivery, as the journal has it; a structure is written in half the time of a dictionary."""

    event_id: str | None
    message_id: str | None
    sender_id: str | None
    conversation_id: str | None
    outcome: str
    reason: str | None
    code: str | None
    letter_id: str | None
    replay_of: str | None
    received_at: int
    at: int
    replay_job: str | None = None
    """Written for replays alone."""
    amqp_message_id: str | None = None
    """Written where it is another than the message's own id."""


_ENCODER: Final = msgspec.json.Encoder()
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_GapDocument = dict[str, int]
_Part = tuple[Sequence[bytes], "_GapDocument | None"]
"""Entries as JSON, and the gap that their message names."""


class Gap:
    """Outcomes that the journal may not have, until an entry says so. Lives as long as the process."""

    def __init__(self) -> None:
        self._first = self._last = self._count = 0

    def add(self, first: int, last: int, count: int) -> None:
        """Add *count* outcomes between *first* and *last* (epoch ms)."""
        self._first = min(self._first, first) if self._count else first
        self._last = max(self._last, last)
        self._count += count

    def take(self) -> _GapDocument | None:
        """Return what the next entry says, None when nothing is missing; give it back with `add` if that fails."""
        if not self._count:
            return None
        taken = {"from": self._first, "to": self._last, "count": self._count}
        self._first = self._last = self._count = 0
        return taken


@dataclass(slots=True)
class _Gathered:
    """Outcomes that share a message."""

    texts: list[bytes] = field(default_factory=list)
    """Their entries as JSON, run by run: written at once, so that nothing of a delivery has to be kept for them."""
    count: int = 0
    first_at: int = 0
    """When (epoch ms) the first of them was noted."""
    waiting: list[Callable[[], None]] = field(default_factory=list)
    """What acknowledges their deliveries, until it has been called."""
    is_counted: bool = False
    """Whether they were released before the message arrived: counted as missing, whatever becomes of it."""

    def release(self) -> None:
        """Acknowledge their deliveries; once."""
        waiting, self.waiting = self.waiting, []
        for acknowledge in waiting:
            acknowledge()


class Journal:
    """Writes outcomes down, then acknowledges deliveries. Lives as long as one broker session; no method raises."""

    def __init__(
        self,
        *,
        open_publisher: Callable[[], Awaitable[EventPublisher]],
        is_connected: Callable[[], bool],
        gap: Gap,
        let_go: LetGo,
        worker: str,
        outage: Outage,
        backoff: Backoff,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        """Publish through what *open_publisher* returns while *is_connected*."""
        self._open_publisher = open_publisher
        self._is_connected = is_connected
        self._gap = gap
        self._let_go = let_go
        self._worker = worker
        self._outage = outage
        self._backoff = backoff
        self._clock = clock
        self._reporter = reporter
        self._publisher: EventPublisher | None = None
        self._gathered = _Gathered()
        self._written: dict[asyncio.Task[None], _Gathered] = {}
        """What is on its way to the stream."""
        self._scheduled: asyncio.Handle | None = None
        self._numbers = count()
        """Of messages, for their ids."""
        self._next_at = 0.0
        """When the next message may be written, in the event loop's time."""
        self._try_again_at = 0.0
        self._is_doubtful = False
        """Whether the last entry failed. A first silence is not reported: a broker that stops is silent before."""

    def note(
        self,
        delivery: Delivery,
        identity: Identity,
        outcome: Outcome,
        *,
        reason: str | None = None,
        code: str | None = None,
        letter_id: str | None = None,
    ) -> None:
        """Write *outcome* down soon, and release *delivery* when that is done, or at once while the journal is down.

        *reason* says why it was stored, *code* why it failed, *letter_id* which dead letter it became.
        """
        self.note_all([(delivery, identity, outcome, reason, code, letter_id)])

    def note_all(self, noted: Sequence[Noted]) -> None:
        """As `note` for each of *noted*."""
        now, monotonic = self._clock.now_ms(), self._clock.monotonic()
        for start in range(0, len(noted), _ENTRIES_PER_MESSAGE):
            run = noted[start : start + _ENTRIES_PER_MESSAGE]
            if self._gathered.count + len(run) > _ENTRIES_PER_MESSAGE:
                self._flush()
            self._gather(run, now, monotonic)
        if self._gathered.count >= _WORTH_A_MESSAGE:
            self._flush()
        elif self._scheduled is None:
            self._schedule()

    def release_all(self) -> None:
        """Acknowledge every delivery that still waits for its entry: its effect is proven, the entry may be missing."""
        self._flush()
        now = self._clock.now_ms()
        for gathered in self._written.values():
            if gathered.waiting:
                gathered.is_counted = True
                self._miss(gathered, now)
                gathered.release()

    def _gather(self, run: Sequence[Noted], now: int, monotonic: float) -> None:
        waiting = self._let_go([one[0] for one in run])
        try:
            text = _text(_entries(run, now, monotonic))
        except Exception as error:  # noqa: BLE001 - as in `_publish`
            lost = _Gathered(count=len(run), first_at=now, waiting=[*waiting])
            lost.release()
            self._miss(lost, now)
            self._down(str(error) or type(error).__name__, is_sure=True)
            return
        gathered = self._gathered
        if not gathered.count:
            gathered.first_at = now
        gathered.count += len(run)
        gathered.texts.append(text)
        gathered.waiting.extend(waiting)

    def _schedule(self) -> None:
        """Write what is noted soon: in this round of the event loop's, or when enough time has passed since the last.

        So small batches share a message under load: most of its cost is the message's own. Those that are noted while
        one is on its way wait for it, but not long.
        """
        loop = asyncio.get_running_loop()
        if self._written:
            self._scheduled = loop.call_later(_JOIN_SECONDS, self._flush)
        elif loop.time() < self._next_at:
            self._scheduled = loop.call_at(self._next_at, self._flush)
        else:
            self._scheduled = loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is noted."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if not self._gathered.count:
            return
        gathered, self._gathered = self._gathered, _Gathered()
        if gathered.count > _FEW:
            self._next_at = asyncio.get_running_loop().time() + _GATHER_SECONDS
        self._write(gathered)

    def _write(self, gathered: _Gathered) -> None:
        now = self._clock.now_ms()
        if self._is_doubtful or self._outage.failure is not None:
            gathered.release()
            if self._clock.monotonic() < self._try_again_at:
                self._miss(gathered, now)
                return
            self._try_again_at = self._clock.monotonic() + self._backoff.next()
        task = asyncio.create_task(self._publish(gathered, now), name="journal")
        self._written[task] = gathered
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._written.pop(task).release()
        if self._gathered.count and not self._written:
            if self._scheduled is not None:
                self._scheduled.cancel()
            self._schedule()

    async def _publish(self, gathered: _Gathered, now: int) -> None:
        gap = None if gathered.is_counted else self._gap.take()  # it would be in it
        is_second_try = self._is_doubtful
        problem, is_answered = "no confirm within a second", False
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):
                confirmation = await self._publish_once(gathered, now, gap)
            problem, is_answered = _WHY.get(confirmation, ""), confirmation is not Confirmation.UNKNOWN
            if not is_answered:
                self._publisher = None
        except TimeoutError:
            pass  # it may only be slow: the next one shows it
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the journal, the work goes on
            problem = str(error) or type(error).__name__
            self._publisher = None
        if problem:
            if self._is_connected():  # otherwise the outage is the broker's
                # The end of its connection may be the first news of the broker's: the next try shows whose it is.
                # What was on its way together with one that failed is no other try.
                self._down(problem, is_sure=is_second_try or is_answered)
            if gap is not None:
                self._gap.add(gap["from"], gap["to"], gap["count"])
            if not gathered.is_counted:
                self._miss(gathered, now)
        else:
            self._is_doubtful = False
            self._backoff.reset()
            self._outage.ended()

    async def _publish_once(self, gathered: _Gathered, now: int, gap: _GapDocument | None) -> Confirmation:
        """Publish in one message, or in as many as it takes where the broker's message limit is small."""
        if self._publisher is None:
            self._publisher = await self._open_publisher()
        parts: Sequence[_Part] = [(gathered.texts, gap)]
        while parts:
            started = self._clock.monotonic()
            confirmations = await self._publisher.publish([self._message(*part, now) for part in parts])
            self._reporter.published("journal", confirmations, self._clock.monotonic() - started)
            for confirmation in confirmations:
                if confirmation not in {Confirmation.CONFIRMED, Confirmation.TOO_LARGE}:
                    return confirmation
            answered = zip(parts, confirmations, strict=True)
            halves = [_halves(*part) for part, confirmation in answered if confirmation is Confirmation.TOO_LARGE]
            if not all(halves):
                return Confirmation.TOO_LARGE
            parts = list(chain.from_iterable(halves))
        return Confirmation.CONFIRMED

    def _message(self, texts: Sequence[bytes], gap: _GapDocument | None, now: int) -> Outgoing:
        about: dict[str, Any] = {"worker": self._worker, "at": now}
        if gap is not None:
            about["gap"] = gap
        document = b'%b,"outcomes":[%b]}' % (_ENCODER.encode(about)[:-1], b",".join(texts))
        return Outgoing(
            "",
            contract.OUTCOMES,
            f"{self._worker}-{now}-{next(self._numbers):x}",
            compress(document, _COMPRESSION, _GZIP),
            type="cim.outcomes",
            app_id=contract.APP_ID,
            timestamp=now // 1000,
            content_encoding="gzip",
        )

    def _down(self, problem: str, *, is_sure: bool) -> None:
        if self._outage.failure is None:
            self._try_again_at = self._clock.monotonic() + self._backoff.next()
        self._is_doubtful = True
        if not is_sure:
            return
        failure = Failure.of(Code.BROKER_UNAVAILABLE, problem, dependency=Dependency.BROKER)
        self._outage.began(failure, problem)

    def _miss(self, gathered: _Gathered, now: int) -> None:
        self._reporter.journal_missed(gathered.count)
        self._gap.add(gathered.first_at, now, gathered.count)


def _text(entries: list[Entry]) -> bytes:
    """Return *entries* as JSON, separated by commas; where they are longer than with any usual id, with ids cut.

    Otherwise one message with a megabyte for its id would make its neighbours' message too large for broker and reader.
    """
    text = _ENCODER.encode(entries)
    if len(text) > _LONG_ENTRY * len(entries):
        text = _ENCODER.encode([*map(_cut, entries)])
    return text[1:-1]


def _cut(entry: Entry) -> Entry:
    ids = (entry.message_id, entry.sender_id, entry.conversation_id)
    message_id, sender_id, conversation_id = (None if one is None else shortened(one) for one in ids)
    return msgspec.structs.replace(entry, message_id=message_id, sender_id=sender_id, conversation_id=conversation_id)


def _halves(texts: Sequence[bytes], gap: _GapDocument | None) -> list[_Part]:
    """Return the same as two messages; none for a single entry."""
    entries = [bytes(one) for one in _LIST.decode(b"[%b]" % b",".join(texts))]
    middle = len(entries) // 2
    return [(entries[:middle], gap), (entries[middle:], None)] if middle else []


def _entries(noted: Sequence[Noted], now: int, monotonic: float) -> list[Entry]:
    """Return the entries of outcomes noted just before *now* (epoch ms), which is *monotonic* (seconds)."""
    zero = now - monotonic * 1000  # of the monotonic clock, in epoch milliseconds
    entries = []
    read_at, received_at = -1.0, now
    for delivery, (
        sender_id,
        _,
        message_id,
        conversation_id,
        event_id,
        _,
        _,
    ), outcome, reason, code, letter_id in noted:
        if delivery.received_at != read_at:  # what was read from the socket together came at the same time
            read_at = delivery.received_at
            received_at = min(now, int(zero + read_at * 1000))
        properties = delivery.properties
        amqp_id = properties.message_id
        if properties.headers:
            of, job = replay_of(properties), replay_job(properties)
        else:
            of = job = None
        entries.append(
            Entry(
                event_id,
                message_id,
                sender_id,
                conversation_id,
                outcome,
                reason,
                code,
                letter_id,
                of,
                received_at,
                now,
                job,
                amqp_id if amqp_id != message_id else None,
            )
        )
    return entries
