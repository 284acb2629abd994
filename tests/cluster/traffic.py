"""Steady traffic through a cluster, timed from outside: live and stored messages in turn, all remembered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any, Self

import pika

from tests.chaos.publishing import abandon, open_connection, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from tests.support.worker_pool import World

PER_SECOND = 500
_STEP_SECONDS = 0.02
_RECONNECT_SECONDS = 0.1
_OPEN_SECONDS = 3.0
_STALL_SECONDS = 0.1
_SILENT_SECONDS = 15.0
"""Confirms that stay out so long are given up with their connection, and published again."""


@dataclass
class Seen:
    """What became of the messages; times are seconds since the epoch."""

    sent: dict[str, float] = field(default_factory=dict)
    confirmed: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    """Live messages: when the first event of each came."""
    times: Counter[str] = field(default_factory=Counter)
    """How often each event came."""
    published: Counter[str] = field(default_factory=Counter)
    stored: dict[str, float] = field(default_factory=dict)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """From when to when this process itself was held up, by the machine."""

    @property
    def live(self) -> set[str]:
        """Ids of the live messages that the broker confirmed."""
        return {one for one in self.confirmed if one.startswith("live")}

    @property
    def kept(self) -> set[str]:
        """Ids of the others that it confirmed."""
        return {one for one in self.confirmed if one.startswith("kept")}

    @property
    def lost(self) -> set[str]:
        """Confirmed messages that are nowhere."""
        return (self.live - self.arrived.keys() - self.stored.keys()) | (self.kept - self.stored.keys())

    @property
    def twice(self) -> int:
        """Events that came more often than their message was published."""
        return sum(max(0, count - self.published[one]) for one, count in self.times.items())

    def silence(self, since: float, until: float = float("inf")) -> float:
        """Return the longest time without a live event that began between *since* and *until*.

        What this process was held up itself does not count: a machine that does that holds up everybody.
        """
        times = sorted(at for at in self.arrived.values() if at >= since)
        gaps = zip([since, *times], times, strict=False)
        return max((end - at - self._stalled(at, end) for at, end in gaps if at < until), default=float("inf"))

    def _stalled(self, since: float, until: float) -> float:
        return sum(max(0.0, min(end, until) - max(at, since)) for at, end in self.stalls)

    def latest(self, since: float, until: float = float("inf")) -> float:
        """Return how late the latest came of all that were published from a second before *since* to *until*."""
        ends = {**self.stored, **self.arrived}
        late = (ends[one] - at for one, at in self.sent.items() if since - 1 < at < until and one in ends)
        return max(late, default=0.0)

    def late(self, since: float) -> str:
        """Say which messages came latest, how long after *since* they were published, and how late they were."""
        ends = {**self.stored, **self.arrived}
        late = sorted(((ends[one] - at, at - since, one) for one, at in self.sent.items() if one in ends), reverse=True)
        return ", ".join(f"{one} at {at:.1f} s, {by:.1f} s" for by, at, one in late[:5])

    def confirmed_again(self, after: float) -> float:
        """Return when the first publish after *after* was confirmed."""
        return min(at for at in self.confirmed.values() if at > after)


class Traffic:
    """Publishes and subscribes on an event loop in a thread of its own for as long as the `with` block lasts."""

    def __init__(self, urls: str, queue: str, conversation: str, *, per_second: int = PER_SECOND) -> None:
        self._urls = urls.split(",")
        self._queue, self._conversation = queue, conversation
        self._each_step = max(1, round(per_second * _STEP_SECONDS))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")
        self._todo: deque[tuple[str, bytes]] = deque()
        self.seen = Seen()
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End after the confirms of all that was published, if they come."""
        self._stop.set()
        self._thread.join()

    def finish(self, world: World, seconds: float) -> Seen:
        """End publishing, wait until every message is somewhere, and return what was seen."""
        self._is_publishing = False
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.seen.stored.update(_stored(world))
            if len(self.seen.confirmed) == len(self.seen.sent) and not self.seen.lost:
                break
            time.sleep(0.3)
        return self.seen

    _is_publishing = True

    async def _run(self) -> None:
        jobs = [asyncio.create_task(self._kept_open(job)) for job in (self._publish, self._subscribe)]
        jobs.append(asyncio.create_task(self._keep_time()))
        await asyncio.to_thread(self._stop.wait)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _keep_time(self) -> None:
        at = time.time()
        while True:
            await asyncio.sleep(_STEP_SECONDS)
            before, at = at, time.time()
            if at - before > _STALL_SECONDS:
                self.seen.stalls.append((before, at))

    async def _kept_open(self, work: Any) -> None:
        """Do *work* on a connection, and again on the next node's when that ends."""
        number = 0
        while True:
            parameters = pika.URLParameters(self._urls[number % len(self._urls)])
            parameters.heartbeat = 10
            number += 1
            connection = None
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    connection, lost = await open_connection(parameters)
                    channel = await _channel(connection)
                await work(channel, lost)
            except Exception as error:  # noqa: BLE001 - pika raises all sorts of things on broken connections
                self.errors.append(repr(error))
            finally:
                if connection is not None:
                    abandon(connection)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _publish(self, channel: Any, lost: asyncio.Event) -> None:
        seen, outstanding = self.seen, dict[int, tuple[str, bytes]]()

        def on_confirm(frame: Any) -> None:
            method = frame.method
            tags = [tag for tag in outstanding if tag <= method.delivery_tag] if method.multiple else None
            for tag in tags or [method.delivery_tag]:
                one = outstanding.pop(tag, None)
                if one is not None and isinstance(method, pika.spec.Basic.Ack):
                    seen.confirmed.setdefault(one[0], time.time())
                elif one is not None:
                    self._todo.append(one)

        channel.confirm_delivery(on_confirm)
        tag, moved = 0, (0, time.monotonic())
        try:
            while not lost.is_set():
                for one in self._next():
                    tag += 1
                    outstanding[tag] = one
                    seen.sent.setdefault(one[0], time.time())
                    seen.published[one[0]] += 1
                    channel.basic_publish("", "cim.ingress", one[1], pika.BasicProperties(delivery_mode=2))
                if len(seen.confirmed) != moved[0] or not outstanding:
                    moved = len(seen.confirmed), time.monotonic()
                if time.monotonic() > moved[1] + _SILENT_SECONDS:
                    return
                await asyncio.sleep(_STEP_SECONDS)
        finally:
            self._todo.extendleft(reversed(outstanding.values()))

    def _next(self) -> Iterable[tuple[str, bytes]]:
        while self._todo:
            yield self._todo.popleft()
        if self._is_publishing:
            number = len(self.seen.published)
            for each in range(number, number + self._each_step):
                yield self._message(each)

    def _message(self, number: int) -> tuple[str, bytes]:
        name = f"{'kept' if number % 2 else 'live'}-{number}"
        anchor: dict[str, Any] = {"conversationId": self._conversation}
        if number % 2:
            anchor = {"customer": {"_id": f"customer-{number % 100}"}}
        sender = {"id": "app-1", "type": "APP", "senderName": "App"}
        header = {"sender": sender, "timestamp": 1_760_000_000_000, **anchor}
        body = {"type": "PLAIN", "markdownText": "x" * 500}
        return name, json.dumps({"id": name, "header": header, "body": body}).encode()

    async def _subscribe(self, channel: Any, lost: asyncio.Event) -> None:
        def on_delivery(_: object, __: object, ___: object, body: bytes) -> None:
            name = json.loads(body)["data"]["id"]
            self.seen.arrived.setdefault(name, time.time())
            self.seen.times[name] += 1

        channel.basic_consume(self._queue, on_delivery, auto_ack=True)
        await lost.wait()


async def _channel(connection: Any) -> Any:
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    channel = connection.channel(on_open_callback=lambda one: resolve(opened, one))
    return await opened if channel else None


def _stored(world: World) -> dict[str, float]:
    """Return when (by the worker's clock) each message was written that is in the store."""
    with contextlib.suppress(Exception):
        return {
            one["messageId"]: one["recordCreationTime"].replace(tzinfo=UTC).timestamp()
            for one in world.collection("ConversationActivities")
        }
    return {}
