"""The subscribers of the harness: plain pika on durable queues, every event checked against the ledger."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.chaos.publishing import Addresses, abandon, open_connection, resolve

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

    from tests.chaos.ledger import Ledger

_PREFETCH = 1000
_ACK_EVERY = 200
_ACK_SECONDS = 0.1
_RECONNECT_SECONDS = 0.3


class Subscriber:
    """Consumes all watched queues for as long as `run` runs, over any number of connections."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self._addresses = Addresses(url)
        self._ledger = ledger
        self._queues: set[str] = set()
        self._channel: Any = None
        self._unacked = 0
        self._last_tag = 0
        self.last_error = ""
        self.received = 0
        """Deliveries so far."""

    def watch(self, queue: str) -> None:
        """Consume *queue*, now and after every reconnect. It has to exist."""
        self._queues.add(queue)
        if self._channel is not None and self._channel.is_open:
            self._consume(queue)

    def unwatch(self, queue: str) -> None:
        """Do not consume *queue* after the next reconnect; the broker ends the consumer when the queue is deleted."""
        self._queues.discard(queue)

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        while True:
            connection = None
            try:
                connection, lost = await open_connection(self._addresses.next())
                await self._work(connection, lost)
            except Exception as error:  # noqa: BLE001 - pika raises all sorts of things on broken connections
                self.last_error = repr(error)
            finally:
                self._channel = None
                if connection is not None:
                    abandon(connection)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _work(self, connection: AsyncioConnection, ended: asyncio.Event) -> None:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        channel = connection.channel(on_open_callback=lambda channel: resolve(opened, channel))
        # A refused consume costs the channel; without it nothing comes, so the whole connection is renewed.
        channel.add_on_close_callback(lambda *_: ended.set())
        lost = asyncio.create_task(ended.wait())
        await asyncio.wait([opened, lost], return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            self._unacked = self._last_tag = 0
            self._channel = channel
            for queue in self._queues:
                self._consume(queue)
            while not lost.done():
                await asyncio.wait([lost], timeout=_ACK_SECONDS)
                self._acknowledge()
        lost.cancel()

    def _consume(self, queue: str) -> None:
        self._channel.basic_qos(prefetch_count=_PREFETCH)
        self._channel.basic_consume(queue, self._on_delivery)

    def _on_delivery(self, _: object, method: Any, properties: Any, body: bytes) -> None:
        self.received += 1
        self._ledger.seen_at_subscriber(body, properties, seen_before=method.redelivered)
        self._last_tag = method.delivery_tag
        self._unacked += 1
        if self._unacked >= _ACK_EVERY:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._unacked and self._channel is not None and self._channel.is_open:
            self._channel.basic_ack(self._last_tag, multiple=True)
            self._unacked = 0
