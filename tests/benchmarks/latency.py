"""How long a message takes from its publish to the subscriber: alone, and at half of the worker's own maximum rate."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Final

from tests.benchmarks.contenders import OURS
from tests.benchmarks.stage import ARRIVALS
from tests.benchmarks.throughput import WORKLOADS, numbered
from worker.contract import INGRESS
from worker.ports import Outgoing
from worker.rabbit.connection import Connection
from worker.rabbit.consumer import Consumer
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from tests.benchmarks.messages import Prepared
    from tests.benchmarks.stage import Stage

_TICK_SECONDS: Final = 0.005
_WARM_MESSAGES: Final = 300
"""The first ones find a worker that is still growing its window; they are not counted."""
_GAP_SECONDS: Final = (0.03, 0.07)
_PREFETCH: Final = 2000


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from publish to subscriber."""

    p50: float
    p99: float
    messages: int


def alone(stage: Stage, messages: int) -> Latency:
    """Publish one message at a time to an idle worker."""
    stage.reset()
    with OURS.running(stage):
        return asyncio.run(_measure(stage, messages, rate=None))


def under_load(stage: Stage, rate: float, seconds: float) -> Latency:
    """Publish at *rate* messages a second."""
    stage.reset()
    with OURS.running(stage):
        return asyncio.run(_measure(stage, int(rate * seconds), rate=rate))


async def _measure(stage: Stage, messages: int, *, rate: float | None) -> Latency:
    out = await Connection.open(stage.url, name="bench publisher")
    back = await Connection.open(stage.url, name="bench subscriber")
    publisher = await Publisher.open(out)
    probe = _Probe(await Consumer.open(back, ARRIVALS, asyncio.get_running_loop().time))
    await probe.start()
    prepared = list(numbered(stage, messages + _WARM_MESSAGES, WORKLOADS["live"]))
    await _one_by_one(publisher, probe, prepared[:_WARM_MESSAGES], pause=False)
    probe.seconds.clear()
    if rate is None:
        await _one_by_one(publisher, probe, prepared[_WARM_MESSAGES:], pause=True)
    else:
        await _paced(publisher, probe, prepared[_WARM_MESSAGES:], rate)
    await probe.stop()
    await back.close()
    await out.close()
    milliseconds = [second * 1000 for second in probe.seconds]
    cuts = quantiles(milliseconds, n=100)
    return Latency(cuts[49], cuts[98], len(milliseconds))


class _Probe:
    """Subscribes, and notes when what was sent arrives."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._sent: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._all_here = asyncio.Event()
        self.seconds: list[float] = []

    async def start(self) -> None:
        await self._consumer.start(_PREFETCH)
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def sending(self, message: Prepared) -> None:
        self._sent[message.event_id] = asyncio.get_running_loop().time()
        self._all_here.clear()

    async def all_here(self) -> None:
        async with asyncio.timeout(30):
            await self._all_here.wait()

    async def _listen(self) -> None:
        while True:
            await self._consumer.wait_for_arrival()
            for delivery in self._consumer.take(_PREFETCH, 1 << 30):
                sent = self._sent.pop(delivery.properties.message_id or "", None)
                if sent is not None:
                    self.seconds.append(delivery.received_at - sent)
                self._consumer.settle(delivery)
            if not self._sent:
                self._all_here.set()


async def _one_by_one(publisher: Publisher, probe: _Probe, messages: list[Prepared], *, pause: bool) -> None:
    for message in messages:
        if pause:
            await asyncio.sleep(random.uniform(*_GAP_SECONDS))
        probe.sending(message)
        await publisher.publish([_outgoing(message)])
        await probe.all_here()


async def _paced(publisher: Publisher, probe: _Probe, messages: list[Prepared], rate: float) -> None:
    loop = asyncio.get_running_loop()
    started, sent = loop.time(), 0
    confirms: set[asyncio.Task[object]] = set()
    while sent < len(messages):
        due = min(int((loop.time() - started) * rate) + 1, len(messages))
        for message in messages[sent:due]:
            probe.sending(message)
        task: asyncio.Task[object] = asyncio.create_task(
            publisher.publish([_outgoing(one) for one in messages[sent:due]])
        )
        confirms.add(task)
        task.add_done_callback(confirms.discard)
        sent = due
        await asyncio.sleep(_TICK_SECONDS)
    await asyncio.gather(*confirms)
    await probe.all_here()


def _outgoing(message: Prepared) -> Outgoing:
    return Outgoing("", INGRESS, message.message_id, message.body)
