"""Listens to one exchange with a queue of the demo's own, as any subscriber would."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from worker.rabbit.consumer import Consumer

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.rabbit.connection import Connection
    from worker.rabbit.consumer import Delivery

_PREFETCH = 500
_NO_LIMIT = 1 << 40


class Listener:
    """Hands everything that arrives at one exchange to a function, until closed."""

    def __init__(self, consumer: Consumer, on_delivery: Callable[[Delivery], None]) -> None:
        self._consumer = consumer
        self._on_delivery = on_delivery
        self._task = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, connection: Connection, exchange: str, on_delivery: Callable[[Delivery], None]) -> Listener:
        """Bind an exclusive queue to *exchange* and listen. Raises `BrokerError`."""
        queue = f"demo.{exchange}"
        channel = await connection.channel()
        await channel.call("queue_declare", queue, exclusive=True)
        await channel.call("queue_bind", queue, exchange, routing_key="#")
        await channel.close()
        consumer = await Consumer.open(connection, queue, time.monotonic)
        await consumer.start(_PREFETCH)
        return cls(consumer, on_delivery)

    async def close(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.close()

    async def _listen(self) -> None:
        while not self._consumer.cancelled.is_set():
            await self._consumer.wait_for_arrival()
            for delivery in self._consumer.take(_PREFETCH, _NO_LIMIT):
                self._on_delivery(delivery)
                self._consumer.settle(delivery)
