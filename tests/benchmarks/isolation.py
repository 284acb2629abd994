"""What live traffic feels while something else fails: latency of live messages, undisturbed and in each trouble.

    python -m tests.benchmarks.isolation                          # every trouble, half a minute each
    python -m tests.benchmarks.isolation --only store_away --seconds 600

Live and store-bound messages arrive at 300 a second each. The store is reached through the tests' wire proxy, which
plays the trouble; everything else is real. After a trouble with the store live messages go on while the backlog is
stored; its rate is compared with that of a queue of store-bound messages under the same live messages without trouble.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import pika

from tests.benchmarks.contenders import OURS
from tests.benchmarks.messages import Kind
from tests.benchmarks.stage import ARRIVALS, Stage
from tests.benchmarks.throughput import numbered
from tests.services.services import private_broker
from tests.services.store import embedded_store
from tests.support.wire_proxy import WireProxy, cut, silence, slower, wire_proxy
from worker import contract
from worker.ports import Outgoing
from worker.rabbit.connection import Connection
from worker.rabbit.consumer import Consumer
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tests.benchmarks.contenders import Command
    from tests.benchmarks.messages import Prepared

_TICK_SECONDS: Final = 0.005
_WARM_SECONDS: Final = 5.0
_COMMANDS: Final = ("insert", "find", "update", "ping", "hello", "createIndexes", "count")
_FULL: Final = "bench.full"


class Flow:
    """Publishes some kinds of messages at given rates, and times the live ones to the subscriber."""

    def __init__(self, stage: Stage, rates: dict[Kind, int]) -> None:
        self._stage = stage
        self._rates = rates
        self._sent: dict[str, float] = {}
        self.milliseconds: list[float] = []

    async def run(self, seconds: float) -> None:
        """Publish for *seconds*, then wait until every live message has arrived."""
        out = await Connection.open(self._stage.url, name="bench publisher")
        back = await Connection.open(self._stage.url, name="bench subscriber")
        publisher = await Publisher.open(out)
        consumer = await Consumer.open(back, ARRIVALS, asyncio.get_running_loop().time)
        await consumer.start(2000)
        listening = asyncio.create_task(self._listen(consumer))
        await asyncio.gather(*(self._paced(publisher, kind, rate, seconds) for kind, rate in self._rates.items()))
        deadline = time.monotonic() + 60
        while self._sent and time.monotonic() < deadline:  # noqa: ASYNC110 - polled: arrivals come one by one
            await asyncio.sleep(0.05)
        listening.cancel()
        await back.close()
        await out.close()
        if self._sent:
            raise RuntimeError(f"{len(self._sent)} live messages did not arrive within a minute")

    async def _listen(self, consumer: Consumer) -> None:
        while True:
            await consumer.wait_for_arrival()
            for delivery in consumer.take(2000, 1 << 30):
                sent = self._sent.pop(delivery.properties.message_id or "", None)
                if sent is not None:
                    self.milliseconds.append((delivery.received_at - sent) * 1000)
                consumer.settle(delivery)

    async def _paced(self, publisher: Publisher, kind: Kind, rate: int, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        messages = list(numbered(self._stage, int(rate * seconds), [kind]))
        started, sent = loop.time(), 0
        while sent < len(messages):
            due = min(int((loop.time() - started) * rate) + 1, len(messages))
            self._note(messages[sent:due])
            await publisher.publish(
                [Outgoing("", contract.INGRESS, one.message_id, one.body) for one in messages[sent:due]]
            )
            sent = due
            await asyncio.sleep(_TICK_SECONDS)

    def _note(self, messages: Sequence[Prepared]) -> None:
        now = asyncio.get_running_loop().time()
        self._sent.update((one.event_id, now) for one in messages if one.kind is Kind.LIVE)


Trouble = tuple[dict[Kind, int], "Callable[[Stage, WireProxy], AbstractContextManager[None]]"]
_BOTH: Final = {Kind.LIVE: 300, Kind.STORED: 300}
_LIVE_ONLY: Final = {Kind.LIVE: 300}
_UNDISTURBED_SECONDS: Final = 30.0
_NORMAL: Final = 30_000
"""Store-bound messages by which the normal rate is measured."""
_LONGEST_BACKLOG_SECONDS: Final = 600.0


@contextmanager
def _nothing(_stage: Stage, _proxy: WireProxy) -> Iterator[None]:
    yield


@contextmanager
def _store_away(_stage: Stage, proxy: WireProxy) -> Iterator[None]:
    proxy.on(*_COMMANDS, answer=cut)
    proxy.cut_all()
    yield
    proxy.heal()


@contextmanager
def _store_silent(_stage: Stage, proxy: WireProxy) -> Iterator[None]:
    proxy.on(*_COMMANDS, answer=silence)
    yield
    proxy.heal()
    proxy.cut_all()


@contextmanager
def _store_slow(_stage: Stage, proxy: WireProxy) -> Iterator[None]:
    proxy.on(*_COMMANDS, answer=slower(10))
    yield
    proxy.heal()


@contextmanager
def _subscriber_full(stage: Stage, _proxy: WireProxy) -> Iterator[None]:
    """Bind to one conversation of many a queue that is full and refuses; the others must not feel it."""
    exchange = contract.conversation_exchange(stage.live[0].conversation_id)
    with pika.BlockingConnection(pika.URLParameters(stage.url)) as connection:
        channel = connection.channel()
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(_FULL, durable=True, arguments=arguments)
        channel.basic_publish("", _FULL, b"full")
        channel.queue_bind(_FULL, exchange)
    yield
    with pika.BlockingConnection(pika.URLParameters(stage.url)) as connection:
        connection.channel().queue_delete(_FULL)


TROUBLES: Final[dict[str, Trouble]] = {
    "undisturbed": (_BOTH, _nothing),
    "store_away": (_BOTH, _store_away),
    "store_silent": (_BOTH, _store_silent),
    "store_slow_10x": (_BOTH, _store_slow),
    "subscriber_full": ({Kind.LIVE: 800}, _subscriber_full),
    "rubbish": ({Kind.LIVE: 300, Kind.INVALID: 300}, _nothing),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each trouble lasts")
    parser.add_argument("--only", action="append", choices=[*TROUBLES], help="one trouble; may be repeated")
    arguments = parser.parse_args()
    names = ["undisturbed", *(arguments.only or [name for name in TROUBLES if name != "undisturbed"])]
    with tempfile.TemporaryDirectory() as folder, private_broker(say=print) as broker:
        store = embedded_store(Path(folder))
        store.start()
        with wire_proxy(store.uri) as proxy, Stage(broker, store.uri, conversations=50) as stage:
            normal = _normal_rate(stage, proxy)
            print(f"{'normal':16} {normal:.0f} stored/s while live messages arrive", flush=True)
            for name in names:
                seconds = _UNDISTURBED_SECONDS if name == "undisturbed" else arguments.seconds
                print(_measured(name, stage, proxy, seconds, normal), flush=True)
        store.stop()


def _ours(proxy: WireProxy) -> Command:
    return replace(OURS, environment={**OURS.environment, "CIM_MONGODB_URI": proxy.uri})


def _normal_rate(stage: Stage, proxy: WireProxy) -> float:
    """Return the store-bound messages a second that are stored from a full queue while live ones arrive."""
    stage.reset()
    stage.fill(numbered(stage, _NORMAL, [Kind.STORED]))
    with _ours(proxy).running(stage):
        rate, _ = asyncio.run(_catching_up(stage, _NORMAL))
    return rate


def _measured(name: str, stage: Stage, proxy: WireProxy, seconds: float, normal: float) -> str:
    rates, trouble = TROUBLES[name]
    stage.reset()
    with _ours(proxy).running(stage) as pool:
        asyncio.run(Flow(stage, rates).run(_WARM_SECONDS))
        flow, logged_before = Flow(stage, rates), pool.logged()
        with trouble(stage, proxy):
            asyncio.run(flow.run(seconds))
            logged = pool.logged() - logged_before
            expected = sum(int(rates.get(Kind.STORED, 0) * part) for part in (seconds, _WARM_SECONDS))
            left = expected - stage.stored()
        line = f"{name:16} {_percentiles(flow.milliseconds)}, log {dict(logged)}"
        if left <= rates.get(Kind.STORED, 0):
            return line
        rate, milliseconds = asyncio.run(_catching_up(stage, expected))
        share = f"{rate:.0f}/s, {rate / normal:.2f} of normal"
        return f"{line}; then {left} stored, {share}, live meanwhile {_percentiles(milliseconds)}"


async def _catching_up(stage: Stage, expected: int) -> tuple[float, list[float]]:
    """Let live messages arrive until *expected* are stored; return the rate of storing and the live milliseconds.

    Raises `RuntimeError` when they are not stored in the end.
    """
    stored = asyncio.create_task(asyncio.to_thread(_rate_until, stage, expected))
    milliseconds: list[float] = []
    while not stored.done():
        flow = Flow(stage, _LIVE_ONLY)
        await flow.run(1.0)
        milliseconds += flow.milliseconds
    return await stored, milliseconds


def _rate_until(stage: Stage, expected: int) -> float:
    """Count from the first new document on, so that the start of processes and the store's return do not count."""
    before = first = stage.stored()
    started = begun = time.monotonic()
    while (now := stage.stored()) < expected:
        if time.monotonic() > begun + _LONGEST_BACKLOG_SECONDS:
            raise RuntimeError(f"{expected - now} are not stored")
        if now == before:
            first, started = now, time.monotonic()
        time.sleep(0.05)
    return (expected - first) / (time.monotonic() - started)


def _percentiles(milliseconds: list[float]) -> str:
    cuts = quantiles(milliseconds, n=100)
    return json.dumps({"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(max(milliseconds), 1)})


if __name__ == "__main__":
    main()
