"""The ingress side of a broker session: deliveries are taken in batches and brought to their outcome."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from worker.flow.tasks import cancel_and_wait
from worker.flow.window import Window, facts_of
from worker.pipeline.order import LONGEST_WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.flow.pause import Pause
    from worker.flow.tasks import Crash
    from worker.pipeline.order import KeyOrder
    from worker.pipeline.pipeline import Pipeline
    from worker.pipeline.settlement import Settlement
    from worker.pipeline.store_share import StoreShare
    from worker.pipeline.storing import Storing
    from worker.ports import Clock, Consumer, Delivery
    from worker.settings import Settings

_STOP_SECONDS: Final = 2
"""Longest the broker may take to confirm that it delivers nothing more."""
_WAITING_SHARE: Final = 8
"""The waiting room gets this part of the window, and small batches: live traffic must not feel it being emptied."""
_WAITING_BATCH: Final = 50
_ROOM_CHECK_SECONDS: Final = 0.1
_LATE_CHECK_SECONDS: Final = 0.1
_ARRIVAL_CHECK_SECONDS: Final = 0.5
_PAUSE_UNKNOWN_SECONDS: Final = 3.0
"""How long the store may take to say whether the pool is paused; live traffic does not wait for it longer."""
_WITHOUT_REGISTRY_SECONDS: Final = 1.0
"""Pause after each batch of the waiting room while the registry is away: what needs it goes back there at once."""


class IngressSession:
    """Feeds the pipeline from the ingress queue and the waiting room. Single use."""

    def __init__(
        self,
        *,
        ingress: Consumer,
        waiting_room: Consumer,
        pipeline: Pipeline,
        storing: Storing,
        share: StoreShare,
        settlement: Settlement,
        settings: Settings,
        clock: Clock,
        crash: Crash,
        pause: Pause,
        order: KeyOrder | None = None,
        has_lost_broker: bool = False,
    ) -> None:
        """With *order*, deliveries begin when that says so.

        Of a process that *has lost* the *broker* and lives, what is delivered again comes as fast as the rest.
        """
        self._order = order
        if order is not None:
            order.begin = lambda batch: self._start(batch, self._batches)
            order.on_followed, storing.is_followed = storing.release, order.is_followed
        self._ingress = ingress
        self._waiting_room = waiting_room
        self._pipeline = pipeline
        self._storing = storing
        self._share = share
        self._settlement = settlement
        self._settings = settings
        self._clock = clock
        self._crash = crash
        self._pause = pause
        self._window = Window(settings.prefetch, settings.max_bytes_in_flight, forgiven=int(has_lost_broker))
        self._waiting_window = Window(
            max(1, settings.prefetch // _WAITING_SHARE), settings.max_bytes_in_flight // _WAITING_SHARE
        )
        self._is_taking = False
        """Whether the broker delivers from ingress, as far as it is up to us."""
        self._batches: set[asyncio.Task[None]] = set()
        self._returning: set[asyncio.Task[None]] = set()
        """Batches from the waiting room; apart, for live traffic does not wait for their end."""

    async def run(self) -> None:
        """Take and process batches from the ingress queue until cancelled or the consumer has ended."""
        self._storing.start()
        self._set_share()
        while not self._ingress.cancelled.is_set():
            await self._ingress.wait_for_arrival()
            await self._linger()
            batch = self._take(self._ingress)
            if batch:
                self._begin(batch, self._batches)
                is_resized = self._window.observe(*facts_of(batch), may_grow=self._share.keeps_up)
                if is_resized and self._order is None:
                    self._set_share()
                    if self._is_taking:
                        await self._ingress.resize(self._window.size)

    async def run_consumer(self) -> None:
        """Have the broker deliver from ingress unless the pool is paused, until cancelled."""
        await self._pause.wait_known(_PAUSE_UNKNOWN_SECONDS)
        while True:
            await self._pause.wait_open()
            size = self._window.size
            await self._ingress.start(size if self._order is None else self._order.windows.partitions)
            self._is_taking = True
            if (
                self._window.size != size and self._order is None
            ):  # the first deliveries came, and were taken, while it began
                await self._ingress.resize(self._window.size)
            await self._pause.wait_closed()
            self._is_taking = False
            await self._ingress.stop()

    async def run_waiting_room(self) -> None:
        """Bring back what waits for the store, while the store takes it, until cancelled or the consumer has ended."""
        if self._order is None:
            await self._run_waiting_room()
        else:
            await self._run_waiting_room_in_order(self._order.windows.room)

    async def _run_waiting_room(self) -> None:
        room, prefetch = self._waiting_room, 0
        while not room.cancelled.is_set():
            if self._storing.room and not self._pause.is_closed:
                prefetch = await self._consume_waiting_room(prefetch)
                await room.wait_for(1, _ARRIVAL_CHECK_SECONDS)
                await self._bring_back()
            elif prefetch and (self._pause.is_closed or not self._storing.is_usable):
                await room.stop()
                prefetch = 0
                await self._return_to_waiting_room()
            else:
                await asyncio.sleep(_ROOM_CHECK_SECONDS)
                if not prefetch:  # it was on its way when we stopped
                    await self._return_to_waiting_room()

    async def _run_waiting_room_in_order(self, prefetch: int) -> None:
        """Do the same with one window, and stay its consumer through outages.

        The next consumer begins as soon as one is cancelled: what that one holds would be overtaken.
        """
        room, is_taking, usable_at = self._waiting_room, False, self._clock.monotonic()
        while not room.cancelled.is_set():
            if self._is_room_usable:
                usable_at = self._clock.monotonic()
                if not is_taking:
                    await room.start(prefetch)
                    is_taking = True
                await room.wait_for(1, _ARRIVAL_CHECK_SECONDS)
                await self._bring_back()
                continue
            if self._pause.is_closed and is_taking:
                await room.stop()
                is_taking = False
            if not is_taking or self._clock.monotonic() - usable_at > LONGEST_WAIT_SECONDS:
                usable_at = self._clock.monotonic()
                await self._return_to_waiting_room()
            await asyncio.sleep(_ROOM_CHECK_SECONDS)

    @property
    def _is_room_usable(self) -> bool:
        """Whether what waits can be brought back in its order: what finds no conversation would go to the end."""
        may_go_on = self._pipeline.finds_conversations or not self._storing.is_usable
        return bool(self._storing.room) and may_go_on and not self._pause.is_closed

    async def drain(self, grace_seconds: float) -> tuple[int, int]:
        """Stop taking deliveries, finish those in hand within *grace_seconds*, hand the rest back.

        Returns how many were finished and how many were handed back.
        """
        in_hand, deadline = self._unsettled, self._clock.monotonic() + grace_seconds
        await self._stop_consuming()
        if self._order is not None:
            self._order.end()
        self._storing.keep_nothing()
        if self._order is not None:
            await self._end_in_order(deadline)
            deadline = 0
        silent_at = self._clock.monotonic() + _STOP_SECONDS
        while self._ingress.is_open and (now := self._clock.monotonic()) < deadline:
            if self._unsettled:
                silent_at = now + _STOP_SECONDS
            elif not (self._ingress.may_deliver or self._waiting_room.may_deliver) or now > silent_at:
                break
            for consumer in (self._ingress, self._waiting_room):
                if batch := self._take(consumer):
                    self._begin(batch, self._batches)
            await asyncio.sleep(0.005)
        back = await self.abandon(failed=False)
        return max(0, in_hand - back), back

    async def _end_in_order(self, deadline: float) -> None:
        """Finish what has begun, and nothing else; nobody else gets what follows before the channel closes."""
        assert self._order is not None  # noqa: S101 - the caller has asked
        while self._ingress.is_open and self._order.begun and self._clock.monotonic() < deadline:  # noqa: ASYNC110 - time
            await asyncio.sleep(0.005)

    async def abandon(self, *, failed: bool = True) -> int:
        """Drop what is unsettled: back to the queue if the channel lives, redelivered by the broker if not."""
        if self._order is not None:
            self._order.end()
        await cancel_and_wait([*self._batches, *self._returning])
        await self._pipeline.stop()
        self._settlement.acknowledge_proven()
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

    def _set_share(self) -> None:
        if self._order is None:
            self._share.set_window(self._window.size + self._waiting_window.size)
        else:
            self._share.set_window(self._order.windows.partitions + self._order.windows.room)

    async def _consume_waiting_room(self, prefetch: int) -> int:
        """Change the prefetch from *prefetch*, 0 for none, to what it should be now; return that."""
        wanted = self._waiting_window.size if self._storing.is_usable else 1
        if not prefetch:
            await self._waiting_room.start(wanted)
        elif prefetch != wanted:
            await self._waiting_room.resize(wanted)
        return wanted

    async def _bring_back(self) -> None:
        batch = self._waiting_room.take(min(self._storing.room, _WAITING_BATCH), self._settings.max_bytes_in_flight)
        if not batch:
            return
        if self._waiting_window.observe(*facts_of(batch)):
            self._set_share()
        await self._process_waiting(batch)
        if not self._pipeline.finds_conversations:
            await asyncio.sleep(_WITHOUT_REGISTRY_SECONDS)

    async def _return_to_waiting_room(self) -> None:
        """Let what was delivered before the store went away wait again: each is copied, so no delivery is counted."""
        while batch := self._take(self._waiting_room):
            await self._process_waiting(batch)

    async def _process_waiting(self, batch: Sequence[Delivery]) -> None:
        """Process *batch*; whoever is cancelled here leaves it to `drain` or `abandon`, not half done to nobody."""
        if task := self._begin(batch, self._returning):
            await asyncio.wait([task])

    def _take(self, consumer: Consumer) -> Sequence[Delivery]:
        return consumer.take(self._settings.batch_size, self._settings.max_bytes_in_flight)

    async def _stop_consuming(self) -> None:
        if self._order is not None:
            return
        with contextlib.suppress(TimeoutError):  # a dying channel, or a silent broker, must not keep us from the rest
            async with asyncio.timeout(_STOP_SECONDS):
                stops = (self._ingress.stop(), self._waiting_room.stop())
                await asyncio.gather(*stops, return_exceptions=True)

    async def _linger(self) -> None:
        """Let a batch fill while others are in progress; go at once when nothing is.

        A batch that only waits for confirms gives up its turn when they stay out: others have what needs none.
        """
        settings = self._settings
        while len(self._batches) >= settings.batches_in_flight and not self._pipeline.is_late:
            await asyncio.wait(self._batches, timeout=_LATE_CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if self._batches and self._ingress.waiting < settings.batch_size and settings.batch_linger_ms:
            await self._ingress.wait_for(settings.batch_size, settings.batch_linger_ms / 1000)

    def _begin(self, batch: Sequence[Delivery], among: set[asyncio.Task[None]]) -> asyncio.Task[None] | None:
        """Start a batch; of one in which nothing may begin yet, None."""
        admitted = batch if self._order is None else self._order.admit(batch)
        return self._start(admitted, among) if admitted else None

    def _start(self, batch: Sequence[Delivery], among: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._pipeline.process(batch), name="batch")
        among.add(task)
        task.add_done_callback(among.discard)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash.report(error)
