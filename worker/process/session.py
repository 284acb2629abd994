"""One broker session: deliveries are taken in batches and brought to their outcome until an end comes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from worker.flow.tasks import cancel_and_wait
from worker.flow.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.flow.tasks import Crash
    from worker.pipeline.pipeline import Pipeline
    from worker.pipeline.settlement import Settlement
    from worker.ports import Clock, Consumer, Delivery
    from worker.settings import Settings

_STOP_SECONDS = 2
"""Longest the broker may take to confirm that it delivers nothing more."""


class IngressSession:
    """Feeds the pipeline from one consumer. Single use."""

    def __init__(
        self,
        *,
        consumer: Consumer,
        pipeline: Pipeline,
        settlement: Settlement,
        settings: Settings,
        clock: Clock,
        crash: Crash,
    ) -> None:
        self._consumer = consumer
        self._pipeline = pipeline
        self._settlement = settlement
        self._settings = settings
        self._clock = clock
        self._crash = crash
        self._window = Window(settings.prefetch, settings.max_bytes_in_flight)
        self._batches: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take and process batches until cancelled or the consumer has ended."""
        self._pipeline.set_window(self._window.size)
        await self._consumer.start(self._window.size)
        while not self._consumer.cancelled.is_set():
            await self._consumer.wait_for_arrival()
            await self._linger()
            batch = self._consumer.take(self._settings.batch_size, self._settings.max_bytes_in_flight)
            if batch:
                self._begin(batch)
                if self._window.observe((one.prior_deliveries, len(one.body)) for one in batch):
                    self._pipeline.set_window(self._window.size)
                    await self._consumer.resize(self._window.size)

    async def drain(self, grace_seconds: float) -> tuple[int, int]:
        """Stop taking deliveries, finish those in hand within *grace_seconds*, hand the rest back.

        Returns how many were finished and how many were handed back.
        """
        in_hand = self._consumer.unsettled
        await self._stop_consuming()
        deadline = self._clock.monotonic() + grace_seconds
        while self._consumer.is_open and self._consumer.unsettled and self._clock.monotonic() < deadline:
            batch = self._consumer.take(self._settings.batch_size, self._settings.max_bytes_in_flight)
            if batch:
                self._begin(batch)
            await asyncio.sleep(0.005)
        back = await self.abandon()
        return max(0, in_hand - back), back

    async def abandon(self) -> int:
        """Drop what is unsettled: back to the queue if the channel lives, redelivered by the broker if not."""
        await self._stop_consuming()  # or what is handed back would come right back here
        await cancel_and_wait(self._batches)
        await self._pipeline.stop()
        back = await self._consumer.hand_back()
        for delivery in back:
            self._settlement.handed_back(delivery)
        return len(back)

    async def _stop_consuming(self) -> None:
        with contextlib.suppress(Exception):  # a dying channel, or a silent broker, must not keep us from the rest
            async with asyncio.timeout(_STOP_SECONDS):
                await self._consumer.stop()

    async def _linger(self) -> None:
        """Let a batch fill while others are in work; go at once when nothing is."""
        settings = self._settings
        while len(self._batches) >= settings.batches_in_flight:
            await asyncio.wait(self._batches, return_when=asyncio.FIRST_COMPLETED)
        if self._batches and self._consumer.waiting < settings.batch_size and settings.batch_linger_ms:
            await self._consumer.wait_for(settings.batch_size, settings.batch_linger_ms / 1000)

    def _begin(self, batch: Sequence[Delivery]) -> None:
        task = asyncio.create_task(self._pipeline.process(batch), name="batch")
        self._batches.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash.report(error)
