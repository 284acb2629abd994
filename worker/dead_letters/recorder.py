"""Moves letters from the dead-letter queue to the `dead_letters` collection, to be looked at and replayed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from worker.dead_letters.envelope import parked_copy
from worker.dead_letters.letter import LetterRecord, RecordResult
from worker.dead_letters.reading import read_letter
from worker.flow.confirmed import publish_until_confirmed
from worker.flow.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.flow.gate import Gate
    from worker.ports import Clock, Consumer, Delivery, EventPublisher, Reporter

_PREFETCH = 200
_BATCH_BYTES = 16 * 1024 * 1024
_QUIET_SECONDS = 0.2
"""Silence after which the queue counts as empty."""


class LetterStore(Protocol):
    """Where letters are kept. Raises `AdapterError`."""

    async def record(self, letters: Sequence[LetterRecord]) -> list[RecordResult]:
        """Record letters, each once, and return what became of each."""


class DeadLetterRecorder:
    """Empties the queue every now and then; in between, letters can be seen where they were put."""

    def __init__(
        self,
        *,
        consumer: Consumer,
        letters: LetterStore,
        publisher: EventPublisher,
        gate: Gate,
        interval_ms: int,
        clock: Clock,
        reporter: Reporter,
        new_id: Callable[[], str],
    ) -> None:
        self._consumer = consumer
        self._letters = letters
        self._publisher = publisher
        self._gate = gate
        self._interval_ms = interval_ms
        self._clock = clock
        self._reporter = reporter
        self._new_id = new_id
        self._window = Window(_PREFETCH, _BATCH_BYTES)
        self._grown = False

    async def run(self) -> None:
        """Record until cancelled or the consumer has ended."""
        while not self._consumer.cancelled.is_set():
            await asyncio.sleep(self._interval_ms / 1000)
            await self._gate.wait()
            await self._consumer.start(self._window.size)
            await self._empty()
            await self._consumer.stop()
            await self._record_waiting()

    async def _empty(self) -> None:
        while True:
            await self._consumer.wait_for(1, _QUIET_SECONDS)
            if not self._consumer.waiting or self._consumer.cancelled.is_set():
                return
            await self._record_waiting()
            if self._grown:
                self._grown = False
                await self._consumer.resize(self._window.size)

    async def _record_waiting(self) -> None:
        while batch := self._consumer.take(_PREFETCH, _BATCH_BYTES):
            self._grown |= self._window.observe((one.prior_deliveries, len(one.body)) for one in batch)
            await self._record(batch)

    async def _record(self, batch: Sequence[Delivery]) -> None:
        """Record a batch, and settle what is safe; while the store is away the letters wait in our hands."""
        now = self._clock.now_ms()
        letters = [read_letter(delivery, recorded_at=now) for delivery in batch]
        results = await self._gate.until_done(lambda: self._letters.record(letters))
        unkept = [index for index, result in enumerate(results) if result in _NOT_KEPT]
        if unkept and not await self._park([batch[index] for index in unkept], [letters[index] for index in unkept]):
            return
        for delivery in batch:
            self._consumer.settle(delivery)
        self._reporter.batch("letters", len(batch), (self._clock.now_ms() - now) / 1000, parked=len(unkept))

    async def _park(self, deliveries: Sequence[Delivery], letters: Sequence[LetterRecord]) -> bool:
        """Put letters that no document can hold into their own queue, and list them without their body."""
        copies = [parked_copy(delivery, copy_id=self._new_id()) for delivery in deliveries]
        if not await publish_until_confirmed(self._publisher, copies, self._reporter):
            return False
        bodiless = [replace(letter, body=b"", status="parked") for letter in letters]
        await self._gate.until_done(lambda: self._letters.record(bodiless))
        return True


_NOT_KEPT = frozenset({RecordResult.TOO_LARGE, RecordResult.REFUSED})
