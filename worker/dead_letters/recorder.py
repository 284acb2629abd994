"""Moves letters from the dead-letter queue to the `dead_letters` collection, to be looked at and replayed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from worker.codes import Code, FailureClass, Stage
from worker.dead_letters.envelope import parked_copy
from worker.dead_letters.letter import PARKED, LetterRecord, RecordResult
from worker.dead_letters.reading import read_letter
from worker.failure import AdapterError, Failure, classify
from worker.flow.confirmed import publish_until_confirmed
from worker.flow.window import Window, facts_of
from worker.ports import Consumer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from worker.flow.gate import Gate
    from worker.ports import Clock, Delivery, EventPublisher, Reporter

_PREFETCH = 200
_BATCH_BYTES = 16 * 1024 * 1024
_QUIET_SECONDS = 0.2
"""Silence after which the queue counts as empty."""
_CLOSE_SECONDS = 2
"""Longest the broker may take to confirm the end of a round."""
_REMINDER_SECONDS = 60.0
_EXPIRY_SECONDS = 3600.0
"""How often letters are deleted that were kept long enough."""
_PROBED = 8
"""How many letters of those that failed are kept to see when the store works again."""


class LetterStore(Protocol):
    """Where letters are kept. Raises `AdapterError`."""

    async def record(self, letters: Sequence[LetterRecord], left: Mapping[str, int]) -> list[RecordResult]:
        """Record letters, each counted once however often it is delivered, and return what became of each.

        *left* tells how many of each id have left the queue since `settled`.
        """

    async def settled(self, counts: Mapping[str, int]) -> None:
        """Know that so many letters of each id have left the queue."""


class DeadLetterQueue(Consumer, Protocol):
    """The dead-letter queue, open for one round."""

    async def close(self) -> None:
        """Hand back what is unsettled, and end."""


class DeadLetterRecorder:
    """Empties the queue every now and then; in between, letters can be seen where they were put.

    A round leaves nothing in hand. Whatever goes wrong ends the round and nothing else.
    """

    def __init__(
        self,
        *,
        open_queue: Callable[[], Awaitable[DeadLetterQueue]],
        letters: LetterStore,
        publisher: EventPublisher,
        gate: Gate,
        interval_ms: int,
        clock: Clock,
        reporter: Reporter,
        new_id: Callable[[], str],
        trusted: Collection[str | None] | None = None,
        count_letters: Callable[[], Awaitable[int]] | None = None,
        max_letters: int = 0,
        delete_expired: Callable[[int], Awaitable[int]] | None = None,
    ) -> None:
        """Believe our headers on letters that one of the *trusted* users published (None: always).

        Record nothing while *count_letters* says *max_letters* or more: letters stay in the queue. At the beginning and
        once an hour *delete_expired* is told the time (epoch ms): there are servers that delete nothing by themselves.
        """
        self._delete_expired = delete_expired
        self._deleted_at: float | None = None
        self._trusted = trusted
        self._count_letters = count_letters
        self._max_letters = max_letters
        self._full_said_at: float | None = None
        self._open_queue = open_queue
        self._letters = letters
        self._publisher = publisher
        self._gate = gate
        self._interval_ms = interval_ms
        self._clock = clock
        self._reporter = reporter
        self._new_id = new_id
        self._window = Window(_PREFETCH, _BATCH_BYTES)
        self._left: Counter[str] = Counter()
        """Letters by id that have left the queue since the store was told."""
        self._recorded = 0
        """New documents so far."""
        self._unproven: dict[str, int] = {}
        """Letters that failed for a reason nobody knows, with how many were recorded then."""
        self._in_hand = 0
        """Letters of this round that go back at its end."""
        self._said_at: float | None = None

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            await asyncio.sleep(self._interval_ms / 1000)
            await self._gate.wait()
            try:
                await self._expire()
                if not await self._is_full():
                    await self._round()
            except Exception as error:  # noqa: BLE001 - nothing outside the pipeline may end a process
                self._interrupted(classify(error, Stage.STORE))

    def _interrupted(self, failure: Failure) -> None:
        now = self._clock.monotonic()
        is_new = self._said_at is None or now - self._said_at >= _REMINDER_SECONDS
        if is_new and failure.failure_class is not FailureClass.OUTAGE:  # who watches the dependency reports that
            self._said_at = now
            self._reporter.warn("recording_interrupted", code=failure.code.value, reason=failure.detail)

    async def _expire(self) -> None:
        """Delete what was kept long enough; where that fails, it is tried again an hour later."""
        now = self._clock.monotonic()
        if self._delete_expired is None or (self._deleted_at is not None and now - self._deleted_at < _EXPIRY_SECONDS):
            return
        self._deleted_at = now
        await self._delete_expired(self._clock.now_ms())

    async def _is_full(self) -> bool:
        """Tell whether there are as many letters as there may be, and say so once a minute."""
        if self._count_letters is None or (count := await self._count_letters()) < self._max_letters:
            return False
        now = self._clock.monotonic()
        if self._full_said_at is None or now - self._full_said_at >= _REMINDER_SECONDS:
            self._full_said_at = now
            self._reporter.warn("letters_full", letters=count, limit=self._max_letters)
        return True

    async def _round(self) -> None:
        queue = await self._open_queue()
        self._in_hand = 0
        try:
            await queue.start(self._window.size)
            await self._empty(queue)
            await queue.stop()
            await self._record_waiting(queue)
            # The broker has answered since our last acknowledgement, on the same AMQP channel: it has got them all.
            await self._letters.settled(self._left)
            self._left.clear()
        except Exception as error:
            if isinstance(error, AdapterError) and self._gate.holds(error.failure):
                return
            self._left.clear()  # not known any more: those that were not acknowledged come again
            raise
        finally:
            with contextlib.suppress(Exception):  # a dying channel, or a silent broker, must not keep us from the rest
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await queue.close()

    async def _empty(self, queue: DeadLetterQueue) -> None:
        while True:
            await queue.wait_for(1, _QUIET_SECONDS)
            if not queue.waiting or queue.cancelled.is_set():
                return
            if await self._record_waiting(queue):
                await queue.resize(self._window.size)

    async def _record_waiting(self, queue: DeadLetterQueue) -> bool:
        """Record all that has arrived; return whether to take letters anew: another window, or something left.

        What is left comes first again where the broker returns it to the queue's head, and would fill a small window.
        """
        changed, left = False, self._in_hand
        while batch := queue.take(_PREFETCH, _BATCH_BYTES):
            changed |= self._window.observe(*facts_of(batch))
            await self._record(queue, batch)
        return changed or left < self._in_hand <= _PREFETCH

    async def _record(self, queue: DeadLetterQueue, batch: Sequence[Delivery], *, again: bool = False) -> None:
        """Record a batch, and settle what is safe; *again* if it was tried. Raises what a store at fault raises."""
        now = self._clock.now_ms()
        letters = [read_letter(delivery, recorded_at=now, trusted=self._trusted) for delivery in batch]
        if again:
            letters = _perhaps_counted(letters)
        try:
            results = await self._letters.record(letters, self._left)
        except AdapterError as error:
            if not self._gate.holds(error.failure):
                raise
            self._gate.close(error.failure, self._probe(letters))
            raise
        except Exception as error:  # noqa: BLE001 - one letter must not keep the others from being recorded
            if len(batch) > 1:
                for delivery in batch:
                    await self._record(queue, [delivery], again=True)
                return
            self._interrupted(classify(error, Stage.STORE))
            results = [RecordResult.UNPROVEN]
        parked = await self._settle(queue, [*zip(batch, letters, results, strict=True)])
        self._reporter.batch("letters", len(batch), (self._clock.now_ms() - now) / 1000, parked=parked)

    async def _settle(self, queue: DeadLetterQueue, recorded: Sequence[_Recorded]) -> int:
        """Settle what is kept, in a document or parked; return how many were parked. The rest goes back."""
        self._recorded += sum(result is RecordResult.RECORDED for *_, result in recorded)
        parked = await self._park([one for one in recorded if self._is_to_be_parked(one)])
        kept = [*parked, *(one for one in recorded if one[2] in _KEPT)]
        for delivery, letter, _ in kept:
            queue.settle(delivery)
            self._left[letter.id] += 1
            self._unproven.pop(letter.id, None)
        self._in_hand += len(recorded) - len(kept)
        return len(parked)

    def _is_to_be_parked(self, one: _Recorded) -> bool:
        """Tell whether no document can hold a letter.

        One that fails for a reason nobody knows waits in the queue: the store may be sick. Once another was recorded
        after it failed, its next failure is its own.
        """
        _, letter, result = one
        if result is not RecordResult.UNPROVEN:
            return result not in _KEPT
        return self._is_own_failure(letter)

    def _is_own_failure(self, letter: LetterRecord) -> bool:
        self._interrupted(Failure.of(Code.UNEXPECTED_ERROR, "the store fails for a letter", stage=Stage.STORE))
        return self._recorded > self._unproven.setdefault(letter.id, self._recorded)

    async def _park(self, to_park: Sequence[_Recorded]) -> Sequence[_Recorded]:
        """List letters that no document can hold without their body, and put them into their own queue.

        Returns those that are there now; one that cannot be listed, for a reason nobody knows, waits as above.
        """
        if not to_park:
            return ()
        bodiless = [replace(letter, body=b"", status=PARKED) for _, letter, _ in to_park]
        listed = zip(to_park, await self._letters.record(bodiless, self._left), strict=True)
        parked = [one for one, result in listed if result is not RecordResult.UNPROVEN or self._is_own_failure(one[1])]
        copies = [parked_copy(delivery, copy_id=self._new_id()) for delivery, _, _ in parked]
        return parked if await publish_until_confirmed(self._publisher, copies, self._reporter) else ()

    def _probe(self, letters: Sequence[LetterRecord]) -> Callable[[], Awaitable[None]]:
        """Return what tries to record some of *letters* again, which needs no delivery in hand.

        Two at a time, others each time: no single letter can keep the gate closed for the rest.
        """
        small = _perhaps_counted(sorted(letters, key=lambda letter: len(letter.body))[:_PROBED])
        pairs = itertools.cycle([small[place : place + 2] for place in range(0, len(small), 2)])

        async def probe() -> None:
            await self._letters.record(next(pairs), self._left)

        return probe


def _perhaps_counted(letters: Sequence[LetterRecord]) -> list[LetterRecord]:
    """Return *letters* as delivered again: an attempt whose effect is unknown may have counted them."""
    return [replace(letter, redelivered=True) for letter in letters]


_Recorded = tuple["Delivery", LetterRecord, RecordResult]
_KEPT = frozenset({RecordResult.RECORDED, RecordResult.ALREADY_RECORDED})
