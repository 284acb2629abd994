"""Consuming with a bounded, adjustable window and batched acknowledgements on one AMQP channel."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pika.exceptions

from worker.rabbit.acks import AckLedger
from worker.rabbit.frames import encode_ack, encode_requeue
from worker.rabbit.properties import decode_properties

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker import ports
    from worker.ports import Properties
    from worker.rabbit.connection import Channel, Connection

_SINGLE_ACK_AFTER_SECONDS = 0.05
"""How long proven deliveries wait for an older, unfinished one before they are acknowledged one by one."""


@dataclass(slots=True, eq=False)
class Delivery:
    """What the broker handed us: bytes, properties, where they came from, and how to settle them."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    queue: str
    raw_properties: bytes
    body: bytes
    received_at: float
    """Monotonic seconds."""
    _properties: Properties | None = field(default=None, init=False)

    @property
    def properties(self) -> Properties:
        """The decoded properties; decoding happens once and never raises."""
        if self._properties is None:
            self._properties = decode_properties(self.raw_properties)
        return self._properties

    @property
    def prior_deliveries(self) -> int:
        """How often the broker says it handed this out before; a hint, for caution only."""
        if not self.redelivered:
            return 0
        count = self.properties.headers.get("x-delivery-count")
        return max(1, count) if isinstance(count, int) else 1


