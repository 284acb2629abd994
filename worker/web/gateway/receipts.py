"""Outcomes for requests that wait for them: receipts, read from a queue that lives as long as the connection."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from worker.outcome import Outcome
from worker.rabbit.consumer import Consumer
from worker.rabbit.errors import AccessRefused

if TYPE_CHECKING:
    from worker.rabbit.connection import Connection

QUEUE_PREFIX: Final = "cim.receipts.gateway."
_OUTCOMES: Final = frozenset(outcome.value for outcome in Outcome)
_PREFETCH: Final = 500
_BYTES: Final = 4 * 1024 * 1024


class Receipts:
    """Reads receipts and hands each to the requests that wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[dict[str, Any]]]] = {}
        self.reply_to: str | None = None
        """Where receipts are to be sent; None while none can be read."""

    async def attach(self, connection: Connection) -> None:
        """Read receipts on *connection*, until it ends. Without the right to a queue, nobody can wait."""
        # Another name each time: the broker may take the connection before for alive, and then its queue is locked.
        queue = QUEUE_PREFIX + secrets.token_hex(6)
        channel = await connection.channel()
        try:
            await channel.call("queue_declare", queue, exclusive=True, auto_delete=True)
            consumer = await Consumer.open(connection, queue, time.monotonic)
            await consumer.start(_PREFETCH)
        except AccessRefused as error:
            structlog.get_logger().warning("gateway_receipts_refused", queue=queue, reason=str(error))
            return
        self.reply_to = queue
        reading = asyncio.create_task(self._read(consumer), name="receipts")
        connection.closed.add_done_callback(lambda _: reading.cancel())

    async def _read(self, consumer: Consumer) -> None:
        try:
            while not consumer.cancelled.is_set():
                await consumer.wait_for_arrival()
                for delivery in consumer.take(_PREFETCH, _BYTES):
                    self._received(delivery.body)
                    consumer.settle(delivery)
        finally:
            self.reply_to = None

    def _received(self, body: bytes) -> None:
        try:
            receipt = orjson.loads(body)
            waiting = self._waiting.get(receipt["eventId"], ())
            is_whole = receipt["outcome"] in _OUTCOMES and {"code", "problems"} <= receipt.keys()
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
            return  # whoever may write to the default exchange may write here
        if not is_whole:
            return
        for outcome in waiting:
            if not outcome.done():
                outcome.set_result(receipt)

    def expect(self, event_id: str) -> asyncio.Future[dict[str, Any]]:
        """Return what will hold the receipt of this event. Give it back with `forget`."""
        outcome: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(event_id, set()).add(outcome)
        return outcome

    def forget(self, event_id: str, outcome: asyncio.Future[dict[str, Any]]) -> None:
        """Stop waiting."""
        waiting = self._waiting.get(event_id, set())
        waiting.discard(outcome)
        if not waiting:
            self._waiting.pop(event_id, None)
