"""The journal: every outcome, in the stream `cim.outcomes`, one compressed message per batch.

A delivery is acknowledged when its entry is confirmed, so an outcome in doubt stands there twice and none is missing.
The journal is never more important than the work: after a second without a confirm it counts as down, acknowledgements
go on without it, and the next message that gets through says from when to when how many outcomes are missing.
"""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any, Final

import msgspec

from worker import contract
from worker.codes import Code
from worker.dead_letters.provenance import replay_job, replay_of
from worker.failure import Dependency, Failure
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.cim import Identity
    from worker.flow.backoff import Backoff
    from worker.flow.outage import Outage
    from worker.outcome import Outcome
    from worker.ports import Clock, Delivery, EventPublisher, Reporter

_CONFIRM_SECONDS: Final = 1.0
_ENTRIES_PER_MESSAGE: Final = 1000
"""Some 300 kB before compression: below every broker's message limit."""
_WORTH_A_MESSAGE: Final = 200
"""So many are not kept waiting for others: by then a message's own cost is nothing to theirs."""
_FEW: Final = 10
_GATHER_SECONDS: Final = 0.02
"""So long after a message of more than a few the next outcomes gather: it costs what a hundred of them do."""
_COMPRESSION: Final = 1
"""The fastest: entries repeat each other, so even that makes them ten times smaller."""
_WHY: Final = {
    Confirmation.RETURNED: "the stream is missing: run `cim-worker topology apply`",
    Confirmation.NACKED: "the stream refuses messages",
    Confirmation.TOO_LARGE: "the broker's message limit is too small",
    Confirmation.UNKNOWN: "its AMQP channel ended",
}

Noted = tuple["Delivery", "Identity", "Outcome", "str | None", "str | None", "str | None"]
"""Delivery, identity, outcome, reason, code and letter id."""


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


_ENCODER: Final = msgspec.json.Encoder()


class Gap:
    """Outcomes that the journal may not have, until an entry says so. Lives as long as the process."""

    def __init__(self) -> None:
        self._first = self._last = self._count = 0

    def add(self, first: int, last: int, count: int) -> None:
        """Add *count* outcomes between *first* and *last* (epoch ms)."""
        self._first = min(self._first, first) if self._count else first
        self._last = max(self._last, last)
        self._count += count

    def take(self) -> dict[str, int] | None:
        """Return what the next entry says, None when nothing is missing; give it back with `add` if that fails."""
        if not self._count:
            return None
        taken = {"from": self._first, "to": self._last, "count": self._count}
        self._first = self._last = self._count = 0
        return taken


class Journal:
    """Writes outcomes down, then releases their deliveries. Lives as long as one broker session; no method raises."""

    def __init__(
        self,
        *,
        open_publisher: Callable[[], Awaitable[EventPublisher]],
        is_connected: Callable[[], bool],
        gap: Gap,
        release: Callable[[Sequence[Delivery]], None],
        worker: str,
        outage: Outage,
        backoff: Backoff,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        """Publish through what *open_publisher* returns while *is_connected*; *release* acknowledges deliveries."""
        self._open_publisher = open_publisher
        self._is_connected = is_connected
        self._gap = gap
        self._release = release
        self._worker = worker
        self._outage = outage
        self._backoff = backoff
        self._clock = clock
        self._reporter = reporter
        self._publisher: EventPublisher | None = None
        self._noted: list[Noted] = []
        self._written: dict[asyncio.Task[None], Sequence[Delivery]] = {}
        """What is on its way to the stream, with the deliveries that wait for its confirm."""
        self._counted: set[asyncio.Task[None]] = set()
        """Of these, what was released before it arrived: counted as missing, whatever becomes of it."""
        self._scheduled: asyncio.Handle | None = None
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
        self._noted += noted
        if len(self._noted) >= _WORTH_A_MESSAGE:
            self._flush()
        elif self._scheduled is None and not self._written:
            self._schedule()

    def release_all(self) -> None:
        """Acknowledge every delivery that still waits for its entry: its effect is proven, the entry may be missing."""
        self._flush()
        held = [delivery for deliveries in self._written.values() for delivery in deliveries]
        self._counted.update(task for task, deliveries in self._written.items() if deliveries)
        self._written = dict.fromkeys(self._written, ())
        if held:
            now = self._clock.now_ms()
            self._gap.add(now, now, len(held))
            self._reporter.journal_missed(len(held))
        self._release(held)

    def _schedule(self) -> None:
        """Write what is noted soon: in this round of the event loop's, or when enough time has passed since the last.

        So small batches share a message under load: most of its cost is the message's own.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_at:
            self._scheduled = loop.call_at(self._next_at, self._flush)
        else:
            self._scheduled = loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is noted."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if len(self._noted) > _FEW:
            self._next_at = asyncio.get_running_loop().time() + _GATHER_SECONDS
        while self._noted:
            noted, self._noted = self._noted[:_ENTRIES_PER_MESSAGE], self._noted[_ENTRIES_PER_MESSAGE:]
            self._write(noted)

    def _write(self, noted: list[Noted]) -> None:
        deliveries: Sequence[Delivery] = [one[0] for one in noted]
        now = self._clock.now_ms()
        if self._is_doubtful or self._outage.failure is not None:
            self._release(deliveries)
            if self._clock.monotonic() < self._try_again_at:
                self._miss(now, len(noted))
                return
            self._try_again_at = self._clock.monotonic() + self._backoff.next()
            deliveries = ()
        entries = _entries(noted, now, self._clock.monotonic())
        task = asyncio.create_task(self._publish(entries, now), name="journal")
        self._written[task] = deliveries
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._release(self._written.pop(task))
        if self._noted and self._scheduled is None and not self._written:
            self._schedule()

    async def _publish(self, entries: list[Entry], now: int) -> None:
        gap = None if self._is_counted() else self._gap.take()  # it would be in it
        problem, is_answered = "no confirm within a second", False
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):
                confirmation = await self._publish_once(entries, now, gap)
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
                self._down(problem, is_sure=self._is_doubtful or is_answered)
            if gap is not None:
                self._gap.add(gap["from"], gap["to"], gap["count"])
            if not self._is_counted():
                self._miss(now, len(entries))
        else:
            self._is_doubtful = False
            self._backoff.reset()
            self._outage.ended()

    def _is_counted(self) -> bool:
        return asyncio.current_task() in self._counted

    async def _publish_once(self, entries: list[Entry], now: int, gap: dict[str, int] | None) -> Confirmation:
        if self._publisher is None:
            self._publisher = await self._open_publisher()
        started = self._clock.monotonic()
        (confirmation,) = await self._publisher.publish([self._message(entries, now, gap)])
        self._reporter.published("journal", [confirmation], self._clock.monotonic() - started)
        return confirmation

    def _message(self, entries: list[Entry], now: int, gap: dict[str, int] | None) -> Outgoing:
        document: dict[str, Any] = {"worker": self._worker, "at": now, "outcomes": entries}
        if gap is not None:
            document["gap"] = gap
        return Outgoing(
            "",
            contract.OUTCOMES,
            f"{self._worker}-{now}-{id(entries):x}",
            gzip.compress(_ENCODER.encode(document), compresslevel=_COMPRESSION, mtime=0),
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

    def _miss(self, now: int, count: int) -> None:
        self._reporter.journal_missed(count)
        self._gap.add(now, now, count)


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
            )
        )
    return entries