class Consumer:
    """Takes deliveries from one queue. Single use: a lost channel means a new consumer."""

    def __init__(self, connection: Connection, channel: Channel, queue: str, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._clock = clock
        self._tag: str | None = None
        self._arrived: deque[Delivery] = deque()
        self._arrival = asyncio.Event()
        self._ledger = AckLedger()
        self._open: dict[int, Delivery] = {}
        self._ack_scheduled = False
        self._single_ack_timer: asyncio.TimerHandle | None = None
        self.on_received: Callable[[int], None] = lambda _count: None
        """Called with the number of deliveries of each run received."""
        self._received_in_run = 0
        self._handed_back = False
        self.cancelled = asyncio.Event()
        """Set when the broker cancelled the consumer (queue deleted, leader lost, acknowledgement timeout on 4.3)."""

    @classmethod
    async def open(cls, connection: Connection, queue: str, clock: Callable[[], float]) -> Self:
        """Open a channel for *queue*. Nothing is delivered until `start`."""
        channel = await connection.channel()
        self = cls(connection, channel, queue, clock)
        channel.raw.add_on_cancel_callback(lambda _: self._on_cancelled())
        channel.closed.add_done_callback(lambda _: self._on_cancelled())
        connection.raw.attach(channel.raw.channel_number, self)
        return self

    async def start(self, prefetch: int) -> None:
        """Begin to take deliveries with at most *prefetch* unacknowledged."""
        await self._channel.call("basic_qos", prefetch_count=prefetch)
        # Known before the reply: whoever is cancelled here must still be able to stop what the broker has begun.
        self._tag = f"cim-{secrets.token_hex(8)}"
        await self._channel.call("basic_consume", self._queue, lambda *_: None, consumer_tag=self._tag)

    async def stop(self) -> None:
        """Stop taking deliveries; those already here stay, and can still be settled."""
        tag, self._tag = self._tag, None
        if tag is not None and self.is_open and not self.cancelled.is_set():
            await self._channel.call("basic_cancel", tag)

    async def resize(self, prefetch: int) -> None:
        """Change the window. RabbitMQ applies a new prefetch to new consumers only, so this is a stop and a start."""
        await self.stop()
        await self.start(prefetch)

    @property
    def is_open(self) -> bool:
        """Whether the channel lives; without it nothing can be settled any more."""
        return not self._channel.closed.done() and self._connection.is_open

    @property
    def is_consuming(self) -> bool:
        """Whether the broker knows us as a consumer."""
        return self.is_open and self._tag is not None and not self.cancelled.is_set()

    @property
    def unsettled(self) -> int:
        """Deliveries held and not settled, waiting ones included."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Deliveries that arrived and were not taken yet."""
        return len(self._arrived)

    async def wait_for_arrival(self) -> None:
        """Wait until a delivery is waiting or the consumer has ended."""
        while not self._arrived and not self.cancelled.is_set():
            self._arrival.clear()
            await self._arrival.wait()

    async def wait_for(self, count: int, timeout: float) -> None:  # noqa: ASYNC109 - a deadline without an exception
        """Wait until *count* deliveries are waiting, the consumer has ended or *timeout* seconds have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while len(self._arrived) < count and not self.cancelled.is_set():
                    self._arrival.clear()
                    await self._arrival.wait()

    def take(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """Take waiting deliveries in their order: up to *max_count*, and *max_bytes* of bodies but at least one."""
        taken: list[Delivery] = []
        size = 0
        while self._arrived and len(taken) < max_count:
            size += len(self._arrived[0].body)
            if taken and size > max_bytes:
                break
            taken.append(self._arrived.popleft())
        return taken

    def settle(self, delivery: ports.Delivery) -> None:
        """Acknowledge *delivery* soon: its effect is proven. Of a dead channel this does nothing."""
        if self._open.pop(delivery.tag, None) is None:
            return
        self._ledger.settle(delivery.tag)
        if not self._ack_scheduled:
            self._ack_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_acks)

    async def hand_back(self) -> list[Delivery]:
        """Return everything unsettled to the queue, and tell the broker about the rest. Returns what was given back.

        What still arrives, because the broker was too slow to stop, is not taken: it goes back with the channel.
        """
        self._handed_back = True
        self._send_acks(singles=True)
        back = list(self._open.values())
        self._open.clear()
        self._arrived.clear()
        if back and self.is_open:
            for delivery in back:
                self._ledger.give_back(delivery.tag)
            self._write([encode_requeue(self._number, (delivery.tag for delivery in back))])
        return back

    async def close(self) -> None:
        """Close the channel after the acknowledgements have gone out."""
        if self._single_ack_timer is not None:
            self._single_ack_timer.cancel()
        self._send_acks(singles=True)
        await self._channel.close()

    @property
    def _number(self) -> int:
        return int(self._channel.raw.channel_number)

    def _send_acks(self, *, singles: bool = False) -> None:
        self._ack_scheduled = False
        prefix, alone = self._ledger.take(singles=singles)
        frames = [encode_ack(self._number, prefix, multiple=True)] if prefix is not None else []
        frames += [encode_ack(self._number, tag, multiple=False) for tag in alone]
        if frames:
            self._write(frames)
        if self._ledger.held_back and self._single_ack_timer is None:
            loop = asyncio.get_running_loop()
            self._single_ack_timer = loop.call_later(_SINGLE_ACK_AFTER_SECONDS, self._send_held_back)

    def _send_held_back(self) -> None:
        self._single_ack_timer = None
        self._send_acks(singles=True)

    def _write(self, frames: list[bytes]) -> None:
        if self.is_open:
            with contextlib.suppress(pika.exceptions.AMQPError):
                self._connection.raw.send(frames)

    def _on_cancelled(self) -> None:
        self.cancelled.set()
        self._arrival.set()

    def on_deliver(
        self,
        tag: int,
        redelivered: bool,  # noqa: FBT001 - fixed by Sink
        exchange: str,
        routing_key: str,
        properties: bytes,
        body: bytes,
    ) -> None:
        """Keep a delivery until somebody takes it."""
        if self._handed_back:
            return
        delivery = Delivery(tag, redelivered, exchange, routing_key, self._queue, properties, body, self._clock())
        self._open[tag] = delivery
        self._arrived.append(delivery)
        self._received_in_run += 1

    def on_read(self) -> None:
        """Wake whoever waits for deliveries, once for each run of received bytes."""
        if self._received_in_run:
            count, self._received_in_run = self._received_in_run, 0
            self.on_received(count)
            self._arrival.set()

    def on_return(self, *_: object) -> None:
        """Never called: nothing is published on a consuming channel."""

    def on_confirm(self, *_: object) -> None:
        """Never called: the channel is not in confirm mode."""
