"""Consuming with a bounded, adjustable window and batched acknowledgements on one AMQP channel."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

import pika.exceptions

from worker.flow.tasks import cancel_and_wait
from worker.rabbit.acks import AckLedger
from worker.rabbit.errors import BrokerError
from worker.rabbit.frames import encode_ack, encode_cancel, encode_requeue
from worker.rabbit.properties import decode_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
        """How often the broker says it handed this out before; a hint, for caution only.

        From RabbitMQ 4.3 on, x-delivery-count leaves out what came back with basic.nack; x-acquired-count has it.
        """
        if not self.redelivered:
            return 0
        headers = self.properties.headers
        counts = (headers.get("x-acquired-count"), headers.get("x-delivery-count"))
        return max(1, *(count for count in counts if isinstance(count, int)))


class Inbox:
    """Deliveries that arrived and were not taken yet. The consumers of several queues can share one."""

    def __init__(self) -> None:
        self.deliveries: deque[Delivery] = deque()
        self.arrival = asyncio.Event()
        self.cancelled = asyncio.Event()


class Consumer:
    """Takes deliveries from one queue. Single use: a lost channel means a new consumer."""

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        queue: str,
        clock: Callable[[], float],
        inbox: Inbox,
        *,
        is_ordered: bool = False,
    ) -> None:
        self._is_ordered = is_ordered
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._clock = clock
        self._tag: str | None = None
        self._prefetch = 0
        self._is_beginning = False
        self._resizing: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending.set_result(None)
        self._arrived = inbox.deliveries
        self._arrival = inbox.arrival
        self._ledger = AckLedger()
        self._open: dict[int, Delivery] = {}
        self._let_go = 0
        """Deliveries of which nothing is held and which are not acknowledged yet."""
        self._ack_scheduled = False
        self._single_ack_timer: asyncio.TimerHandle | None = None
        self.on_received: Callable[[int], None] = lambda _count: None
        """Called with the number of deliveries of each run received."""
        self._received_in_run = 0
        self._read_at = 0.0
        """When the run of bytes was read that is handled now."""
        self._bytes_in_run = 0
        self._bytes_settled = 0
        self._is_ended = False
        self.cancelled = inbox.cancelled
        """Set when the broker cancelled the consumer (queue deleted, leader lost, acknowledgement timeout on 4.3)."""

    @classmethod
    async def open(
        cls,
        connection: Connection,
        queue: str,
        clock: Callable[[], float],
        inbox: Inbox | None = None,
        *,
        is_ordered: bool = False,
    ) -> Self:
        """Open a channel for *queue*. Nothing is delivered until `start`; then into *inbox*, if that is given.

        What *is_ordered* goes back by closing the channel alone: the broker then puts it back before the next consumer
        gets anything, while one that is cancelled, or returns messages one by one, is overtaken.
        """
        channel = await connection.channel()
        self = cls(connection, channel, queue, clock, inbox or Inbox(), is_ordered=is_ordered)
        channel.raw.add_on_cancel_callback(lambda _: self._on_cancelled())
        channel.closed.add_done_callback(lambda _: self._on_cancelled())
        connection.raw.attach(channel.raw.channel_number, self)
        connection.on_closing.append(self._give_back)
        return self

    @property
    def queue(self) -> str:
        """The queue it takes from."""
        return self._queue

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues it takes from: one."""
        return (self._queue,)

    async def start(self, prefetch: int) -> None:
        """Begin to take deliveries with at most *prefetch* unacknowledged."""
        self._prefetch = prefetch
        await self._begin(prefetch)

    async def stop(self) -> None:
        """Stop taking deliveries; those already here stay, and can still be settled.

        Returns when the broker has confirmed it, or at once while the connection's bytes in hand are at their bound:
        the reply is then behind deliveries that cannot be read yet. `may_deliver` tells whether some may still come.
        """
        await self._stop_resizing()
        self._end()
        await self._connection.unless_paused(self._ending)

    async def resize(self, prefetch: int) -> None:
        """Change the window, without waiting for the broker: its replies are behind deliveries, which may be bounded.

        RabbitMQ applies a new prefetch to new consumers only, so this is a stop and a start.
        """
        self._prefetch = prefetch
        if self._resizing is None or self._resizing.done():
            self._resizing = asyncio.create_task(self._restart(), name="resize consumer")

    async def _restart(self) -> None:
        with contextlib.suppress(BrokerError):  # the channel has ended, which `cancelled` says
            applied = None
            while applied != self._prefetch:
                applied = self._prefetch
                self._end()
                await asyncio.wait([self._ending])
                await self._begin(applied)

    async def _begin(self, prefetch: int) -> None:
        self._is_beginning = True
        try:
            await self._channel.call("basic_qos", prefetch_count=prefetch)
            # Known before the reply: whoever is cancelled here must still be able to stop what the broker has begun.
            self._tag = f"cim-{secrets.token_hex(8)}"
            await self._channel.call("basic_consume", self._queue, lambda *_: None, consumer_tag=self._tag)
        finally:
            self._is_beginning = False

    def _end(self) -> None:
        """Ask the broker to stop, if it delivers to us; `_ending` is done with its reply."""
        tag, self._tag = self._tag, None
        if tag is not None and self.is_open and not self.cancelled.is_set():
            self._ending = asyncio.create_task(self._cancel(tag), name="stop consumer")

    async def _cancel(self, tag: str) -> None:
        with contextlib.suppress(BrokerError):  # as above
            await self._channel.call("basic_cancel", tag)

    async def _stop_resizing(self) -> None:
        if self._resizing is not None:
            await cancel_and_wait([self._resizing])

    @property
    def is_open(self) -> bool:
        """Whether the channel lives; without it nothing can be settled any more."""
        return not self._channel.closed.done() and self._connection.is_open

    @property
    def is_consuming(self) -> bool:
        """Whether the broker knows us as a consumer."""
        is_resizing = self._resizing is not None and not self._resizing.done()
        return self.is_open and (self._tag is not None or is_resizing) and not self.cancelled.is_set()

    @property
    def is_waiting(self) -> bool:
        """Whether the broker has yet to say that it will deliver, which takes a quorum, and we could read it."""
        return self._is_beginning and self.is_open and not self._connection.is_paused

    @property
    def may_deliver(self) -> bool:
        """Whether deliveries may still come: the broker knows us, or has not confirmed yet that it does not."""
        return self.is_consuming or (self.is_open and not self._ending.done())

    @property
    def unsettled(self) -> int:
        """Deliveries that are not acknowledged yet, waiting ones included."""
        return len(self._open) + self._let_go

    @property
    def prefetch(self) -> int:
        """How many deliveries it may hold, as last asked for; 0 while it takes none."""
        return self._prefetch if self.is_consuming else 0

    @property
    def oldest_received_at(self) -> float | None:
        """When (monotonic seconds) the oldest delivery came that is not settled."""
        return next((delivery.received_at for delivery in self._open.values()), None)

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
        self.settle_all((delivery,))

    def settle_all(self, deliveries: Iterable[ports.Delivery]) -> None:
        """As `settle` for each of *deliveries*."""
        tags, size = self._take_out(deliveries)
        self._bytes_settled += size
        self._acknowledge(tags)

    def let_go(self, deliveries: Iterable[ports.Delivery]) -> Sequence[Callable[[], None]]:
        """Keep no more of *deliveries* than it takes to acknowledge them, and return what does that: call it once.

        Their effect is proven: `hand_back` does not return them to the queue.
        """
        tags, size = self._take_out(deliveries)
        self._connection.release(size)
        self._let_go += len(tags)
        return (partial(self._acknowledge_let_go, tags),)

    def _take_out(self, deliveries: Iterable[ports.Delivery]) -> tuple[list[int], int]:
        """Hold *deliveries* no more; return the tags of those that were held, and the bytes of their bodies."""
        held, tags, size = self._open, [], 0
        for delivery in deliveries:
            tag = delivery.tag
            if held.pop(tag, None) is not None:
                tags.append(tag)
                size += len(delivery.body)
        return tags, size

    def _acknowledge_let_go(self, tags: list[int]) -> None:
        self._let_go -= len(tags)
        self._acknowledge(tags)

    def _acknowledge(self, tags: list[int]) -> None:
        if not tags:
            return
        self._ledger.settle(*tags)
        if not self._ack_scheduled:
            self._ack_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_acks)

    async def hand_back(self, *, failed: bool = False) -> list[Delivery]:
        """End: return everything unsettled to the queue, and tell the broker about the rest. Returns what went back.

        Args:
            failed: whether the work on them failed. Only then the return counts towards the queue's delivery limit,
                on RabbitMQ 4.3 and later; older versions count every one.

        What still arrives, because the broker was too slow to stop, is not taken: it goes back with the channel.
        """
        await self._stop_resizing()
        return self._give_back(failed)

    def _give_back(self, failed: bool) -> list[Delivery]:  # noqa: FBT001 - called by `Connection.close`
        tag, self._tag = self._tag, None
        if self._is_ordered:
            self._channel.keep_consumers_until_closed()
        elif tag is not None:
            # In order on the same channel: when it reads what comes back, the broker has stopped to deliver to us.
            self._write([encode_cancel(self._number, tag)])
        self._send_acks(singles=True)
        self._is_ended = True
        back = list(self._open.values())
        self._open.clear()
        self._arrived.clear()
        self._connection.release(sum(len(delivery.body) for delivery in back))
        if back and self.is_open and not self._is_ordered:
            for delivery in back:
                self._ledger.give_back(delivery.tag)
            self._write([encode_requeue(self._number, (delivery.tag for delivery in back), failed=failed)])
        return back

    async def close(self) -> None:
        """Close the channel after the acknowledgements have gone out; what is unsettled is handed back."""
        await self.hand_back()
        if self._single_ack_timer is not None:
            self._single_ack_timer.cancel()
        with contextlib.suppress(ValueError):  # closed before
            self._connection.on_closing.remove(self._give_back)
        await self._channel.close()

    @property
    def _number(self) -> int:
        return int(self._channel.raw.channel_number)

    def _send_acks(self, *, singles: bool = False) -> None:
        self._ack_scheduled = False
        self._connection.release(self._bytes_settled)
        self._bytes_settled = 0
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
        if self._is_ended:
            return
        if not self._received_in_run:
            self._read_at = self._clock()
        delivery = Delivery(tag, redelivered, exchange, routing_key, self._queue, properties, body, self._read_at)
        self._open[tag] = delivery
        self._arrived.append(delivery)
        self._received_in_run += 1
        self._bytes_in_run += len(body)

    def on_read(self) -> None:
        """Wake whoever waits for deliveries, once for each run of received bytes."""
        if self._received_in_run:
            count, self._received_in_run = self._received_in_run, 0
            size, self._bytes_in_run = self._bytes_in_run, 0
            self._connection.hold(size)
            self.on_received(count)
            self._arrival.set()

    def on_return(self, *_: object) -> None:
        """Never called: nothing is published on a consuming channel."""

    def on_confirm(self, *_: object) -> None:
        """Never called: the channel is not in confirm mode."""
