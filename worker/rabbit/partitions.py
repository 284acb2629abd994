"""Consuming the partitions of the ingress as if they were one queue, with one window for all."""

from __future__ import annotations

import asyncio
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Self

from worker.rabbit.consumer import Consumer, Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from worker import ports
    from worker.rabbit.connection import Connection
    from worker.rabbit.consumer import Delivery


class PartitionConsumer:
    """Takes deliveries from several queues, in the order in which they arrive here. As `Consumer`, and single use, too.

    Each queue has an AMQP channel and its share of the window: RabbitMQ counts a prefetch for each consumer of a quorum
    queue, and knows none for several together. One that ends ends all.
    """

    def __init__(self, parts: Sequence[Consumer], inbox: Inbox) -> None:
        self._parts = parts
        self._by_queue = {part.queue: part for part in parts}
        self._inbox = inbox
        self.cancelled = inbox.cancelled

    @classmethod
    async def open(
        cls, connection: Connection, queues: Sequence[str], clock: Callable[[], float], *, is_ordered: bool = False
    ) -> Self:
        """Open a channel for each of *queues*. Nothing comes until `start`. *is_ordered*: see `Consumer.open`."""
        inbox = Inbox()
        parts = [await Consumer.open(connection, queue, clock, inbox, is_ordered=is_ordered) for queue in queues]
        return cls(parts, inbox)

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues it takes from."""
        return tuple(self._by_queue)

    @property
    def on_received(self) -> Callable[[int], None]:
        """Called with the number of deliveries of each run received."""
        return self._parts[0].on_received

    @on_received.setter
    def on_received(self, call: Callable[[int], None]) -> None:
        for part in self._parts:
            part.on_received = call

    async def start(self, prefetch: int) -> None:
        """Begin to take deliveries, with about *prefetch* unacknowledged and at least one of each queue."""
        for part in self._parts:
            await part.start(self._share(prefetch))

    async def stop(self) -> None:
        """Stop taking deliveries; see `Consumer.stop`."""
        await asyncio.gather(*[part.stop() for part in self._parts])

    async def resize(self, prefetch: int) -> None:
        """Change the window, without waiting for the broker."""
        for part in self._parts:
            await part.resize(self._share(prefetch))

    def _share(self, prefetch: int) -> int:
        return max(1, prefetch // len(self._parts))

    @property
    def is_open(self) -> bool:
        """Whether every delivery can still be settled."""
        return all(part.is_open for part in self._parts)

    @property
    def is_consuming(self) -> bool:
        """Whether the broker knows us as a consumer of each queue."""
        return all(part.is_consuming for part in self._parts)

    @property
    def is_waiting(self) -> bool:
        """Whether the broker has yet to say of one of the queues that it will deliver."""
        return any(part.is_waiting for part in self._parts)

    @property
    def may_deliver(self) -> bool:
        """Whether deliveries may still come."""
        return any(part.may_deliver for part in self._parts)

    @property
    def unsettled(self) -> int:
        """Deliveries that are not acknowledged yet, waiting ones included."""
        return sum(part.unsettled for part in self._parts)

    @property
    def prefetch(self) -> int:
        """How many deliveries it may hold, as last asked for; 0 while it takes none."""
        return sum(part.prefetch for part in self._parts)

    @property
    def oldest_received_at(self) -> float | None:
        """When (monotonic seconds) the oldest delivery came that is not settled."""
        return min((at for part in self._parts if (at := part.oldest_received_at) is not None), default=None)

    @property
    def waiting(self) -> int:
        """Deliveries that arrived and were not taken yet."""
        return len(self._inbox.deliveries)

    async def wait_for_arrival(self) -> None:
        """Wait until a delivery is waiting or the consumer has ended."""
        await self._parts[0].wait_for_arrival()

    async def wait_for(self, count: int, timeout: float) -> None:  # noqa: ASYNC109 - a deadline without an exception
        """Wait until *count* deliveries are waiting, the consumer has ended or *timeout* seconds have passed."""
        await self._parts[0].wait_for(count, timeout)

    def take(self, max_count: int, max_bytes: int) -> list[Delivery]:
        """Take waiting deliveries in their order: up to *max_count*, and *max_bytes* of bodies but at least one."""
        return self._parts[0].take(max_count, max_bytes)

    def settle(self, delivery: ports.Delivery) -> None:
        """Acknowledge *delivery* soon: its effect is proven."""
        self._by_queue[delivery.queue].settle(delivery)

    def settle_all(self, deliveries: Iterable[ports.Delivery]) -> None:
        """As `settle` for each of *deliveries*."""
        for queue, those in groupby(deliveries, attrgetter("queue")):
            self._by_queue[queue].settle_all(those)

    def let_go(self, deliveries: Iterable[ports.Delivery]) -> Sequence[Callable[[], None]]:
        """As `Consumer.let_go`, of all queues."""
        return [
            acknowledge
            for queue, those in groupby(deliveries, attrgetter("queue"))
            for acknowledge in self._by_queue[queue].let_go(those)
        ]

    async def hand_back(self, *, failed: bool = False) -> list[Delivery]:
        """End: return everything unsettled to its queue; see `Consumer.hand_back`."""
        return [delivery for part in self._parts for delivery in await part.hand_back(failed=failed)]

    async def close(self) -> None:
        """Close the channels after the acknowledgements have gone out; what is unsettled is handed back."""
        await asyncio.gather(*[part.close() for part in self._parts])
