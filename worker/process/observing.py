"""Looking at what the work itself does not see: how deep the queues are, and how many letters wait for somebody.

One process of the pool looks. What cannot be seen is not shown, rather than shown as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from worker import contract
from worker.failure import AdapterError
from worker.rabbit.depths import ManagementDepths, PassiveDepths
from worker.rabbit.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from worker.desk.status import Depth, QueueDepths
    from worker.mongo.dead_letters import DeadLetterStore
    from worker.ops.metrics import Metrics, Report
    from worker.ports import Clock
    from worker.rabbit.connection import Connection
    from worker.settings import Settings

_QUEUES_SECONDS: Final = 10.0
_LETTERS_SECONDS: Final = 30.0
_SHARE: Final = 20
"""Counting letters may take this part of the time at most, however many there are."""
_QUEUE_METRICS: Final = ("cim_queue_messages", "cim_queue_consumers", "cim_queue_head_age_seconds")
_LETTER_METRICS: Final = ("cim_open_letters", "cim_oldest_open_letter_seconds")


def watched_queues(settings: Settings, partitions: int) -> list[str]:
    """Return the queues whose depth says how the work goes."""
    ingress = contract.ingress_queues(partitions)
    fixed = (contract.WAITING, contract.CONVERSATION_EVENTS, contract.DEAD_LETTERS, contract.PARKED)
    return [*ingress, *fixed, *map(contract.retry_queue, settings.retry_delays)]


class QueueObserver:
    """Notes the depth of our queues every ten seconds while a session lasts."""

    def __init__(
        self, connection: Connection, settings: Settings, metrics: Metrics, clock: Clock, *, partitions: int = 0
    ) -> None:
        """Ask on *connection*, and the management API if *settings* name one; the ingress has so many *partitions*."""
        self._connection = connection
        self._queues = watched_queues(settings, partitions)
        self._metrics = metrics
        self._clock = clock
        better = ManagementDepths.of(settings)
        self._sources: list[QueueDepths] = [*([better] if better else []), PassiveDepths(connection)]

    async def run(self) -> None:
        """Look until cancelled; no failure of it ends anything."""
        try:
            while True:
                seen: Report = {}
                with contextlib.suppress(AdapterError):
                    seen = await self._look()
                _replace(self._metrics, _QUEUE_METRICS, seen)
                await asyncio.sleep(_QUEUES_SECONDS)
        finally:
            _replace(self._metrics, _QUEUE_METRICS, {})

    async def _look(self) -> Report:
        *better, last = self._sources
        for source in better:
            with contextlib.suppress(BrokerError):
                return self._report(await source.depths(self._queues))
        return self._report(await last.depths(self._queues))

    def _report(self, depths: Mapping[str, Depth | None]) -> Report:
        messages, consumers, ages = [], [], []
        for name, depth in depths.items():
            if depth is None:
                continue
            messages.append([[name, "ready"], depth.ready])
            if depth.unacknowledged is not None:
                messages.append([[name, "unacknowledged"], depth.unacknowledged])
            consumers.append([[name], depth.consumers])
            if depth.head_at is not None:
                ages.append([[name], max(0.0, self._clock.now_ms() / 1000 - depth.head_at)])
        return dict(zip(_QUEUE_METRICS, (messages, consumers, ages), strict=True))


class LetterObserver:
    """Notes the number of open letters every thirty seconds, or less often where counting takes long."""

    def __init__(self, letters: DeadLetterStore, metrics: Metrics, clock: Clock) -> None:
        self._letters = letters
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled; no failure of it ends anything."""
        while True:
            started = self._clock.monotonic()
            seen: Report = {}
            with contextlib.suppress(AdapterError):
                seen = await self._look()
            _replace(self._metrics, _LETTER_METRICS, seen)
            await asyncio.sleep(max(_LETTERS_SECONDS, _SHARE * (self._clock.monotonic() - started)))

    async def _look(self) -> Report:
        found = await self._letters.open_by_code()
        oldest = min((one.oldest for one in found if one.oldest is not None), default=None)
        age = 0.0 if oldest is None else max(0.0, (self._clock.now_ms() - oldest) / 1000)
        return {
            "cim_open_letters": [[[one.code], one.letters] for one in found],
            "cim_oldest_open_letter_seconds": [[[], age]],
        }


def _replace(metrics: Metrics, names: Iterable[str], seen: Report) -> None:
    for name in names:
        metrics.observed.pop(name, None)
    metrics.observed.update(seen)
