"""One broker session: deliveries are taken in batches and brought to their outcome until an end comes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from worker.flow.tasks import cancel_and_wait
from worker.flow.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.flow.tasks import Crash
    from worker.pipeline.pipeline import Pipeline
    from worker.pipeline.settlement import Settlement
    from worker.pipeline.storing import Storing
    from worker.ports import Clock, Consumer, Delivery
    from worker.settings import Settings

_STOP_SECONDS: Final = 2
"""Longest the broker may take to confirm that it delivers nothing more."""
_WAITING_SHARE: Final = 8
"""The waiting room gets this part of the window, and small batches: live traffic must not feel it being emptied."""
_WAITING_BATCH: Final = 50
_ROOM_CHECK_SECONDS: Final = 0.1
_ARRIVAL_CHECK_SECONDS: Final = 0.5


class IngressSession:
    """Feeds the pipeline from the ingress queue and the waiting room. Single use."""

    def __init__(
        self,
        *,
        ingress: Consumer,
        waiting_room: Consumer,
        pipeline: Pipeline,
        storing: Storing,
        settlement: Settlement,
        settings: Settings,
        clock: Clock,
        crash: Crash,
    ) -> None:
        self._ingress = ingress
        self._waiting_room = waiting_room
        self._pipeline = pipeline
        self._storing = storing
        self._settlement = settlement
        self._settings = settings
        self._clock = clock
        self._crash = crash
        self._window = Window(settings.prefetch, settings.max_bytes_in_flight)
        self._waiting_window = Window(
            max(1, settings.prefetch // _WAITING_SHARE), settings.max_bytes_in_flight // _WAITING_SHARE
        )
        self._batches: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take and process batches from the ingress queue until cancelled or the consumer has ended."""
        self._storing.set_window(self._window.size)
        await self._ingress.start(self._window.size)
        while not self._ingress.cancelled.is_set():
            await self._ingress.wait_for_arrival()
            await self._linger()
            batch = self._take(self._ingress)
            if batch:
                self._begin(batch)
                if self._window.observe((one.prior_deliveries, len(one.body)) for one in batch):
                    self._storing.set_window(self._window.size)
                    await self._ingress.resize(self._window.size)

    async def run_waiting_room(self) -> None:
        """Bring back what waits for the store, while the store takes it, until cancelled or the consumer has ended."""
        room, taking = self._waiting_room, False
        while not room.cancelled.is_set():
            if self._storing.room:
                if not taking:
                    await room.start(self._waiting_window.size if self._storing.is_usable else 1)
                    taking = True
                await room.wait_for(1, _ARRIVAL_CHECK_SECONDS)
                await self._bring_back()
            elif taking and not self._storing.is_usable:
                await room.stop()
                taking = False
                await self._return_to_waiting_room()
            else:
                await asyncio.sleep(_ROOM_CHECK_SECONDS)
                if not taking:  # it was on its way when we stopped
                    await self._return_to_waiting_room()

    async def drain(self, grace_seconds: float) -> tuple[int, int]:
        """Stop taking deliveries, finish those in hand within *grace_seconds*, hand the rest back.

        Returns how many were finished and how many were handed back.
        """
        in_hand = self._unsettled
        await self._stop_consuming()
        self._storing.keep_nothing()
        now = self._clock.monotonic()
        deadline, silent_at = now + grace_seconds, now + _STOP_SECONDS
        while self._ingress.is_open and (now := self._clock.monotonic()) < deadline:
            if self._unsettled:
                silent_at = now + _STOP_SECONDS
            elif not (self._ingress.may_deliver or self._waiting_room.may_deliver) or now > silent_at:
                break
            for consumer in (self._ingress, self._waiting_room):
                if batch := self._take(consumer):
                    self._begin(batch)
            await asyncio.sleep(0.005)
        back = await self.abandon(failed=False)
        return max(0, in_hand - back), back

    async def abandon(self, *, failed: bool = True) -> int:
        """Drop what is unsettled: back to the queue if the channel lives, redelivered by the broker if not."""
        await cancel_and_wait(self._batches)
        await self._pipeline.stop()
        back = [
            *await self._ingress.hand_back(failed=failed),
            *await self._waiting_room.hand_back(failed=failed),
        ]
        for delivery in back:
            self._settlement.handed_back(delivery)
        return len(back)

    @property
    def _unsettled(self) -> int:
        return self._ingress.unsettled + self._waiting_room.unsettled

    async def _bring_back(self) -> None:
        batch = self._waiting_room.take(min(self._storing.room, _WAITING_BATCH), self._settings.max_bytes_in_flight)
        if not batch:
            return
        await self._pipeline.process(batch)
        if self._waiting_window.observe((one.prior_deliveries, len(one.body)) for one in batch):
            await self._waiting_room.resize(self._waiting_window.size)

    async def _return_to_waiting_room(self) -> None:
        """Let what was delivered before the store went away wait again: each is copied, so no delivery is counted."""
        while batch := self._take(self._waiting_room):
            await self._pipeline.process(batch)

    def _take(self, consumer: Consumer) -> Sequence[Delivery]:
        return consumer.take(self._settings.batch_size, self._settings.max_bytes_in_flight)

    async def _stop_consuming(self) -> None:
        for consumer in (self._ingress, self._waiting_room):
            with contextlib.suppress(Exception):  # a dying channel, or a silent broker, must not keep us from the rest
                async with asyncio.timeout(_STOP_SECONDS):
                    await consumer.stop()

    async def _linger(self) -> None:
        """Let a batch fill while others are in progress; go at once when nothing is."""
        settings = self._settings
        while len(self._batches) >= settings.batches_in_flight:
            await asyncio.wait(self._batches, return_when=asyncio.FIRST_COMPLETED)
        if self._batches and self._ingress.waiting < settings.batch_size and settings.batch_linger_ms:
            await self._ingress.wait_for(settings.batch_size, settings.batch_linger_ms / 1000)

    def _begin(self, batch: Sequence[Delivery]) -> None:
        task = asyncio.create_task(self._pipeline.process(batch), name="batch")
        self._batches.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash.report(error)
